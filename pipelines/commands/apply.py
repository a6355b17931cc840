"""The command `polymode apply`: a folder done by this process, a private Ray, or a cluster."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands import Settings
from core.errors import InputError
from pipelines.commands.options import Address, OrLocal, Out

if TYPE_CHECKING:
    from core.request import Machine, Note, Progress
    from pipelines.apply.request import ApplyRequest, ApplyResult
    from pipelines.job.resources import Resources
    from pipelines.run.display import Display

NAME = "apply"


@dataclass(frozen=True, kw_only=True)
class Means:
    """By what the files are done.

    Args:
        workers: processes; one is this one, unless there is an address.
        cpus: threads of each worker; by default, all cores split evenly.
        gpus: of each worker; by default, those of this machine split evenly.
        address: of a running Ray to join.
        or_local: this process instead where Ray does not start.
    """

    workers: int = 1
    cpus: int | None = None
    gpus: float | None = None
    address: str | None = None
    or_local: bool = False


def apply_to_folder(
    predictor: Annotated[str, typer.Argument(help="See `polymode list predictor`.")],
    folder: Annotated[Path, typer.Argument(help="Files, and folders of files.")],
    out: Out = Path("runs/apply"),
    settings: Settings = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes of Ray, each with a model of its own.")
    ] = 1,
    cpus: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of each worker; by default all cores, split evenly."),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0, help="GPUs of each worker; by default those of this machine, split evenly."
        ),
    ] = None,
    address: Address = None,
    or_local: OrLocal = False,
    local: Annotated[
        bool, typer.Option("--local", help="One file after another in this process, without Ray.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try files again that could not be used.")
    ] = False,
) -> None:
    """Apply a trained model to every file in a folder; run it again to resume.

    Results lie in OUT/results in the same folders; OUT/files.jsonl has the outcome of each.
    Ends with 1 if some could not be done.

    Example: polymode apply image2image/upscale photos -o large --set checkpoint=runs/sr3
    --set predictor.steps=8 --workers 4
    """
    from core.parts.config import bind, override
    from pipelines.apply.request import ApplyRequest
    from pipelines.commands.invocation import check_call

    given = {"predictor": predictor, "folder": str(folder)}
    request = bind(ApplyRequest, override(given, settings or []))
    check_call(address, local=local, or_local=or_local)
    means = Means(
        workers=1 if local else workers, cpus=cpus, gpus=gpus, address=address, or_local=or_local
    )
    result = run(request, out, means, retry=retry)
    print(os.path.relpath(result.results))
    if result.bad or result.failed:
        raise typer.Exit(1)


def run(request: "ApplyRequest", out: Path, means: Means, *, retry: bool = False) -> "ApplyResult":
    """Process the files of a folder; progress and outcome go to standard error.

    Args:
        request: what is done with which files.
        out: for results, records and ``log.txt``.
        means: by what.
        retry: do again also what could not be used.

    Raises:
        InputError: the request is wrong, or this machine lacks what it requires.
    """
    from core.request import Machine
    from pipelines.apply import batch
    from pipelines.apply.listing import prepared
    from pipelines.cluster.private import NotStarted
    from pipelines.commands.invocation import without_ray
    from pipelines.run.display import Display
    from pipelines.run.step import continued

    several = means.workers > 1 or means.address is not None
    machine, gpus = Machine(threads=means.cpus), 0.0
    if several:
        machine, gpus = _each(means)
    with Display([NAME]) as display, ExitStack() as stack:

        def emit(event: "Progress | Note") -> None:
            display.news(NAME, event)

        display.started(NAME, 1)
        work = stack.enter_context(prepared(request, out, machine=machine, emit=emit, retry=retry))
        before = work.total - len(work.todo)
        if before:
            display.say(f"{before} of {work.total} files need no doing", step=NAME)
        stack.enter_context(continued(work.order.out, tells=False))
        share = batch.here
        if several and work.todo:
            display.say(f"joining the Ray at {means.address}" if means.address else "starting Ray")
            ray = _ray(means, work.order.out, machine.threads or 1, gpus, display)
            try:
                stack.enter_context(ray)
                share = partial(batch.on_ray, workers=means.workers, gpus=gpus)
            except NotStarted as error:
                without_ray(error, display, or_local=means.or_local)
        result = batch.finish(work, share, emit)
        counts = ("done", "bad", "failed")
        summary = ", ".join(f"{n} {word}" for word in counts if (n := getattr(result, word)))
        display.ended(NAME, "done" if result.done else "failed", summary)
    return result


def _each(means: Means) -> "tuple[Machine, float]":
    """What each of several workers has.

    Raises:
        InputError: this machine has less.
    """
    from core.request import Machine
    from pipelines.job.resources import Resources, cpus_here, gpus_here

    if means.address is not None:
        cpus, gpus = means.cpus or 1, means.gpus or 0
    else:
        have = Resources(cpus=cpus_here(), gpus=0 if means.gpus == 0 else gpus_here())
        cpus = means.cpus or max(1, int(have.cpus) // means.workers)
        gpus = min(1.0, have.gpus / means.workers) if means.gpus is None else means.gpus
        _check_room(means.workers, cpus, gpus, [have], "this machine")
    return Machine(device="auto" if gpus else "cpu", threads=cpus), gpus


@contextmanager
def _ray(means: Means, out: Path, cpus: int, gpus: float, display: "Display") -> Iterator[None]:
    """A Ray in which the workers have room."""
    from pipelines.cluster.joined import joined
    from pipelines.cluster.private import private_ray
    from pipelines.job.resources import gpus_here

    if means.address is not None:
        with joined(means.address, out) as machines:
            _check_room(means.workers, cpus, gpus, machines, "the cluster")
            yield
        return
    shared = gpus_here() if gpus else 0
    cpus *= means.workers
    with private_ray(out, cpus=cpus, gpus=shared, tell=display.say):
        yield


def _check_room(
    workers: int, cpus: int, gpus: float, machines: "Sequence[Resources]", where: str
) -> None:
    room = sum(
        min(int(m.cpus // cpus), int(m.gpus / gpus + 1e-9) if gpus else workers) for m in machines
    )
    if room < workers:
        each = f"{cpus} CPU{'s' if cpus > 1 else ''}" + (f" and {gpus:g} GPU" if gpus else "")
        raise InputError(
            f"workers: {workers} with {each} each requested, {where} has room for {room}; "
            "use fewer, or give each less with --cpus or --gpus"
        )
