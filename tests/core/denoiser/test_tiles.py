"""Tiles blended at every step: known answers of pointwise denoisers, and seams measured."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.denoiser.tiles import (
    by_parts,
    check_memory,
    continued,
    padded_to_least,
    ramp,
    seam_ratio,
    starts,
    tiled,
)
from core.errors import InputError
from core.process.schedules import vp_cosine


@partial(FunctionDenoiser, vp_cosine())
def pointwise(x, t, condition=None):
    assert condition is not None
    return Prediction(x.tanh() + condition["image"])


def test_tiles_of_a_pointwise_denoiser_change_nothing():
    x = torch.randn(1, 3, 150, 97, generator=torch.Generator())
    condition, t = {"image": x.flip(-1)}, torch.zeros(1)
    whole = pointwise(x, t, condition).x0
    for tile, overlap in ((64, 16), (40, 0), (97, 30), (500, 64)):
        found = tiled(pointwise, tile=tile, overlap=overlap)(x, t, condition).x0
        assert (found - whole).abs().max() < 1e-5


def test_tiles_cover_an_axis_and_overlap():
    for length in (64, 65, 100, 128, 1000):
        begins = starts(length, 64, 16)
        covered = sorted({i for b in begins for i in range(b, min(b + 64, length))})
        assert covered == list(range(length))
        assert all(b - a <= 48 for a, b in pairwise(begins))
    with pytest.raises(InputError, match="overlap"):
        tiled(pointwise, tile=64, overlap=64)


def test_a_seam_is_seen_for_what_it_is():
    """Slopes of 1 with slopes of 3 where the tiles of 8 that share 2 begin and end."""
    step = torch.ones(19)
    step[[5, 7, 11, 13]] = 3  # before pixels 6, 8, 12, 14
    along = torch.cat([torch.zeros(1), step.cumsum(0)])
    assert seam_ratio(along.expand(1, 3, 5, 20), 8, 2) == pytest.approx(3)
    assert seam_ratio(along[:, None].expand(1, 3, 20, 20), 8, 2) == pytest.approx(3)
    assert seam_ratio(along.expand(1, 3, 20, 20) + along[:, None], 8, 2) == pytest.approx(3)
    step[1::2] = 3  # every even line is steep: of those none stands out
    along = torch.cat([torch.zeros(1), step.cumsum(0)])
    assert seam_ratio(along.expand(1, 3, 5, 20), 8, 2, every=2) < 1.01
    with pytest.raises(InputError, match="no seam"):
        seam_ratio(torch.zeros(1, 3, 8, 8), 8, 2)


SHAPES = [(150,), (70, 45), (40, 33, 21)]


def drawn(*shape):
    return torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_change_nothing_along_any_number_of_axes(shape):
    """A tile out of its place would meet another part of the condition."""
    x, sizes = drawn(*shape), set()
    condition, t = {"image": x.flip(-1), "class": torch.zeros(1)}, torch.zeros(1)

    def watched(x, t, condition=None):
        sizes.add(tuple(x.shape[2:]))
        assert condition is not None
        assert condition["class"].shape == (1,)
        return pointwise(x, t, condition)

    parts = tiled(FunctionDenoiser(vp_cosine(), watched), tile=16, overlap=5)
    assert (parts(x, t, condition).x0 - pointwise(x, t, condition).x0).abs().max() < 1e-5
    assert sizes == {(16,) * len(shape)}


@pytest.mark.parametrize("shape", [(140,), (56, 44), (44, 32, 32)])  # 20 + 12 k: even overlaps
def test_tiles_of_an_operator_of_three_elements_differ_by_the_weight_of_their_edges(shape):
    """The mean of neighbours is wrong at a tile's edge alone, whose weight is 1 / (2 overlap)."""

    def smooth(x, t, condition=None):
        for axis in range(2, x.ndim):
            wide = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, -1, 1)], axis)
            length = x.shape[axis]
            x = torch.stack([wide.narrow(axis, k, length) for k in range(3)]).mean(0)
        return Prediction(x)

    x, t, overlap = drawn(*shape).clamp(-1, 1), torch.zeros(1), 8
    whole = smooth(x, t).x0
    found = tiled(FunctionDenoiser(vp_cosine(), smooth), tile=20, overlap=overlap)(x, t).x0
    # Along an axis |error| <= 2/3 times the weight 1/16 of the edge over the sum of at least 1.
    assert (found - whole).abs().max() < len(shape) * (2 / 3) / (2 * overlap) * 1.01
    inner = tiled(FunctionDenoiser(vp_cosine(), smooth), tile=20, overlap=0)(x, t).x0
    assert (inner - whole).abs().max() > (found - whole).abs().max()


