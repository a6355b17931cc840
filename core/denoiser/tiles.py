"""Large samples in bounded memory: tiles blended at every step, so that seams cannot grow.

Tiles are cut along every axis behind the channels: of signals, images, volumes and clips alike.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.errors import InputError
from core.storage import memory

LEAST = 32  # elements along an axis that a network is evaluated on
Sides = int | tuple[int, ...]
"""Of a tile, or the overlap of tiles: one number for all axes, or one for each."""


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First elements of the tiles along an axis, `tile - overlap` apart, the last flush."""
    if length <= tile:
        return [0]
    regular = range(0, length - tile, tile - overlap)
    return [*regular, length - tile]


def ramp(length: int, overlap: int) -> Float[Tensor, " length"]:
    """Blending weights of a tile along an axis: 1 inside, falling to both ends over `overlap`."""
    position = torch.arange(length, dtype=torch.float32) + 0.5
    nearest = torch.minimum(position, length - position)
    return (nearest / max(1, overlap)).clamp(max=1)


def tiled(
    denoise: Denoiser, *, tile: Sides, overlap: Sides, first: Sequence[int] | None = None
) -> Denoiser:
    """A denoiser that evaluates `denoise` tile by tile and averages x0 by overlapping windows.

    The noise is one field for the whole sample and the average is taken at every step, so tiles
    agree where they meet; averaging finished tiles shows seams.
    Source: the per-step fusion of Bar-Tal et al. 2023 (MultiDiffusion), arXiv:2302.08113, eq. 5.

    Args:
        denoise: evaluated on (b, c, <= tile, ..., <= tile) at a time.  Conditions with as many axes
            as the sample are cut with it, others given whole.
        tile: tile side in elements.
        overlap: overlap of neighbouring tiles in elements, less than `tile`.
        first: where tiles begin along the first axis, for a part of a larger sample; x0 is 0 where
            there is none.

    Raises:
        InputError: an overlap that leaves no step.
    """
    for side, shared in zip(*_paired(tile, overlap), strict=True):
        if not 0 <= shared < side:
            raise InputError(f"overlap: expected 0 to {side - 1} for tiles of {side}, got {shared}")

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        shape = x.shape[2:]
        sides, shared = _each(tile, len(shape)), _each(overlap, len(shape))
        if first is None and all(n <= side for n, side in zip(shape, sides, strict=True)):
            return denoise(x, t, condition)
        total, weights = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        at = list(map(starts, shape, sides, shared))
        at = at if first is None else [list(first), *at[1:]]
        for corner in itertools.product(*at):
            part = zip(corner, sides, strict=True)
            window = (..., *(slice(start, start + side) for start, side in part))
            inside = {
                name: value[window] if value.ndim == x.ndim else value
                for name, value in (condition or {}).items()
            }
            x0 = denoise(x[window], t, inside).x0
            weight = _window(x0.shape[2:], shared).to(x)
            total[window] += weight * x0
            weights[window] += weight
        if first is not None:
            weights[weights == 0] = 1
        return Prediction(total / weights)

    return FunctionDenoiser(denoise.process, ask)


