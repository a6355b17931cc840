"""The command `polymode`: the core's commands, and `plan` and `run` for jobs of several steps."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from core.cli import RequestFile, Settings, app, run_app
from core.errors import InputError

if TYPE_CHECKING:
    from pipelines.execute import Outcomes
    from pipelines.job import Job
    from pipelines.plan import Planned
    from pipelines.progress import Display

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="YAML file of steps.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for results and records.")]
Cpus = Annotated[
    int | None,
    typer.Option(
        min=1, help="Cores to share out among steps; by default those that this machine has."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Join this running Ray instead of starting one; auto for the one on this machine.",
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Compare stored files' contents too, not only their sizes.")
]


@app.command("plan")
def plan_job(
    job: JobFile,
    out: Out = Path("runs"),
    settings: Settings = None,
    cpus: Cpus = None,
    address: Address = None,
    verify: Verify = False,
) -> None:
    """Show what `run` would do, and why: one line for each step.  Starts nothing.

    A step whose result is there already, whole, is a hit.  Any other runs, for the reason given.

    Example: polymode plan pipelines/jobs/demo.yaml --set steps.train.request.steps=500
    """
    _, planned = _plan(job, out, settings, verify)
    for line in _table(planned):
        print(line)
    _check_call(address, cpus=cpus)
    if address is None:
        _check_fits(planned, cpus)
        return
    from pipelines.joining import joined
    from pipelines.resources import check_fits

    with joined(address) as machines:
        check_fits(planned, machines, where="the cluster")


@app.command("run")
def run_job(
    job: JobFile,
    out: Out = Path("runs"),
    settings: Settings = None,
    local: Annotated[
        bool, typer.Option("--local", help="One step after another in this process, without Ray.")
    ] = False,
    cpus: Cpus = None,
    address: Address = None,
) -> None:
    """Run the steps of a job that are not done yet, on a private Ray, and print where they report.

    Results are kept in OUT/store and found again by what they were made from, so the same command
    after a stop goes on where it stopped, and a changed option runs only what depends on it.

    Example: polymode run pipelines/jobs/demo.yaml --set steps.train.request.steps=500
    """
    from pipelines.job import read
    from pipelines.plan import plan

    _check_call(address, cpus=cpus, local=local)
    what = read(job, settings or [])
    with _store_in_use(out) as store:
        planned = plan(what, store)
        if address is None:
            _check_fits(planned, cpus)
        _run(what, planned, out, local, cpus, address)


def _run(
    what: "Job",
    planned: "Sequence[Planned]",
    out: Path,
    local: bool,
    cpus: int | None,
    address: str | None,
    show: "Callable[[Sequence[Planned], Outcomes], None] | None" = None,
) -> None:
    show = show or _print_results
    record = _record(out, what, planned)
    if all(p.state == "hit" for p in planned):
        count = len(planned)
        said = f"all {count} steps are hits" if count > 1 else "its one step is a hit"
        print(f"nothing to do: {said}", file=sys.stderr)
        show(planned, {})
        return
    outcomes = _execute(planned, record, local, cpus, address)
    _finish(planned, outcomes, record, show)


@app.command("sweep")
def sweep_options(
    request: RequestFile = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A.B=VALUES",
            help="Try these for an option: values with commas between them, or uniform:LOW:HIGH, "
            "loguniform:LOW:HIGH, int:LOW:HIGH[:STEP]; repeatable.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings in all, 16 by default; fewer if VALUES allow no more."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="val/loss, or val/high, the upper end of its interval.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once, by Ray.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each; all cores, shared out evenly.")
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each; 0.5 shares one.")] = 0,
    settings: Settings = None,
    out: Out = Path("runs"),
    local: Annotated[
        bool, typer.Option("--local", help="One after another in this process, without Ray.")
    ] = False,
    address: Address = None,
) -> None:
    """Train with several choices of options, end early those that do badly, and keep the best.

    REQUEST and --set are those of `train`; validate_every says how often trainings are compared.
    Prints the best request and its checkpoints, and a table of all on standard error.  The same
    command after a stop goes on.

    Example: polymode sweep plugins/image2image/configs/demo.yaml --set validate_every=100
    --vary lr=loguniform:1e-4:1e-2 --vary network.width=16,32 --trials 8 --workers 2
    """
    from pipelines import sweep_command
    from pipelines.plan import plan

    chosen = {"trials": trials, "metric": metric}
    given = sweep_command.request_of(request, settings or [], vary or [], chosen)
    _check_call(address, cpus=None, local=local)
    try:
        what = sweep_command.job_of(given, workers=workers, threads=threads, gpus=gpus)
        with _store_in_use(out) as store:
            planned = plan(what, store)
            if address is None:
                _check_fits(planned, None)
            _run(what, planned, out, local, None, address, sweep_command.show)
    except InputError as error:
        raise sweep_command.in_its_words(error) from error


@app.command("apply")
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
        typer.Option(min=1, help="Threads of each; all cores by default, shared out evenly."),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs of each; those of this machine, shared out evenly."),
    ] = None,
    address: Address = None,
    local: Annotated[
        bool, typer.Option("--local", help="One file after another in this process, without Ray.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try files again that could not be used.")
    ] = False,
) -> None:
    """Make one file of each file in a folder by a trained model; run it again to go on.

    Results lie in OUT/results in the same folders; OUT/files.jsonl says what became of each file.
    Ends with 1 if some could not be done.

    Example: polymode apply image2image/upscale photos -o large --set checkpoint=runs/sr3
    --set predictor.steps=8 --workers 4
    """
    from core.config import bind, override
    from pipelines import apply_command
    from pipelines.verbs import ApplyRequest

    given = {"predictor": predictor, "folder": str(folder)}
    request = bind(ApplyRequest, override(given, settings or []))
    if address is not None and local:
        raise InputError("address: a running Ray is joined; leave one of it and --local out")
    means = apply_command.Means(
        workers=1 if local else workers, cpus=cpus, gpus=gpus, address=address
    )
    result = apply_command.run(request, out, means, retry=retry)
    print(os.path.relpath(result.results))
    if result.bad or result.failed:
        raise typer.Exit(1)


@app.command("verify")
def verify_results(
    job: Annotated[
        Path | None,
        typer.Argument(metavar="[JOB]", help="Only results of this YAML file of steps."),
    ] = None,
    out: Out = Path("runs"),
    settings: Settings = None,
) -> None:
    """Compare every byte of stored results with their manifests; print the damaged ones.

    Ends with 1 if there are any.  `run` makes those again.

    Example: polymode verify pipelines/jobs/demo.yaml
    """
    from pipelines import upkeep

    folders = upkeep.results(out / "store")
    if job is not None:
        wanted = {p.folder.name for p in _plan(job, out, settings, verify=False)[1]}
        folders = [folder for folder in folders if folder.name in wanted]
    counts: dict[str, int] = {}
    for folder in folders:
        found = upkeep.verify(folder)
        counts[found.state] = counts.get(found.state, 0) + 1
        if found.state == "damaged":
            print(f"{os.path.relpath(folder)}  {found.what}")
    said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items(), reverse=True))
    print(said or "no results", file=sys.stderr)
    if "damaged" in counts:
        raise typer.Exit(1)


@app.command("gc")
def remove_unused_results(
    out: Out = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; otherwise only list.")] = False,
) -> None:
    """List the results that no job's newest record in OUT names; remove them with --yes.

    A record, OUT/NAME, is what the newest `run` of a job left; remove it too if the job is not
    wanted any more.  Nothing is removed while a run uses the store.

    Example: polymode gc --yes
    """
    from pipelines import upkeep
    from pipelines.resources import size_in_words

    total = 0
    for found in upkeep.remove_unused(out) if yes else upkeep.unused(out):
        print(f"{os.path.relpath(found.path)}  {size_in_words(found.size)}  {found.why}")
        total += found.size
    said = "removed" if yes else "could be removed with --yes"
    print(f"{size_in_words(total)} {said}", file=sys.stderr)


@contextmanager
def _store_in_use(out: Path) -> Iterator[Path]:
    """The store, made if need be; nothing is removed from it while the block lasts."""
    from pipelines import store

    root = out.absolute() / "store"
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(store.in_use(root))
        except OSError as error:
            raise InputError(
                f"{out}: cannot be written: {error.strerror}; name another folder with --out"
            ) from error
        yield root


def _plan(
    job: Path, out: Path, settings: Sequence[str] | None, verify: bool
) -> "tuple[Job, tuple[Planned, ...]]":
    from pipelines.job import read
    from pipelines.plan import plan

    what = read(job, settings or [])
    return what, plan(what, out.absolute() / "store", verify=verify)


def _check_call(address: str | None, *, cpus: int | None, local: bool = False) -> None:
    if address is not None and (local or cpus):
        raise InputError("address: a running Ray is joined as it is, without --local or --cpus")


def _check_fits(planned: "Sequence[Planned]", cpus: int | None) -> None:
    """Refuse what cannot fit; asks torch about GPUs only where a step wants one."""
    from pipelines import cluster
    from pipelines.resources import Resources, check_fits, memory_here

    wanted = any(p.step.gpus for p in planned if p.state == "run")
    here = Resources(
        cpus=cpus or cluster.cpus(), gpus=cluster.gpus() if wanted else 0, memory=memory_here()
    )
    check_fits(planned, [here])


def _table(planned: "Sequence[Planned]") -> list[str]:
    from pipelines.resources import size_in_words

    rows = [
        (
            p.step.name,
            p.state,
            p.key[:12],
            f"{p.step.cpus} cpu"
            + (f" {p.step.gpus:g} gpu" if p.step.gpus else "")
            + (f" {size_in_words(p.step.memory)}" if p.step.memory else ""),
            p.why or p.note,
        )
        for p in planned
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join([*(f"{row[i]:<{widths[i]}}" for i in range(4)), row[4]]).rstrip() for row in rows
    ]


def _record(out: Path, job: "Job", planned: "Sequence[Planned]") -> Path:
    """The folder of this job's newest invocation, holding what was asked and what is planned.

    Raises:
        InputError: it cannot be written.
    """
    from core import files
    from core.config import plain

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
        raise InputError(
            f"{record}: cannot be written: {error.strerror}; name another folder with --out"
        ) from error
    return record


def _execute(
    planned: "Sequence[Planned]",
    record: Path,
    local: bool,
    cpus: int | None,
    address: str | None,
) -> "Outcomes":
    from pipelines import cluster
    from pipelines.execute import locally, on_ray
    from pipelines.progress import Display

    names = [p.step.name for p in planned]
    with (
        (record / "log.txt").open("w", encoding="utf-8") as log,
        Display(names, record=log) as display,
    ):
        if local:
            return locally(planned, display)
        if address:
            return _elsewhere(planned, record, address, display)
        wanted = any(p.step.gpus for p in planned if p.state == "run")
        display.say("starting Ray on this machine")
        gpus = cluster.gpus() if wanted else 0
        with cluster.private_ray(record, cpus=cpus or cluster.cpus(), gpus=gpus):
            return on_ray(planned, display)


def _elsewhere(
    planned: "Sequence[Planned]", record: Path, address: str, display: "Display"
) -> "Outcomes":
    """Do the steps on a running Ray, if each fits on one of its machines."""
    from pipelines.execute import on_ray
    from pipelines.joining import joined, stopped_gently
    from pipelines.resources import check_fits

    display.say(f"joining the Ray at {address}")
    training = [p.folder for p in planned if p.state == "run" and p.step.run in ("train", "sweep")]
    with joined(address, record) as machines, stopped_gently(training):
        check_fits(planned, machines, where="the cluster")
        return on_ray(planned, display)


def _finish(
    planned: "Sequence[Planned]",
    outcomes: "Outcomes",
    record: Path,
    show: "Callable[[Sequence[Planned], Outcomes], None]",
) -> None:
    """Say what failed, print where the results are, and end with the fitting exit status."""
    from core import files
    from core.config import plain
    from pipelines.execute import failure

    files.write_json(record / "outcome.json", plain(outcomes))
    failed = [p for p in planned if outcomes[p.step.name].state == "failed"]
    for p in failed:
        print(f"error: {failure(p, outcomes[p.step.name])}", file=sys.stderr)
    show(planned, outcomes)
    if failed:
        raise typer.Exit(2 if all(outcomes[p.step.name].refused for p in failed) else 1)


def _print_results(planned: "Sequence[Planned]", outcomes: "Outcomes") -> None:
    """Print where the reports are; of a whole job without any, where its last results are."""
    from pipelines import store

    whole = [p for p in planned if not outcomes or outcomes[p.step.name].state in ("done", "hit")]
    needed = {need for p in planned for need in p.step.needs}
    shown: list[Any] = [
        store.result_path(p.folder, "report") for p in whole if p.step.run == "report"
    ]
    if not shown and len(whole) == len(planned):
        shown = [p.folder for p in whole if p.step.name not in needed]
    for path in shown:
        print(os.path.relpath(path))


Dashboard = Annotated[
    str, typer.Option("--address", metavar="HOST:PORT", help="The cluster's dashboard.")
]
HERE = "127.0.0.1:8265"


@app.command("submit")
def submit_job(
    job: JobFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results that all its machines share.")
    ],
    address: Dashboard = HERE,
    settings: Settings = None,
) -> None:
    """Send a job to a cluster that this machine is no part of; prints what it is called there.

    The job file and the code travel; data and results are the cluster's.  Reach its dashboard by
    an ssh tunnel: ssh -L 8265:127.0.0.1:8265 HEAD.

    Example: polymode submit pipelines/jobs/demo.yaml --out /shared/runs
    """
    from pipelines import submit

    print(submit.submit(job, settings or [], address=address, out=out))


@app.command("status")
def show_submitted(address: Dashboard = HERE) -> None:
    """List jobs that were submitted to a cluster, and how far their steps are."""
    from pipelines import submit

    for line in submit.table(submit.jobs(address)):
        print(line)


@app.command("logs")
def show_log(
    job: Annotated[str, typer.Argument(help="What `submit` printed, or the job file's name.")],
    step: Annotated[str, typer.Argument(help="One step's.")] = "",
    address: Dashboard = HERE,
) -> None:
    """Print what a submitted job, or one of its steps, has written so far."""
    from pipelines import submit

    print(submit.log(address, job, step), end="")


@app.command("stop")
def stop_submitted(
    job: Annotated[str, typer.Argument(help="What `submit` printed, or the job file's name.")],
    address: Dashboard = HERE,
) -> None:
    """Stop a submitted job; steps that train write a checkpoint first.

    The same `submit` goes on from there.
    """
    from pipelines import submit

    for line in submit.table([submit.stop(address, job)]):
        print(line)


@app.command()
def doctor(
    out: Out = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what this machine has and lacks, and what to do; status 1 if something needed is missing.

    Example: polymode doctor --json
    """
    from pipelines.doctor import examine, table, usable

    findings = examine(out)
    if as_json:
        import json
        from dataclasses import asdict

        whole = {"usable": usable(findings), "findings": [asdict(f) for f in findings]}
        print(json.dumps(whole, indent=1))
    else:
        print("\n".join(table(findings)))
    if not usable(findings):
        raise typer.Exit(1)


def main() -> NoReturn:
    """The console script."""
    run_app(app)
