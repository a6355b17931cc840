"""Images of any size in tiles: each is read with a margin, and only its middle is used."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from core.features import Features, Maps
from core.images.contrast import stretched


class Tile(NamedTuple):
    """A rectangle of an image, and where it lies in the tile that is read around it.

    Args:
        rows: of the image.
        columns: of the image.
        top: first row of what is read.
        left: its first column.
        bottom: the row after its last.
        right: the column after its last.
    """

    rows: range
    columns: range
    top: int
    left: int
    bottom: int
    right: int


def prepared(features: Features, image: Float[Tensor, " 3 h w"]) -> Float[Tensor, " 3 h w"]:
    """A whole image as its features expect it."""
    return stretched(image) if features.stretch else image


def tiles_of(size: tuple[int, int], side: int, margin: int) -> Iterator[Tile]:
    """Rectangles that cover an image once, each read with up to `margin` pixels around it.

    Args:
        size: height and width of the image.
        side: of what is read, in pixels.
        margin: in pixels, less than half of `side`.
    """
    for rows, (top, bottom) in _spans(size[0], side, margin):
        for columns, (left, right) in _spans(size[1], side, margin):
            yield Tile(rows, columns, top, left, bottom, right)


def _spans(length: int, side: int, margin: int) -> Iterator[tuple[range, tuple[int, int]]]:
    if length <= side:
        yield range(length), (0, length)
        return
    count = -(-length // (side - 2 * margin))
    edges = [round(length * i / count) for i in range(count + 1)]
    for start, stop in pairwise(edges):
        # Of one size for all, where the image allows it: a network's norms see the whole tile.
        first = min(max(0, (start + stop - side) // 2), length - side)
        yield range(start, stop), (first, first + side)


def maps_of(features: Features, image: Float[Tensor, " 3 h w"], tile: Tile) -> Maps:
    """The maps of a tile; an image smaller than the features allow is mirrored on."""
    part = image[:, tile.top : tile.bottom, tile.left : tile.right]
    height, width = part.shape[1:]
    if min(height, width) >= features.least:
        return features(part[None])
    down, right = (_mirrored(side, max(side, features.least)) for side in (height, width))
    maps = features(part[:, down][:, :, right][None])
    return maps._replace(size=(height, width))


def _mirrored(length: int, least: int) -> Tensor:
    at = torch.arange(least) % (2 * length)
    return torch.where(at < length, at, 2 * length - 1 - at)


def middle(tile: Tile) -> tuple[slice, slice]:
    """The tile's rectangle within what is read."""
    return (
        slice(tile.rows.start - tile.top, tile.rows.stop - tile.top),
        slice(tile.columns.start - tile.left, tile.columns.stop - tile.left),
    )
