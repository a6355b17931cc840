"""The worlds' answers against torch.distributions, autograd and each other."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from core.process import schedules
from core.process.rows import row_mean, row_sum
from core.testing.distributions import Gaussian, Mixture

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "sub_vp": schedules.sub_vp(),
}
SHAPE = (2, 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(components=4, shape=SHAPE):
    means = torch.randn(components, *shape, dtype=torch.float64, generator=generator(1))
    std = 0.2 + torch.rand(components, *shape, dtype=torch.float64, generator=generator(2))
    weights = torch.rand(components, dtype=torch.float64, generator=generator(3))
    return Mixture(means, std, weights / weights.sum())


WORLDS = {
    "gaussian": Gaussian(0.3, 0.5),
    "mixture": mixture(),
    "isotropic": Mixture(mixture().means, 0.4, mixture().weights),
}


def reference(world, alpha, sigma):
    """The law of alpha x0 + sigma eps, by torch.distributions."""
    if isinstance(world, Gaussian):
        mean = torch.full(SHAPE, world.mean, dtype=torch.float64)
        spread = (alpha**2 * world.std**2 + sigma**2) ** 0.5
        return Independent(Normal(alpha * mean, torch.full_like(mean, spread)), len(SHAPE))
    std = torch.as_tensor(world.std, dtype=torch.float64).expand(world.means.shape)
    spread = (alpha**2 * std**2 + sigma**2).sqrt()
    parts = Independent(Normal(alpha * world.means, spread), len(SHAPE))
    return MixtureSameFamily(Categorical(world.weights), parts)


def points(path, t, count=5):
    alpha, sigma = (float(v) for v in path.alpha_sigma(torch.tensor(t, dtype=torch.float64)))
    scale = (alpha**2 + sigma**2) ** 0.5
    x = scale * torch.randn(count, *SHAPE, dtype=torch.float64, generator=generator(5))
    return x.requires_grad_(), alpha, sigma


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("world", WORLDS)
def test_density_and_score_are_those_of_torch_distributions(world, path):
    world, path = WORLDS[world], PATHS[path]
    for t in (0.05, 0.4, 0.9):
        x, alpha, sigma = points(path, t)
        expected = reference(world, alpha, sigma).log_prob(x)
        (score,) = torch.autograd.grad(expected.sum(), x)
        times = torch.full((len(x),), t, dtype=torch.float64)
        for time in (t, times):
            # Rounding of float64 over six elements and four components.
            assert (world.log_prob(path, x, time) - expected).abs().max() < 1e-10
            assert (world.score(path, x, time) - score).abs().max() < 1e-12 / sigma**2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("world", WORLDS)
def test_the_denoiser_is_tweedies_and_the_trace_that_of_its_jacobian(world, path):
    world, path = WORLDS[world], PATHS[path]
    for t in (0.05, 0.4, 0.9):
        x, alpha, sigma = points(path, t)
        log_p = reference(world, alpha, sigma).log_prob(x).sum()
        (score,) = torch.autograd.grad(log_p, x)
        times = torch.full((len(x),), t, dtype=torch.float64)
        x0 = world.denoiser(path)(x, times).x0
        assert (x0 - (x + sigma**2 * score) / alpha).abs().max() < 1e-12 / alpha
        diagonal = [
            torch.autograd.grad(x0.flatten(1)[:, i].sum(), x, retain_graph=True)[0].flatten(1)[:, i]
            for i in range(6)
        ]
        assert (world.trace(path, x, t) - sum(diagonal)).abs().max() < 1e-11 / alpha


@pytest.mark.parametrize("world", WORLDS)
def test_clean_density_is_the_data_s_and_the_limit_of_the_noisy_one(world):
    world = WORLDS[world]
    x = torch.randn(4, *SHAPE, dtype=torch.float64, generator=generator())
    expected = reference(world, 1.0, 0.0).log_prob(x)
    assert (world.log_density(x) - expected).abs().max() < 1e-11
    assert (world.log_prob(PATHS["flow"], x, 0.0) - expected).abs().max() < 1e-11


def test_draws_have_the_moments_of_the_world():
    """4 standard errors of 40,000 draws: shares, component means, component spreads."""
    world, n = mixture(), 40_000
    x = world.draw(n, generator())
    mean = torch.einsum("k,kij->ij", world.weights, world.means)
    second = torch.einsum("k,kij->ij", world.weights, world.means**2 + world.std**2)
    spread = (second - mean**2).sqrt()
    assert ((x.mean(0) - mean) / spread).abs().max() < 4 / n**0.5
    # Of a mixture no fourth moment exceeds 3 of the widest component's; 10 standard errors of it.
    assert (x.var(0) / spread**2 - 1).abs().max() < 10 * (2 / n) ** 0.5
    y = Gaussian(0.3, 0.5).draw((n, 1), generator())
    assert abs(float(y.mean()) - 0.3) < 4 * 0.5 / n**0.5
    assert abs(float(y.std()) - 0.5) < 4 * 0.5 / (2 * n) ** 0.5


def test_responsibilities_are_bayes_rule_and_weigh_the_components():
    world, path = mixture(), PATHS["vp_linear"]
    x, alpha, sigma = points(path, 0.3)
    spread = (alpha**2 * world.std**2 + sigma**2).sqrt()
    log_p = Normal(alpha * world.means, spread).log_prob(x[:, None]).flatten(2).sum(2)
    joint = world.weights * log_p.exp()
    expected = joint / joint.sum(1, keepdim=True)
    found = world.responsibilities(path, x, 0.3)
    assert (found - expected).abs().max() < 1e-12
    t = torch.full((len(x),), 0.3, dtype=torch.float64)
    said = torch.stack([world.component(path, k)(x, t).x0 for k in range(4)], 1)
    whole = (expected[:, :, None, None] * said).sum(1)
    assert (whole - world.denoiser(path)(x, t).x0).abs().max() < 1e-12


def test_a_component_s_denoiser_is_that_of_its_gaussian():
    path = PATHS["edm"]
    world = Mixture(torch.full((1, 2), 0.3), 0.5, torch.ones(1))
    x = torch.randn(5, 2, dtype=torch.float64, generator=generator())
    t = torch.linspace(0.1, 5, 5, dtype=torch.float64)
    expected = Gaussian(0.3, 0.5).denoiser(path)(x, t).x0
    # 0.3 is stored in float32 here.
    assert (world.component(path, 0)(x, t).x0 - expected).abs().max() < 1e-7


def test_the_posterior_variance_is_tweedies_of_second_order():
    """Cov[x0 | x] = sigma^2 / alpha d x0 / d x."""
    world, path = Gaussian(0.3, 0.5), PATHS["sub_vp"]
    x, alpha, sigma = points(path, 0.4)
    expected = sigma**2 / alpha * world.trace(path, x, 0.4)[0] / 6
    assert world.x0_variance(path, 0.4) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("components", [1, 3, 5, 8])
@pytest.mark.parametrize("shape", [(1,), (3,), (8,), (3, 7, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_s_answers_are_the_same_bits_alone_and_in_a_batch(components, shape, dtype):
    world, path = mixture(components, shape), PATHS["vp_linear"]
    x = torch.randn(37, *shape, dtype=dtype, generator=generator())
    t = torch.linspace(0.05, 0.95, 37, dtype=torch.float64)
    asks = (
        lambda x, t: world.denoiser(path)(x, t).x0,
        lambda x, t: world.log_prob(path, x, t),
        lambda x, t: world.score(path, x, t),
        lambda x, t: world.trace(path, x, t),
    )
    for ask in asks:
        together = ask(x, t)
        for i in (0, 13, 36):
            assert torch.equal(ask(x[i : i + 1], t[i : i + 1])[0], together[i])
        assert torch.equal(ask(x[5:9], t[5:9]), together[5:9])


def test_times_of_every_element_mean_each_element_s_own_level():
    world, path = Gaussian(0.3, 0.5), PATHS["vp_linear"]
    x = torch.randn(2, 3, dtype=torch.float64, generator=generator())
    t = torch.rand(2, 3, dtype=torch.float64, generator=generator()) * 0.9 + 0.05
    whole = world.denoiser(path)(x, t).x0
    split = mixture(3, (3,)).denoiser(path)(x, t).x0
    for i in range(3):
        one = Gaussian(0.3, 0.5).denoiser(path)(x[:, i : i + 1], t[:, i])
        assert torch.equal(one.x0[:, 0], whole[:, i])
    same = mixture(3, (3,)).denoiser(path)(x, t[:, :1].expand(2, 3)).x0
    assert (same - mixture(3, (3,)).denoiser(path)(x, t[:, 0]).x0).abs().max() < 1e-14
    assert (split - same).abs().max() > 1e-3


def test_a_row_sum_is_the_sum_and_keeps_small_terms():
    x = torch.randn(3, 5, 7, dtype=torch.float64, generator=generator())
    assert (row_sum(x) - x.sum((1, 2))).abs().max() < 1e-13
    assert (row_mean(x) - x.mean((1, 2))).abs().max() < 1e-14
    assert torch.equal(row_sum(x[:, 0, 0]), x[:, 0, 0])
    # One after the other, 2^24 ones in float32 would stop at 2^24; halving is exact beyond.
    assert float(row_sum(torch.ones(1, 2**24 + 2))[0]) == 2**24 + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_sum_is_the_same_bits_alone_in_a_batch_and_in_any_layout(dtype):
    """The library's own sum of these transposed rows differs in most of them."""
    x = torch.randn(100, 37, dtype=dtype, generator=generator()).T
    together = row_sum(x)
    for i in range(37):
        assert torch.equal(row_sum(x[i : i + 1])[0], together[i])
    assert torch.equal(row_sum(x.contiguous()), together)
