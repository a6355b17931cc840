"""A record beside a reconstruction: enough to make it again, and nothing of whose it is."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core.model import Model
from core.parts.config import plain
from core.storage import files
from core.storage.checkpoint import MANIFEST

KNOWN = ("task", "network", "process", "parameterization", "steps", "seed")
"""Options of a prior's training that a record holds: none of them is a path."""


def write(
    path: Path,
    command: str,
    model: Model,
    details: Mapping[str, Any],
    inputs: Sequence[Path],
    results: Sequence[str],
) -> None:
    """Write the record of a reconstruction as JSON.

    Names of inputs, and of what the prior was trained on, may be patients' names: the record holds
    the digests of the inputs instead, and of the training request the options in `KNOWN`.

    Args:
        path: of the record.
        command: that made the reconstruction.
        model: the prior.
        details: posterior sampler, seed and options, as JSON's types.
        inputs: files that were read, in the order of their slices.
        results: names of the files that were written.

    Raises:
        StorageError: the disk is full or not writable.
    """
    request = plain(model.request)
    document = {
        "command": command,
        "polymode": version("polymode"),
        "input_files": len(inputs),
        "input_sha256": digest(inputs),
        "checkpoint": model.checkpoint.name,
        "checkpoint_sha256": files.digest(model.checkpoint / MANIFEST),
        "prior": {name: request[name] for name in KNOWN},
        **details,
        "results": list(results),
    }
    try:
        files.write_json(path, document)
    except OSError as error:
        remains = "the reconstruction beside it is whole"
        raise files.not_written(path, error, needed=4096, remains=remains) from error


def digest(inputs: Sequence[Path]) -> str:
    """SHA-256 of one file; of several, that of their SHA-256 in hexadecimal, joined in order."""
    each = [files.digest(path) for path in inputs]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()
