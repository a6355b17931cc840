"""JSON from files that somebody else may have written: bounded in size and in depth.

Python's reader ends a deeply nested document with a RecursionError, which is no ValueError, and a
device or a pipe in the place of a file never ends.  Here both are refused as any other text is.
"""

import json
import re
from pathlib import Path
from typing import Any, cast

from core.errors import InputError
from core.storage import files

DEEPEST = 100  # levels of lists and mappings; documents of ours have some ten
LARGEST = 2**26  # bytes of a document, unless its reader expects more
LARGEST_OPTIONS = 2**20
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class NotJson(ValueError):
    """A text that is not JSON, or larger or deeper than is read; the message says which."""


def parse(text: bytes | str) -> Any:
    """The value that a JSON text states.

    Raises:
        NotJson: it states none, or one of more than `DEEPEST` levels.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    # Only as many brackets as that can be too deep: most documents are not counted through.
    if data.count(b"[") + data.count(b"{") > DEEPEST and _depth(data) > DEEPEST:
        raise NotJson(f"nested deeper than {DEEPEST} levels")
    try:
        return json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise NotJson(str(error)) from error


def _depth(data: bytes) -> int:
    """The deepest nesting of brackets outside strings, as far as it exceeds `DEEPEST`."""
    depth = 0
    for match in _NESTING.finditer(data):
        if match[0] in b"[{":
            depth += 1
            if depth > DEEPEST:
                break
        elif match[0] in b"]}":
            depth -= 1
    return depth


def read(path: Path, *, largest: int = LARGEST) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: there is none, or it cannot be read now.
        NotJson: it is not a regular file, too large, or not JSON.
    """
    try:
        data = files.read_at_most(path, largest)
    except files.Unusable as error:
        raise NotJson(str(error)) from error
    return parse(data)


def read_options(path: Path) -> dict[str, Any]:
    """The options in a user's JSON file.

    Raises:
        InputError: it cannot be read, is too large, or is not a mapping.
    """
    try:
        found = read(path, largest=LARGEST_OPTIONS)
    except (OSError, NotJson) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a mapping of options, got {type(found).__name__}")
    return cast("dict[str, Any]", found)
