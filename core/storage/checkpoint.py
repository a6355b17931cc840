"""Checkpoints that a crash cannot spoil: safetensors and JSON, written aside, renamed whole.

A step's folder holds ``<group>.safetensors``, ``state.json``, documents and, written last,
``MANIFEST.json`` with the size and SHA-256 of each and a SHA-256 of its own.  Writing: a temporary
folder on the same file system, fsync of every file, the manifest, fsync, rename, fsync of the
parent, and only then are older ones removed.  Reading: the newest whole one; a damaged one is
passed over and named.  Nothing is unpickled.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Shaped
from safetensors.torch import load_file
from torch import Tensor

from core.errors import InputError, StorageError, brief
from core.storage import files, formats, json_file, tensor_file
from core.storage.formats import check_format

MANIFEST = "MANIFEST.json"
STATE = "state.json"
TENSORS = ".safetensors"
# A step that is written again stands under the second name until the new one has the first.
_STEP = re.compile(r"step-(\d{8,})(\.old)?")


class CheckpointError(InputError):
    """No whole checkpoint where one is expected, or one of another kind."""


class NewerCheckpoint(CheckpointError):
    """A checkpoint that a newer version of polymode wrote; it may well be whole."""


class NotFiniteCheckpoint(CheckpointError):
    """A whole checkpoint with values that are NaN or infinite; `train` writes none."""


class _Damaged(Exception):
    """A step's folder does not hold what was written; the message says in which file."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Args:
        path: the step's folder.
        step: optimiser steps taken.
        tensors: group -> name -> tensor, for example ``ema``.
        state: plain values: the request and whatever else a reader needs.
        passed_over: newer checkpoints that were damaged, and why.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Shaped[Tensor, "..."]]]
    state: dict[str, Any]
    passed_over: tuple[str, ...] = ()

    @property
    def request(self) -> dict[str, Any]:
        """The training request in its state, as plain values.

        Raises:
            CheckpointError: there is none.
        """
        if "request" not in self.state:
            raise CheckpointError(
                f"{self.path}: holds no training request; not a model's checkpoint"
            )
        return self.state["request"]


# --- writing ----------------------------------------------------------------------------------


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Shaped[Tensor, "..."]]],
    state: Mapping[str, Any],
    *,
    keep: int = 2,
    also: Collection[int] = (),
    documents: Mapping[str, str] | None = None,
) -> Path:
    """Write a checkpoint and remove all up to it but the newest `keep`.

    Leftovers of a process that died while writing are removed first.  Whole checkpoints of later
    steps are kept, damaged ones are removed.

    Args:
        folder: of all checkpoints of a run; made if missing.
        step: optimiser steps taken; names the folder.  One of that step is replaced.
        tensors: groups of named tensors, one file each, stored contiguous.
        state: plain values.
        keep: how many to leave, at least 1.
        also: further steps to keep, for example the best one.
        documents: file name -> text to lay beside the tensors, for example a model's card.

    Returns:
        The step's folder; the disk holds it.

    Raises:
        StorageError: the disk is full or not writable; older checkpoints are untouched.
    """
    document = {**state, "format": formats.CHECKPOINT_STATE, "step": step}
    texts = {STATE: json.dumps(document, indent=1), **(documents or {})}
    names = [STATE, *(documents or {}), *(f"{group}{TENSORS}" for group in tensors), MANIFEST]
    if keep < 1 or step < 0 or len({*names}) < len(names) or any(map(_is_elsewhere, names)):
        raise ValueError(f"keep {keep}, step {step}, files {names}: not a checkpoint")
    final = folder / f"step-{step:08d}"
    try:
        files.create_folder(folder)
        with files.hold(folder) as alone:
            _tidy(folder, alone)
            _commit(final, step, tensors, texts)
            files.remove(_superseded(folder, step, keep, also))
    except StorageError:
        raise
    except OSError as error:
        needed = files.BLOCK + sum(files.room_for(len(text.encode())) for text in texts.values())
        needed += sum(tensor_file.room_for(named) for named in tensors.values())
        raise files.not_written(final, error, needed=needed, remains=_remains(folder)) from error
    return final


