"""Linear layers on features at several resolutions, before the features are upsampled.

Bilinear upsampling is linear and its weights sum to 1, so that a linear layer and upsampling
commute: the layer is applied on each map's own grid, what lies on one grid is summed, and only the
layer's outputs are upsampled.  Of ADM-256's 8448 channels at 256x256 pixels 2.2 GB are never made.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from core.features import Maps


class Corners(NamedTuple):
    """The two cells beside each pixel along an axis, and the weight of the second.

    Args:
        low: index of the cell at or before the pixel's centre.
        high: index of the next, or of the last.
        part: weight of `high`.
    """

    low: Int64[Tensor, " n"]
    high: Int64[Tensor, " n"]
    part: Float[Tensor, " n"]


def corners(at: Int64[Tensor, " n"], cells: int, length: int) -> Corners:
    """Cells between which pixels lie, as in `interpolate(mode="bilinear", align_corners=False)`.

    Args:
        at: pixels along an axis.
        cells: of the map along it.
        length: pixels that the map covers.
    """
    place = ((at.double() + 0.5) * (cells / length) - 0.5).clamp(min=0)
    low = place.floor().long()
    return Corners(low, (low + 1).clamp(max=cells - 1), (place - low).float())


def upsampled(
    value: Float[Tensor, " b c y x"], area: tuple[int, int], rows: range
) -> Float[Tensor, " b c h w"]:
    """Rows of a map upsampled to the area that it covers."""
    if value.shape[-2:] == area:
        return value[..., rows.start : rows.stop, :]
    down = corners(torch.arange(rows.start, rows.stop), value.shape[-2], area[0])
    low, high = value[..., down.low, :], value[..., down.high, :]
    mixed = torch.lerp(low, high, down.part.to(value)[:, None])
    if value.shape[-1] == area[1]:
        return mixed
    return F.interpolate(mixed, (len(rows), area[1]), mode="bilinear", align_corners=False)


class Projected(NamedTuple):
    """A linear layer's outputs, one map for each grid; their sum, upsampled, is the layer's output.

    Args:
        values: on grids of different sizes.
        area: as of `Maps`.
        size: as of `Maps`.
    """

    values: tuple[Float[Tensor, " b o y x"], ...]
    area: tuple[int, int]
    size: tuple[int, int]

    def rows(self, rows: range) -> Float[Tensor, " b o h w"]:
        """The layer's output in some rows of the images."""
        total = upsampled(self.values[0], self.area, rows)
        for value in self.values[1:]:
            total = total + upsampled(value, self.area, rows)
        return total[..., : self.size[1]]


def projected(maps: Maps, weight: Float[Tensor, " o k"]) -> Projected:
    """The linear layer's part of each grid.

    Args:
        maps: of k channels in all.
        weight: of the layer, without its bias.
    """
    counts = [value.shape[1] for value in maps.values]
    by_grid: dict[tuple[int, ...], Tensor] = {}
    for value, part in zip(maps.values, weight.split(counts, dim=1), strict=True):
        # On the map's own grid, then added to what has the same grid.
        found = torch.einsum("oc,bcyx->boyx", part.to(value), value)
        grid = tuple(value.shape[-2:])
        by_grid[grid] = by_grid[grid].add_(found) if grid in by_grid else found
    return Projected(tuple(by_grid.values()), maps.area, maps.size)


def sampled(
    maps: Maps, image: int, y: Int64[Tensor, " n"], x: Int64[Tensor, " n"]
) -> Float[Tensor, " n k"]:
    """The upsampled features at some pixels of one image, from the maps' own cells.

    Args:
        maps: of several images.
        image: which.
        y: rows of the pixels.
        x: columns of the pixels.
    """
    found: list[Tensor] = []
    for value in maps.values:
        down = corners(y, value.shape[-2], maps.area[0])
        right = corners(x, value.shape[-1], maps.area[1])
        one = value[image].float()
        part = right.part.to(one)
        low = torch.lerp(one[:, down.low, right.low], one[:, down.low, right.high], part)
        high = torch.lerp(one[:, down.high, right.low], one[:, down.high, right.high], part)
        found.append(torch.lerp(low, high, down.part.to(one)))
    return torch.cat(found).mT.contiguous()


def stored(maps: Sequence[Maps]) -> int:
    """Bytes that maps take."""
    return sum(value.numel() * value.element_size() for one in maps for value in one.values)
