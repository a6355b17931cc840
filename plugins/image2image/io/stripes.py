"""PNG files written from the top, a stripe of rows at a time."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from core.errors import InputError
from core.storage import files
from plugins.image2image.io.pictures import Picture, reason
from plugins.image2image.io.writing import (
    behind_links,
    check_writable,
    integers,
    png_chunks_of,
    with_metadata,
)

COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour type by the number of channels
ROWS = 64  # filtered at once
PAETH = 4


def check_striped(path: Path) -> None:
    """Refuse a path whose format cannot be written in stripes.

    Raises:
        InputError: not PNG.
    """
    if path.suffix.lower() != ".png":
        raise InputError(
            f"{path}: the result does not fit into memory, and only PNG is written in stripes; "
            "name it .png, or give more memory"
        )


def write_stripes(
    path: Path,
    like: Picture,
    size: tuple[int, int],
    stripes: Iterable[Picture],
    *,
    strip: str | None = None,
) -> None:
    """Write a PNG file from stripes, atomically.

    Args:
        path: of the file.
        like: the input image, for depth, channels and metadata.
        size: height and width of the result.
        stripes: rows of the result from the top, of the same channels and depth.
        strip: as in `write_picture`.

    Raises:
        InputError: as `write_picture`, or not PNG.
    """
    check_striped(path)
    check_writable(path, alpha=like.alpha is not None, depth=like.depth, size=size)
    nothing = torch.zeros(1, 1, 1).expand(len(like.pixels), *size)  # takes no memory
    clear = None if like.alpha is None else nothing[:1]
    like = with_metadata(replace(like, pixels=nothing, alpha=clear), strip)
    try:
        with files.replaced(behind_links(path)) as waiting, waiting.open("xb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            planes = len(like.pixels) + (like.alpha is not None)
            header = (size[1], size[0], like.depth, COLOURS[planes], 0, 0, 0)
            file.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", *header)))
            file.writelines(png_chunks_of(like, planes))
            for data in _compressed(stripes, path):
                file.write(_chunk(b"IDAT", data))
            file.write(_chunk(b"IEND", b""))
    except (OSError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _compressed(stripes: Iterable[Picture], path: Path) -> Iterator[bytes]:
    packer, above = zlib.compressobj(2), None
    for stripe in stripes:
        if not stripe.pixels.isfinite().all():
            raise InputError(f"{path}: not written; some pixels are NaN or infinite")
        values = integers(stripe)
        pixel = values.shape[-1] * values.itemsize
        rows = values.astype(values.dtype.newbyteorder(">")).reshape(len(values), -1).view(np.uint8)
        above = np.zeros_like(rows[0]) if above is None else above
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            if data := packer.compress(_filtered(part, above, pixel)):
                yield data
            above = part[-1].copy()
    yield packer.flush()


def _filtered(rows: np.ndarray, above: np.ndarray, pixel: int) -> bytes:
    """Rows of bytes less their Paeth prediction, each after its filter's number.

    Source: PNG specification, third edition, 9.4.
    """
    up = np.vstack([above, rows[:-1]]).astype(np.int16)
    left, corner = np.zeros_like(up), np.zeros_like(up)
    left[:, pixel:], corner[:, pixel:] = rows[:, :-pixel], up[:, :-pixel]
    # Distances of left + up - corner from each of them; the first of the nearest is predicted.
    a, b, c = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    predicted = np.where((a <= b) & (a <= c), left, np.where(b <= c, up, corner))
    found = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    found[:, 0] = PAETH
    found[:, 1:] = rows - predicted.astype(np.uint8)
    return found.tobytes()