def copy(path: Path, folder: Path, state: Mapping[str, Any]) -> Path:
    """Write the newest whole checkpoint of a folder into another, with further values in its state.

    Args:
        path: a run's folder, its checkpoints or one step's folder.
        folder: of the copy; made if missing.
        state: values that are added to its state, or replace those of the same name.

    Returns:
        The copy's step folder; the disk holds it.

    Raises:
        CheckpointError: there is no whole one, or it is of an earlier format.
        StorageError: the disk is full or not writable.
    """
    found = load(path)
    if found.state.get("format", 1) < formats.CHECKPOINT_STATE:
        raise CheckpointError(
            f"{found.path}: of an earlier format, which is read but not copied; train again"
        )
    listed = _manifest(found.path)["files"]
    kept = [name for name in listed if name != STATE and not name.endswith(TENSORS)]
    documents = {name: (found.path / name).read_text(encoding="utf-8") for name in kept}
    return save(folder, found.step, found.tensors, {**found.state, **state}, documents=documents)


def _commit(
    final: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Shaped[Tensor, "..."]]],
    texts: Mapping[str, str],
) -> None:
    """Write a step's folder aside and give it its name."""
    folder = final.parent
    aside = folder / f".writing-{os.getpid()}-{os.urandom(4).hex()}"
    aside.mkdir()
    try:
        for group, named in tensors.items():
            tensor_file.write(aside / f"{group}{TENSORS}", named)
        for name, text in texts.items():
            files.write_bytes(aside / name, text.encode())
        listed = {p.name: [p.stat().st_size, files.digest(p)] for p in sorted(aside.iterdir())}
        manifest = _sealed({"format": formats.CHECKPOINT_MANIFEST, "step": step, "files": listed})
        files.write_bytes(aside / MANIFEST, manifest)
        files.sync(aside)
        replaced = _hidden(final)
        if os.path.lexists(final):
            final.rename(replaced)
        aside.rename(final)
        files.sync(folder)
        if os.path.lexists(replaced):
            files.remove([replaced])
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sealed(contents: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest: its contents and their SHA-256."""
    seal = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    return json.dumps({**contents, "sha256": seal}).encode()


def _hidden(step: Path) -> Path:
    return step.with_name(f"{step.name}.old")


def _tidy(folder: Path, alone: bool) -> None:
    """Remove leftovers of processes that died while writing."""
    doomed = []
    for name in sorted(os.listdir(folder)):
        if alone and name.startswith((".writing-", ".del-")):
            doomed.append(folder / name)
        if name.endswith(".old") and _STEP.fullmatch(name):
            doomed += _settled(folder / name)
    files.remove(doomed)


def _settled(replaced: Path) -> list[Path]:
    """End a replacement that was cut short: which of the two folders has to go."""
    step = replaced.with_suffix("")
    judged = _judged(step) if os.path.lexists(step) else "absent"
    if judged == "whole" or (judged == "ruined" and _judged(replaced) == "ruined"):
        return [replaced]
    if judged == "ruined":
        files.remove([step])
    if judged != "unknown":
        replaced.rename(step)
    return []


def _superseded(folder: Path, step: int, keep: int, also: Collection[int]) -> list[Path]:
    """Checkpoints that are not kept once that of `step` is there.

    A damaged one of a later step would count as one of the newest for ever.
    """
    steps = [(_step_of(path), path) for path in _steps(folder)]
    earlier = [path for number, path in steps if number <= step]
    damaged = [path for number, path in steps if number > step and _judged(path) == "ruined"]
    return [path for path in earlier[keep:] if _step_of(path) not in also] + damaged


def _remains(folder: Path) -> str:
    try:
        whole = next((path.name for path in _steps(folder) if _judged(path) == "whole"), None)
    except OSError:
        return "older ones are as they were"
    return f"{whole} is whole" if whole else "there is no checkpoint before it"


def _size(tensors: Mapping[str, Mapping[str, Shaped[Tensor, "..."]]]) -> int:
    return sum(tensor_file.size_of(named) for named in tensors.values())


def require_space(
    folder: Path, tensors: Mapping[str, Mapping[str, Shaped[Tensor, "..."]]], *, copies: float = 2.2
) -> str | None:
    """A warning if the disk of `folder` has no room for so many copies of the tensors.

    Args:
        folder: of checkpoints; need not exist.
        tensors: as for `save`.
        copies: two are kept at a time; a fifth is for the other files of a run.
    """
    needed, free = int(copies * _size(tensors)), files.free_bytes(folder)
    if free >= needed:
        return None
    return (
        f"{folder}: {free:,} bytes are free and checkpoints need {needed:,}, {copies} times what "
        "is saved; make room, or training may stop at a checkpoint"
    )


# --- reading ----------------------------------------------------------------------------------


def load(
    folder: Path, *, groups: tuple[str, ...] | None = None, step: int | None = None
) -> Checkpoint:
    """The newest whole checkpoint of a run's folder, its ``checkpoints`` or one step's folder.

    Args:
        folder: where to look.
        groups: groups of tensors to read; all by default.
        step: that one and no other, if given.

    Raises:
        CheckpointError: nothing there, nothing whole there, a newer format, or values that are NaN
            or infinite.
    """
    passed: list[str] = []
    try:
        for _ in range(3):
            candidates, passed = _candidates(folder, step), []
            for path in candidates:
                found = _read(path, groups)
                if isinstance(found, Checkpoint):
                    _check_finite(found)
                    return Checkpoint(
                        found.path, found.step, found.tensors, found.state, tuple(passed)
                    )
                passed.append(f"{path.name}: {found}")
            if candidates == _candidates(folder, step):
                break  # else a run replaced them while they were read
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be read: {error.strerror or error}; expected a folder of checkpoints"
        ) from error
    if passed:
        raise CheckpointError(f"{folder}: no whole checkpoint: {'; '.join(passed)}; train again")
    which = "" if step is None else f" of step {step}"
    raise CheckpointError(
        f"{folder}: no checkpoint{which} in this folder; give one that `train` wrote"
    )


def _check_finite(found: Checkpoint) -> None:
    """Refuse weights that give NaN for every input.

    Such a checkpoint was made elsewhere; an earlier one of the same folder is not taken in its
    place, since nothing says that it is of the same model.

    Raises:
        NotFiniteCheckpoint: some value is NaN or infinite.
    """
    for group, named in found.tensors.items():
        if problem := tensor_file.not_finite(named):
            raise NotFiniteCheckpoint(
                f"{found.path}: {group}: {problem}; expected finite values: use another checkpoint"
            )


def is_started(folder: Path) -> bool:
    """Whether a run in this folder has checkpoints, whole or not."""
    return bool(_candidates(folder, None)) if folder.is_dir() else False


def _steps(folder: Path) -> list[Path]:
    """Step folders, newest first; one that is being replaced after the one in its place."""
    names = os.listdir(folder) if folder.is_dir() else []
    found = [(int(m[1]), m[2] is None, m[0]) for name in names if (m := _STEP.fullmatch(name))]
    return [folder / name for *_, name in sorted(found, reverse=True)]


def _step_of(path: Path) -> int:
    match = _STEP.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def _candidates(folder: Path, step: int | None) -> list[Path]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder}: {what}; expected a folder of checkpoints")
    if _STEP.fullmatch(folder.name):
        # A damaged step may have whole siblings, which are older results of the same run.
        siblings = _steps(folder.absolute().parent)
        found = [folder, *(p for p in siblings if _step_of(p) < _step_of(folder))]
    else:
        found = _steps(folder) or _steps(folder / "checkpoints")
    return [path for path in found if step is None or _step_of(path) == step]


def _read(path: Path, groups: tuple[str, ...] | None) -> Checkpoint | str:
    """A whole checkpoint, or a description of its damage.

    Raises:
        NewerCheckpoint: it is of a newer format.
    """
    try:
        names = _verify(path)
        held = tuple(n.removesuffix(TENSORS) for n in sorted(names) if n.endswith(TENSORS))
        missing = [name for name in groups or () if name not in held]
        if missing:
            return f"holds {', '.join(held) or 'no tensors'}, not {', '.join(missing)}"
        state = json_file.read(path / STATE)
        step = state["step"]
        if type(step) is not int or step != _step_of(path):
            return f"{STATE} is of another step than its folder"
        tensors = {name: load_file(path / f"{name}{TENSORS}") for name in groups or held}
    except CheckpointError:
        raise
    except _Damaged as damage:
        return str(damage)
    except tensor_file.UNREADABLE as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    try:
        check_format(state, formats.CHECKPOINT_STATE, path / STATE)
    except InputError as error:
        raise NewerCheckpoint(str(error)) from error
    return Checkpoint(path, step, tensors, state)


def _is_elsewhere(name: str) -> bool:
    """Whether a name would lead out of the folder it is read in."""
    return Path(name).name != name or name in ("", ".", "..") or "\0" in name


def _manifest(path: Path) -> dict[str, Any]:
    """A step's manifest.

    Raises:
        _Damaged: it is not what was written.
        NewerCheckpoint: it is, in a newer format.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise _Damaged(f"{MANIFEST} is missing")
    size = file.stat().st_size
    data = file.read_bytes() if size <= json_file.LARGEST else b""
    try:
        manifest = json_file.parse(data)
        contents = {name: value for name, value in manifest.items() if name != "sha256"}
        whole = data == _sealed(contents)
        number, step, listed = manifest["format"], manifest["step"], manifest["files"]
    except tensor_file.UNREADABLE as error:
        raise _Damaged(f"{MANIFEST} cannot be read ({size} bytes)") from error
    if whole and number != formats.CHECKPOINT_MANIFEST:
        raise NewerCheckpoint(
            f"{path / MANIFEST} has format {number}; this version of polymode reads up to "
            f"{formats.CHECKPOINT_MANIFEST}: update polymode"
        )
    if not whole and (number != 1 or "sha256" in manifest):  # format 1 had no seal
        raise _Damaged(f"{MANIFEST} is not what was written ({size} bytes)")
    if step != _step_of(path):
        raise _Damaged(f"{MANIFEST} is of step {brief(step)}")
    if STATE not in listed:
        raise _Damaged(f"{MANIFEST} does not list {STATE}")
    return manifest


def _verify(path: Path) -> tuple[str, ...]:
    """Compare every byte of a step's folder with what was written; the names of its files.

    Raises:
        _Damaged: it is not that.
        NewerCheckpoint: it may be, in a newer format.
        OSError: it cannot be read now.
    """
    try:
        listed = [(name, size, digest) for name, (size, digest) in _manifest(path)["files"].items()]
        elsewhere = any(_is_elsewhere(name) for name, *_ in listed)
    except (OSError, CheckpointError):
        raise
    except tensor_file.UNREADABLE as error:
        raise _Damaged(f"{MANIFEST} cannot be read") from error
    if elsewhere:
        raise _Damaged(f"{MANIFEST} names a file outside the checkpoint")
    for name, size, digest in listed:
        file = path / name
        if not file.is_file():
            raise _Damaged(f"{name} is missing")
        if file.stat().st_size != size:
            raise _Damaged(f"{name} has {file.stat().st_size} bytes instead of {size}")
        found = files.digest(file)
        if found != digest:
            raise _Damaged(
                f"{name} is not what was written: sha256 {found[:12]}, not {str(digest)[:12]}"
            )
    return tuple(name for name, *_ in listed)


def _judged(path: Path) -> Literal["whole", "ruined", "unknown"]:
    """Whether a step can go: what cannot be read now, or by this version, may well be whole."""
    try:
        _verify(path)
    except _Damaged:
        return "ruined"
    except (OSError, ValueError):
        return "unknown"
    return "whole"
