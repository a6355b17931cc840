"""Analytic variances against closed forms, and what they are worth for a chain's bound."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.denoiser.variance import (
    ScoreNorms,
    analytic,
    by_trace,
    jacobian_trace,
    rademacher,
    score_norms,
)
from core.errors import InputError
from core.process import schedules
from core.process.noise import Noise
from core.sampler.ancestral import Ancestral
from core.sampler.grids import uniform_log_snr
from core.sampler.likelihood import discrete_bound
from core.sampler.sample import sample
from core.testing.distributions import Gaussian, Mixture
from core.testing.orders import variance_after

pytestmark = pytest.mark.battery

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
}
GAUSSIAN = Gaussian(0.3, 0.5)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


MIXTURE = Mixture(
    torch.randn(4, 6, dtype=torch.float64, generator=generator(1)), 0.25, torch.full((4,), 0.25)
)


class Signs:
    """Draws of +1 for one half of the batch and -1 for the other, whatever is asked."""

    def like(self, x):
        half = torch.ones_like(x[: len(x) // 2])
        return torch.cat([half, -half])

    def between(self, x, start, end):
        return self.like(x)


def exact_table(path, log_snrs):
    """Means over x0 and eps of any quadratic, exactly: x0 = mean +- std with eps = +-1."""
    x0 = 0.3 + 0.5 * double([1.0, -1.0, 1.0, -1.0])[:, None].expand(4, 3)
    return score_norms(
        GAUSSIAN.denoiser(path), [(x0.contiguous(), None)], Signs(), double(log_snrs)
    )


@pytest.mark.parametrize("path", PATHS)
def test_score_norms_of_a_gaussian_are_sigma_squared_over_its_variance(path):
    """E|eps_hat|^2 / d = sigma^2 / (alpha^2 v + sigma^2), and the rest is the error."""
    log_snrs = [-8.0, -1.0, 3.0, 7.0]
    table = exact_table(PATHS[path], log_snrs)
    expected = 1 / (1 + 0.25 * double(log_snrs).exp())
    assert (table.norm - expected).abs().max() < 1e-12
    assert (table.error - (1 - expected)).abs().max() < 1e-12


@pytest.mark.parametrize("of", ["norm", "error"])
@pytest.mark.parametrize("path", PATHS)
def test_the_analytic_variance_of_a_gaussian_is_exact_at_every_time(path, of):
    """Between the nodes and beyond them, per sample and per element, at pure noise too."""
    path = PATHS[path]
    denoise = analytic(GAUSSIAN.denoiser(path), exact_table(path, [-6.0, 0.0, 6.0]), of=of)
    t = path.time_of_log_snr(double([9.0, 4.4, 0.0, -2.3, -8.0]))
    t[4] = path.t_max
    expected = [GAUSSIAN.x0_variance(path, float(time)) for time in t]
    x = torch.ones(5, 2, dtype=torch.float64)
    # 1 - norm at log-SNR -6 keeps 13 digits of 16.
    assert denoise(x, t).x0_variance.tolist() == pytest.approx(expected, rel=1e-9)
    elements = denoise(x, torch.stack([t, t.flip(0)], dim=1)).x0_variance
    assert elements[:, 1].tolist() == pytest.approx(expected[::-1], rel=1e-9)
    assert torch.equal(denoise(x, t).x0, GAUSSIAN.denoiser(path)(x, t).x0)


def test_between_nodes_the_variance_that_gaussian_data_would_have_is_geometric():
    """By hand: data of variance 0.5 at log-SNR 0 and 0.2 at 2; a quarter of the way at 0.5."""
    path, nodes = PATHS["edm"], double([0.0, 2.0])
    norm = 1 / (1 + double([0.5, 0.2]) * nodes.exp())
    table = ScoreNorms(nodes, norm, 1 - norm)
    t = path.time_of_log_snr(double([0.5]))
    said = analytic(GAUSSIAN.denoiser(path), table)(torch.zeros(1, 1).double(), t)
    v, noise = 0.5**0.75 * 0.2**0.25, math.exp(-0.5)
    assert float(said.x0_variance) == pytest.approx(v * noise / (v + noise), rel=1e-12)


def test_a_chain_of_few_steps_keeps_a_gaussian_s_variance():
    """3 steps to log-SNR 8 and exactly the variance there; small and large are far off."""
    path = PATHS["flow"]
    grid = uniform_log_snr(path, steps=4, log_snr_max=8.0)[:-1]
    exact = GAUSSIAN.std_at(path, float(grid[-1])) ** 2
    found = {
        kind: variance_after(Ancestral(variance=kind), path, GAUSSIAN, grid)[1]
        for kind in ("analytic", "small", "large")
    }
    assert found["analytic"] == pytest.approx(exact, rel=1e-12)
    assert found["small"] < 0.9 * exact
    assert found["large"] > 1.1 * exact


def test_the_step_s_variance_is_that_of_theorem_one():
    """In the paper's terms, betas of a table: lambda^2 + (...)^2 (1 - Gamma)."""
    betas = torch.linspace(0.01, 0.3, 10, dtype=torch.float64)
    path = schedules.from_betas(betas)
    n = 7  # the step from node 7 to node 6
    kept = torch.cumprod(1 - betas, 0)
    alpha, bar, before = float(1 - betas[n - 1]), float(1 - kept[n - 1]), float(1 - kept[n - 2])
    small = before / bar * float(betas[n - 1])
    gamma = bar / (float(kept[n - 1]) * 0.25 + bar)
    theirs = small + (math.sqrt(bar / alpha) - math.sqrt(before - small)) ** 2 * (1 - gamma)
    table = exact_table(path, [-1.0, 1.0])
    denoise = analytic(GAUSSIAN.denoiser(path), table)
    grid, x = double([n / 10, (n - 1) / 10]), torch.zeros(1, 1, dtype=torch.float64)

    class Unit(Signs):
        def like(self, x):
            return torch.ones_like(x)

    class Silent(Signs):
        def like(self, x):
            return torch.zeros_like(x)

    moved, mean = (
        sample(denoise, grid, Ancestral(variance="analytic"), x, noise)
        for noise in (Unit(), Silent())
    )
    assert float(moved - mean) ** 2 == pytest.approx(theirs, rel=1e-9)


