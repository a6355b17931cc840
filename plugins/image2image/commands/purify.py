"""``polymode image2image purify``: DiffPure on one image file."""

import os
import sys
from typing import Annotated

from core.commands import OnMachine, Overwrite, check_new, keeps_nothing
from core.errors import InputError
from core.images.formats import check_options
from core.parts.registry import Spec
from plugins.image2image.commands.images import (
    check_no_overwrite,
    check_quality,
    folder_sentence,
    is_folder,
    made,
    one_line,
    output_paths,
    print_path,
)
from plugins.image2image.commands.options import (
    ImageFile,
    OutputFileOrFolder,
    UnconditionalCheckpoint,
)


@keeps_nothing
def purify(
    file: ImageFile,
    checkpoint: UnconditionalCheckpoint,
    out: OutputFileOrFolder,
    overwrite: Overwrite = False,
    *,
    predictor: Annotated[Spec, "predictor", "image2image/purify"],
    machine: OnMachine,
) -> None:
    """Remove adversarial perturbations: diffuse the image to time t* and denoise it (DiffPure).

    Adaptive attacks on it are measured by the verb image2image/robustness; see README.md.

    Example: polymode image2image purify digit.png --checkpoint runs/digits -o clean.png
    """
    if os.path.isdir(file):
        raise InputError(folder_sentence(file, predictor, checkpoint, out))
    check_options(predictor.options)
    (_, target), *_ = output_paths([file], out, predictor.options)
    check_no_overwrite([target], [file])
    check_new([target], overwrite=overwrite)
    check_quality(predictor.options["quality"], [target])
    from core.images.reading import read_picture
    from core.images.writing import check_format, check_writable, write_picture
    from core.parts.config import configure

    # Everything that can be wrong is found before the slow part.
    picture = read_picture(file)
    size = picture.pixels.shape[1:]
    check = check_format if is_folder(out) else check_writable
    check(target, alpha=picture.alpha is not None, depth=picture.depth, size=size)
    purifier = configure("predictor", predictor)(machine, checkpoint)
    for note in picture.notes:
        print(f"{one_line(file.name)}: {note}", file=sys.stderr)
    with made(target.parent, out):
        written = {name: predictor.options[name] for name in ("quality", "strip")}
        write_picture(target, purifier.purify(picture), **written)
    print_path(target)
