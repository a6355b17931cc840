"""``polymode image2image choose``: a checkpoint's defaults of drawing."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import OnMachine, Overwrite, check_new, keeps_nothing
from core.parts.config import bind, override
from plugins.image2image.request import ChooseRequest


@keeps_nothing
def choose(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a restoration model.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder: the model with its default.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE, such as dataset.root=held-out, count=32; repeatable."
        ),
    ] = None,
    overwrite: Overwrite = False,
    *,
    machine: OnMachine,
) -> None:
    """Choose steps, number of draws and detail on held-out images, and keep them in a checkpoint.

    The combination of the highest PSNR becomes what `upscale`, `restore` and `apply` do where
    nothing is stated.  Every combination is printed, best first.

    Example: polymode image2image choose runs/x4 --set dataset.name=image2image/folder --set
    dataset.root=held-out --set dataset.test_fraction=1 -o runs/x4-chosen
    """
    from core.progress import listener
    from core.storage import json_file
    from plugins.image2image.evaluation import choose as choosing

    # A checkpoint that is written beside another run's replaces that of its step, and older ones.
    check_new([out / name for name in ("checkpoints", "choices.json")], overwrite=overwrite)
    given = override({"checkpoint": str(checkpoint)}, settings or [])
    with listener("choose") as emit:
        result = choosing.choose(bind(ChooseRequest, given), {}, out, machine=machine, emit=emit)
    typer.echo(
        f"  PSNR   calls  steps  mean of  detail (first estimate: {result.reference:.2f} dB)"
    )
    for choice in json_file.read(result.metrics)["choices"]:
        drawn = choice["drawing"]
        typer.echo(
            f"  {choice['psnr']:5.2f}  {choice['calls']:5}  {drawn['steps']:5}  "
            f"{drawn['mean_of']:7}  {drawn['detail']:g}"
        )
    print(result.checkpoint)
