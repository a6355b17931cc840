"""Whether draws say how wrong they are: intervals, and ranks of spread and error."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from core.results import calibration


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def everywhere(images):
    return torch.ones_like(images, dtype=torch.bool)


def test_intervals_hold_nine_tenths_of_a_truth_that_is_another_draw():
    """Pictures of one pixel: neighbours, whose variances are averaged, would make it cautious."""
    n = 4000
    spread = 0.05 * (1 + normal(n, 1, 1, 1, seed=1).abs())
    draws = spread[:, None] * normal(n, 8, 1, 1, 1, seed=2)
    truth = spread * normal(n, 1, 1, 1, seed=3)
    held = calibration.calibration(draws, truth, everywhere(truth))["coverage"]
    assert float(held.mean()) == pytest.approx(90, abs=4 * 100 * math.sqrt(0.09 / n))
    # Draws that agree too well hold less.
    held = calibration.calibration(draws / 4, truth, everywhere(truth))["coverage"]
    assert float(held.mean()) < 50


def test_a_standard_deviation_that_follows_the_error_is_ranked_so():
    spread = torch.linspace(0.01, 0.2, 60).double().expand(2, 1, 60, 60)
    draws = spread[:, None] * normal(2, 8, 1, 60, 60, seed=2)

    def rank(truth, where):
        return calibration.calibration(draws, truth, where)["rank"]

    follows = spread * normal(2, 1, 60, 60, seed=3)
    against = spread.flip(-1) * normal(2, 1, 60, 60, seed=3)
    assert bool((rank(follows, everywhere(follows)) > 0.3).all())
    assert bool((rank(against, everywhere(against)) < -0.3).all())
    # Right columns alone count, and there the two are exchanged.
    right = (torch.arange(60) >= 30).expand_as(follows)
    mixed = torch.where(right, against, follows)
    assert bool((rank(mixed, right) < 0).all())


@pytest.mark.parametrize("values", [200, 4])
def test_rank_correlation_is_scipys_ties_included(values):
    """A thousand numbers of few values are tied; their order must not matter."""
    a = torch.randint(values, (1000,), generator=torch.Generator().manual_seed(1)).double()
    b = torch.randint(values, (1000,), generator=torch.Generator().manual_seed(2)) + 0.5 * a
    found = calibration.rank_correlation(a, b)
    assert found == pytest.approx(spearmanr(a, b)[0], abs=1e-12)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(3))
    assert calibration.rank_correlation(a[order], b[order]) == pytest.approx(found, abs=1e-12)


def test_a_constant_standard_deviation_ranks_nothing():
    constant, rising = torch.full((50,), 0.3), torch.linspace(0, 1, 50)
    assert calibration.rank_correlation(constant, rising) == 0
    assert calibration.rank_correlation(rising[:1], rising[:1]) == 0
