"""Arguments that several commands of `polymode` share; each means the same in all of them."""

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="YAML file of steps.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for results and records.")]
Cpus = Annotated[
    int | None,
    typer.Option(min=1, help="Cores for all steps together; by default those of this machine."),
]
OrLocal = Annotated[
    bool,
    typer.Option(
        "--or-local",
        help="If Ray does not start, as on a busy machine, work in this process, without it.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Join this running Ray instead of starting one; auto for the one on this machine.",
    ),
]
