"""Which frames are given: each kind by its definition, distances by their distribution."""

import numpy as np
import pytest

from core.process.noise import generator
from plugins.video.tasks.given import KINDS, drawn


def draws(kind, available=24, length=8, count=300, known=None):
    return [drawn(generator(7, i), available, length, {kind: 1.0}, known) for i in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_rise_stay_in_the_clip_and_leave_one_to_complete(kind):
    for indices, known in draws(kind):
        assert len(indices) == len(known) == 8
        assert (np.diff(indices) >= 1).all()
        assert 0 <= indices[0] <= indices[-1] < 24
        assert not known.all()
        assert known.any() == (kind != "none")


def test_each_kind_is_what_it_says():
    for _, known in draws("future"):
        assert (np.diff(known.astype(int)) <= 0).all()
    for _, known in draws("past"):
        assert (np.diff(known.astype(int)) >= 0).all()
    for _, known in draws("hole"):
        assert np.abs(np.diff(known.astype(int))).sum() <= 2
    assert {int(k.sum()) for _, k in draws("random")} == set(range(1, 8))
    assert all((np.diff(i) == 1).all() for i, _ in draws("hole"))


def test_a_stated_number_of_given_frames_is_kept():
    assert all(k.tolist() == [True] * 3 + [False] * 5 for _, k in draws("future", known=3, count=3))
    expected = [True] * 2 + [False] * 3 + [True] * 3
    assert all(k.tolist() == expected for _, k in draws("hole", known=5, count=3))


def test_sparse_distances_are_log_uniform():
    """Of 8 frames in 701 the mean distance is at most 100: log-uniform has its median at 10."""
    apart = [(i[-1] - i[0]) / 7 for i, _ in draws("sparse", available=701, count=2000)]
    quartiles = np.quantile(np.log10(apart), [0.25, 0.5, 0.75])
    # the standard error of a quartile of 2000 uniform draws on [0, 2] is 0.02
    np.testing.assert_allclose(quartiles, [0.5, 1.0, 1.5], atol=0.08)
