"""Several draws: mean and standard deviation against NumPy's, progress over all of them."""

from functools import partial

import numpy as np
import pytest
import torch

from core.process.noise import Noise
from core.process.schedules import vp_cosine
from core.request import Progress
from core.sampler import draws
from core.sampler.grids import uniform_time
from core.sampler.runge_kutta import Heun
from core.sampler.sample import prior, sample
from core.testing.distributions import Gaussian


@pytest.mark.parametrize("count", [2, 3, 8])
def test_mean_and_standard_deviation_are_numpys(count):
    """By count - 1: the unbiased variance, `ddof=1`."""
    some = torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(count)).double() + 5
    found = draws.summary(iter(some))
    assert found.count == count
    assert np.allclose(found.mean, some.numpy().mean(0), rtol=1e-14)
    assert np.allclose(found.std, some.numpy().std(0, ddof=1), rtol=1e-12)


def test_a_single_draw_has_no_standard_deviation_and_none_has_no_mean():
    only = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    found = draws.summary([only])
    assert torch.equal(found.mean, only)
    assert not found.std.any()
    assert found.mean is not only  # the next draw is added in place
    with pytest.raises(ValueError, match="at least one draw"):
        draws.summary([])


def test_draws_depend_on_their_number_and_progress_counts_every_step():
    process, target = vp_cosine(), Gaussian(1.0, 0.5)
    grid, seen = uniform_time(process, steps=4), []

    def draw(number, watch):
        noise = Noise.of(7, "test", each=[number])
        x = prior(process, grid, torch.zeros(1, 2), noise)
        return sample(target.denoiser(process), grid, Heun(), x, noise, watch=watch)

    run = partial(draws.each, draw, steps=4, emit=seen.append)
    three = list(run(3))
    assert [event.done for event in seen] == list(range(1, 13))
    assert all(isinstance(event, Progress) and event.total == 12 for event in seen)
    assert not torch.equal(three[0], three[1])
    for found, again in zip(run(2, first=1), three[1:], strict=True):
        assert torch.equal(found, again)
