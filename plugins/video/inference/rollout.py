"""A clip of any length, completed call by call; what is finished lies on disk and is resumed."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.denoiser.parameterization import Denoiser
from core.denoiser.tiles import tiled
from core.errors import InputError
from core.model import Model, guided
from core.parts.config import configure
from core.process.noise import Noise, seed_of
from core.progress import counter
from core.request import Emit, SampleRequest
from core.sampler.sample import prior, sample
from core.storage import files
from plugins.video.inference.plan import Call
from plugins.video.tasks.history import noised

ALL = 1 << 30  # frames are not divided into tiles


class Spool:
    """Frames of a clip in one file, uint8, each written once; which are there is in another.

    A frame counts as there when its number is on disk behind its pixels, so that a process may die
    at any time.

    Args:
        folder: of the two files; what is there of the same `identity` is kept.
        shape: of a frame (h, w, c).
        identity: of the result; another one begins anew.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, int, int], identity: Mapping[str, Any]
    ) -> None:
        self.folder, self.shape = folder, shape
        self._size = int(np.prod(shape))
        folder.mkdir(exist_ok=True)
        about = json.dumps({"shape": list(shape), **identity}, sort_keys=True)
        name = hashlib.sha256(about.encode()).hexdigest()
        self._pixels, self._log = folder / f"{name}.frames", folder / f"{name}.done"
        for other in folder.iterdir():
            if other not in (self._pixels, self._log):
                other.unlink()
        self._log.touch()
        self._pixels.touch()

    @property
    def calls(self) -> int:
        """Whole calls that are finished."""
        return len(self._log.read_bytes()) // 8

    def read(self, frames: Sequence[int]) -> np.ndarray:
        """Frames (n, h, w, c)."""
        found = []
        with self._pixels.open("rb") as file:
            for frame in frames:
                file.seek(frame * self._size)
                found.append(np.frombuffer(file.read(self._size), np.uint8).reshape(self.shape))
        return np.stack(found)

    def write(self, frames: Sequence[int], pixels: np.ndarray) -> None:
        """Frames (n, h, w, c) in their places."""
        with self._pixels.open("r+b") as file:
            for frame, values in zip(frames, pixels, strict=True):
                file.seek(frame * self._size)
                file.write(np.ascontiguousarray(values).tobytes())
            file.flush()
            os.fsync(file.fileno())

    def finish_call(self) -> None:
        """Record that one more call is finished."""
        with self._log.open("ab") as file:
            file.write(bytes(8))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the files and the folder."""
        files.remove([self.folder])


@dataclass(frozen=True)
class Roll:
    """How frames are drawn.

    Args:
        model: trained for `video/complete`.
        denoise: its denoiser, guided and in tiles.
        request: grid and sampler.
        seed: call k of a clip depends on (seed, k) alone.
        stabilise: noise of generated frames that are given, 0 to 1; the model is told of it.
    """

    model: Model
    denoise: Denoiser
    request: SampleRequest
    seed: int
    stabilise: float = 0.0


def prepared(
    model: Model, request: SampleRequest, *, stabilise: float, overlap: int | None, emit: Emit
) -> Roll:
    """The model made ready: its guidance, and tiles of the size that it was trained on.

    Raises:
        InputError: stabilisation by a model that never learned noisy frames, or out of range.
    """
    learned = getattr(model.task, "noisy_history", 0.0)
    if not 0 <= stabilise < 1:
        raise InputError(f"stabilise: expected 0 to below 1, got {stabilise}")
    if stabilise and not learned:
        raise InputError(
            "stabilise: this model never saw given frames with noise; train with "
            "task.noisy_history=0.2, or leave it at 0"
        )
    height, width = model.shape[2:]
    denoise = guided(model, request, emit)
    shared = min(height, width) // 4 if overlap is None else overlap
    denoise = tiled(denoise, tile=(ALL, height, width), overlap=(0, shared, shared))
    return Roll(model, denoise, request, request.seed, stabilise)


def complete(
    roll: Roll,
    calls: Sequence[Call],
    times: Sequence[float],
    observed: frozenset[int],
    spool: Spool,
    emit: Emit,
) -> None:
    """Draw the frames of `calls` into the spool, from where it was left.

    Args:
        roll: how.
        calls: of a plan.
        times: of each frame, in units of the model's usual distance.
        observed: frames that are in the spool already and are not noised.
        spool: of frames; holds those observed.
        emit: called with progress.
    """
    done = spool.calls
    progress = counter(emit, sum(len(call.wanted) for call in calls), "frame")
    finished = sum(len(call.wanted) for call in calls[:done])
    for number, call in enumerate(calls[done:], start=done):
        drawn = _drawn(roll, call, number, times, observed, spool)
        spool.write(call.wanted, drawn)
        spool.finish_call()
        finished += len(call.wanted)
        progress(finished)


@torch.no_grad()
def _drawn(
    roll: Roll,
    call: Call,
    number: int,
    times: Sequence[float],
    observed: frozenset[int],
    spool: Spool,
) -> np.ndarray:
    """The wanted frames of a call, uint8 (n, h, w, c)."""
    model, frames, given = roll.model, call.frames, set(call.given)
    noise = Noise([seed_of(roll.seed, "video/rollout", number, 0)])
    height, width, channels = spool.shape
    x = torch.zeros(1, channels, len(frames), height, width, device=model.device)
    mask = torch.zeros(1, 1, len(frames), height, width, device=model.device)
    places = [i for i, frame in enumerate(frames) if frame in given]
    if places:
        x[0, :, places] = to_tensor(spool.read([frames[i] for i in places])).to(x)
        mask[:, :, places] = 1
    seen, condition = x, {"times": torch.tensor([[times[f] for f in frames]], device=x.device)}
    if roll.stabilise:
        own = [0.0 if frame in observed else roll.stabilise for frame in frames]
        u = torch.tensor([own], dtype=torch.float64, device=x.device)
        seen, condition["known_level"] = noised(x, u, noise.like(x))
    condition["image"] = torch.cat([seen * mask, mask], 1)
    grid = configure("grid", roll.request.grid)(model.process)
    solver = configure("sampler", roll.request.sampler)()
    start = prior(model.process, grid, x, noise)
    x0 = sample(roll.denoise, grid, solver, start, noise, condition)[0]
    wanted = [i for i, frame in enumerate(frames) if frame not in given]
    return to_pixels(x0[:, wanted])


def to_tensor(frames: np.ndarray) -> Float[Tensor, " c n h w"]:
    """Frames uint8 (n, h, w, c) in [-1, 1]."""
    return torch.from_numpy(frames.copy()).permute(3, 0, 1, 2).float() / 127.5 - 1


def to_pixels(clip: Float[Tensor, " c n h w"]) -> np.ndarray:
    """Frames uint8 (n, h, w, c) of values in [-1, 1]."""
    values = ((clip.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return values.permute(1, 2, 3, 0).cpu().numpy()
