"""A DICOM file's stored numbers: decoded, counted, and refused where they cannot be had."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import InputError
from plugins.medical.io.claims import check_claim, reason

# Which package decodes what pydicom and Pillow do not.
DECODERS = {
    "JPEG-LS": "pylibjpeg and pylibjpeg-libjpeg",
    "JPEG Lossless": "pylibjpeg and pylibjpeg-libjpeg",
    "JPEG Extended": "pylibjpeg and pylibjpeg-libjpeg",
    "JPEG 2000": "pylibjpeg and pylibjpeg-openjpeg",
    "High-Throughput JPEG 2000": "pylibjpeg and pylibjpeg-openjpeg",
}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings from the terminal: they repeat what a header says, names too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, eq=False)
class Pixels:
    """A file's stored numbers (frames, rows, columns), and what they mean."""

    stored: np.ndarray
    inverted: bool
    padding: float | None


def read(path: Path, size: tuple[int, int]) -> Pixels:
    """The numbers of all frames of a file.

    Args:
        path: of the file, whose header has been looked at.
        size: rows and columns that its header says.

    Raises:
        InputError: no decoder, too few numbers, or none that are whole.
    """
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    with quiet():
        try:
            data = pydicom.dcmread(path)
            syntax = data.file_meta.TransferSyntaxUID
            frames = int(data.get("NumberOfFrames") or 1)
            bits = int(data.get("BitsAllocated") or 0)
            compressed = syntax.is_compressed and syntax.is_encapsulated
            inverted = data.get("PhotometricInterpretation") == "MONOCHROME1"
            padding = data.get("PixelPaddingValue")
            padding = None if padding is None else float(padding)
            available = not compressed or get_decoder(syntax).is_available
            held = data.get("PixelData")
        except Exception as error:
            raise InputError(f"{path.name}: cannot be read: {reason(error)}") from error
        check_claim(path, (frames, *size), 8)
        if not available:
            known = [mend for kind, mend in DECODERS.items() if syntax.name.startswith(kind)]
            raise InputError(
                f"{path.name}: compressed as {syntax.name}, which nothing here decodes; install "
                f"{known[0] if known else 'python-gdcm'}"
            )
        if not isinstance(held, bytes):
            fractions = "FloatPixelData" in data or "DoubleFloatPixelData" in data
            other = "fractions for pixels; expected whole numbers and a rescale slope"
            lost = "no pixels; it is cut off, copy it again"
            raise InputError(f"{path.name}: holds {other if fractions else lost}")
        wanted = frames * size[0] * size[1] * bits // 8
        if not compressed and len(held) < wanted:
            raise InputError(
                f"{path.name}: {len(held):,} bytes of pixels, its header says "
                f"{wanted:,}; it is cut off, copy it again"
            )
        try:
            values = np.asarray(data.pixel_array)
        except Exception as error:
            raise InputError(f"{path.name}: its pixels cannot be read: {reason(error)}") from error
    if values.size != frames * size[0] * size[1]:
        raise InputError(f"{path.name}: holds {values.shape} numbers for {frames} x {size}")
    return Pixels(values.reshape(frames, *size), inverted, padding)
