"""Tiles cover an image once, with margins."""

import pytest
import torch

from core.features import Maps
from plugins.segmentation.inference.tiles import maps_of, middle, tiles_of


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (200, 131), (1000, 70), (5, 3)])
def test_every_pixel_is_in_the_middle_of_one_tile(size):
    count = torch.zeros(size)
    for tile in tiles_of(size, 64, 12):
        count[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop] += 1
        assert tile.bottom - tile.top == min(size[0], 64)
        assert tile.right - tile.left == min(size[1], 64)
        for span, first, last, length in (
            (tile.rows, tile.top, tile.bottom, size[0]),
            (tile.columns, tile.left, tile.right, size[1]),
        ):
            assert span.start - first >= min(12, span.start)
            assert last - span.stop >= min(12, length - span.stop)
    assert torch.equal(count, torch.ones(size))


class Pixels:
    """Features that are the image itself."""

    channels, least, stretch = (3,), 8, False

    def digest(self):
        return ""

    def __call__(self, images):
        size = (images.shape[-2], images.shape[-1])
        return Maps((images,), size, size)


def test_tiles_hold_the_image_where_they_say():
    image = torch.rand(3, 90, 70, generator=torch.Generator().manual_seed(0))
    found = torch.zeros_like(image)
    for tile in tiles_of((90, 70), 40, 8):
        part = maps_of(Pixels(), image, tile).values[0][0][:, *middle(tile)]
        found[:, tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop] = part
    assert torch.equal(found, image)


def test_an_image_that_is_too_small_is_mirrored_on():
    image = torch.arange(6.0).view(1, 2, 3).expand(3, -1, -1)
    (tile,) = tiles_of((2, 3), 64, 8)
    maps = maps_of(Pixels(), image, tile)
    assert maps.size == (2, 3)
    assert maps.area == (8, 8)
    assert maps.values[0][0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert maps.values[0][0, 0, :5, 0].tolist() == [0, 3, 3, 0, 0]
