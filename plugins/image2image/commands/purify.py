"""``polymode image2image purify``: DiffPure on one image file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from core.commands import OnMachine
from core.parts.registry import Spec
from plugins.image2image.commands.images import check_no_overwrite
from plugins.image2image.commands.options import ImageFile, UnconditionalCheckpoint


def purify(
    file: ImageFile,
    checkpoint: UnconditionalCheckpoint,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output file.")],
    *,
    predictor: Annotated[Spec, "predictor", "image2image/purify"],
    machine: OnMachine,
) -> None:
    """Remove adversarial perturbations: diffuse the image to time t* and denoise it (DiffPure).

    Adaptive attacks on it are measured by the verb image2image/robustness; see README.md.

    Example: polymode image2image purify digit.png --checkpoint runs/digits -o clean.png
    """
    check_no_overwrite([out], [file])
    from core.parts.config import configure
    from plugins.image2image.io.reading import read_picture
    from plugins.image2image.io.writing import check_writable, write_picture

    # Everything that can be wrong is found before the slow part.
    picture = read_picture(file)
    size = picture.pixels.shape[1:]
    check_writable(out, alpha=picture.alpha is not None, depth=picture.depth, size=size)
    purifier = configure("predictor", predictor)(machine, checkpoint)
    for note in picture.notes:
        print(f"{file.name}: {note}", file=sys.stderr)
    write_picture(out, purifier.purify(picture))
    print(out)
