"""Images of labels: the numbers that a file stores, not the colours that they are shown in."""

from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import InputError
from core.images.exif import ORIENTATION
from core.images.pictures import reason, upright
from core.images.reading import opened, read_picture

NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


def read_labels(path: Path) -> np.ndarray:
    """The labels (h, w) in an image file, as int64.

    Of grey images their values, of palettes the indices, of one bit 0 and 1.  A colour c is the
    number 65536 red + 256 green + blue, unless all pixels are grey, which are as in a grey image.

    Raises:
        InputError: as `read_picture`.
    """
    picture = read_picture(path)  # refuses what is damaged, too large, or no image
    try:
        with path.open("rb") as file, opened(file) as image:
            if image.mode in NUMBERS:
                orientation = image.getexif().get(ORIENTATION, 1)
                return np.ascontiguousarray(upright(np.asarray(image), orientation)).astype(
                    np.int64
                )
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    top = 2**picture.depth - 1
    values = picture.pixels.add(1).mul(top / 2).round().long().numpy()
    if len(values) == 1 or bool((values[0] == values[1]).all() and (values[0] == values[2]).all()):
        return values[0]
    if picture.depth != 8:
        raise InputError(
            f"{path}: labels in colours of 16 bits; write them as numbers in a grey image"
        )
    return (values[0] << 16) + (values[1] << 8) + values[2]
