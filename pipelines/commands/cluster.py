"""The commands `polymode submit`, `status`, `logs` and `stop`: jobs on a cluster, from outside."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import Settings, after_stop
from core.errors import cut_lines, printable
from pipelines.commands.options import JobFile

HERE = "127.0.0.1:8265"
Dashboard = Annotated[
    str, typer.Option("--address", metavar="HOST:PORT", help="The cluster's dashboard.")
]
Submitted = Annotated[
    str, typer.Argument(help="The ID that `submit` printed, or the job file's name.")
]


def submit_job(
    job: JobFile,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for results, on a file system that all machines of the cluster mount.",
        ),
    ],
    address: Dashboard = HERE,
    settings: Settings = None,
) -> None:
    """Submit a job to a cluster from a machine outside it; prints the ID of the submission.

    The job file and the code travel; data and results are the cluster's.  Reach its dashboard by
    an ssh tunnel: ssh -L 8265:127.0.0.1:8265 HEAD.

    Example: polymode submit pipelines/jobs/demo.yaml --out /shared/runs
    """
    from pipelines.cluster import submit

    print(submit.submit(job, settings or [], address=address, out=out))


def show_submitted(address: Dashboard = HERE) -> None:
    """List jobs that were submitted to a cluster, and how far their steps are."""
    from pipelines.cluster import submit

    for line in submit.table(submit.jobs(address)):
        print(cut_lines(line))


@after_stop("the job goes on; `polymode stop` ends it")
def show_log(
    job: Submitted,
    step: Annotated[str, typer.Argument(help="One step's.")] = "",
    address: Dashboard = HERE,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what is written until the job ends.")
    ] = False,
) -> None:
    """Print what a submitted job, or one of its steps, has written so far."""
    from pipelines.cluster import submit

    whole = submit.follow if follow else submit.log
    pieces = whole(address, job, step)
    for piece in [pieces] if isinstance(pieces, str) else pieces:
        print(printable(piece), end="", flush=True)


def stop_submitted(job: Submitted, address: Dashboard = HERE) -> None:
    """Stop a submitted job; steps that train write a checkpoint first.

    The same `submit` resumes from there.
    """
    from pipelines.cluster import submit

    for line in submit.table([submit.stop(address, job)]):
        print(cut_lines(line))
