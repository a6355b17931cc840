"""``polymode image2image restore``: Palette's tasks on image files, and a verb for each."""

from pathlib import Path
from typing import Annotated, Any

import typer

from core.commands import DryRun, OnMachine, Overwrite, keeps_nothing, specialised
from core.parts.config import configure, plain
from core.parts.registry import Spec
from plugins.image2image.commands.images import RestoreRun, drawing_samples
from plugins.image2image.commands.options import (
    Deviation,
    ImageFiles,
    OutputFileOrFolder,
    Record,
    Samples,
)
from plugins.image2image.inference.region import Region, mask_for
from plugins.image2image.request import RestorationTask


@keeps_nothing
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
    overwrite: Overwrite = False,
    *,
    predictor: Annotated[Spec, "predictor", "image2image/restore"],
    machine: OnMachine,
) -> None:
    """Colourise, restore JPEG files, inpaint or uncrop, as the model was trained.

    Known values are kept exactly: the luma of a grey image, the coefficients of a JPEG file, every
    pixel outside the region.  In an output folder JPEG and BMP become PNG, named photo.jpg.png.

    Examples: polymode image2image restore old.jpg --checkpoint runs/jpeg -o new.png; for models
    that fill, add --mask holes.png, --box 10,20,64,48 or --extend right=50%

    Each task has a verb of its own: colourise, inpaint, uncrop and restore-jpeg.
    """
    predictor = drawing_samples(predictor, samples)
    run = RestoreRun(
        command="restore", part=predictor, checkpoint=checkpoint, files=files, out=out,
        samples=samples, deviation=deviation, dry_run=dry_run, record=record,
        overwrite=overwrite, mean_of=predictor.options["mean_of"],
    )  # fmt: skip
    run.run(
        lambda: configure("predictor", predictor)(machine, checkpoint),
        reads=[mask_for(predictor.options["mask"], file) for file in files],
        exact=True,
    )


# --- a verb for each task ------------------------------------------------------------------------


def _verb(name: str, task: RestorationTask, text: str, *, region: tuple[str, ...] = ()) -> Any:
    """`restore` with its task fixed; of a region's options it has those that `region` names."""
    unused = {option: value for option, value in plain(Region()).items() if option not in region}
    fixed = Spec("image2image/restore", {"task": task, **unused})
    return specialised(restore, name, text, {"predictor": fixed})


colourise = _verb(
    "colourise",
    "colourise",
    """Give a grey image colours.

    Its luma is kept to the last level; of a colour image the luma alone is used.  Many colours
    are possible: --samples 4 writes four results and a contact sheet.  The model was trained for
    image2image/colourise, or for several tasks.  `colorize` is the same command.

    Example: polymode image2image colourise grey.jpg --checkpoint runs/several -o colour.png
    """,
)
inpaint = _verb(
    "inpaint",
    "inpaint",
    """Fill holes and remove objects.

    Every other pixel keeps its bits.  What is filled is painted white on black, or in any colour
    on a copy of the image, on one flat colour or on transparent; or it is a --box.  With several
    images, --mask is a folder that holds a mask of the name of each.  --grow 4 also covers the
    edge of what is removed, --feather 4 blends.

    Examples: polymode image2image inpaint photo.png --mask strokes.png --checkpoint runs/several
    -o filled.png; polymode image2image inpaint *.png --mask masks/ --checkpoint runs/several
    -o filled/
    """,
    region=("mask", "invert", "resize_mask", "box", "transparent", "grow", "feather"),
)
uncrop = _verb(
    "uncrop",
    "uncrop",
    """Extend an image beyond its edges.

    Every pixel of it keeps its bits.  Uncrop the result again for a panorama.

    Example: polymode image2image uncrop photo.png --extend right=50% --extend left=64
    --checkpoint runs/several -o wide.png
    """,
    region=("extend", "feather"),
)
restore_jpeg = _verb(
    "restore_jpeg",
    "jpeg",
    """Remove the blocks and ringing of a JPEG file.

    Its coefficients are kept: the result is one of the images whose JPEG file this could be.
    --mean-of 8 is closest to the original on average.  Write PNG, TIFF or WebP: JPEG output
    would be compressed again.

    Example: polymode image2image restore-jpeg old.jpg --checkpoint runs/several -o new.png
    """,
)
