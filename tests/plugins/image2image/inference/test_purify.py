"""Purification and the attacks on it against closed forms, autograd and finite differences."""

import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from core.denoiser.parameterization import FunctionDenoiser
from core.errors import InputError
from core.process.noise import Noise
from core.process.schedules import vp_linear
from core.sampler.ancestral import Ancestral, EulerMaruyama
from core.testing.distributions import Gaussian
from plugins.image2image.inference.purify import Purified, purify

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import uniform

PATH = vp_linear()


# --- the purifier ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [EulerMaruyama(), Ancestral(variance="large")], ids=str)
def test_purified_points_have_the_law_of_the_posterior(solver):
    """The exact reverse SDE from x_t draws x0 | x_t: for Gaussian data all of it is a formula.

    Given x, E = m + k alpha (x - m) and variance = V + k^2 sigma^2, k = alpha s^2 / (alpha^2 s^2 +
    sigma^2), V the variance of x0 | x_t.  40,000 draws; the steps' own error is of order 1/steps.
    """
    world, level, steps = Gaussian(0.3, 0.5), 0.3, 300
    alpha, sigma = (float(v) for v in PATH.alpha_sigma(torch.tensor(level, dtype=torch.float64)))
    k = alpha * world.std**2 / (alpha**2 * world.std**2 + sigma**2)
    x = torch.full((8, 5000), 1.1, dtype=torch.float64)
    found = purify(
        world.denoiser(PATH), x, Noise(range(8)), level=level, steps=steps, solver=solver
    )
    mean = world.mean + k * alpha * (1.1 - world.mean)
    std = math.sqrt(world.x0_variance(PATH, level) + k**2 * sigma**2)
    assert abs(float(found.mean()) - mean) < 4 * std / 200 + 1 / steps
    assert abs(float(found.std()) - std) < 4 * std / (200 * math.sqrt(2)) + 1 / steps
    assert mean - world.mean < 0.9 * (1.1 - world.mean)  # far more than those tolerances


def test_a_low_level_leaves_the_picture_as_it_is():
    """What changes is of the order of sigma(t*)."""
    x = uniform(2, 1, 4, 4)
    _, sigma = PATH.alpha_sigma(torch.tensor(0.002, dtype=torch.float64))
    found = purify(Gaussian().denoiser(PATH), x, Noise([0, 1]), level=0.002, steps=3)
    assert 0 < (found - x).abs().max() < 8 * float(sigma)


@pytest.mark.parametrize("level", [0.0, -1.0, 1.01, math.nan])
def test_a_level_that_is_no_time_of_the_process_is_refused(level):
    with pytest.raises(InputError, match="level: expected a time"):
        purify(Gaussian().denoiser(PATH), uniform(1, 1, 2, 2), Noise([0]), level=level)


def tiny():
    """A denoiser and a classifier of 3x3 images in float64."""
    draw = torch.Generator().manual_seed(1)
    networks = [nn.Conv2d(1, 1, 3, padding=1), nn.Linear(9, 3)]
    for p in (p for network in networks for p in network.double().parameters()):
        p.data.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64))
        p.requires_grad_(False)
    known = Gaussian(0.1, 0.4).denoiser(PATH)

    @partial(FunctionDenoiser, PATH)
    def denoise(x, t, condition=None):
        said = known(x, t)
        return type(said)(said.x0 + 0.3 * networks[0](x).tanh())

    return denoise, nn.Sequential(nn.Flatten(), networks[1])


@pytest.mark.slow
def test_gradients_through_the_purifier_are_those_of_the_whole_graph_and_of_finite_differences():
    denoise, judge = tiny()
    defended = Purified(denoise, judge, level=0.2, steps=5)
    x = uniform(2, 1, 3, 3).requires_grad_()

    def through(x):
        return defended(x, Noise([3, 4]))

    def whole(x):
        how = {"level": 0.2, "steps": 5, "gradients": True}
        return judge(purify(denoise, x, Noise([3, 4]), **how))

    assert torch.equal(through(x), whole(x))
    assert torch.autograd.gradcheck(through, (x,), eps=1e-6, atol=1e-6)
    (found,) = torch.autograd.grad(through(x)[:, 0].sum(), x)
    (known,) = torch.autograd.grad(whole(x)[:, 0].sum(), x)
    assert torch.equal(found, known)
    assert known.abs().min() > 0


def test_the_identity_way_passes_the_gradient_at_the_purified_picture():
    """For a linear classifier that is its weights, whatever the purifier does."""
    denoise, judge = tiny()
    defended = Purified(denoise, judge, level=0.2, steps=5)
    x = uniform(2, 1, 3, 3).requires_grad_()
    said = defended(x, Noise([3, 4]), way="identity")
    # x + (purified - x): equal up to rounding
    assert (said - defended(x, Noise([3, 4]))).abs().max() < 1e-12
    (found,) = torch.autograd.grad(said[:, 1].sum(), x)
    assert torch.allclose(found, judge[1].weight[1].reshape(1, 1, 3, 3).expand_as(found))


def test_a_purified_classifier_draws_anew_and_again_with_its_seed():
    denoise, judge = tiny()
    x = uniform(2, 1, 3, 3)
    first, other = (Purified(denoise, judge, level=0.2, steps=2, seed=s) for s in (7, 8))
    again = Purified(denoise, judge, level=0.2, steps=2, seed=7)
    calls = [first(x), first(x)]
    assert not torch.equal(*calls)
    assert torch.equal(calls[0], again(x))
    assert torch.equal(calls[1], again(x))
    assert not torch.equal(calls[0], other(x))


# --- data and classifier -----------------------------------------------------------------------


# --- the count ---------------------------------------------------------------------------------


def test_a_request_is_read_without_torch():
    code = "import plugins.image2image.request, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
