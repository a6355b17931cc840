"""Positions of crops: every edge reached, laid out apart."""

from itertools import pairwise

import pytest

from plugins.image2image.data.crops import Plan, draw, lay_out, probabilities


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
