"""Checkpoints that a crash cannot spoil: safetensors and JSON, written aside, renamed whole.

A step's folder holds ``<group>.safetensors``, ``state.json`` and, written last, ``MANIFEST.json``
with the size and SHA-256 of each.  Writing: a temporary folder on the same file system, fsync of
every file, the manifest, fsync, rename, fsync of the parent, and only then are older ones removed.
Reading: the newest whole one; a damaged one is passed over and named.  Nothing is unpickled.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core import files
from core.errors import InputError

FORMAT = 1
MANIFEST = "MANIFEST.json"
_STEP = re.compile(r"step-(\d{8})$")


class CheckpointError(InputError):
    """No whole checkpoint where one was wanted, or one of another kind."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Args:
        path: the step's folder.
        step: optimiser steps taken.
        tensors: group -> name -> tensor, for example ``ema``.
        state: plain values: the request and whatever else a reader needs.
        passed_over: newer checkpoints that were damaged, and why.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    passed_over: tuple[str, ...] = ()


def save(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write a checkpoint and remove all but the newest `keep`.

    Args:
        folder: of all checkpoints of a run; made if missing.
        step: optimiser steps taken; names the folder.
        tensors: groups of named tensors, one file each.
        state: plain values.
        keep: how many to leave, at least 1.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, aside = folder / f"step-{step:08d}", folder / f".writing-{os.getpid()}"
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover)
    aside.mkdir()
    for group, named in tensors.items():
        whole = {name: value.detach().cpu().contiguous() for name, value in named.items()}
        save_file(whole, aside / f"{group}.safetensors")
    (aside / "state.json").write_text(json.dumps({**state, "step": step}, indent=1))
    listed = {p.name: [p.stat().st_size, files.digest(p)] for p in sorted(aside.iterdir())}
    for name in listed:
        files.sync(aside / name)
    (aside / MANIFEST).write_text(json.dumps({"format": FORMAT, "step": step, "files": listed}))
    files.sync(aside / MANIFEST)
    files.sync(aside)
    if final.exists():  # the same step again: the old one was damaged, or it would not be retaken
        shutil.rmtree(final)
    aside.rename(final)
    files.sync(folder)
    for old in _steps(folder)[keep:]:
        shutil.rmtree(old)
    return final


def _steps(folder: Path) -> list[Path]:
    """Step folders, newest first."""
    return sorted((p for p in folder.glob("step-*") if _STEP.match(p.name)), reverse=True)


def _damage(path: Path) -> str:
    """What is wrong with a step's folder; nothing if it is whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{path}: checkpoint format {manifest['format']}, this version reads {FORMAT}; "
                "use the version of polymode that wrote it or a newer one"
            )
        for name, (size, digest) in manifest["files"].items():
            if Path(name).name != name:
                return f"{MANIFEST} names a file outside the checkpoint"
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
            if files.digest(file) != digest:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, InputError):
            raise
        return f"{MANIFEST} cannot be read"
    return ""


def _candidates(place: Path) -> list[Path]:
    if _STEP.match(place.name):
        # A damaged step may have whole siblings, which are older results of the same run.
        return [place, *(p for p in _steps(place.parent) if p.name < place.name)]
    return _steps(place) or _steps(place / "checkpoints")


def load(place: Path, *, groups: tuple[str, ...] | None = None) -> Checkpoint:
    """The newest whole checkpoint of a run's folder, its ``checkpoints`` or one step's folder.

    Args:
        place: where to look.
        groups: groups of tensors to read; all by default.

    Raises:
        CheckpointError: nothing there, nothing whole there, or a format of the future.
    """
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise CheckpointError(f"{place}: {what}; expected a folder of checkpoints")
    passed: list[str] = []
    for path in _candidates(place):
        damage = _damage(path)
        if damage:
            passed.append(f"{path.name}: {damage}")
            continue
        names = groups or tuple(sorted(p.stem for p in path.glob("*.safetensors")))
        try:
            tensors = {name: load_file(path / f"{name}.safetensors") for name in names}
        except (SafetensorError, FileNotFoundError) as error:
            passed.append(f"{path.name}: {error}")
            continue
        state = json.loads((path / "state.json").read_text())
        return Checkpoint(path, state["step"], tensors, state, tuple(passed))
    if passed:
        raise CheckpointError(f"{place}: no whole checkpoint: {'; '.join(passed)}; train again")
    raise CheckpointError(f"{place}: no checkpoint in this folder; give one that `train` wrote")


def is_started(place: Path) -> bool:
    """Whether a run in this folder has checkpoints, whole or not."""
    return bool(_candidates(place)) if place.is_dir() else False
