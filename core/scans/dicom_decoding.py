"""Compressed PixelData decoded by GDCM, in a process of its own.

GDCM ends its process on some damaged JPEG 2000 streams by an exception that nothing catches, so
files meet it in a process with limits, by `work`.  Beside pydicom and numpy that process imports
nothing.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MEMORY = 512 << 20  # bytes, beside the file and what is decoded
COPIES = 8  # of the decoded values: in GDCM, pydicom and numpy
SECONDS, BYTES_PER_SECOND = 60, 2_000_000
FAILED = "GDCM does not decode it"
VALUES = "values"  # file of the process
TYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4")


def decode(path: Path, size: int) -> np.ndarray:
    """The stored values of all frames of a file.

    Args:
        path: of the file, whose header has been checked.
        size: of its decoded values in bytes, by which memory and time are limited.

    Raises:
        ValueError: GDCM does not decode it, or the limits ended the process.
    """
    from core.storage.limited_process import Limits, NoAnswer, call

    limits = Limits(
        memory=MEMORY + COPIES * size + 4 * path.stat().st_size,
        seconds=SECONDS + size // BYTES_PER_SECOND,
        written=size + (1 << 20),
        wait=120 + 2 * size / BYTES_PER_SECOND,
    )
    with tempfile.TemporaryDirectory(prefix="polymode-dicom-") as name:
        folder, source = Path(name), str(path.resolve())
        try:
            header = call(Path(__file__), source, VALUES, folder=folder, limits=limits)
            shape, kind = [int(side) for side in header["shape"]], str(header["type"])
            values = np.fromfile(folder / VALUES, kind) if kind in TYPES else np.empty(0)
            return values.reshape(shape)
        except NoAnswer as none:
            raise ValueError("GDCM took too long" if none.slow else FAILED) from none
        except (ValueError, LookupError, TypeError, OSError) as error:
            raise ValueError(FAILED) from error


def work(begin: Callable[[], None], source: str, target: str) -> dict[str, Any]:
    """Write the values to `target`; their shape and type."""
    import gdcm  # noqa: F401  (before the limits, which are for the file)
    import pydicom

    begin()
    data = pydicom.dcmread(source, force=True)  # checked: some files lack the preamble
    data.pixel_array_options(decoding_plugin="gdcm")
    values = np.ascontiguousarray(data.pixel_array)
    values.tofile(target)
    return {"shape": values.shape, "type": values.dtype.str}