def _paired(tile: Sides, overlap: Sides) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sides and overlaps of as many axes as the longer of the two states."""
    axes = max(len(one) if isinstance(one, tuple) else 1 for one in (tile, overlap))
    return _each(tile, axes), _each(overlap, axes)


def _each(sides: Sides, axes: int) -> tuple[int, ...]:
    """One number for each axis.

    Raises:
        InputError: numbers for another number of axes.
    """
    every = sides if isinstance(sides, tuple) else (sides,) * axes
    if len(every) != axes:
        raise InputError(f"tile, overlap: expected one number, or {axes}, got {len(every)}")
    return every


def _window(shape: Sequence[int], overlap: Sequence[int]) -> Float[Tensor, " *shape"]:
    """Weights of a tile: the product of the ramps along its axes."""
    window = torch.ones(())
    for length, shared in zip(shape, overlap, strict=True):
        window = window[..., None] * ramp(length, shared)
    return window


def by_parts(denoise: Denoiser, size: int) -> Denoiser:
    """A denoiser that evaluates `denoise` on `size` samples of the batch at a time."""

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        if len(x) <= size:
            return denoise(x, t, condition)
        parts = [slice(first, first + size) for first in range(0, len(x), size)]
        found = [
            denoise(x[part], t[part], condition and {k: v[part] for k, v in condition.items()}).x0
            for part in parts
        ]
        return Prediction(torch.cat(found))

    return FunctionDenoiser(denoise.process, ask)


def seam_ratio(
    samples: Float[Tensor, " b c *shape"], tile: int, overlap: int, *, every: int = 1
) -> float:
    """Mean gradient across the lines where tiles begin and end, over that across other lines.

    1 without seams, but for edges of the samples that lie there by chance.

    Args:
        samples: drawn in tiles.
        tile: tile side in elements.
        overlap: their overlap in elements.
        every: seams are compared with lines at multiples of it: the factor of super-resolution or
            the blocks of a JPEG file, whose lines differ from the others.

    Raises:
        InputError: samples of one tile, which have no seam.
    """
    here, elsewhere = [], []
    for axis in range(-1, 1 - samples.ndim, -1):
        length = samples.shape[axis]
        change = samples.diff(dim=axis).abs().double().transpose(axis, -1)
        change = change.mean(tuple(range(samples.ndim - 1)))
        begun = starts(length, tile, overlap)
        edges = {edge for start in begun for edge in (start, start + tile)}
        lines = edges & set(range(1, length))
        others = set(range(every, length, every)) - lines
        if lines and others:
            here.append(change[[line - 1 for line in lines]].mean())
            elsewhere.append(change[[line - 1 for line in others]].mean())
    if not here:
        raise InputError("a sample of one tile has no seam; use smaller tiles")
    return float(sum(here) / sum(elsewhere))


def mirrored(length: int, wanted: int) -> Int64[Tensor, " wanted"]:
    """Indices 0, ..., length - 1, length - 2, ..., 0, 1, ...: reflection as often as needed."""
    period = max(1, 2 * (length - 1))
    at = torch.arange(wanted) % period
    return torch.minimum(at, period - at)


def continued(x: Shaped[Tensor, " *shape"], sides: Sequence[int]) -> Shaped[Tensor, " *wider"]:
    """`x` continued by reflection to `sides` along its last axes."""
    for axis, side in enumerate(sides, start=x.ndim - len(sides)):
        x = x.index_select(axis, mirrored(x.shape[axis], side).to(x.device))
    return x


def padded_to_least(denoise: Denoiser) -> Denoiser:
    """A denoiser that pads inputs of less than 32 elements a side by reflection."""

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        shape = x.shape[2:]
        if min(shape) >= LEAST:
            return denoise(x, t, condition)
        sides = [max(side, LEAST) for side in shape]
        wide = {
            name: continued(value, sides) if value.ndim == x.ndim else value
            for name, value in (condition or {}).items()
        }
        x0 = denoise(continued(x, sides), t, wide).x0
        return Prediction(x0[(..., *map(slice, shape))])

    return FunctionDenoiser(denoise.process, ask)


def check_memory(
    fields: int, channels: int, *shape: int, device: torch.device | None = None
) -> None:
    """Refuse a sample whose float32 fields exceed the free memory.

    Args:
        fields: number of fields that are alive at once.
        channels: channels of each.
        shape: of the sample, in elements; of an image, height and width.
        device: of the fields; this machine's memory by default.

    Raises:
        InputError: they do not fit.
    """
    needed = fields * channels * math.prod(shape) * 4
    size = "x".join(map(str, reversed(shape)))
    memory.check(
        needed,
        f"a result of {size} pixels needs about {needed / 2**30:.1f} GiB",
        "cut it into smaller images",
        free=free_memory(device),
    )


def free_memory(device: torch.device | None = None) -> int:
    """Free bytes of a GPU's memory, or of this machine's."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return memory.free()


class Cost(NamedTuple):
    """Cost of sampling one result in tiles.

    Args:
        size: of the result along its axes; of an image, height and width.
        tile: tile side in elements.
        overlap: overlap of neighbouring tiles in elements.
        tiles: number of tiles.
        calls: denoiser calls for each draw and tile.
        seconds: for all draws, from one timed tile.
        memory: bytes, beside the model and one tile's activations.
    """

    size: tuple[int, ...]
    tile: int
    overlap: int
    tiles: int
    calls: int
    seconds: float
    memory: int
