"""What a file claims, checked before memory is taken, and why it could not be read."""

import os
from pathlib import Path

from core.errors import InputError


def check_claim(path: Path, shape: tuple[int, ...], bytes_each: int) -> None:
    """Refuse sizes that no scan has or that do not fit into half of this machine's free memory.

    Args:
        path: of the file, for the message.
        shape: that it claims.
        bytes_each: of an element once it is read.

    Raises:
        InputError: a size below 1, or too much.
    """
    import psutil

    said = " x ".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise InputError(f"{path.name}: claims {said or 'no'} voxels; expected at least one")
    needed = bytes_each
    for size in shape:
        needed *= size
    free = psutil.virtual_memory().available
    if needed > free // 2:
        raise InputError(
            f"{path.name}: claims {said} voxels, {needed / 2**30:,.0f} GiB once read; "
            f"{free / 2**30:.0f} GiB are free here; cut it, or use a larger machine"
        )


def reason(error: BaseException) -> str:
    """The first line of what went wrong, without folders: their names may say whose scan it is."""
    said = (getattr(error, "strerror", None) or str(error)).splitlines()
    return said[0].replace(os.sep, " ")[:160] if said else type(error).__name__
