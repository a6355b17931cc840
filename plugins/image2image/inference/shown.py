"""An image file beside its result, as a panel for reports: both whole, and a crop at 1:1."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from core.images.reading import read_picture
from core.results.sheet import to_bytes
from core.task import Panel

CROP = 288  # pixels of a side, which a phone's screen has
MOST = 50_000_000  # pixels of a result that is shown; reading a larger one takes too long
RESULT = "result"


def before_and_after(source: Path, target: Path, facts: Mapping[str, Any]) -> Panel | None:
    """The input, enlarged to the size of the result where that is larger, and the result.

    The crop is where they differ most.  A result of other proportions, such as an uncropped one,
    is shown whole alone; of one with more than 50 million pixels there is no panel.

    Args:
        source: the input image.
        target: the result of it.
        facts: of the predictor's record, of which `size` is the result's width and height.

    Raises:
        InputError: one of them cannot be read, or memory does not hold it.
    """
    if math.prod(facts.get("size", ())) > MOST:
        return None
    before, after = _read(source), _read(target)
    (high, wide), (height, width) = before.shape[:2], after.shape[:2]
    down, across = height / high, width / wide
    if abs(down * wide - width) > max(down, across):  # more than sides that are rounded
        return Panel(source.name, whole={"input": before, RESULT: after})
    label = "input"
    if (height, width) != (high, wide):
        enlarged = Image.fromarray(before).resize((width, height), Image.Resampling.BICUBIC)
        before, label = np.asarray(enlarged), "input, enlarged"
    where = _crop(before, after)
    return Panel(
        source.name,
        images={label: before[where], RESULT: after[where]},
        whole={label: before, RESULT: after},
    )


def _read(path: Path) -> UInt8[np.ndarray, " h w 3"]:
    """The image as 8 bits, laid over white where it is transparent."""
    picture = read_picture(path)
    pixels = picture.pixels
    if picture.alpha is not None:
        pixels = pixels * picture.alpha + (1 - picture.alpha)
    return to_bytes(pixels.expand(3, -1, -1))


def _crop(
    before: UInt8[np.ndarray, " h w 3"], after: UInt8[np.ndarray, " h w 3"]
) -> tuple[slice, slice]:
    """The square of a grid in which the mean absolute difference is largest."""
    height, width = after.shape[:2]
    tall, wide = min(CROP, height), min(CROP, width)
    rows, columns = height // tall, width // wide
    squares = np.empty((rows, columns))
    for i in range(rows):  # a row at a time: differences of the whole would take its memory again
        band = slice(i * tall, (i + 1) * tall), slice(0, columns * wide)
        difference = np.abs(before[band].astype(np.int16) - after[band])
        squares[i] = difference.reshape(tall, columns, wide * 3).mean((0, 2))
    row, column = divmod(int(squares.argmax()), columns)
    return slice(row * tall, (row + 1) * tall), slice(column * wide, (column + 1) * wide)
