"""Positions of crops: every edge reached, laid out apart."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from core.crops import Plan, draw, lay_out, probabilities, recoloured
from core.process.noise import generator


def test_positions_reach_every_edge():
    sizes = [(70, 66)]
    crops = [draw(0, i, 64, sizes, probabilities(sizes)) for i in range(500)]
    assert {crop.top for crop in crops} == set(range(7))
    assert {crop.left for crop in crops} == set(range(3))


@pytest.mark.parametrize("high", [300, 64, 100])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 12])
def test_layouts_stay_inside_and_apart_where_there_is_room(high, count):
    places = lay_out(high, 640, 64, count)
    assert len(places) == len(set(places)) == count
    for k, (y, x) in enumerate(places):
        assert 0 <= y <= high - 64
        assert 0 <= x <= 576
        if count <= (high // 64) * 10:
            assert all(abs(y - v) >= 64 or abs(x - u) >= 64 for v, u in places[:k])


def test_room_counts_for_more_than_an_even_grid():
    """Two rows of five are closer to squares here, but 127 pixels do not hold two rows of 64."""
    places = lay_out(127, 600, 64, 9)
    lefts = sorted(left for _, left in places)
    assert len(lefts) == 9
    assert all(then - now >= 64 for now, then in pairwise(lefts))


def test_a_picture_as_small_as_a_crop_gives_it_once():
    assert lay_out(64, 64, 64, 4) == [(0, 0)]
    plan = Plan("test", ("a", "b"), [(64, 64), (200, 200)], 64, 4, 0)
    assert [plan.name(i) for i in range(len(plan))] == [
        "a, patch 1",
        *(f"b, patch {k}" for k in (1, 2, 3, 4)),
    ]


def test_colours_change_by_a_gain_and_an_exponent_of_each_channel():
    """log u' = log g + gamma log u of some channel, so that points of a channel lie on a line."""
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.9
    found = recoloured(x, 0.2, generator(3, 7))
    before, after = ((np.log((v.double().numpy() + 1) / 2)).reshape(3, -1) for v in (x, found))
    slopes, gains, taken = set(), set(), []
    for line in after:
        fits = [np.polyfit(channel, line, 1, full=True) for channel in before]
        k = int(np.argmin([fit[1][0] for fit in fits]))
        (slope, offset), (rest,) = fits[k][0], fits[k][1]
        assert rest < 1e-4
        assert abs(offset) <= 0.2 + 1e-4
        slopes.add(round(float(slope), 3))
        gains.add(round(float(offset), 3))
        taken.append(k)
    assert sorted(taken) == [0, 1, 2]
    assert taken != [0, 1, 2]  # of this item
    assert len(gains) == 3
    (gamma,) = slopes
    assert np.exp(-0.2) <= gamma <= np.exp(0.2)


def test_grey_stays_grey_and_nothing_leaves_the_range():
    grey = torch.linspace(-1, 1, 64).view(1, 8, 8).expand(3, -1, -1)
    white = torch.ones(3, 4, 4)
    white[0] = -1
    for index in range(20):
        found = recoloured(grey, 0.5, generator(0, index))
        assert (found == found[:1]).all()
        assert recoloured(white, 0.5, generator(0, index)).abs().max() <= 1
