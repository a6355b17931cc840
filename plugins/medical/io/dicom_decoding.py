"""Compressed PixelData decoded by GDCM, in a process of its own.

Run as a script by `decode`: ``python -I dicom_decoding.py SOURCE TARGET BYTES``.  GDCM ends its
process on some damaged JPEG 2000 streams by an exception that nothing catches, so no file meets it
in this process: memory and time are bounded, and there is no environment.  Messages stay in that
process, since they quote headers.  Beside pydicom and numpy nothing is imported here.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MEMORY = 512 << 20  # bytes, beside the file and what is decoded
COPIES = 8  # of the decoded values: in GDCM, pydicom and numpy
SECONDS, BYTES_PER_SECOND = 60, 2_000_000
TYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4")


def decode(path: Path, size: int) -> np.ndarray:
    """The stored values of all frames of a file.

    Args:
        path: of the file, whose header has been checked.
        size: of its decoded values in bytes, by which memory and time are limited.

    Raises:
        ValueError: GDCM does not decode it, or the limits ended the process.
    """
    with tempfile.TemporaryDirectory(prefix="polymode-dicom-") as folder:
        target = Path(folder) / "values"
        command = [sys.executable, "-I", __file__, str(path.resolve()), str(target), str(size)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, cwd=folder, check=False,
                env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TMPDIR": folder},
                timeout=120 + 2 * size / BYTES_PER_SECOND,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ValueError("GDCM took too long") from error
        try:
            header = json.loads(done.stdout[:4096])
            shape, kind = [int(side) for side in header["shape"]], str(header["type"])
            values = np.fromfile(target, kind) if kind in TYPES else np.empty(0)
            return values.reshape(shape)
        except (ValueError, LookupError, TypeError, OSError) as error:
            raise ValueError("GDCM does not decode it") from error


def limit(size: int, file: int) -> None:
    """Bound what this process may take for so many decoded bytes of a file of `file` bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + MEMORY + COPIES * size + 4 * file
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, SECONDS + size // BYTES_PER_SECOND),
        (resource.RLIMIT_FSIZE, size + (1 << 20)),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def main(source: str, target: str, size: str) -> None:
    """Write the values to `target`, and their shape and type as a line of JSON."""
    import gdcm  # noqa: F401  (before the limits, which are for the file)
    import pydicom

    output = os.dup(1)
    os.dup2(2, 1)  # GDCM's own messages are no answer
    limit(int(size), Path(source).stat().st_size)
    data = pydicom.dcmread(source)
    data.pixel_array_options(decoding_plugin="gdcm")
    values = np.ascontiguousarray(data.pixel_array)
    values.tofile(target)
    os.write(output, json.dumps({"shape": values.shape, "type": values.dtype.str}).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
