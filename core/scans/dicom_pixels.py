"""PixelData of a DICOM file: decoded, and checked against its header."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import InputError
from core.scans import dicom_decoding
from core.scans.claims import check_claim, reason
from core.scans.dicom_file import load
from core.storage import jpeg_scans

if TYPE_CHECKING:
    from pydicom import Dataset

GDCM = "gdcm"
# Transfer syntaxes of JPEG's cosine transform: Baseline and Extended, PS3.5 A.4.1.
DCT = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
# Packages that decode what neither pydicom, Pillow nor the extra's GDCM does.
DECODERS = {"High-Throughput JPEG 2000": "pylibjpeg and pylibjpeg-openjpeg"}


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress pydicom's warnings: they quote header values, names of patients included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, eq=False)
class Pixels:
    """Stored values (frames, rows, columns), and how they are interpreted."""

    stored: np.ndarray
    inverted: bool
    padding: float | None


def read(path: Path, size: tuple[int, int]) -> Pixels:
    """The stored values of all frames of a file.

    Args:
        path: of the file, whose header has been checked.
        size: Rows and Columns of its header.

    Raises:
        InputError: no decoder, truncated PixelData, or none of integers.
    """
    from pydicom.pixels.decoders.base import get_decoder

    with quiet():
        try:
            data = load(path, pixels=True)
            syntax = data.file_meta.TransferSyntaxUID
            frames = int(data.get("NumberOfFrames") or 1)
            bits = int(data.get("BitsAllocated") or 0)
            compressed = syntax.is_compressed and syntax.is_encapsulated
            inverted = data.get("PhotometricInterpretation") == "MONOCHROME1"
            padding = data.get("PixelPaddingValue")
            padding = None if padding is None else float(padding)
            decoders = get_decoder(syntax).available_plugins if compressed else ()
            held = data.get("PixelData")
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path.name}: cannot be read: {reason(error)}") from error
        check_claim(path, (frames, *size), 8)
        if compressed and not decoders:
            known = [mend for kind, mend in DECODERS.items() if syntax.name.startswith(kind)]
            mend = known[0] if known else "polymode[scans], which brings python-gdcm"
            raise InputError(
                f"{path.name}: no decoder for transfer syntax {syntax.name}; install {mend}"
            )
        if not isinstance(held, bytes):
            fractions = "FloatPixelData" in data or "DoubleFloatPixelData" in data
            other = "has FloatPixelData; only integer PixelData with a RescaleSlope is read"
            lost = "PixelData is missing: the file is truncated, copy it again"
            raise InputError(f"{path.name}: {other if fractions else lost}")
        wanted = frames * size[0] * size[1] * bits // 8
        if not compressed and len(held) < wanted:
            raise InputError(
                f"{path.name}: is truncated: PixelData has {len(held):,} bytes, the header claims "
                f"{wanted:,}; copy it again"
            )
        if syntax in DCT:
            _refuse_scans(path, held, frames)
        try:
            values = _decoded(data, path, decoders, wanted)
        except Exception as error:
            raise InputError(f"{path.name}: cannot decode PixelData: {reason(error)}") from error
    if values.size != frames * size[0] * size[1]:
        raise InputError(
            f"{path.name}: PixelData has shape {values.shape}; the header claims {frames} frames "
            f"of {size[0]} x {size[1]}"
        )
    return Pixels(values.reshape(frames, *size), inverted, padding)


def _refuse_scans(path: Path, held: bytes, frames: int) -> None:
    """Refuse frames whose scans take hours: nothing keeps a progressive stream out of a file."""
    from pydicom.encaps import generate_frames

    try:
        streams = list(generate_frames(held, number_of_frames=frames))
    except Exception:  # noqa: BLE001  (the decoders refuse it, in their words)
        return
    if problem := next(filter(None, map(jpeg_scans.problem, streams)), ""):
        raise InputError(f"{path.name}: a frame {problem}; export it again, uncompressed")


def _decoded(data: "Dataset", path: Path, decoders: Sequence[str], size: int) -> np.ndarray:
    """The values by the first decoder that gives them; by GDCM last, and in another process."""
    if not decoders:
        return np.asarray(data.pixel_array)
    problem: Exception = ValueError("no decoder")
    for name in decoders:
        try:
            if name != GDCM:
                data.pixel_array_options(decoding_plugin=name)
                return np.asarray(data.pixel_array)
        except Exception as error:  # noqa: BLE001  (another decoder may know this variant)
            problem = error
    if GDCM not in decoders:
        raise problem
    return dicom_decoding.decode(path, size)
