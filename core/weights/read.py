"""Tensors from a file that came from elsewhere: safetensors here, pickles in a limited process."""

import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.storage import files
from core.storage.limited_process import Limits, NoAnswer, call
from core.weights.translation import Weights

UNPICKLING = Path(__file__).with_name("unpickling.py")
MEMORY = 512 * 2**20  # bytes for the interpreter, beside three times the file
SPEED = 20 * 2**20  # bytes a second that any disk and processor manage
PATIENCE = 120.0  # seconds: importing torch from a slow disk takes one minute
PREFIXES = ("module.", "_orig_mod.")  # of data-parallel and compiled networks


@dataclass(frozen=True)
class Found:
    """Contents of a file of weights.

    Args:
        tensors: by name, on the CPU.
        sha256: of the file.
        taken: the entry they were under; empty where the file holds nothing else.
        left: other entries of the file, not read.
    """

    tensors: Weights
    sha256: str
    taken: str = ""
    left: tuple[str, ...] = ()


def read_weights(source: Path, *, entry: str = "") -> Found:
    """The named tensors in a file, whatever made it.

    The kind of file follows from its first bytes; one named ``.safetensors`` must be that.

    Args:
        source: safetensors, or a pickle that `torch.save` wrote (``.pt``, ``.pth``, ``.ckpt``,
            ``.bin``).
        entry: which entry of the file to take; by default the file itself or, where it is a
            training checkpoint, its averaged weights before the others.

    Raises:
        InputError: no such file, or nothing that could be read without trusting it.
    """
    try:
        whole = stat.S_ISREG(source.stat().st_mode)  # a pipe would be waited for
        start = b""
        if whole:
            with source.open("rb") as file:
                start = file.read(9)
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror or error}") from error
    if not start:
        problem = "is empty" if whole else "is not a regular file"
        raise InputError(f"{source}: {problem}; give a file of weights")
    digest = files.digest(source)
    if source.suffix == ".safetensors" or start[8:9] == b"{":
        return Found(_bare(_safe(source)), digest)
    with tempfile.TemporaryDirectory(prefix="polymode-weights-") as folder:
        target = Path(folder) / "weights.safetensors"
        answer = _unpickle(source, target, entry)
        return Found(_bare(_safe(target)), digest, answer["taken"], tuple(answer["left"]))


def _safe(path: Path) -> Weights:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: not a whole safetensors file ({str(error).splitlines()[0]}); "
            "get it again from where it came from"
        ) from error


def _unpickle(source: Path, target: Path, entry: str) -> dict[str, Any]:
    """Convert `source` in the other process; its answer.

    Raises:
        InputError: it refused, or its limits ended it.
    """
    size = source.stat().st_size
    order = (str(source.resolve()), str(target), entry)
    try:
        answer = call(UNPICKLING, *order, folder=target.parent, limits=limits_of(size))
        if answer["ok"]:
            return {"taken": str(answer["taken"]), "left": [str(name) for name in answer["left"]]}
        why = re.sub(r"[^\x20-\x7e]", "?", str(answer["why"]))[:400]
    except NoAnswer as none:
        why = f"{'took too long' if none.slow else 'ended the process'} that tried to read it"
    except (LookupError, TypeError):
        why = "ended the process that tried to read it"
    raise InputError(
        f"{source}: refused: {why}; nothing in it was run; "
        "ask whoever made it for safetensors or a plain state dict"
    )


def limits_of(size: int) -> Limits:
    """Limits of the process that unpickles a file of so many bytes."""
    return Limits(
        memory=MEMORY + 3 * size,
        seconds=20 + size // SPEED,
        written=2 * size + 2**20,
        wait=PATIENCE + size / 10e6,
    )


def _bare(tensors: Weights) -> Weights:
    """The tensors without a prefix that training wrappers put before every name."""
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _bare({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors
