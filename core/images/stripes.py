"""PNG and TIFF files written from the top, a stripe of rows at a time."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from core.errors import InputError
from core.images.pictures import Picture, reason
from core.images.writing import (
    behind_links,
    check_writable,
    integers,
    png_chunks_of,
    tiff_tags,
    with_metadata,
)
from core.storage import files

COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour type by the number of channels
ROWS = 64  # filtered or compressed at once
STRIPED = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
PAETH = 4


def check_striped(path: Path) -> None:
    """Refuse a path whose format cannot be written in stripes.

    Raises:
        InputError: neither PNG nor TIFF.
    """
    if path.suffix.lower() not in STRIPED:
        raise InputError(
            f"{path}: the result does not fit into memory, and only PNG and TIFF are written in "
            "stripes; name it .png or .tif, or give more memory"
        )


def write_stripes(
    path: Path,
    like: Picture,
    size: tuple[int, int],
    stripes: Iterable[Picture],
    *,
    strip: str | None = None,
) -> None:
    """Write a PNG or TIFF file from stripes, atomically.

    Args:
        path: of the file.
        like: the input image, for depth, channels and metadata.
        size: height and width of the result.
        stripes: rows of the result from the top, of the same channels and depth.
        strip: as in `write_picture`.

    Raises:
        InputError: as `write_picture`, or neither PNG nor TIFF.
    """
    check_striped(path)
    check_writable(path, alpha=like.alpha is not None, depth=like.depth, size=size)
    nothing = torch.zeros(1, 1, 1).expand(len(like.pixels), *size)  # takes no memory
    clear = None if like.alpha is None else nothing[:1]
    like = with_metadata(replace(like, pixels=nothing, alpha=clear), strip)
    encode = _encode_png if STRIPED[path.suffix.lower()] == "PNG" else _encode_tiff
    try:
        with files.replaced(behind_links(path)) as waiting, waiting.open("xb") as file:
            encode(file, like, _parts(stripes, path))
    except (OSError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error


def _parts(stripes: Iterable[Picture], path: Path) -> Iterator[np.ndarray]:
    """Integers of `ROWS` rows each, whatever the stripes' heights; of the rest at the end."""
    kept: list[np.ndarray] = []
    for stripe in stripes:
        if not stripe.pixels.isfinite().all():
            raise InputError(f"{path}: not written; some pixels are NaN or infinite")
        rows = np.concatenate([*kept, integers(stripe)])
        whole = len(rows) // ROWS * ROWS
        yield from (rows[start : start + ROWS] for start in range(0, whole, ROWS))
        kept = [rows[whole:].copy()]
    if kept and len(kept[0]):
        yield kept[0]


def _encode_png(file: BinaryIO, like: Picture, parts: Iterator[np.ndarray]) -> None:
    file.write(b"\x89PNG\r\n\x1a\n")
    planes = len(like.pixels) + (like.alpha is not None)
    height, width = like.pixels.shape[1:]
    header = (width, height, like.depth, COLOURS[planes], 0, 0, 0)
    file.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", *header)))
    file.writelines(png_chunks_of(like, planes))
    for data in _compressed(parts):
        file.write(_chunk(b"IDAT", data))
    file.write(_chunk(b"IEND", b""))


def _encode_tiff(file: BinaryIO, like: Picture, parts: Iterator[np.ndarray]) -> None:
    """Strips of `ROWS` rows, deflated after horizontal differencing.

    Source: TIFF revision 6.0, section 14; files that could pass 4 GiB are BigTIFF.
    """
    import tifffile

    height, width = like.pixels.shape[1:]
    planes = len(like.pixels) + (like.alpha is not None)
    depth = np.dtype(np.uint16 if like.depth == 16 else np.uint8)
    both = planes == 2 and like.depth == 16  # Pillow identifies no 16-bit grey with alpha

    def strips() -> Iterator[bytes]:
        for part in parts:
            values = part[..., [0, 0, 0, 1]] if both else part
            # Differences modulo 2^depth from the pixel on the left.
            steps = np.diff(values, axis=1, prepend=np.zeros_like(values[:, :1]))
            yield zlib.compress(steps.astype(depth.newbyteorder("<")).tobytes(), 2)

    channels = 4 if both else planes
    large = height * width * channels * depth.itemsize > 2**32 - 2**25
    with tifffile.TiffWriter(file, bigtiff=large, byteorder="<") as writer:
        writer.write(
            strips(),
            shape=(height, width, channels)[: 2 if channels == 1 else 3],
            dtype=depth,
            rowsperstrip=ROWS,
            predictor=2,
            **tiff_tags(like, channels),
        )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _compressed(parts: Iterator[np.ndarray]) -> Iterator[bytes]:
    packer, above = zlib.compressobj(2), None
    for values in parts:
        pixel = values.shape[-1] * values.itemsize
        rows = values.astype(values.dtype.newbyteorder(">")).reshape(len(values), -1).view(np.uint8)
        above = np.zeros_like(rows[0]) if above is None else above
        if data := packer.compress(_filtered(rows, above, pixel)):
            yield data
        above = rows[-1].copy()
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
