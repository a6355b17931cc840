"""``polymode image2image restore``: models of Palette's tasks on image files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from core.commands import DryRun, OnMachine
from core.parts.config import configure
from core.parts.registry import Spec, installed
from plugins.image2image.commands.images import RestoreRun, drawing_samples
from plugins.image2image.commands.options import (
    Deviation,
    ImageFiles,
    OutputFileOrFolder,
    Record,
    Samples,
)


def restore(
    files: ImageFiles,
    checkpoint: Annotated[
        Path, typer.Option(help="Folder of a model of one of the tasks, or of several.")
    ],
    out: OutputFileOrFolder,
    samples: Samples = 1,
    deviation: Deviation = None,
    dry_run: DryRun = False,
    record: Record = False,
    *,
    predictor: Annotated[Spec, "predictor", "image2image/restore"],
    machine: OnMachine,
) -> None:
    """Colourise, restore JPEG files, inpaint or uncrop, as the model was trained.

    Known values are kept exactly: the luma of a grey image, the coefficients of a JPEG file, every
    pixel outside the region.  In an output folder JPEG and BMP become PNG, named photo.jpg.png.

    Examples: polymode image2image restore old.jpg --checkpoint runs/jpeg -o new.png; for models
    that fill, add --mask holes.png, --box 10,20,64,48 or --extend right=50%
    """
    predictor = drawing_samples(predictor, samples)
    run = RestoreRun(
        command="restore", files=files, out=out, samples=samples, deviation=deviation,
        dry_run=dry_run, record=record, mean_of=predictor.options["mean_of"],
    )  # fmt: skip
    kind: Any = installed().load("predictor", predictor.name)
    run.run(
        lambda: configure("predictor", predictor)(machine, checkpoint),
        name=kind.result_name,
        reads=[predictor.options["mask"]],
        exact=True,
    )
