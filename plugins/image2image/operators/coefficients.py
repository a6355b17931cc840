"""Coefficients that a JPEG file stores, as libjpeg reads them; files from elsewhere in a process.

jpeglib counts at most 50 markers and writes the length of the next one past the end of its table,
so bytes from elsewhere meet it in a process with limits, by `work`.  Beside jpeglib and numpy that
process imports nothing.
"""

import math
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 8
MEMORY, SECONDS = 256 << 20, 20  # bytes and processor time beside what the pixels take
SOURCE, NUMBERS = "source.jpg", "numbers"  # files of the process
ONE = threading.Lock()  # jpeglib keeps markers in global variables


@dataclass(frozen=True, eq=False)
class Stored:
    """Coefficients of a file of one or three components: grey, or Y, Cb and Cr.

    Args:
        components: multiples of the steps, blocks in their places (rows, columns), sides multiples
            of 8; blocks that the image's edge cuts are whole.
        tables: quantisation steps of each component (n, 8, 8).
        factors: vertical and horizontal sampling factors of each component.
    """

    components: tuple[np.ndarray, ...]
    tables: np.ndarray
    factors: tuple[tuple[int, int], ...]


def decode(path: Path) -> Stored:
    """The coefficients in a file, read in this process: only for files of our own.

    Raises:
        ValueError: components other than grey or YCbCr.
        OSError: not a JPEG file that libjpeg reads.
    """
    import jpeglib

    with ONE:
        file = jpeglib.read_dct(str(path))
        kind = file.jpeg_color_space.name
        if kind not in ("JCS_GRAYSCALE", "JCS_YCbCr"):
            raise ValueError(f"components of {kind}")
        found = (file.Y,) if kind == "JCS_GRAYSCALE" else (file.Y, file.Cb, file.Cr)
        tables = [file.get_component_qt(index) for index in range(len(found))]
        factors = tuple((int(down), int(across)) for down, across in file.samp_factor)
    return Stored(tuple(map(_in_place, found)), np.stack(tables).astype(np.int64), factors)


def _in_place(blocks: np.ndarray) -> np.ndarray:
    """Blocks (rows, columns, 8, 8) beside each other (8 rows, 8 columns)."""
    rows, columns = blocks.shape[:2]
    return blocks.swapaxes(1, 2).reshape(rows * BLOCK, columns * BLOCK)


def read(data: bytes, pixels: int) -> Stored:
    """The coefficients in the bytes of a file from elsewhere, read in a limited process.

    Args:
        data: the whole file.
        pixels: of its image, by which memory and time are limited.

    Raises:
        ValueError: the process refused the file, or its limits ended it.
    """
    from core.storage.limited_process import Limits, NoAnswer, call

    limits = Limits.of_image(len(data), pixels, memory=MEMORY, seconds=SECONDS)
    with tempfile.TemporaryDirectory(prefix="polymode-jpeg-") as name:
        folder = Path(name)
        (folder / SOURCE).write_bytes(data)
        try:
            header = call(Path(__file__), SOURCE, NUMBERS, folder=folder, limits=limits)
        except NoAnswer as none:
            slow, broken = "its coefficients took too long to read", "libjpeg does not read them"
            raise ValueError(slow if none.slow else broken) from none
        shapes = [(int(rows), int(columns)) for rows, columns in header["shapes"]]
        numbers = np.fromfile(folder / NUMBERS, np.int16)
    if len(shapes) not in (1, 3) or sum(map(math.prod, shapes)) != len(numbers):
        raise ValueError("its coefficients are incomplete")
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = zip(np.split(numbers, ends), shapes, strict=True)
    components = tuple(part.reshape(shape) for part, shape in parts)
    tables = np.array(header["tables"], np.int64).reshape(len(shapes), BLOCK, BLOCK)
    factors = tuple((int(down), int(across)) for down, across in header["factors"])
    return Stored(components, tables, factors)


def work(begin: Callable[[], None], source: str, target: str) -> dict[str, Any]:
    """Write the numbers to `target`; their shapes, quantisation tables and sampling factors."""
    import jpeglib  # noqa: F401  (before the limits, which are for the file)

    begin()
    stored = decode(Path(source))
    with open(target, "wb") as file:
        for part in stored.components:
            file.write(part.astype(np.int16).tobytes())
    return {
        "shapes": [part.shape for part in stored.components],
        "tables": stored.tables.tolist(),
        "factors": stored.factors,
    }
