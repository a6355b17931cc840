"""``polymode image2image restore``: models of Palette's tasks on image files."""

from pathlib import Path
from typing import Annotated

import typer

from plugins.image2image.commands.images import ImagePredictor, RestoreRun, load_predictor
from plugins.image2image.commands.options import (
    Boxes,
    Deviation,
    Device,
    DryRun,
    Extend,
    Feather,
    Grow,
    ImageFiles,
    Invert,
    MaskFile,
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
    Transparent,
)
from plugins.image2image.inference.region import Region
from plugins.image2image.request import RestorationTask


def restore(
    files: ImageFiles,
    checkpoint: Annotated[
        Path, typer.Option(help="Folder of a model of one of the tasks, or of several.")
    ],
    out: OutputFileOrFolder,
    task: Annotated[
        RestorationTask | None,
        typer.Option(help="The task of a model that was trained for several."),
    ] = None,
    mask: MaskFile = None,
    invert: Invert = False,
    box: Boxes = None,
    transparent: Transparent = False,
    extend: Extend = None,
    grow: Grow = 0,
    feather: Feather = 0,
    steps: Steps = 4,
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
    """Colourise, restore JPEG files, inpaint or uncrop, as the model was trained.

    Known values are kept exactly: the luma of a grey image, the coefficients of a JPEG file, every
    pixel outside the region.  In an output folder JPEG and BMP become PNG, named photo.jpg.png.

    Examples: polymode image2image restore old.jpg --checkpoint runs/jpeg -o new.png; for models
    that fill, add --mask holes.png, --box 10,20,64,48 or --extend right=50%
    """
    region = Region(mask, invert, tuple(box or ()), transparent, tuple(extend or ()), grow, feather)
    options = {
        "task": task, "mask": mask, "invert": invert, "box": region.boxes,
        "transparent": transparent, "extend": region.extend, "grow": grow, "feather": feather,
        "steps": steps, "seed": seed, "mean_of": mean_of, "sampler": sampler,
        "tile": tile, "overlap": overlap,
    }  # fmt: skip

    def load() -> ImagePredictor:
        return load_predictor("image2image/restore", options, checkpoint, device, threads)

    from plugins.image2image.inference.predictors import Restore

    run = RestoreRun("restore", files, out, samples, mean_of, deviation, dry_run, record)
    run.run(load, name=Restore.result_name, reads=[mask], exact=True)
