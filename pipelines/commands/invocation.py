"""A job run from the command line: refused before anything is written, or run and shown."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from core.errors import InputError
from core.parts.config import plain
from core.storage import files
from pipelines.cluster import joined
from pipelines.cluster.private import NotStarted, private_ray
from pipelines.job.file import Job
from pipelines.job.plan import Planned, check_inputs, plan
from pipelines.job.resources import Resources, check_fits, cpus_here, gpus_here, memory_here
from pipelines.run.display import Display
from pipelines.run.execute import Outcomes, failure, locally, on_ray
from pipelines.store import results

Show = Callable[[Sequence[Planned], Outcomes], None]
"""Prints where results are; there are no outcomes where nothing was to be done."""


def check_call(
    address: str | None,
    *,
    cpus: int | None = None,
    local: bool = False,
    or_local: bool = False,
) -> None:
    """Refuse options that contradict each other about where steps run.

    Raises:
        InputError: `--address` together with an option of a Ray of our own.
    """
    given = {"--local": local, "--cpus": cpus, "--or-local": or_local}
    if address is not None and (more := [option for option, value in given.items() if value]):
        raise InputError(f"--address joins a running Ray as it is: leave out {', '.join(more)}")


def check_fits_here(planned: Sequence[Planned], cpus: int | None) -> None:
    """Refuse steps that do not fit; torch is imported only where a step requires a GPU.

    Args:
        planned: what is to be done.
        cpus: cores of all steps together; by default, those of this machine.

    Raises:
        InputError: some steps do not fit; all of them at once.
    """
    here = Resources(cpus=cpus or cpus_here(), gpus=_gpus_wanted(planned), memory=memory_here())
    check_fits(planned, [here])


def _gpus_wanted(planned: Sequence[Planned]) -> int:
    """The GPUs of this machine, if a step requires one."""
    return gpus_here() if any(p.step.gpus for p in planned if p.state == "run") else 0


def show_reports(planned: Sequence[Planned], outcomes: Outcomes) -> None:
    """Print where the reports are; of a whole job without any, where its last results are."""
    whole = [p for p in planned if not outcomes or outcomes[p.step.name].state in ("done", "hit")]
    needed = {need for p in planned for need in p.step.needs}
    shown: list[Any] = [
        results.result_path(p.folder, "report") for p in whole if p.step.run == "report"
    ]
    if not shown and len(whole) == len(planned):
        shown = [p.folder for p in whole if p.step.name not in needed]
    for path in shown:  # relative below the working folder: a submitted job's lies far from it
        print(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path)


def carry_out(
    what: Job,
    out: Path,
    *,
    local: bool = False,
    cpus: int | None = None,
    address: str | None = None,
    or_local: bool = False,
    show: Show = show_reports,
) -> None:
    """Do the steps of a job that are not done yet, and say what failed and where the results are.

    Args:
        what: the job.
        out: for results and records; what is refused leaves nothing there.
        local: in this process, without Ray.
        cpus: cores of all steps together; by default, those of this machine.
        address: of a running Ray to join.
        or_local: in this process too where Ray does not start.
        show: prints where the results are.

    Raises:
        InputError: the request is wrong, or too little is there for it.
        Exit: a step failed.
    """
    with _ready(what, out, cpus, address) as planned:
        if all(p.state == "hit" for p in planned):
            with suppress(_Unwritable):  # results of a read-only store are of use too
                _record(out, what, planned)
            count = len(planned)
            hits = f"all {count} steps are hits" if count > 1 else "its one step is a hit"
            print(f"nothing to do: {hits}", file=sys.stderr)
            show(planned, {})
            return
        record = _record(out, what, planned)
        outcomes = _execute(planned, record, _Where(local, cpus, address, or_local))
        _finish(planned, outcomes, record, show)


@contextmanager
def _ready(
    what: Job, out: Path, cpus: int | None, address: str | None
) -> Iterator[tuple[Planned, ...]]:
    """What is to be done, nothing being removed from the store while the block lasts.

    A store is made last, so that a job that is refused leaves none; from none, nothing is removed.
    One that cannot be written is enough for steps that are all hits.
    """
    root = out.absolute() / "store"
    with ExitStack() as stack:
        unwritable: InputError | None = None
        if there := _exists(root, out):
            try:
                stack.enter_context(_in_use(root, out))
            except _Unwritable as error:
                unwritable = error
        planned = plan(what, root)
        if unwritable and any(p.state == "run" for p in planned):
            raise unwritable
        check_inputs(planned)
        if address is None:
            check_fits_here(planned, cpus)
        else:
            joined.check_answers(address)
        if not there:
            stack.enter_context(_in_use(root, out))
        yield planned


def _exists(root: Path, out: Path) -> bool:
    try:
        return root.is_dir()
    except OSError as error:
        raise _unwritable(out, error) from error


@contextmanager
def _in_use(root: Path, out: Path) -> Iterator[None]:
    """`results.in_use`, the store made if need be."""
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(results.in_use(root))
        except OSError as error:
            raise _unwritable(out, error) from error
        yield


class _Unwritable(InputError):
    """A folder for results or records that cannot be written."""


def _unwritable(place: Path, error: OSError) -> _Unwritable:
    return _Unwritable(
        f"{place}: cannot be written: {error.strerror}; name another folder with --out"
    )


def _record(out: Path, job: Job, planned: Sequence[Planned]) -> Path:
    """The folder of this job's newest invocation, with its job and its plan.

    Raises:
        _Unwritable: it cannot be written.
    """
    record = out.absolute() / job.name
    try:
        record.mkdir(parents=True, exist_ok=True)
        files.write_json(record / "job.json", plain(job))
        files.write_json(
            record / "plan.json",
            {
                p.step.name: {
                    "state": p.state,
                    "why": p.why,
                    "key": p.key,
                    "folder": os.path.relpath(p.folder, record),
                }
                for p in planned
            },
        )
    except OSError as error:
        raise _unwritable(record, error) from error
    return record


@dataclass(frozen=True)
class _Where:
    """Where steps are done; see `carry_out`."""

    local: bool
    cpus: int | None
    address: str | None
    or_local: bool


def _execute(planned: Sequence[Planned], record: Path, where: _Where) -> Outcomes:
    names = [p.step.name for p in planned]
    with (
        (record / "log.txt").open("w", encoding="utf-8") as log,
        Display(names, record=log) as display,
        ExitStack() as stack,
    ):
        if where.local:
            return locally(planned, display)
        if where.address:
            return _elsewhere(planned, record, where.address, display)
        display.say("starting Ray on this machine")
        cpus, gpus = where.cpus or cpus_here(), _gpus_wanted(planned)
        try:
            stack.enter_context(private_ray(record, cpus=cpus, gpus=gpus, tell=display.say))
        except NotStarted as error:
            without_ray(error, display, or_local=where.or_local)
            return locally(planned, display)
        return on_ray(planned, display)


def without_ray(error: NotStarted, display: Display, *, or_local: bool) -> None:
    """Say that Ray has not started, and whether the work is done without it.

    Raises:
        Exit: it is not.
    """
    if or_local:
        display.say(f"{error}; one after another in this process instead")
        return
    display.say(
        f"error: {error}; is this machine busy? try again later, or add --local to do without Ray"
    )
    raise typer.Exit(1)


def _elsewhere(
    planned: Sequence[Planned], record: Path, address: str, display: Display
) -> Outcomes:
    """Do the steps on a running Ray, if each fits on one of its machines."""
    display.say(f"joining the Ray at {address}")
    training = [p.folder for p in planned if p.state == "run" and p.step.run in ("train", "sweep")]
    with joined.joined(address, record) as machines, joined.stopped_gently(training):
        check_fits(planned, machines, where="the cluster")
        return on_ray(planned, display)


def _finish(planned: Sequence[Planned], outcomes: Outcomes, record: Path, show: Show) -> None:
    """Report failures, print where the results are, and end with the fitting exit status."""
    documents = {name: outcome.document() for name, outcome in outcomes.items()}
    files.write_json(record / "outcome.json", plain(documents))
    failed = [p for p in planned if outcomes[p.step.name].state == "failed"]
    for p in failed:
        print(f"error: {failure(p, outcomes[p.step.name])}", file=sys.stderr)
    show(planned, outcomes)
    if failed:
        raise typer.Exit(2 if all(outcomes[p.step.name].refused for p in failed) else 1)
