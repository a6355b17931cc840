"""Estimates of whole images by a network that learned from undersampled ones."""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.errors import InputError
from core.process.noise import derive, generator


def subsets(
    denoise: Denoiser,
    *,
    acceleration: float = 4.0,
    centre: float = 0.08,
    pattern: Literal["columns", "points"] = "columns",
    seed: int = 0,
) -> Denoiser:
    """E[x0 | x_t] with each frequency estimated from a subset of x_t's that it belongs to.

    The frequencies outside the centre are divided at random, anew at each level.  Each subset and
    the centre make an input like those of training (`medical/measured`); each frequency is taken
    from the estimate of its own subset, the centre's as a mean.  Exact where frequencies are
    independent given the centre.  Network calls grow by about the acceleration factor.

    Args:
        denoise: of undersampled images.
        acceleration: acceleration factor R of the training masks; 1 gives the network all of x_t.
        centre: fraction of the lines, or of each side, that was fully sampled in the centre.
        pattern: columns, or points of k-space.
        seed: of the subsets.

    Raises:
        InputError: an option out of its range, or images of other than two channels.
    """
    if not (acceleration >= 1 and 0 <= centre < 1):
        raise InputError(
            f"subsets: expected acceleration >= 1 and centre in [0, 1), got {acceleration:g} and "
            f"{centre:g}"
        )

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        if x.shape[1] != 2:
            raise InputError(f"subsets: expected complex images of 2 channels, got {x.shape[1]}")
        sides = tuple(x.shape[2:] if pattern == "points" else x.shape[-1:])
        levels = t.reshape(len(x), -1)[:, 0].tolist()
        divided = [
            _divided(sides, acceleration, centre, derive(seed, "subsets", level.hex()))
            for level in levels
        ]
        masks = torch.stack(divided, 1).to(x)  # (subsets, b, *sides)
        masks = masks.view(*masks.shape[:2], *[1] * (x.ndim - 2 - len(sides)), *sides)
        k = _spectrum(x, len(sides))
        weights = masks / masks.sum(0)
        total, last = torch.zeros_like(k), None
        for mask, weight in zip(masks, weights, strict=True):
            last = denoise(_image(k * mask, len(sides)), t, condition)
            total = total + _spectrum(last.x0, len(sides)) * weight
        assert last is not None
        return replace(last, x0=_image(total, len(sides)))

    return FunctionDenoiser(denoise.process, guided)


def _divided(
    sides: tuple[int, ...], acceleration: float, centre: float, seed: int
) -> Bool[Tensor, "..."]:
    """Subsets (n, *sides): the centre in each, every other frequency in one of them."""
    inner = np.zeros(sides, bool)
    widths = [max(1, round(side * centre)) for side in sides]
    inner[
        tuple(
            slice(n // 2 - w // 2, n // 2 - w // 2 + w) for n, w in zip(sides, widths, strict=True)
        )
    ] = True
    others = np.flatnonzero(~inner)
    each = max(1, round(inner.size / acceleration) - int(inner.sum()))
    number = max(1, math.ceil(len(others) / each))
    masks = np.broadcast_to(inner, (number, *sides)).copy()
    chosen = generator(seed).permutation(others)
    for mask, members in zip(masks, np.array_split(chosen, number), strict=True):
        mask.reshape(-1)[members] = True
    return torch.from_numpy(masks)


def _spectrum(x: Float[Tensor, " b 2 *space"], axes: int) -> Tensor:
    """K-space along the last axes, its zero frequency in the middle."""
    where = tuple(range(-axes, 0))
    moved = torch.fft.ifftshift(torch.complex(x[:, 0], x[:, 1]), dim=where)
    return torch.fft.fftshift(torch.fft.fftn(moved, dim=where, norm="ortho"), dim=where)


def _image(k: Tensor, axes: int) -> Float[Tensor, " b 2 *space"]:
    """Its inverse."""
    where = tuple(range(-axes, 0))
    moved = torch.fft.ifftshift(k, dim=where)
    x = torch.fft.fftshift(torch.fft.ifftn(moved, dim=where, norm="ortho"), dim=where)
    return torch.stack([x.real, x.imag], 1)
