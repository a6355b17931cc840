"""Arrays of NumPy's files, checked before they are read; nothing is unpickled."""

import math
from pathlib import Path
from typing import Literal

import numpy as np

from core.errors import InputError
from core.scans.claims import check_claim, reason
from core.storage import files


def array_of(path: Path, kind: Literal["f", "c"]) -> np.ndarray:
    """Real or complex numbers of a NumPy file; its size is checked before it is read."""
    try:
        with files.open_regular(path) as file:
            version = np.lib.format.read_magic(file)
            head = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if head is None:
                raise InputError(f"{path.name}: has NumPy format {version}; expected 1.0 or 2.0")
            shape, _, dtype = head(file)
            start = file.tell()
        wanted = "iuf" if kind == "f" else "iufc"
        if dtype.kind not in wanted or dtype.hasobject:
            raise InputError(f"{path.name}: dtype is {dtype}; expected numbers")
        check_claim(path, tuple(shape), 16)
        held, claimed = path.stat().st_size - start, math.prod(shape) * dtype.itemsize
        if held < claimed:
            raise InputError(f"{path.name}: is truncated after {held:,} of {claimed:,} bytes")
        values = np.load(path, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read as NumPy: {reason(error)}") from error
    return finite(path, values.astype(np.float32 if kind == "f" else np.complex64))


def finite(path: Path, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        lost = int((~np.isfinite(values)).sum())
        raise InputError(f"{path.name}: {lost} values are not finite; correct them")
    return values


def by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
