"""Whether draws say how wrong they are: intervals, and ranks of spread and error."""

import math

import pytest
import torch

from core.results import calibration


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_intervals_hold_nine_tenths_of_a_truth_that_is_another_draw():
    """Pictures of one pixel: neighbours, whose variances are averaged, would make it cautious."""
    n = 4000
    spread = 0.05 * (1 + normal(n, 1, 1, 1, seed=1).abs())
    draws = spread[:, None] * normal(n, 8, 1, 1, 1, seed=2)
    truth = spread * normal(n, 1, 1, 1, seed=3)
    held = calibration.calibration(draws, truth)["coverage"]
    assert float(held.mean()) == pytest.approx(90, abs=4 * 100 * math.sqrt(0.09 / n))
    # Draws that agree too well hold less.
    held = calibration.calibration(draws / 4, truth)["coverage"]
    assert float(held.mean()) < 50


def test_a_spread_that_follows_the_error_is_ranked_so():
    spread = torch.linspace(0.01, 0.2, 60).double().expand(2, 1, 60, 60)
    draws = spread[:, None] * normal(2, 8, 1, 60, 60, seed=2)
    follows = calibration.calibration(draws, spread * normal(2, 1, 60, 60, seed=3))["rank"]
    against = calibration.calibration(draws, spread.flip(-1) * normal(2, 1, 60, 60, seed=3))["rank"]
    assert bool((follows > 0.3).all())
    assert bool((against < -0.3).all())


def test_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    a, b = normal(200, seed=1), normal(200, seed=2)
    b = b + 0.5 * a
    assert float(calibration.rank_correlation(a, b)) == pytest.approx(spearmanr(a, b)[0])
