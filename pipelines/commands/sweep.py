"""The command `polymode sweep`: a job of one step made of a request, and its trials in words."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.commands import RequestFile, Settings
from core.errors import InputError
from core.progress import columns
from pipelines.commands.options import Address, OrLocal, Out

if TYPE_CHECKING:
    from pipelines.job.file import Job
    from pipelines.job.plan import Planned
    from pipelines.run.execute import Outcomes

NAME = "sweep"
# What the messages about jobs call the options of this command.
WORDS = {
    f"steps.{NAME}.request.": "",
    f"steps.{NAME}.workers=": "--workers ",
    f"steps.{NAME}.cpus=": "--threads ",
    f"steps.{NAME}.gpus=": "--gpus ",
    f"steps.{NAME}": NAME,
}


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
        int | None,
        typer.Option(min=1, help="CPU threads of each trial; by default all cores, split evenly."),
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each trial; 0.5 is half of one.")] = 0,
    settings: Settings = None,
    out: Out = Path("runs"),
    local: Annotated[
        bool, typer.Option("--local", help="One after another in this process, without Ray.")
    ] = False,
    address: Address = None,
    or_local: OrLocal = False,
) -> None:
    """Train with several choices of options, end early those that do badly, and keep the best.

    REQUEST and --set are those of `train`; validate_every is the steps between comparisons.
    Prints the best request and its checkpoints, and a table of all on standard error.  The same
    command resumes after a stop.

    Example: polymode sweep plugins/image2image/configs/demo.yaml --set validate_every=100
    --vary lr=loguniform:1e-4:1e-2 --vary network.width=16,32 --trials 8 --workers 2
    """
    from pipelines.commands import invocation

    chosen = {"trials": trials, "metric": metric}
    given = request_of(request, settings or [], vary or [], chosen)
    invocation.check_call(address, local=local, or_local=or_local)
    try:
        what = job_of(given, workers=workers, threads=threads, gpus=gpus)
        invocation.carry_out(what, out, local=local, address=address, or_local=or_local, show=show)
    except InputError as error:
        raise in_its_words(error) from error


def request_of(
    file: Path | None, settings: Sequence[str], vary: Sequence[str], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """The plain options of a search.

    Args:
        file: YAML of options.
        settings: ``a.b=value`` laid over them.
        vary: ``a.b=values`` added to their space.
        chosen: options that were given by names of their own; None if they were not.

    Raises:
        InputError: any of them cannot be read.
    """
    from core.parts.config import override
    from core.parts.inherited import inherit
    from core.parts.yaml_file import read_yaml
    from pipelines.sweep.space import vary as space_of

    given = override(read_yaml(file) if file else {}, list(settings))
    given = inherit(given, file.parent if file else Path())
    if vary or "space" not in given:
        before = given.get("space")
        given["space"] = {**(before if isinstance(before, dict) else {}), **space_of(vary)}
    return {**given, **{name: value for name, value in chosen.items() if value is not None}}


def job_of(
    request: Mapping[str, Any], *, workers: int = 1, threads: int | None = None, gpus: float = 0
) -> "Job":
    """The job that makes one search.

    Args:
        request: plain options of `SweepRequest`.
        workers: trials at once.
        threads: of each trial; by default, the cores of this machine split evenly.
        gpus: of each.

    Raises:
        InputError: an option is wrong; all problems at once.
    """
    from pipelines.job.file import parse
    from pipelines.job.resources import cpus_here

    each = threads or max(1, cpus_here() // workers)
    step = {"run": NAME, "request": request, "workers": workers, "cpus": each, "gpus": gpus}
    return parse({"name": NAME, "steps": {NAME: step}})


def in_its_words(error: InputError) -> InputError:
    """The same with the names that options have on the command line."""
    message = str(error)
    for job, command in WORDS.items():
        message = message.replace(job, command)
    return InputError(message)


def show(planned: "Sequence[Planned]", outcomes: "Outcomes") -> None:
    """Print where the best of a search is, after a table of all on standard error."""
    from pipelines.store import results

    for p in planned:
        if not outcomes or outcomes[p.step.name].state in ("done", "hit"):
            print("\n".join(table(p.folder)), file=sys.stderr)
            for field in ("request", "checkpoint"):
                print(os.path.relpath(results.result_path(p.folder, field)))


def table(folder: Path) -> list[str]:
    """A finished search in lines: each trial's options, steps, figure and state.

    Args:
        folder: of the step, in the store.
    """
    from pipelines.store import results
    from pipelines.sweep.space import value_text

    document = results.read_json(results.result_path(folder, "table")) or {"trials": []}
    names = list(dict.fromkeys(name for row in document["trials"] for name in row["options"]))
    rows = [["trial", *names, "steps", document.get("metric", ""), "at step", "state"]]
    for row in document["trials"]:
        value = row["value"]
        state = "best" if row["trial"] == document["best"] else row["state"]
        rows.append([
            row["trial"],
            *(value_text(row["options"][name]) for name in names),
            str(row["steps"]),
            *(("-", "-") if value is None else (f"{value:.4g}", str(row["step"]))),
            f"{state}: {row['cause']}" if row["cause"] else state,
        ])  # fmt: skip
    return [line.rstrip() for line in columns(rows)]