def bounds(denoise, path, x0, steps):
    grid = uniform_log_snr(path, steps=steps, log_snr_max=6.0)
    return {
        kind: discrete_bound(denoise, x0, Noise(range(len(x0))), grid=grid, variance=kind).total
        for kind in ("analytic", "small", "large")
    }


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 10, 50])
def test_the_analytic_variance_lowers_the_chain_s_divergence_from_a_mixture(steps):
    """The bound less the data's entropy is KL(data's chain | reverse chain); paired, 5 errors."""
    path, n = PATHS["vp_linear"], 1000
    base = MIXTURE.denoiser(path)
    nodes = torch.linspace(-9.5, 10, 40, dtype=torch.float64)
    known = [(MIXTURE.draw(n, generator(seed)), None) for seed in (2, 3)]
    table = score_norms(base, known, Noise(range(n)), nodes)
    x0 = MIXTURE.draw(n, generator(9))
    for of in ("norm", "error"):
        totals = bounds(analytic(base, table, of=of), path, x0, steps)
        for kind in ("small", "large"):
            gain = totals[kind] - totals["analytic"]
            assert float(gain.mean()) > 5 * float(gain.std()) / n**0.5
        # And it is a bound: no lower than the likelihood.
        gap = totals["analytic"] + MIXTURE.log_density(x0)
        assert float(gap.mean()) > -3 * float(gap.std()) / n**0.5


@pytest.mark.parametrize("steps", [5, 10, 50])
def test_no_other_variance_beats_the_analytic_one_on_a_gaussian(steps):
    """Scaled either way, the mean of the bound over data and noise rises; 0 above the entropy."""
    path = PATHS["flow"]
    x0 = (0.3 + 0.5 * double([1.0, -1.0, 1.0, -1.0]))[:, None]
    base = GAUSSIAN.denoiser(path)
    grid = uniform_log_snr(path, steps=steps, log_snr_max=6.0)

    def mean(scale):
        @partial(FunctionDenoiser, path)
        def denoise(x, t, condition=None):
            said = base(x, t)
            return replace(said, x0_variance=scale * said.x0_variance)

        found = discrete_bound(denoise, x0, Signs(), grid=grid, variance="analytic")
        return float(found.total.mean())

    entropy = math.log(2 * math.pi * math.e * 0.25) / 2
    assert mean(1.0) == pytest.approx(entropy, abs=1e-9)
    assert min(mean(0.9), mean(1.1)) > mean(1.0) + 1e-4


