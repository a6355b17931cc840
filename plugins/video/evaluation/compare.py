"""Two clips against each other, in memory of a few frames."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from core.errors import InputError
from plugins.video.inference.rollout import to_tensor
from plugins.video.io.reading import decoded, read_index
from plugins.video.tasks.figures import WINDOW, decibels, frame_errors, frame_ssim


class Row(NamedTuple):
    """Figures of a frame, or of all of them.

    Args:
        frame: its number from 0, or "all".
        psnr: in dB, at most 100; of all frames, that of their mean squared error.
        ssim: None of frames smaller than its window.
    """

    frame: int | str
    psnr: float
    ssim: float | None


def compared(first: Path, second: Path) -> Iterator[Row]:
    """A row for each frame and one for all.

    Raises:
        InputError: clips of different sizes or lengths.
    """
    one, other = read_index(first), read_index(second)
    shapes = [(len(clip), clip.height, clip.width) for clip in (one, other)]
    if shapes[0] != shapes[1]:
        words = [f"{n} frames of {width}x{height}" for n, height, width in shapes]
        raise InputError(f"{second}: expected {words[0]}, as {first} has, got {words[1]}")
    large = min(one.height, one.width) >= WINDOW
    errors, similar = [], []
    numbers = range(len(one))
    for a, b in zip(decoded(one, numbers), decoded(other, numbers), strict=True):
        x, y = (to_tensor(frame.pixels[None])[None] for frame in (a, b))
        errors.append(frame_errors(x, y)[0, 0])
        similar += [float(frame_ssim(x, y)[0, 0])] if large else []
        yield Row(a.number, float(decibels(errors[-1])), similar[-1] if large else None)
    mean = sum(similar) / len(similar) if similar else None
    yield Row("all", float(decibels(torch.stack(errors).mean())), mean)
