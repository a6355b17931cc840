"""``polymode image2image upscale``: super-resolution models on image files."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import DryRun, OnMachine, Overwrite, keeps_nothing
from core.parts.config import configure
from core.parts.registry import Spec
from plugins.image2image.commands.images import RestoreRun, drawing_samples
from plugins.image2image.commands.options import (
    Deviation,
    ImageFiles,
    OutputFileOrFolder,
    Record,
    Samples,
)


@keeps_nothing
def upscale(
    files: ImageFiles,
    checkpoint: Annotated[Path, typer.Option(help="Folder of a super-resolution model (SR3).")],
    out: OutputFileOrFolder,
    samples: Samples = 1,
    deviation: Deviation = None,
    dry_run: DryRun = False,
    record: Record = False,
    overwrite: Overwrite = False,
    *,
    predictor: Annotated[Spec, "predictor", "image2image/upscale"],
    machine: OnMachine,
) -> None:
    """Upscale images by a trained SR3 model, or by a cascade of two.

    Any size; RGB or grey; alpha, 16 bits, colour profile and EXIF are kept.

    Example: polymode image2image upscale photo.png --checkpoint runs/sr3 -o large.png
    """
    predictor = drawing_samples(predictor, samples)
    run = RestoreRun(
        command="upscale", part=predictor, checkpoint=checkpoint, files=files, out=out,
        samples=samples, deviation=deviation, dry_run=dry_run, record=record,
        overwrite=overwrite, mean_of=predictor.options["mean_of"],
    )  # fmt: skip
    run.run(lambda: configure("predictor", predictor)(machine, checkpoint))
