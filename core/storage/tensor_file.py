"""Files of tensors: contiguous, synced, and, where one stands alone, whole and sealed."""

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import InputError, StorageError, brief
from core.storage import files

# Errors of the reader on bytes that are not its format.
UNREADABLE = (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError,
              RuntimeError)  # fmt: skip


def size_of(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> int:
    """Bytes of the tensors' values."""
    return sum(value.numel() * value.element_size() for value in tensors.values())


def not_finite(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> str:
    """The first tensor with values that are NaN or infinite, in words; empty if there is none."""
    for name, value in tensors.items():
        # Integers and the 4-bit format have neither; of 8-bit formats torch converts, no more.
        if not value.is_floating_point() or value.dtype == torch.float4_e2m1fn_x2:
            continue
        finite = (value.float() if value.element_size() == 1 else value).isfinite()
        if not bool(finite.all()):
            count = int((~finite).sum())
            return f"{brief(name)} has {count:,} of {value.numel():,} values NaN or infinite"
    return ""


def room_for(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> int:
    """Approximate size of their file on a disk: 100 bytes of header for each, in whole blocks."""
    header = sum(100 + len(name) for name in tensors)
    return files.room_for(size_of(tensors) + header)


def write(
    path: Path, tensors: Mapping[str, Shaped[Tensor, "..."]], about: dict[str, str] | None = None
) -> None:
    """Write tensors, contiguous and on the CPU, into a new file, and sync it.

    Raises:
        OSError: the disk is full or not writable.
    """
    try:
        save_file(_whole(tensors), path, about)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    # The library makes it readable for its owner alone; give it the permissions of its folder.
    with suppress(OSError):  # some file systems have no modes
        path.chmod(path.parent.stat().st_mode & 0o666)
    files.sync(path)


def _whole(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    """The same values, contiguous whatever their memory format, none sharing storage."""
    whole: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        whole[name] = value.clone() if place in seen else value
        seen.add(place)
    return whole


def seal(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}\n{value.dtype}\n{tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(path: Path, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
    """Write tensors and their seal into a file, atomically.

    Raises:
        StorageError: the disk is full or not writable; a file that was there is untouched.
    """
    whole = _whole(tensors)
    aside = path.with_name(f".writing-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        files.create_folder(path.parent)
        with files.hold(path.parent) as alone:
            try:
                for leftover in _leftovers(path.parent) if alone else ():
                    leftover.unlink()
                write(aside, whole, {"sha256": seal(whole)})
                aside.rename(path)
                files.sync(path.parent)
            finally:
                aside.unlink(missing_ok=True)
    except StorageError:
        raise
    except OSError as error:
        remains = "the file that was there before is whole"
        needed = room_for(tensors)
        raise files.not_written(path, error, needed=needed, remains=remains) from error


def _leftovers(folder: Path) -> list[Path]:
    """Files of a process that died in `write`: its own, or the library's temporary one."""
    return [*folder.glob(".writing-*"), *folder.glob(".tmp??????")]


def load(path: Path, *, mend: str = "remove it to go without") -> dict[str, Shaped[Tensor, "..."]]:
    """The tensors that `save` wrote.

    Args:
        path: of the file.
        mend: the remedy where it cannot be read, for the error.

    Raises:
        InputError: it cannot be read, is not what was written, or holds NaN or infinite values.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get("sha256")
        found = seal(tensors)
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read: {error}; {mend}") from error
    if found != expected:
        raise InputError(
            f"{path}: cannot be read: it is not what was written: sha256 {found[:12]}, not "
            f"{str(expected)[:12]}; {mend}"
        )
    if problem := not_finite(tensors):
        raise InputError(f"{path}: {problem}; expected finite values: {mend}")
    return tensors
