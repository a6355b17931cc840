"""Free memory, asked before something large is made."""

from core.errors import InputError


class NotEnough(InputError):
    """More memory is needed than is free now; later, or on another machine, it may suffice."""


def free() -> int:
    """Bytes of this machine's memory that are free, or can be freed without swapping."""
    import psutil

    return psutil.virtual_memory().available


def check(needed: int, claim: str, remedy: str, *, free: int) -> None:
    """Refuse what does not fit into free memory, before any of it is taken.

    Args:
        needed: bytes.
        claim: clause of what needs them, with their number.
        remedy: clause of what to do instead.
        free: bytes that may be taken.

    Raises:
        NotEnough: more is needed than is free.
    """
    if needed > free:
        raise NotEnough(f"{claim}, {free / 2**30:.1f} GiB are free; {remedy}")
