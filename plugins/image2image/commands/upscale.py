"""``polymode image2image upscale``: super-resolution models on image files."""

from pathlib import Path
from typing import Annotated

import typer

from plugins.image2image.commands.images import ImagePredictor, RestoreRun, load_predictor
from plugins.image2image.commands.options import (
    Deviation,
    Device,
    DryRun,
    ImageFiles,
    MeanOf,
    OutputFileOrFolder,
    Overlap,
    Record,
    Sampler,
    Samples,
    Seed,
    Steps,
    Threads,
    Tile,
)


def upscale(
    files: ImageFiles,
    checkpoint: Annotated[Path, typer.Option(help="Folder of a super-resolution model (SR3).")],
    out: OutputFileOrFolder,
    scale: Annotated[
        int | None, typer.Option(min=2, help="Upscaling factor; must equal the trained one.")
    ] = None,
    then: Annotated[
        Path | None, typer.Option(help="Folder of a second model: a cascade of two.")
    ] = None,
    level: Annotated[
        float,
        typer.Option(
            min=0,
            help="Standard deviation of the noise added before the second model (conditioning "
            "augmentation).",
        ),
    ] = 0.0,
    steps: Steps = 20,
    samples: Samples = 1,
    mean_of: MeanOf = 1,
    deviation: Deviation = None,
    seed: Seed = 0,
    sampler: Sampler = "core/ancestral",
    tile: Tile = 512,
    overlap: Overlap = 64,
    dry_run: DryRun = False,
    record: Record = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Upscale images by a trained SR3 model, or by a cascade of two.

    Any size; RGB or grey; alpha, 16 bits, colour profile and EXIF are kept.

    Example: polymode image2image upscale photo.png --checkpoint runs/sr3 -o large.png
    """
    options = {
        "scale": scale, "then": then, "level": level, "steps": steps, "seed": seed,
        "mean_of": mean_of, "sampler": sampler, "tile": tile, "overlap": overlap,
    }  # fmt: skip

    def load() -> ImagePredictor:
        return load_predictor("image2image/upscale", options, checkpoint, device, threads)

    RestoreRun("upscale", files, out, samples, mean_of, deviation, dry_run, record).run(load)
