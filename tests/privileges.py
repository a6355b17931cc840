"""Giving up what lets root pass every permission."""

import ctypes

VERSION = 0x20080522  # of the interface, linux/capability.h


def drop() -> None:
    """Have this process obey permissions even if it is root's; a no-op for other users.

    Its user stays the same, so that it reads what it could read as that file's owner.
    """
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if library.capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")
