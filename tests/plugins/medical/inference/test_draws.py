"""Draws from a measurement: their posterior, their parts, and slices held to each other."""

import math
from functools import partial

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.inverse.measurement import Measurement
from core.inverse.operators import Mask
from core.inverse.posterior import diffpir, pigdm
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.noise import Noise
from core.process.schedules import edm
from core.sampler.ancestral import DDIM
from core.sampler.runge_kutta import Heun
from core.testing.distributions import Gaussian
from plugins.medical.inference.draws import How, less_variation, reconstructed, streams


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weight", [0.1, 10.0])
def test_less_variation_along_slices_is_the_closed_form(weight):
    x = torch.tensor([0.0, 0, 0, 1, 1]).double()[:, None]
    found = less_variation(x, weight, iterations=3000)[:, 0]
    exact = [2 / 5] * 5 if weight > 1 else [weight / 3] * 3 + [1 - weight / 2] * 2
    assert found.tolist() == pytest.approx(exact, abs=1e-3)
    assert torch.equal(less_variation(x[:1], weight), x[:1])  # a slice alone varies with none


@pytest.mark.slow
def test_draws_of_a_gaussian_have_its_posterior():
    """PiGDM is exact there: mean and variance of the measured and of the unmeasured."""
    world, process, n = Gaussian(0.2, 0.5), edm(), 4000
    y = torch.full((n, 1, 1, 2), 0.9, dtype=torch.float64)
    mask = torch.tensor([1.0, 0.0]).double()
    grid = configure("grid", Spec("core/karras", {"steps": 60, "sigma_max": 80.0}))(process)
    how = How(method=partial(pigdm, data_std=0.5), solver=Heun(), grid=grid)
    measurement = Measurement(Mask(mask), y * mask, 0.3)
    noise = Noise(range(n))
    found = reconstructed(world.denoiser(process), measurement, how, torch.zeros_like(y), noise)
    gain = 0.25 / (0.25 + 0.09)
    means = [0.2 + gain * 0.7, 0.2]
    spreads = [math.sqrt(0.25 * 0.09 / 0.34), 0.5]
    for at, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        values = found[:, 0, 0, at]
        assert float(values.mean()) == pytest.approx(mean, abs=0.03)
        assert float(values.std()) == pytest.approx(spread, rel=0.06)


def test_parts_of_a_batch_are_asked_alone_and_give_the_same():
    asked, process, y = [], edm(), normal(5, 1, 4, 4)

    @partial(FunctionDenoiser, process)
    def denoise(x, t, condition=None):
        asked.append(len(x))
        return Prediction(0.5 * x)

    grid = configure("grid", Spec("core/karras", {"steps": 3, "sigma_max": 0.5}))(process)
    found = []
    for size in (2, 8):
        how = How(method=diffpir, solver=DDIM(eta=1.0), grid=grid, at_once=size)
        measurement = Measurement(Mask(torch.ones(1)), y, 0.1)
        found.append(reconstructed(denoise, measurement, how, y, Noise(range(5))))
    assert max(asked[:9]) == 2
    assert torch.equal(found[0], found[1])


def test_slices_are_held_to_each_other_where_it_is_wanted():
    process, y = edm(), normal(6, 1, 4, 4)
    grid = configure("grid", Spec("core/karras", {"steps": 4, "sigma_max": 0.5}))(process)
    measurement = Measurement(Mask(torch.zeros(1)), torch.zeros_like(y), 0.1)

    @partial(FunctionDenoiser, process)
    def as_it_is(x, t, condition=None):
        return Prediction(x)

    def jump(along):
        how = How(method=diffpir, solver=DDIM(), grid=grid, along=along)
        found = reconstructed(as_it_is, measurement, how, y, Noise(range(6)))
        return float(found.diff(dim=0).abs().mean())

    assert jump(1.0) < 0.6 * jump(0.0)


def test_streams_depend_on_seed_item_and_draw_alone():
    """No two are alike, and an item's is the same beside other items."""
    keys = [(seed, item, draw) for seed in (0, 1) for item in (0, 1, 10) for draw in (0, 1, 10)]
    like = torch.zeros(1, 40)
    found = torch.cat([streams(seed, [item], draw).like(like) for seed, item, draw in keys])
    apart = torch.cdist(found, found) + 100 * torch.eye(len(keys))
    assert apart.min() > 1
    together = streams(1, (10, 0), 10).like(torch.zeros(2, 40))
    assert torch.equal(together[0], found[keys.index((1, 10, 10))])
    assert torch.equal(together[1], found[keys.index((1, 0, 10))])
