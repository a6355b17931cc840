"""Coefficients that a JPEG file stores, as libjpeg reads them; files from elsewhere in a process.

Run as a script by `read`: ``python -I coefficients.py SOURCE TARGET PIXELS``.  It writes the
numbers to TARGET and their shapes to standard output.  jpeglib counts at most 50 markers and writes
the length of the next one past the end of its table, so bytes from elsewhere meet it in a process
of bounded memory and time without an environment.  Beside jpeglib and numpy nothing is imported.
"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 8
MEMORY = 256 << 20  # bytes beside what the pixels take
BYTES_PER_PIXEL = 40  # at most: four components of two bytes, five times
SECONDS, PIXELS_PER_SECOND = 20, 1_000_000
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
    with tempfile.TemporaryDirectory(prefix="polymode-jpeg-") as folder:
        source, target = Path(folder) / "source.jpg", Path(folder) / "numbers"
        source.write_bytes(data)
        command = [sys.executable, "-I", __file__, str(source), str(target), str(pixels)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, cwd=folder, check=False,
                env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TMPDIR": folder},
                timeout=120 + 2 * pixels / PIXELS_PER_SECOND,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ValueError("its coefficients took too long to read") from error
        if done.returncode != 0:
            raise ValueError("libjpeg does not read its coefficients")
        header = json.loads(done.stdout[:4096])
        shapes = [(int(rows), int(columns)) for rows, columns in header["shapes"]]
        numbers = np.fromfile(target, np.int16)
    if len(shapes) not in (1, 3) or sum(map(math.prod, shapes)) != len(numbers):
        raise ValueError("its coefficients are incomplete")
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = zip(np.split(numbers, ends), shapes, strict=True)
    components = tuple(part.reshape(shape) for part, shape in parts)
    tables = np.array(header["tables"], np.int64).reshape(len(shapes), BLOCK, BLOCK)
    factors = tuple((int(down), int(across)) for down, across in header["factors"])
    return Stored(components, tables, factors)


def limit(pixels: int, size: int) -> None:
    """Bound what this process may take for an image of so many pixels in a file of `size` bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + MEMORY + BYTES_PER_PIXEL * pixels + 4 * size
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, SECONDS + pixels // PIXELS_PER_SECOND),
        (resource.RLIMIT_FSIZE, size + 8 * pixels + (1 << 20)),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def main(source: str, target: str, pixels: str) -> None:
    """Write the numbers to `target` and their shapes, tables and factors as a line of JSON."""
    import jpeglib  # noqa: F401  (before the limits, which are for the file)

    output = os.dup(1)
    os.dup2(2, 1)  # libjpeg's own messages are no answer
    limit(int(pixels), Path(source).stat().st_size)
    stored = decode(Path(source))
    with open(target, "wb") as file:
        for part in stored.components:
            file.write(part.astype(np.int16).tobytes())
    header = {
        "shapes": [part.shape for part in stored.components],
        "tables": stored.tables.tolist(),
        "factors": stored.factors,
    }
    os.write(output, json.dumps(header).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
