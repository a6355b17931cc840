"""``polymode image2image edit``: SDEdit with an unconditional model."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from plugins.image2image.commands.editing import EditRun
from plugins.image2image.commands.options import (
    Boxes,
    Device,
    DryRun,
    Extend,
    Feather,
    Grow,
    ImageFile,
    Invert,
    MaskFile,
    OutputFile,
    Record,
    Sampler,
    Samples,
    Seed,
    Threads,
    TrainedOverlap,
    TrainedTile,
    Transparent,
    UnconditionalCheckpoint,
)
from plugins.image2image.inference.region import Region

if TYPE_CHECKING:
    from torch import Tensor

    from core.sampler.solver import Solver
    from plugins.image2image.inference.editing import Edit


def edit(
    file: ImageFile,
    checkpoint: UnconditionalCheckpoint,
    out: OutputFile,
    strength: Annotated[
        float,
        typer.Option(min=0, max=1, help="Noise level: 0 returns the image, 1 ignores it."),
    ] = 0.5,
    repeats: Annotated[
        int, typer.Option(min=1, help="Rounds of SDEdit, each from the result of the last.")
    ] = 1,
    mask: MaskFile = None,
    invert: Invert = False,
    box: Boxes = None,
    transparent: Transparent = False,
    extend: Extend = None,
    grow: Grow = 0,
    feather: Feather = 0,
    steps: Annotated[
        int,
        typer.Option(
            min=2,
            help="Sampler steps of the full trajectory; `--strength` runs that fraction of them.",
        ),
    ] = 50,
    samples: Samples = 1,
    seed: Seed = 0,
    sampler: Sampler = "core/ancestral",
    tile: TrainedTile = None,
    overlap: TrainedOverlap = None,
    dry_run: DryRun = False,
    record: Record = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Turn strokes, a rough paste or a photograph into a sample of the model (SDEdit).

    Paint on the image in any program, then let the model turn the paint into a natural image.  With
    a mask only white pixels change; every other pixel keeps its bits.

    Example: polymode image2image edit painted.png --mask where.png --strength 0.5
    --checkpoint runs/photos -o edited.png
    """
    region = Region(mask, invert, tuple(box or ()), transparent, tuple(extend or ()), grow, feather)
    run = EditRun(
        command="edit", region=region, file=file, checkpoint=checkpoint, out=out, steps=steps,
        samples=samples, seed=seed, sampler=sampler, tile=tile, overlap=overlap,
        dry_run=dry_run, record=record, device=device, threads=threads,
    )  # fmt: skip

    def bind(grid: "Tensor", solver: "Solver") -> "Edit":
        from plugins.image2image.inference.editing import sdedit

        return partial(sdedit, grid=grid, solver=solver, strength=strength, repeats=repeats)

    options = {"strength": strength, "repeats": repeats, **region.about}
    run.run(*region.of(file), bind, options)
