"""Files that are whole or absent, whatever happens while they are written."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Have the disk hold what `path`, a file or a folder, is now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Put `text` at `path` in one step: a reader sees the old file or the new one, whole."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with waiting.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(waiting, path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Put `value` as JSON at `path` in one step.

    Raises:
        ValueError: a number in it is not finite.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
