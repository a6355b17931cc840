"""The commands `polymode plan` and `polymode run`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands import Settings
from core.errors import cut_lines
from core.progress import columns
from core.storage import files
from pipelines.commands.options import Address, Cpus, JobFile, OrLocal, Out

if TYPE_CHECKING:
    from pipelines.job.plan import Planned

Verify = Annotated[
    bool, typer.Option("--verify", help="Compare stored files' contents too, not only their sizes.")
]


def plan_job(
    job: JobFile,
    out: Out = Path("runs"),
    settings: Settings = None,
    cpus: Cpus = None,
    address: Address = None,
    verify: Verify = False,
    write: Annotated[
        Path | None,
        typer.Option(help="Also write the job here, with all that it takes `from` other files."),
    ] = None,
) -> None:
    """Show what `run` would do, and why: one line for each step.  Starts nothing.

    A step whose result is there already, whole, is a hit.  Any other runs, for the reason given.

    Example: polymode plan pipelines/jobs/demo.yaml --set steps.train.request.steps=500
    """
    from pipelines.cluster.joined import joined
    from pipelines.commands import invocation
    from pipelines.job.file import written
    from pipelines.job.resources import check_fits

    steps = planned(job, out, settings, verify)
    for line in _table(steps):
        print(cut_lines(line))
    if write is not None:
        files.write_json(write, written(job, settings or []))  # JSON is YAML
    invocation.check_call(address, cpus=cpus)
    if address is None:
        invocation.check_fits_here(steps, cpus)
        return
    with joined(address) as machines:
        check_fits(steps, machines, where="the cluster")


def run_job(
    job: JobFile,
    out: Out = Path("runs"),
    settings: Settings = None,
    local: Annotated[
        bool, typer.Option("--local", help="One step after another in this process, without Ray.")
    ] = False,
    cpus: Cpus = None,
    address: Address = None,
    or_local: OrLocal = False,
) -> None:
    """Run the steps of a job that are not done yet, on a private Ray, and print where they report.

    Results are kept in OUT/store and found again by what they were made from, so the same command
    after a stop resumes where it stopped, and a changed option runs only what depends on it.

    Example: polymode run pipelines/jobs/demo.yaml --set steps.train.request.steps=500
    """
    from pipelines.commands import invocation
    from pipelines.job.file import read

    invocation.check_call(address, cpus=cpus, local=local, or_local=or_local)
    what = read(job, settings or [])
    invocation.carry_out(what, out, local=local, cpus=cpus, address=address, or_local=or_local)


def planned(
    job: Path, out: Path, settings: Sequence[str] | None, verify: bool
) -> "tuple[Planned, ...]":
    """The steps of a job file with what is to be done about each."""
    from pipelines.job.file import read
    from pipelines.job.plan import plan

    return plan(read(job, settings or []), out.absolute() / "store", verify=verify)


def _table(planned: "Sequence[Planned]") -> list[str]:
    from pipelines.job.resources import size_in_words

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
    return [line.rstrip() for line in columns(rows)]
