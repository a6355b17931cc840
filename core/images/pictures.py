"""An image file's pixels and metadata, and how they are turned."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Make, model, date, artist and the like: what EXIF may take from a TIFF's own table of tags.
DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 33432)


@dataclass(frozen=True)
class Picture:
    """An upright image with the metadata of its file.

    Args:
        pixels: in [-1, 1], float32; one channel (grey) or three (RGB).
        alpha: opacity in [0, 1], not multiplied into `pixels`; None if the file has none.
        depth: bits per channel in the file, 8 or 16.
        icc: the colour profile of `pixels`, as bytes.
        exif: entries of `exif.of_file`: a TIFF structure without the ``Exif`` mark.
        dpi: dots per inch, across and down.
        text: PNG's text entries and JPEG's comment, key and value.
        format: of the file: a key of `formats.FORMATS` or `formats.READ_ONLY`.
        orientation: EXIF orientation of the stored pixels, already applied to `pixels`.
        notes: conversions and losses in reading, one sentence each, for the user.
    """

    pixels: Float[Tensor, " c h w"]
    alpha: Float[Tensor, " 1 h w"] | None = None
    depth: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()
    format: str = "PNG"
    orientation: int = 1
    notes: tuple[str, ...] = ()


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """The values (h, w, ...) with EXIF orientation 1 to 8 applied; else unchanged."""
    match orientation:
        case 2:
            return values[:, ::-1]
        case 3:
            return values[::-1, ::-1]
        case 4:
            return values[::-1]
        case 5:
            return values.swapaxes(0, 1)
        case 6:
            return np.rot90(values, -1)
        case 7:
            return values[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(values)
    return values


def turned(x: Float[Tensor, " c h w"], orientation: int) -> Float[Tensor, " c y x"]:
    """The image with an EXIF orientation applied."""
    rows = upright(x.movedim(0, -1).numpy(), orientation)
    return torch.from_numpy(np.ascontiguousarray(rows)).movedim(-1, 0)


def as_stored(picture: Picture) -> Float[Tensor, " c h w"]:
    """The image's pixels as stored in its file, without the orientation."""
    return turned(picture.pixels, {6: 8, 8: 6}.get(picture.orientation, picture.orientation))
