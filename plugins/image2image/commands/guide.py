"""``polymode image2image guide``: ILVR with an unconditional model."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands import DryRun, OnMachine, Overwrite, keeps_nothing
from plugins.image2image.commands.editing import EditRun
from plugins.image2image.commands.options import (
    ImageFile,
    OutputFile,
    Record,
    Samples,
    UnconditionalCheckpoint,
    WrittenAs,
)
from plugins.image2image.inference.region import Region
from plugins.image2image.request import EditOptions

if TYPE_CHECKING:
    from torch import Tensor

    from core.sampler.solver import Solver
    from plugins.image2image.inference.editing import Edit


@keeps_nothing
def guide(
    file: ImageFile,
    checkpoint: UnconditionalCheckpoint,
    out: OutputFile,
    factor: Annotated[
        int,
        typer.Option(
            min=2, help="Reduction factor N of ILVR; a larger one keeps less of the image."
        ),
    ] = 8,
    free: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of the last steps without guidance.")
    ] = 0.0,
    samples: Samples = 1,
    dry_run: DryRun = False,
    record: Record = False,
    overwrite: Overwrite = False,
    *,
    editing: EditOptions,
    output: WrittenAs,
    machine: OnMachine,
) -> None:
    """Draw variations of an image with the same low-resolution version (ILVR).

    Example: polymode image2image guide photo.png --factor 8 --samples 4
    --checkpoint runs/photos -o other.png
    """
    run = EditRun(
        command="guide", file=file, checkpoint=checkpoint, out=out, samples=samples,
        overwrite=overwrite, dry_run=dry_run, record=record, output=output,
        editing=editing, region=Region(), machine=machine,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.inference.editing import guide

        return partial(guide, grid=grid, solver=solver, factor=factor, free=free)

    run.run(*Region().of(file), bind, {"factor": factor, "free": free})
