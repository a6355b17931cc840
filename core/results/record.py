"""A record beside a result: command, digests of what was read, checkpoint and options."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core.storage import files
from core.storage.checkpoint import MANIFEST


def write(
    path: Path,
    command: str,
    about: Mapping[str, Any],
    *,
    inputs: Sequence[Path],
    checkpoint: Path,
    results: Sequence[str],
    names: bool = True,
) -> None:
    """Write the record of a result as JSON: enough to make it again.

    Args:
        path: of the record.
        command: that made the result.
        about: further entries, such as options and seed, as JSON's types.
        inputs: files that were read, in their order.
        checkpoint: folder of the one that was used.
        results: names of the files that were written.
        names: whether inputs are named; their digests are always recorded.

    Raises:
        StorageError: the disk is full or not writable.
    """
    document = {
        "command": command,
        "polymode": version("polymode"),
        **(
            {"input": inputs[0].name if len(inputs) == 1 else [p.name for p in inputs]}
            if names
            else {}
        ),
        "input_files": len(inputs),
        "input_sha256": digest_of(inputs),
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": files.digest(checkpoint / MANIFEST),
        **about,
        "results": list(results),
    }
    try:
        files.write_json(path, document)
    except OSError as error:
        remains = "the result beside it is whole"
        raise files.not_written(path, error, needed=4096, remains=remains) from error


def digest_of(inputs: Sequence[Path]) -> str:
    """SHA-256 of one file; of several, that of their SHA-256 in hexadecimal, joined in order."""
    each = [files.digest(path) for path in inputs]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()
