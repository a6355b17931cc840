"""Large images in bounded memory: tiles blended at every step, so that seams cannot grow."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.errors import InputError

LEAST = 32  # pixels of a side that a network is evaluated on


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along an axis, `tile - overlap` apart, the last flush."""
    if length <= tile:
        return [0]
    regular = range(0, length - tile, tile - overlap)
    return [*regular, length - tile]


def ramp(length: int, overlap: int) -> Float[Tensor, " length"]:
    """Blending weights of a tile along an axis: 1 inside, falling to both ends over `overlap`."""
    position = torch.arange(length, dtype=torch.float32) + 0.5
    nearest = torch.minimum(position, length - position)
    return (nearest / max(1, overlap)).clamp(max=1)


def tiled(denoise: Denoiser, *, tile: int, overlap: int) -> Denoiser:
    """A denoiser that evaluates `denoise` tile by tile and averages x0 by overlapping windows.

    The noise is one field for the whole image and the average is taken at every step, so tiles
    agree where they meet; averaging finished tiles shows seams.
    Source: the per-step fusion of Bar-Tal et al. 2023 (MultiDiffusion), arXiv:2302.08113, eq. 5.

    Args:
        denoise: evaluated on (b, c, <= tile, <= tile).
        tile: tile side in pixels.
        overlap: overlap of neighbouring tiles in pixels, less than `tile`.

    Raises:
        InputError: an overlap that leaves no step.
    """
    if not 0 <= overlap < tile:
        raise InputError(f"overlap: expected 0 to {tile - 1} for tiles of {tile}, got {overlap}")

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        height, width = x.shape[-2:]
        if height <= tile and width <= tile:
            return denoise(x, t, condition)
        total, weights = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for top in starts(height, tile, overlap):
            for left in starts(width, tile, overlap):
                window = (..., slice(top, top + tile), slice(left, left + tile))
                part = {name: value[window] for name, value in (condition or {}).items()}
                x0 = denoise(x[window], t, part).x0
                down, across = ramp(x0.shape[-2], overlap), ramp(x0.shape[-1], overlap)
                weight = (down[:, None] * across).to(x)
                total[window] += weight * x0
                weights[window] += weight
        return Prediction(total / weights)

    return FunctionDenoiser(denoise.process, ask)


def seam_ratio(
    images: Float[Tensor, " b c h w"], tile: int, overlap: int, *, every: int = 1
) -> float:
    """Mean gradient across the lines where tiles begin and end, over that across other lines.

    1 without seams, but for edges of the images that lie there by chance.

    Args:
        images: sampled in tiles.
        tile: tile side in pixels.
        overlap: their overlap in pixels.
        every: seams are compared with lines at multiples of it: the factor of super-resolution or
            the blocks of a JPEG file, whose lines differ from the others.

    Raises:
        InputError: images of one tile, which have no seam.
    """
    here, elsewhere = [], []
    for axis in (-1, -2):
        length = images.shape[axis]
        change = images.diff(dim=axis).abs().double().transpose(axis, -1).mean((0, 1, 2))
        begun = starts(length, tile, overlap)
        edges = {edge for start in begun for edge in (start, start + tile)}
        lines = edges & set(range(1, length))
        others = set(range(every, length, every)) - lines
        if lines and others:
            here.append(change[[line - 1 for line in lines]].mean())
            elsewhere.append(change[[line - 1 for line in others]].mean())
    if not here:
        raise InputError("an image of one tile has no seam; use smaller tiles")
    return float(sum(here) / sum(elsewhere))


def mirrored(length: int, wanted: int) -> Int64[Tensor, " wanted"]:
    """Indices 0, ..., length - 1, length - 2, ..., 0, 1, ...: reflection as often as needed."""
    period = max(1, 2 * (length - 1))
    at = torch.arange(wanted) % period
    return torch.minimum(at, period - at)


def padded_to_least(denoise: Denoiser) -> Denoiser:
    """A denoiser that pads inputs of less than 32 pixels a side by reflection."""

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        height, width = x.shape[-2:]
        if min(height, width) >= LEAST:
            return denoise(x, t, condition)
        rows, columns = (mirrored(side, max(side, LEAST)).to(x.device) for side in (height, width))

        def wide(value: Tensor) -> Tensor:
            return value[..., rows, :][..., columns]

        given = {name: wide(value) for name, value in (condition or {}).items()}
        return Prediction(denoise(wide(x), t, given).x0[..., :height, :width])

    return FunctionDenoiser(denoise.process, ask)


def check_memory(fields: int, channels: int, height: int, width: int) -> None:
    """Refuse an image whose float32 fields exceed this machine's free memory.

    Args:
        fields: number of fields that are alive at once.
        channels: channels of each.
        height: height of the image in pixels.
        width: its width.

    Raises:
        InputError: they do not fit.
    """
    import psutil

    needed, free = fields * channels * height * width * 4, psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"a result of {width}x{height} pixels needs about {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; cut it into smaller images"
        )


class Cost(NamedTuple):
    """Cost of sampling one image in tiles.

    Args:
        size: height and width of the result.
        tile: tile side in pixels.
        overlap: overlap of neighbouring tiles in pixels.
        tiles: number of tiles.
        calls: denoiser calls for each draw and tile.
        seconds: for all draws, from one timed tile.
        memory: bytes, beside the model and one tile's activations.
    """

    size: tuple[int, int]
    tile: int
    overlap: int
    tiles: int
    calls: int
    seconds: float
    memory: int
