"""RePaint: stretches walked again, and their marginals."""

import sys
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.inverse.measurement import Measurement
from core.inverse.operators import Average, Mask
from core.inverse.posterior import (
    Replacing,
    repaint,
)
from core.process.noise import Brownian, Noise
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.exponential import Multistep
from core.sampler.grids import uniform_log_snr
from core.sampler.sample import conditioned, sample
from core.sampler.solver import Ends

sys.path.insert(0, str(Path(__file__).parent))
from made_measurements import PATHS, WORLD, normal


class Constant:
    """Draws that are all one value: the response to a draw, or, at 0, the mean over them."""

    def __init__(self, value):
        self.value = value

    def like(self, x):
        return torch.full_like(x, self.value)

    def between(self, x, start, end):
        return self.like(x)


def walked(rows):
    return [(round(row.ends.t, 6), round(row.ends.u, 6)) for row in rows]


def test_repaint_walks_each_stretch_again_but_not_the_last_step():
    path = PATHS["flow"]
    grid = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], dtype=torch.float64)
    solver = Replacing(Multistep(), Measurement(Average(), normal(1, 1)), resamples=2, jump=3)
    stretch = [(1.0, 0.8), (0.8, 0.6), (0.6, 0.4)]
    assert walked(solver.plan(path, grid)) == [
        *stretch, (0.4, 1.0), *stretch, (0.4, 0.2), (0.2, 0.4), (0.4, 0.2), (0.2, 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_jump_back_keeps_the_marginal(path):
    """Variance and mean of x_u after noise is added to x_t are those of the process."""
    path = PATHS[path]
    back = path.time_of_log_snr(torch.tensor([2.0, -3.0], dtype=torch.float64))
    for first, to in ((back[0], back[1]), (back[0], torch.tensor(path.t_max).double())):
        (alpha_t, sigma_t), (alpha_u, sigma_u) = (path.alpha_sigma(t) for t in (first, to))
        e = Ends(*(float(v) for v in (first, to, alpha_t, sigma_t, alpha_u, sigma_u)))
        solver = Replacing(DDIM(), Measurement(Average(), normal(1, 1)), resamples=2)
        leg = solver.plan(path, torch.stack([to, first]))[1]
        assert leg.row is None
        assert tuple(leg.ends) == pytest.approx(tuple(e))

        one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        kept = float(solver.step(one, leg, None, lambda x, t: Prediction(x), Constant(0.0))[0])
        spread = float(solver.step(zero, leg, None, lambda x, t: Prediction(x), Constant(1.0))[0])
        variance = kept**2 * WORLD.std_at(path, float(first)) ** 2 + spread**2
        assert variance == pytest.approx(WORLD.std_at(path, float(to)) ** 2, rel=1e-9)
        assert kept * WORLD.mean_at(path, float(first)) == pytest.approx(
            WORLD.mean_at(path, float(to)), abs=1e-12
        )


CORRELATION = 0.9


def correlated(path):
    """The denoiser of two standard normal coordinates with that correlation."""
    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)

    @partial(FunctionDenoiser, path)
    def denoise(x, t, condition=None):
        alpha, sigma = path.alpha_sigma(t)
        whole = alpha[:, None, None] ** 2 * covariance + sigma[:, None, None] ** 2 * torch.eye(2)
        gain = alpha[:, None, None] * covariance @ torch.linalg.inv(whole)
        return Prediction(torch.einsum("bij,bj->bi", gain, x))

    return denoise


def test_repaint_comes_nearer_to_the_conditional_mean_the_more_it_resamples():
    """E[free | known] = correlation * known; steps are affine, so no draw gives the exact mean."""
    path = PATHS["vp_linear"]
    grid = uniform_log_snr(path, steps=20)
    mask, y = Mask(torch.tensor([[1.0, 0.0]])), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    bias = []
    for resamples in (1, 2, 4, 10):
        guided = repaint(Measurement(mask, y), correlated(path), Ancestral(), resamples=resamples)
        start = torch.zeros(1, 2, dtype=torch.float64)
        end = sample(guided.denoise, grid, guided.solver, start, Constant(0.0))
        assert float(end[0, 0]) == pytest.approx(1.0, abs=1e-12)
        bias.append(abs(float(end[0, 1]) - CORRELATION))
    assert all(b < a for a, b in pairwise(bias)), bias
    assert bias[-1] < bias[0] / 4, bias


def test_stretches_walked_again_hear_other_noise():
    """A Brownian path would give a second walk the increments of the first."""
    path = PATHS["vp_linear"]
    grid = path.time_of_log_snr(torch.tensor([-2.0, 0.0], dtype=torch.float64))
    heard = []

    @dataclass(frozen=True)
    class Listening:
        convergence = 1
        restarts = False

        def plan(self, process, grid):
            return Ancestral().plan(process, grid)

        def step(self, x, row, state, estimate, noise):
            heard.append(noise.between(x, *row.mean.clock))
            return Ancestral().step(x, row, state, estimate, noise)

    guided = repaint(
        Measurement(Mask(torch.zeros(1, 3)), torch.zeros(1, 3).double()),
        WORLD.denoiser(path), Listening(), resamples=2,
    )  # fmt: skip
    x = normal(1, 3)
    rows = guided.solver.plan(path, grid)
    heard.clear()
    state, noise = None, Brownian([7])
    for row in rows:
        x, state = guided.solver.step(x, row, state, conditioned(guided.denoise, None), noise)
    assert len(heard) == 2
    assert not torch.equal(*heard)


def test_every_stretch_begins_without_a_history():
    """The solver plans each stretch for itself: its first row knows of no estimate before."""
    path, heard = PATHS["flow"], []

    @dataclass(frozen=True)
    class Numbered:
        convergence = 1
        restarts = False

        def plan(self, process, grid):
            return list(enumerate(DDIM().plan(process, grid)))

        def step(self, x, row, state, estimate, noise):
            heard.append((row[0], state))
            x, _ = DDIM().step(x, row[1], None, estimate, noise)
            return x, row[0]

    measurement = Measurement(Mask(torch.zeros(1, 3)), torch.zeros(1, 3, dtype=torch.float64))
    guided = repaint(measurement, WORLD.denoiser(path), Numbered(), resamples=2, jump=2)
    grid = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)
    rows = guided.solver.plan(path, grid)
    heard.clear()
    state, noise = None, Noise([0])
    for row in rows:
        estimate = conditioned(guided.denoise, None)
        _, state = guided.solver.step(normal(1, 3), row, state, estimate, noise)
    assert heard == [(0, None), (1, 0)] * 4
