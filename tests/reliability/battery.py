"""How often the battery does a thing: a few times by default, in full under ``make torture``."""

import os

FULL = os.environ.get("POLYMODE_TORTURE", "") not in ("", "0")


def count(default: int, full: int) -> int:
    """The first by default, the second where POLYMODE_TORTURE is set."""
    return full if FULL else default