def test_images_are_blended_bit_for_bit_as_row_by_row():
    """Equation 5 of the paper, written for two axes."""
    x, t, tile, overlap = drawn(70, 45), torch.zeros(1), 24, 7
    condition = {"image": x.flip(-1)}
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
    weight = ramp(tile, overlap)[:, None] * ramp(tile, overlap)
    for top in starts(70, tile, overlap):
        for left in starts(45, tile, overlap):
            rows, columns = slice(top, top + tile), slice(left, left + tile)
            part = {"image": condition["image"][..., rows, columns]}
            total[..., rows, columns] += weight * pointwise(x[..., rows, columns], t, part).x0
            weights[..., rows, columns] += weight
    assert torch.equal(
        tiled(pointwise, tile=tile, overlap=overlap)(x, t, condition).x0, total / weights
    )


def test_each_axis_can_have_a_tile_of_its_own():
    x, sizes = drawn(40, 33, 21), set()

    def watched(x, t, condition=None):
        sizes.add(tuple(x.shape[2:]))
        return Prediction(x)

    parts = tiled(FunctionDenoiser(vp_cosine(), watched), tile=(8, 40, 40), overlap=(2, 0, 0))
    assert (parts(x, torch.zeros(1)).x0 - x).abs().max() < 1e-6
    assert sizes == {(8, 33, 21)}
    with pytest.raises(InputError, match="expected one number, or 3, got 2"):
        tiled(pointwise, tile=(8, 8), overlap=1)(x, torch.zeros(1))
    with pytest.raises(InputError, match="overlap: expected 0 to 7 for tiles of 8, got 9"):
        tiled(pointwise, tile=(40, 8), overlap=(2, 9))


def test_parts_of_a_batch_have_their_own_times_and_conditions():
    x = torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(0))
    t, condition = torch.arange(7.0), {"class": torch.arange(7), "image": x.flip(0)}
    asked = []

    def ask(x, t, condition=None):
        assert condition is not None
        asked.append(len(x))
        return Prediction(
            x * t[:, None, None] + condition["image"] + condition["class"][:, None, None]
        )

    whole = FunctionDenoiser(vp_cosine(), ask)
    assert torch.equal(by_parts(whole, 3)(x, t, condition).x0, whole(x, t, condition).x0)
    assert asked == [3, 3, 1, 7]


@pytest.mark.parametrize("shape", [(5,), (40, 5), (5, 40, 6)])
def test_small_samples_are_continued_by_reflection_and_cut_again(shape):
    """For a pointwise operator nothing changes; the network is given 32 elements a side."""
    x, sizes = drawn(*shape), []

    def watched(x, t, condition=None):
        sizes.append(tuple(x.shape[2:]))
        return pointwise(x, t, condition)

    condition, t = {"image": x.flip(-1)}, torch.zeros(1)
    found = padded_to_least(FunctionDenoiser(vp_cosine(), watched))(x, t, condition).x0
    assert torch.equal(found, pointwise(x, t, condition).x0)
    assert sizes == [tuple(max(32, side) for side in shape)]
    assert continued(torch.tensor([0, 1, 2]), [8]).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]


def test_a_seam_of_a_signal_and_of_a_volume_is_measured():
    step = torch.ones(19)
    step[[5, 7, 11, 13]] = 3
    along = torch.cat([torch.zeros(1), step.cumsum(0)])
    assert seam_ratio(along.expand(1, 2, 20), 8, 2) == pytest.approx(3)
    volume = along.expand(1, 2, 20, 20, 20) + along[:, None] + along[:, None, None]
    assert seam_ratio(volume, 8, 2) == pytest.approx(3)


def test_memory_is_that_of_every_axis(monkeypatch):
    monkeypatch.setattr("core.storage.memory.free", lambda: 2 * 3 * 4 * 5 * 6 * 4)
    check_memory(2, 3, 4, 5, 6)
    with pytest.raises(InputError, match="a result of 6x5x5 pixels needs about"):
        check_memory(2, 3, 5, 5, 6)