@pytest.mark.slow
def test_the_trace_says_the_variance_of_each_sample_on_average():
    path, n = PATHS["vp_linear"], 1000
    x = torch.randn(1, 6, dtype=torch.float64, generator=generator(3))
    copies, t = x.expand(n, 6).contiguous(), torch.full((n,), 0.35, dtype=torch.float64)
    said = by_trace(MIXTURE.denoiser(path), Noise(range(n)))(copies, t)
    alpha, sigma = path.alpha_sigma(double(0.35))
    expected = float(sigma**2 / alpha * MIXTURE.trace(path, x, 0.35)[0] / 6)
    found = said.x0_variance
    # Clamping at 0 would bias the mean: no draw may be there.
    assert found.min() > 0
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / n**0.5
    assert (said.x0 - MIXTURE.denoiser(path)(copies, t).x0).abs().max() == 0
    assert float(found.std()) > 1e-3 * expected


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_the_trace_is_exact_on_a_gaussian_and_takes_times_of_elements(path):
    path = PATHS[path]
    x = torch.randn(3, 2, dtype=torch.float64, generator=generator())
    t = path.time_of_log_snr(double([[5.0, 1.0], [0.0, -2.0], [2.0, 2.0]]))
    with torch.no_grad():
        said = by_trace(GAUSSIAN.denoiser(path), Noise(range(3)))(x, t)
    expected = [sum(GAUSSIAN.x0_variance(path, float(u)) for u in row) / 2 for row in t]
    assert said.x0_variance.tolist() == pytest.approx(expected, rel=1e-9)
    assert not said.x0.requires_grad


def test_a_sample_s_variance_is_the_same_bits_alone_and_in_a_batch():
    path = PATHS["edm"]
    x = torch.randn(5, 6, dtype=torch.float64, generator=generator())
    t = torch.linspace(0.1, 2, 5, dtype=torch.float64)
    whole = by_trace(MIXTURE.denoiser(path), Noise(range(5)))(x, t).x0_variance
    alone = by_trace(MIXTURE.denoiser(path), Noise([3]))(x[3:4], t[3:4]).x0_variance
    assert torch.equal(alone[0], whole[3])


def test_an_exact_trace_is_the_sum_of_the_jacobian_s_diagonal():
    path = PATHS["vp_linear"]
    x = torch.randn(2, 6, dtype=torch.float64, generator=generator())
    t = torch.full((2,), 0.35, dtype=torch.float64)
    _, found = jacobian_trace(lambda x: MIXTURE.denoiser(path)(x, t), x)
    assert (found - MIXTURE.trace(path, x, 0.35)).abs().max() < 1e-12


def test_signs_are_fair_and_independent():
    signs = rademacher(Noise(range(2)), torch.zeros(2, 10_000))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean(1).abs().max() < 4 / 100
    assert abs(float((signs[0] * signs[1]).mean())) < 4 / 100


def test_norms_out_of_range_are_taken_at_their_ends():
    """Too few samples at low log-SNR: the variance is neither negative nor beyond the noise's."""
    path = PATHS["vp_linear"]
    table = replace(exact_table(path, [-4.0, 4.0]), norm=double([1.02, -0.01]))
    t = path.time_of_log_snr(double([-4.0, 4.0]))
    said = analytic(GAUSSIAN.denoiser(path), table)(torch.zeros(2, 1).double(), t)
    assert said.x0_variance.tolist() == pytest.approx([0, math.exp(-4)], abs=1e-9)


def test_wrong_inputs_are_refused():
    path = PATHS["flow"]
    denoise, x0 = GAUSSIAN.denoiser(path), torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(InputError, match="rising"):
        score_norms(denoise, [(x0, None)], Noise([1, 2]), double([1.0, 0.0]))
    with pytest.raises(InputError, match="at least one batch"):
        score_norms(denoise, [], Noise([1, 2]), double([0.0, 1.0]))
    with pytest.raises(InputError, match="alpha is 0"):
        by_trace(denoise, Noise([1, 2]))(x0, double([1.0, 1.0]))
    with pytest.raises(InputError, match="has no graph"):
        jacobian_trace(lambda x: Prediction(x.detach()), x0)
