"""The adaptive stochastic solver and its Brownian path."""

import sys
from pathlib import Path

import pytest
import torch

from core.process.noise import Noise
from core.sampler import grids
from core.sampler.adaptive_sde import AdaptiveSDE
from core.sampler.adaptive_sde import Path as Increments
from core.sampler.sample import prior, sample
from core.testing.distributions import Gaussian

sys.path.insert(0, str(Path(__file__).parent))
from made_samples import PATHS

pytestmark = pytest.mark.battery


@pytest.mark.slow
@pytest.mark.parametrize("path", ["vp_linear", "edm", "flow"])
def test_the_adaptive_sde_draws_a_gaussian_to_its_tolerance(path):
    """4,000 values: mean and standard deviation within 4 standard errors, 2 % for the tolerance."""
    path, world, noise = PATHS[path], Gaussian(0.3, 0.5), Noise(range(500))
    grid = grids.uniform_time(path, steps=2)
    x = prior(path, grid, torch.zeros(500, 8, dtype=torch.float64), noise)
    reached = sample(world.denoiser(path), grid, AdaptiveSDE(rtol=0.1, atol=0.02), x, noise)
    assert float(reached.mean()) == pytest.approx(0.3, abs=4 * 0.5 / 4000**0.5 + 0.01)
    assert float(reached.std()) == pytest.approx(0.5, rel=4 / 8000**0.5 + 0.02)


def test_a_path_that_is_halved_keeps_its_increments_and_their_variance():
    """Halves add up to the whole and are independent, each of variance half its length."""
    n = 20_000
    path = Increments(torch.zeros(n, 1, dtype=torch.float64), 0.0, 1.0, Noise(range(n)), 1)
    (length, whole), every = path.top(), torch.ones(n, dtype=torch.bool)
    path.halve(every)
    path.halve(every)
    quarter = path.top()[1]
    path.advance(every)
    other = path.top()[1]
    path.advance(every)
    assert float(path.top()[0][0]) == 0.5 * float(length[0])
    assert (quarter + other + path.top()[1] - whole).abs().max() < 1e-12
    for increment in (quarter, other):  # a variance has a standard error of sqrt(2 / n) of itself
        assert float(increment.var()) == pytest.approx(0.25, rel=4 * (2 / n) ** 0.5)
    assert abs(float((quarter * other).mean())) < 4 * 0.25 / n**0.5
    path.advance(every)
    assert bool(path.ended().all())
