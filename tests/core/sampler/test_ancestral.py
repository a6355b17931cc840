"""Ancestral steps have the variances of the papers."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.process.noise import Noise
from core.sampler import grids
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.exponential import Multistep
from core.sampler.sample import sample
from core.testing.distributions import Gaussian
from core.testing.orders import (
    three_modes,
    to_noisy_level,
    variance_after,
)

sys.path.insert(0, str(Path(__file__).parent))
from made_samples import PATHS

pytestmark = pytest.mark.battery


def test_monte_carlo_ancestral_spread_is_the_one_computed_without_draws():
    path, world, n = PATHS["vp_linear"], Gaussian(0.3, 0.5), 20_000
    grid, solver = to_noisy_level(path, 12), Ancestral()
    x = torch.zeros(1, n, dtype=torch.float64)
    noise, first = Noise([1]), float(grid[0])
    start = world.mean_at(path, first) + world.std_at(path, first) * noise.like(x)
    reached = sample(world.denoiser(path), grid, solver, start, noise)
    _, variance = variance_after(solver, path, world, grid)
    assert abs(float(reached.var()) / variance - 1) < 4 * (2 / n) ** 0.5


def assert_ddpm_variance(noises, path):
    """beta-tilde of Ho et al. 2020, eq. 7, from alpha^2 alone."""
    alpha, sigma = path.alpha_sigma(to_noisy_level(path, 10))
    snr = alpha**2 / sigma**2
    expected = sigma[1:] * (1 - snr[:-1] / snr[1:]).sqrt()
    assert (torch.tensor(noises, dtype=torch.float64) / expected - 1).abs().max() < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_ancestral_and_ddim_with_eta_one_have_ddpm_variances(path):
    grid = to_noisy_level(PATHS[path], 10)
    ancestral = [row.mean.noise for row in Ancestral().plan(PATHS[path], grid)]
    assert_ddpm_variance(ancestral, PATHS[path])
    ddim = [row.noise for row in DDIM(eta=1.0).plan(PATHS[path], grid)]
    assert_ddpm_variance(ddim, PATHS[path])


@pytest.mark.parametrize("path", PATHS)
def test_ancestral_is_the_stochastic_exponential_rule_of_order_one(path):
    grid, world = grids.uniform_log_snr(PATHS[path], steps=9), three_modes()
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    ends = [
        sample(world.denoiser(PATHS[path]), grid, solver, x, Noise([3]))
        for solver in (Ancestral(), Multistep(order=1, eta=1.0), DDIM(eta=1.0))
    ]
    assert (ends[0] - ends[1]).abs().max() < 1e-12
    assert (ends[0] - ends[2]).abs().max() < 1e-12


def test_a_learned_variance_lies_between_the_two_variances_in_the_logarithm():
    """Nichol and Dhariwal 2021, eq. 15, written out for one step."""
    path, solver = PATHS["vp_linear"], Ancestral(variance="learned")
    grid = torch.tensor([0.5, 0.4], dtype=torch.float64)
    (row,) = solver.plan(path, grid)
    noise, x = Noise([0]), torch.zeros(1, 3, dtype=torch.float64)
    fraction = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    reached, _ = solver.step(x, row, None, lambda x, t: Prediction(x, fraction), noise)
    alpha, sigma = path.alpha_sigma(grid)
    large = sigma[0] ** 2 - (alpha[0] / alpha[1]) ** 2 * sigma[1] ** 2
    small = large * sigma[1] ** 2 / sigma[0] ** 2
    stds = torch.stack([small, (small * large).sqrt(), large]).sqrt()
    z = Noise([0]).like(x)
    assert (reached / (stds * z) - 1).abs().max() < 1e-12


def test_variances_that_the_denoiser_does_not_say_are_refused():
    path, grid = PATHS["vp_linear"], grids.uniform_time(PATHS["vp_linear"], steps=3)
    x = torch.zeros(1, 1, dtype=torch.float64)

    @partial(FunctionDenoiser, path)
    def mute(x, t, condition=None):
        return Prediction(x / 2)

    for kind, message in (("learned", "learned none"), ("analytic", "requires a denoiser")):
        with pytest.raises(InputError, match=message):
            sample(mute, grid, Ancestral(variance=kind), x, Noise([0]))
