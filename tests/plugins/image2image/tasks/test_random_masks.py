"""Random masks: areas, places and shapes as stated."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from core.errors import InputError
from plugins.image2image.tasks.random_masks import random_mask

SIZES = ((64, 64), (48, 160), (160, 48), (17, 16))


@pytest.mark.parametrize("kind", ["strokes", "boxes"])
def test_random_holes_cover_ten_to_forty_percent(kind):
    """In every image; and the whole range is used: both ends and a mean near the middle."""
    for height, width in SIZES:
        shares = [random_mask(0, i, height, width, kind).float().mean() for i in range(40)]
        assert min(shares) >= 0.1
        assert max(shares) <= 0.4
        assert 0.19 < sum(shares) / 40 < 0.31
        assert min(shares) < 0.17
        assert max(shares) > 0.31


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strokes", "boxes", "uncrop"])
def test_holes_lie_everywhere_alike(kind):
    """Both halves of an image are covered alike, along both axes: to four standard errors."""
    for height, width in ((24, 72), (72, 24)):
        masks = np.stack([random_mask(1, i, height, width, kind).numpy() for i in range(150)])
        for axis in (1, 2):
            first, second = (half.mean((1, 2)) for half in np.split(masks, 2, axis))
            apart = first - second
            assert abs(apart.mean()) < 4 * apart.std() / 150**0.5


def corners(mask):
    """Places where three of four pixels agree: a union of rectangles has few, a brush has many."""
    values = mask.numpy().astype(int)
    four = values[1:, 1:] + values[1:, :-1] + values[:-1, 1:] + values[:-1, :-1]
    return int((four % 2).sum())


def test_boxes_are_one_to_five_rectangles():
    """A piece with four corners is a rectangle; those that overlap are fewer pieces with more."""
    pieces = []
    for i in range(80):
        mask = np.pad(random_mask(0, i, 96, 96, "boxes").numpy(), 1)
        found = ndimage.label(mask)
        assert isinstance(found, tuple)
        labels, count = found
        pieces.append(count)
        alone = [corners(torch.from_numpy(labels == k + 1)) == 4 for k in range(count)]
        assert any(alone) or count <= 2
    assert {1, 2, 3, 4, 5} >= set(pieces) >= {1, 2, 3, 4}


def test_strokes_are_round_brushes_without_holes_of_a_pixel():
    """Opening by a small disc keeps nearly all of a mask that thick round strokes made."""
    away = np.arange(-2, 3)
    disc = np.hypot(away[:, None], away) <= 2
    for i in range(20):
        mask = random_mask(0, i, 128, 300, "strokes").numpy()
        assert (ndimage.binary_opening(mask, disc) & mask).sum() > 0.98 * mask.sum()


def test_uncropping_leaves_half_in_one_rectangle():
    sides = []
    for i in range(200):
        for height, width in ((40, 60), (60, 40)):
            known = ~random_mask(3, i, height, width, "uncrop")
            assert abs(float(known.float().mean()) - 0.5) < 0.03
            rows, columns = known.nonzero().T
            top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
            assert known.sum() == (bottom - top + 1) * (right - left + 1)
        edges = (top == 0, bottom == 59, left == 0, right == 39)
        sides.append(tuple(map(bool, edges)))
    alone = [one for one in sides if sum(one) == 3]
    assert len(set(alone)) == 4
    assert abs(len(alone) / 200 - 0.5) < 4 * 0.5 / 200**0.5
    assert all(sum(one) in (0, 3) for one in sides)


def test_six_of_ten_holes_for_inpainting_are_strokes():
    boxes = sum(corners(random_mask(5, i, 128, 128)) < 60 for i in range(300))
    assert abs(boxes / 300 - 0.4) < 4 * (0.24 / 300) ** 0.5


def test_a_random_mask_is_a_function_of_seed_and_index():
    first = random_mask(7, 3, 40, 56)
    assert first.shape == (40, 56)
    random_mask(7, 4, 40, 56)
    assert torch.equal(random_mask(7, 3, 40, 56), first)
    others = [random_mask(7, 4, 40, 56), random_mask(8, 3, 40, 56), random_mask(3, 7, 40, 56)]
    assert not any(torch.equal(other, first) for other in others)
    with pytest.raises(InputError, match="at least 16x16 pixels, got 60x15"):
        random_mask(0, 0, 15, 60)
