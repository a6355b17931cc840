"""``polymode image2image edit``: SDEdit with an unconditional model."""

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
def edit(
    file: ImageFile,
    checkpoint: UnconditionalCheckpoint,
    out: OutputFile,
    strength: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Noise level, and the fraction of the steps that are run: 0 returns the image, "
            "1 ignores it.",
        ),
    ] = 0.5,
    repeats: Annotated[
        int, typer.Option(min=1, help="Rounds of SDEdit, each from the result of the last.")
    ] = 1,
    samples: Samples = 1,
    dry_run: DryRun = False,
    record: Record = False,
    overwrite: Overwrite = False,
    *,
    editing: EditOptions,
    output: WrittenAs,
    region: Region,
    machine: OnMachine,
) -> None:
    """Turn strokes, a rough paste or a photograph into a sample of the model (SDEdit).

    Paint on the image in any program, then let the model turn the paint into a natural image.  With
    a mask only white pixels change; every other pixel keeps its bits.

    Example: polymode image2image edit painted.png --mask where.png --strength 0.5
    --checkpoint runs/photos -o edited.png
    """
    run = EditRun(
        command="edit", file=file, checkpoint=checkpoint, out=out, samples=samples,
        overwrite=overwrite, dry_run=dry_run, record=record, output=output,
        editing=editing, region=region, machine=machine,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.inference.editing import sdedit

        return partial(sdedit, grid=grid, solver=solver, strength=strength, repeats=repeats)

    options = {"strength": strength, "repeats": repeats, **region.about}
    run.run(*region.of(file), bind, options)
