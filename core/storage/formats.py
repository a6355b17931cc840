"""Versions of the documents that runs write, one for each, and the check that every reader makes.

Raise a document's number when a reader of the old form would misread the new one.  A document
without a number is of format 1.
"""

from collections.abc import Mapping
from typing import Any

from core.errors import InputError, brief

CHECKPOINT_MANIFEST = 2  # ``MANIFEST.json``; format 1 had no seal
# ``state.json`` and the names and shapes of the tensors beside it: format 1 had other names, and 1
# and 2 no row for no class; `core.network.upgrade` reads both.
CHECKPOINT_STATE = 3
SAMPLES = 1  # ``samples.json``, and ``part.json``, which holds one
# ``metrics.json``, which `core.results.evaluation` writes and reads: format 1 named drawn methods
# and a floor; now `kinds` states what each method is.
METRICS = 2


def check_format(document: Mapping[str, Any], newest: int, name: object) -> int:
    """The format of a document that was read.

    Args:
        document: its content.
        newest: the newest format that this version reads, one of the above.
        name: of the document, for the error: its path.

    Raises:
        InputError: it was written by a newer version, or its format is not a number.
    """
    number = document.get("format", 1)
    if type(number) is not int or number < 1:
        raise InputError(
            f"{name}: format: expected a number from 1 to {newest}, got {brief(number)}"
        )
    if number > newest:
        raise InputError(
            f"{name} has format {brief(number)}; this version of polymode reads up to {newest}: "
            "update polymode"
        )
    return number
