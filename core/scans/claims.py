"""Sizes that headers claim, checked before memory is allocated, and reasons of failures."""

import os
from pathlib import Path

from core.errors import InputError
from core.storage import memory


def check_claim(path: Path, shape: tuple[int, ...], bytes_each: int) -> None:
    """Refuse empty arrays, and those that need over half of this machine's free memory.

    Args:
        path: of the file, for the message.
        shape: that its header claims.
        bytes_each: of an element in memory.

    Raises:
        InputError: a size below 1, or too large.
    """
    sizes = " x ".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise InputError(f"{path.name}: claims {sizes or 'no'} voxels; expected at least one")
    needed = bytes_each
    for size in shape:
        needed *= size
    memory.check(
        needed,
        f"{path.name}: claims {sizes} voxels, {needed / 2**30:,.0f} GiB in memory",
        "crop it, or use a machine with more memory",
        free=memory.free() // 2,
    )


def reason(error: BaseException) -> str:
    """The first line of an error without path separators: folders may name the patient."""
    lines = (getattr(error, "strerror", None) or str(error)).splitlines()
    return lines[0].replace(os.sep, " ")[:160] if lines else type(error).__name__
