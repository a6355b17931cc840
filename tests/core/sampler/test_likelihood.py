"""Likelihoods and bounds against densities known in closed form."""

import math
from dataclasses import replace
from functools import partial

import numpy
import pytest
import torch
from torch.distributions import Normal

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.process import schedules
from core.process.noise import Noise
from core.sampler.grids import uniform_log_snr
from core.sampler.likelihood import bits_per_dim, continuous_bound, dequantise, discrete_bound, nll
from core.testing.distributions import Gaussian, Mixture
from core.testing.orders import assert_order

pytestmark = pytest.mark.battery

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "sub_vp": schedules.sub_vp(),
}
D = 8


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture():
    means = torch.randn(5, D, dtype=torch.float64, generator=generator(1))
    std = 0.2 + 0.4 * torch.rand(5, D, dtype=torch.float64, generator=generator(2))
    weights = torch.rand(5, dtype=torch.float64, generator=generator(3))
    return Mixture(means, std, weights / weights.sum())


WORLD = mixture()
X0 = WORLD.draw(8, generator(4))


class Fixed:
    """Draws that are the given numbers in turn, for every element."""

    def __init__(self, *values):
        self.values, self.next = values, 0

    def like(self, x):
        self.next += 1
        return torch.full_like(x, self.values[(self.next - 1) % len(self.values)])

    def between(self, x, start, end):
        return self.like(x)


def quantised(x, levels):
    """The nearest of the values 2 k / (levels - 1) - 1."""
    half = (levels - 1) / 2
    return ((x.clamp(-1, 1) + 1) * half).round() / half - 1


def both_signs():
    """Two draws of +-1 give the mean of any quadratic of a normal draw exactly."""
    return Fixed(1.0, -1.0)


def last_density(path, world=WORLD):
    return lambda x: world.log_prob(path, x, path.t_max)


def smoothed(path, x0, world=WORLD):
    """-log of the density of x at t_first with the scale taken out: what `nll` promises."""
    alpha, _ = path.alpha_sigma(double(path.t_first))
    log_p = world.log_prob(path, float(alpha) * x0, path.t_first)
    return -(log_p + x0[0].numel() * math.log(float(alpha)))


# --- the probability-flow ODE ------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_trace_gives_the_density_of_a_mixture(path):
    path = PATHS[path]
    found = nll(WORLD.denoiser(path), X0, trace="exact", rtol=1e-5, prior=last_density(path))
    bits = (found.nats - smoothed(path, X0)) / (D * math.log(2))
    assert bits.abs().max() < 1e-4
    # The noise at t_first is 1e-3 and 2e-3 of the data where it is most: 1e-4 bits of density.
    assert ((found.nats + WORLD.log_density(X0)) / (D * math.log(2))).abs().max() < 2e-4
    assert found.evaluations.double().mean() < 100  # 182 for the same error in sigma


@pytest.mark.slow
def test_the_default_prior_is_the_sampler_s_and_exact_where_the_process_ends_in_noise():
    path = PATHS["flow"]
    x0 = X0.reshape(8, 2, 4)
    world = replace(WORLD, means=WORLD.means.reshape(5, 2, 4), std=WORLD.std.reshape(5, 2, 4))
    found = nll(world.denoiser(path), x0, trace="exact", rtol=1e-8, atol=1e-9)
    # 20 rtol of some ten nats.
    assert (found.nats - smoothed(path, x0, world)).abs().max() < 2e-6
    vp = PATHS["vp_linear"]
    normal = nll(world.denoiser(vp), x0, trace="exact")
    given = nll(
        world.denoiser(vp), x0, trace="exact",
        prior=lambda x: Normal(double(0.0), float(vp.alpha_sigma(double(1.0))[1]))
        .log_prob(x).sum((1, 2)),
    )  # fmt: skip
    assert (normal.nats - given.nats).abs().max() < 1e-12


@pytest.mark.slow
def test_fixed_steps_are_of_order_four():
    path = PATHS["vp_linear"]
    exact = smoothed(path, X0)

    def error(steps):
        found = nll(
            WORLD.denoiser(path), X0, trace="exact", fixed_steps=steps,
            prior=last_density(path),
        )  # fmt: skip
        assert found.evaluations.tolist() == [4 * steps] * 8
        return float((found.nats - exact).abs().median())

    assert_order(error, 4, steps=(16, 32, 64), within=0.4)


def test_random_probes_are_exact_where_the_jacobian_is_diagonal():
    """e^T J e = tr J for signs e, whichever they are; not for normal draws."""
    path, world = PATHS["vp_linear"], Gaussian(0.3, 0.5)
    x0 = world.draw((3, 5), generator())
    denoise = world.denoiser(path)
    exact = nll(denoise, x0, trace="exact").nats
    for options in ({}, {"probes": 3}):
        assert (nll(denoise, x0, Noise(range(3)), **options).nats - exact).abs().max() < 1e-10
    fixed = [
        nll(denoise, x0, noise, trace=kind, fixed_steps=10).nats
        for kind, noise in (("exact", None), ("hutchinson", Noise(range(3))))
    ]
    assert (fixed[0] - fixed[1]).abs().max() < 1e-10


@pytest.mark.slow
def test_fresh_probes_on_a_fixed_grid_average_to_the_exact_trace():
    path, n = PATHS["vp_linear"], 4096
    denoise, options = WORLD.denoiser(path), {"fixed_steps": 16, "prior": last_density(path)}
    exact = nll(denoise, X0[7:8], trace="exact", **options).nats
    copies = X0[7:8].expand(n, D).contiguous()
    bits = (
        (nll(denoise, copies, Noise.of(1, each=range(n)), **options).nats - exact) / D / math.log(2)
    )
    assert abs(float(bits.mean())) < 3 * float(bits.std()) / n**0.5
    assert abs(float(bits.mean())) < 1e-3
    # Not by chance: one draw is off by thirty times as much, and by more with probes that stay.
    kept = nll(denoise, copies[:64], Noise(range(64)), prior=last_density(path)).nats
    assert 0.01 < float(bits.std()) < float(((kept - exact) / D / math.log(2)).std())


def test_more_probes_lower_the_spread_by_their_root():
    path, n = PATHS["flow"], 300
    denoise, copies = WORLD.denoiser(path), X0[2:3].expand(n, D).contiguous()
    spreads = [
        float(nll(denoise, copies, Noise(range(n)), probes=k, fixed_steps=6).nats.std())
        for k in (1, 4)
    ]
    # A ratio of two deviations of 300 draws has a standard error of 6 %: 4 of them.
    assert spreads[0] / spreads[1] == pytest.approx(2, rel=0.24)


@pytest.mark.parametrize("options", [{}, {"fixed_steps": 5}, {"trace": "exact"}], ids=str)
def test_a_sample_s_likelihood_is_the_same_bits_alone_and_in_a_batch(options):
    path = PATHS["edm"]
    denoise = WORLD.denoiser(path)
    together = nll(denoise, X0, Noise(range(8)), **options)
    alone = nll(denoise, X0[3:4], Noise([3]), **options)
    assert torch.equal(alone.nats[0], together.nats[3])
    assert alone.evaluations[0] == together.evaluations[3]


def test_a_network_in_single_precision_is_differentiated_under_no_grad():
    """The same affine denoiser, once as a float32 network and once as the Gaussian's."""
    path, world = PATHS["vp_linear"], Gaussian(0.0, 0.5)
    layer = torch.nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))

    @partial(FunctionDenoiser, path)
    def denoise(x, t, condition=None):
        alpha, sigma = path.alpha_sigma(t)
        gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
        return Prediction(gain[:, None].float() * condition["scale"] * layer(x))

    x0 = world.draw((3, 4), generator())
    condition = {"scale": torch.ones(3, 1)}
    with torch.no_grad():
        found = nll(denoise, x0.float(), Noise(range(3)), condition, fixed_steps=40)
    assert layer.weight.grad is None
    assert not found.nats.requires_grad
    exact = nll(world.denoiser(path), x0, trace="exact", fixed_steps=40).nats
    # float32's 6e-8 over sin(theta) = 1e-3 near the clean end, in slopes that matter little.
    assert (found.nats - exact).abs().max() < 1e-3


def test_what_cannot_be_had_is_refused():
    path = PATHS["edm"]
    denoise = WORLD.denoiser(path)
    with pytest.raises(InputError, match="take hutchinson"):
        nll(denoise, torch.zeros(1, 5000), trace="exact")
    with pytest.raises(InputError, match="give a noise"):
        nll(denoise, X0)
    with pytest.raises(InputError, match="fixed_steps >= 1"):
        nll(denoise, X0, Noise(range(8)), fixed_steps=0)
    with pytest.raises(InputError, match="has no graph"):
        nll(torch.no_grad()(denoise), X0, trace="exact")
    with pytest.raises(InputError, match="at least 2"):
        continuous_bound(denoise, X0, Noise(range(8)), levels=1)
    with pytest.raises(InputError, match="not quantised to 256"):
        continuous_bound(denoise, X0, Noise(range(8)), levels=256)
    with pytest.raises(InputError, match="end clean"):
        discrete_bound(denoise, X0, Noise(range(8)), grid=double([80.0, 1.0]))
    grid = double([80.0, 1.0, 0.0])
    with pytest.raises(InputError, match="with the variance of x0"):
        discrete_bound(denoise, X0, Noise(range(8)), grid=grid, variance="analytic")
    with pytest.raises(InputError, match="learned none"):
        discrete_bound(denoise, X0, Noise(range(8)), grid=grid, variance="learned")


# --- bounds ------------------------------------------------------------------------------------


def test_the_continuous_bound_of_an_exact_denoiser_is_the_likelihood_of_a_gaussian():
    """Sample by sample.  Ends beyond all data: 1e-10 of its variance, a prior e^-20 off."""
    path, world = schedules.edm(sigma_min=1e-5, sigma_max=1e5), Gaussian(0.3, 0.5)
    x0 = world.draw((6, 2, 3), generator())
    found = continuous_bound(world.denoiser(path), x0, both_signs(), draws=2)
    assert (found.total + world.log_density(x0)).abs().max() < 1e-6


@pytest.mark.parametrize("levels", [None, 16])
def test_the_continuous_bound_is_the_same_for_every_process_between_the_same_ends(levels):
    ends, totals = double([8.0, -8.0]), []
    x0 = X0 if levels is None else quantised(X0, levels)
    for path in PATHS.values():
        first, last = path.time_of_log_snr(ends).tolist()
        cut = replace(path, t_first=first, t_max=last)
        found = continuous_bound(WORLD.denoiser(cut), x0, Noise(range(8)), nodes=8, levels=levels)
        totals.append(found.total)
    for total in totals[1:]:
        assert (total / totals[0] - 1).abs().max() < 1e-6


def test_a_wrong_denoiser_pays_its_squared_error():
    """Answers shifted by c add n c^2 / 2 times the integral of the SNR, here its rise."""
    path, world = schedules.edm(sigma_min=0.1, sigma_max=1e3), Gaussian(0.3, 0.5)
    x0, c = world.draw((4, 3), generator()), 0.2
    right = world.denoiser(path)

    @partial(FunctionDenoiser, path)
    def wrong(x, t, condition=None):
        return Prediction(right(x, t).x0 + c)

    totals = [
        continuous_bound(d, x0, both_signs(), draws=2, nodes=96).diffusion for d in (right, wrong)
    ]
    gain = totals[1] - totals[0]
    # x0 itself adds a term linear in c, which is 0 on average over x0 alone: take it exactly.

    @partial(FunctionDenoiser, path)
    def opposite(x, t, condition=None):
        return Prediction(2 * right(x, t).x0 - wrong(x, t).x0)

    alone = continuous_bound(opposite, x0, both_signs(), draws=2, nodes=96).diffusion
    rise = (1 / 0.1**2 - 1 / 1e3**2) * 3 * c**2 / 2
    assert ((gain + alone - totals[0]) / 2 - rise).abs().max() < 1e-6 * rise


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_the_chain_with_the_best_variance_is_exact_on_a_gaussian(steps):
    """q(x_u | x_t) is normal there, so the bound is the likelihood for any number of steps."""
    path, world = PATHS["flow"], Gaussian(0.3, 0.5)
    x0 = world.draw((6, 4), generator())
    grid = uniform_log_snr(path, steps=steps, log_snr_max=6.0)
    found = discrete_bound(
        world.denoiser(path), x0, both_signs(), grid=grid, variance="analytic", draws=2
    )
    assert (found.total + world.log_density(x0)).abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_chain_s_bound_falls_to_the_likelihood_with_order_one(variance):
    path, world = PATHS["vp_linear"], Gaussian(0.3, 0.5)
    x0 = world.draw((6, 4), generator())

    def error(steps):
        grid = uniform_log_snr(path, steps=steps, log_snr_max=8.0)
        options = {"grid": grid, "draws": 2}
        best, other = (
            discrete_bound(world.denoiser(path), x0, both_signs(), variance=kind, **options)
            for kind in ("analytic", variance)
        )
        assert torch.equal(best.prior, other.prior)
        return float((other.diffusion - best.diffusion).mean())

    assert_order(error, 1, steps=(64, 128, 256))


def test_the_chain_s_bound_approaches_that_of_continuous_time():
    """On a mixture, between the same ends and with one decoder; the rest falls as 1 / steps."""
    path = replace(PATHS["vp_linear"], t_first=1e-3)
    n = 400
    x0 = WORLD.draw(n, generator(8))
    top = float(path.log_snr(double(1e-3)))
    noise = Noise(range(n))
    continuous = continuous_bound(WORLD.denoiser(path), x0, noise, nodes=96).diffusion
    gaps = []
    for steps in (20, 80):
        grid = uniform_log_snr(path, steps=steps, log_snr_max=top)
        chain = discrete_bound(WORLD.denoiser(path), x0, Noise(range(n)), grid=grid)
        gaps.append((chain.diffusion - continuous).mean())
    scatter = float((chain.diffusion - continuous).std()) / n**0.5
    assert abs(float(gaps[1] - gaps[0] / 4)) < 4 * scatter + 0.1 * float(gaps[0])
    assert float(gaps[0]) > 8 * scatter


@pytest.mark.parametrize(("share", "kind"), [(0.0, "small"), (1.0, "large")])
def test_the_learned_variance_runs_from_the_small_to_the_large(share, kind):
    path = PATHS["vp_linear"]
    denoise = WORLD.denoiser(path)

    @partial(FunctionDenoiser, path)
    def learned(x, t, condition=None):
        return Prediction(denoise(x, t).x0, variance_fraction=torch.full_like(x, share))

    grid = uniform_log_snr(path, steps=7)
    found = discrete_bound(learned, X0, Noise(range(8)), grid=grid, variance="learned")
    expected = discrete_bound(denoise, X0, Noise(range(8)), grid=grid, variance=kind)
    assert (found.total / expected.total - 1).abs().max() < 1e-12


def test_the_terms_of_a_short_chain_are_those_worked_out_with_torch_distributions():
    path, world = PATHS["vp_linear"], Gaussian(0.3, 0.5)
    x0, times = world.draw((2, 3), generator()), [1.0, 0.4, 0.0]
    grid = double(times)
    found = discrete_bound(world.denoiser(path), x0, Fixed(0.7), grid=grid, variance="large")
    (a_t, s_t), (a_u, s_u) = ((float(v) for v in path.alpha_sigma(double(t))) for t in times[:2])
    divergence = torch.distributions.kl_divergence
    prior = divergence(Normal(a_t * x0, s_t), Normal(0 * x0, s_t)).sum(1)
    assert (found.prior - prior).abs().max() < 1e-10

    def estimate(x, a, s):
        return 0.3 + a * 0.25 / (a**2 * 0.25 + s**2) * (x - a * 0.3)

    x = a_t * x0 + 0.7 * s_t
    beta = s_t**2 - (a_t / a_u) ** 2 * s_u**2  # Ho et al. 2020, eq. 6 and 7
    tilde = s_u**2 / s_t**2 * beta

    def mean(clean):
        return a_u * beta / s_t**2 * clean + a_t / a_u * s_u**2 / s_t**2 * x

    step = divergence(
        Normal(mean(x0), tilde**0.5), Normal(mean(estimate(x, a_t, s_t)), beta**0.5)
    ).sum(1)
    assert (found.diffusion - step).abs().max() < 1e-10
    said = estimate(a_u * x0 + 0.7 * s_u, a_u, s_u)
    last = -Normal(said, s_u / a_u).log_prob(x0).sum(1)
    assert (found.reconstruction - last).abs().max() < 1e-10


@pytest.mark.parametrize("log_snr", [-2.0, 4.0, 14.0])
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_the_decoder_s_probabilities_of_all_values_sum_to_one(levels, log_snr):
    """One step, an answer that ignores x: the reconstruction is -log P(value)."""
    path = PATHS["flow"]
    values = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    at = float(path.time_of_log_snr(double(log_snr)))
    grid = double([at, 0.0])

    @partial(FunctionDenoiser, path)
    def denoise(x, t, condition=None):
        return Prediction(torch.full_like(x, 0.1))

    found = discrete_bound(denoise, values, Fixed(0.0), grid=grid, levels=levels)
    assert float((-found.reconstruction).exp().sum()) == pytest.approx(1, abs=1e-12)
    if levels == 5:
        cut = Normal(double(0.1), math.exp(-log_snr / 2)).cdf(double([-0.75, 0.25, 0.75]))
        expected = [cut[0], 1 - cut[2], cut[2] - cut[1]]
        got = (-found.reconstruction).exp()[[0, 4, 3]].tolist()
        assert got == pytest.approx([float(e) for e in expected], rel=1e-9, abs=1e-14)


def test_a_value_far_from_the_estimate_costs_the_square_of_the_distance():
    """Thirty deviations off, where the two sides of the bin differ by nothing in floats."""
    path = PATHS["flow"]
    std = 1 / 30
    at = float(path.time_of_log_snr(double(-2 * math.log(std))))
    grid = double([at, 0.0])
    x0 = double([[1.0], [-1.0]])
    found = discrete_bound(
        FunctionDenoiser(path, lambda x, t, condition=None: Prediction(-0.0 * x)),
        x0,
        Fixed(0.0),
        grid=grid,
        levels=256,
    )
    # -log of the tail beyond a, Mills: a^2 / 2 + log(a sqrt(2 pi)) + O(1 / a^2).
    a = (1 - 1 / 255) / std
    expected = a**2 / 2 + math.log(a * (2 * math.pi) ** 0.5)
    assert found.reconstruction.tolist() == pytest.approx([expected, expected], abs=2 / a**2)


def test_the_discrete_decoder_of_continuous_time_is_bayes_rule_over_the_values():
    """Two values: the surprise of the right one is log(1 + exp(-2 / s^2 - 2 eps / s))."""
    path = schedules.edm(sigma_min=0.8, sigma_max=80.0)
    x0, s, eps = double([[1.0]]), 0.8, 0.5
    denoise = Gaussian().denoiser(path)
    found = continuous_bound(denoise, x0, Fixed(eps), levels=2).reconstruction
    assert float(found) == pytest.approx(math.log1p(math.exp(-2 / s**2 - 2 * eps / s)), rel=1e-12)
    mean = continuous_bound(denoise, x0, Fixed(eps, -eps), levels=2, draws=2).reconstruction
    other = math.log1p(math.exp(-2 / s**2 + 2 * eps / s))
    assert float(mean) == pytest.approx((float(found) + other) / 2, rel=1e-12)


def test_the_quadrature_has_numpy_s_nodes():
    """Through the times that are asked for, at which log-SNR has Gauss-Legendre's nodes."""
    path, asked = schedules.edm(sigma_min=math.exp(-4), sigma_max=math.exp(4)), []

    @partial(FunctionDenoiser, path)
    def denoise(x, t, condition=None):
        asked.append(float(t[0]))
        return Prediction(x)

    continuous_bound(denoise, X0, Noise(range(8)), nodes=12)
    expected = 8 * numpy.polynomial.legendre.leggauss(12)[0]
    got = numpy.sort(path.log_snr(double(asked)).numpy())
    assert numpy.abs(got - expected).max() < 1e-10


@pytest.mark.parametrize("levels", [None, 256])
def test_a_sample_s_bounds_are_the_same_bits_alone_and_in_a_batch(levels):
    path = PATHS["vp_linear"]
    denoise, grid = WORLD.denoiser(path), uniform_log_snr(path, steps=4)
    x0 = X0 if levels is None else quantised(X0, levels)
    for ask in (
        lambda x, noise: continuous_bound(denoise, x, noise, nodes=4, levels=levels),
        lambda x, noise: discrete_bound(denoise, x, noise, grid=grid, levels=levels),
    ):
        together, alone = ask(x0, Noise(range(8))), ask(x0[5:6], Noise([5]))
        for whole, one in zip(together, alone, strict=True):
            assert torch.equal(one[0], whole[5])


# --- discrete data -----------------------------------------------------------------------------


def test_dequantised_values_fill_their_bins():
    """By hand: of 4 values, bins of width 1/2 from -1; a normal draw of 0 is the middle."""
    x = double([[-1.0, -1 / 3, 1 / 3, 1.0]])
    middle = dequantise(x, Fixed(0.0), levels=4)
    assert middle[0].tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75], abs=1e-12)
    quarter = float(Normal(0, 1).icdf(double(0.25)))
    low = dequantise(x, Fixed(quarter), levels=4)
    assert low[0].tolist() == pytest.approx([-0.875, -0.375, 0.125, 0.625], abs=1e-12)
    assert dequantise(x, Fixed(-40.0), levels=4)[0].tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert float(dequantise(x, Fixed(40.0), levels=4).max()) <= 1


def test_dequantisation_is_uniform_and_loses_no_value():
    k = torch.arange(256).repeat(40)
    for dtype in (torch.float32, torch.float64):
        x = (2 * k.double() / 255 - 1).to(dtype)[None]
        y = dequantise(x, Noise([1]))
        at = (y.double() + 1) / 2 * 256
        u = at[0] - k
        # Rounding to float32, of values near 1, may cross the edge of a bin of 256.
        slack = 256 * torch.finfo(dtype).eps
        assert u.min() > -slack
        assert u.max() < 1 + slack
        n = len(k)
        assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / n) ** 0.5
        assert abs(float((u**2).mean()) - 1 / 3) < 4 * (4 / 45 / n) ** 0.5


def test_data_that_is_not_quantised_is_refused():
    with pytest.raises(InputError, match="not quantised to 256 levels"):
        dequantise(torch.tensor([[0.0]]), Noise([1]))  # 127.5: between two values
    with pytest.raises(InputError, match="not quantised"):
        dequantise(torch.tensor([[1 + 2 / 255]]), Noise([1]))
    with pytest.raises(InputError, match="at least 2"):
        dequantise(torch.tensor([[1.0]]), Noise([1]), levels=1)


def test_uniform_data_costs_the_logarithm_of_its_levels():
    """Density 1/2 on [-1, 1]: n log 2 nats; 8 bits of 256 levels, 1 bit of 2."""
    nats = double([12 * math.log(2)])
    assert float(bits_per_dim(nats, 12)) == pytest.approx(8, abs=1e-12)
    assert float(bits_per_dim(nats, (3, 2, 2))) == pytest.approx(8, abs=1e-12)
    assert float(bits_per_dim(nats, 12, levels=2)) == pytest.approx(1, abs=1e-12)
    # A probability needs no offset: 256 equal values have log 256 nats each.
    assert float(bits_per_dim(8 * nats, 12, levels=None)) == pytest.approx(8, abs=1e-12)


def test_bits_of_a_density_at_the_bins_middles_are_those_of_the_values():
    """N(0, 1/4): -log2 of the mass of each bin; the middle rule is off by (w / s)^2 / 24."""
    x = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]
    world = Gaussian(0.0, 0.5)
    found = bits_per_dim(-world.log_density(dequantise(x, Fixed(0.0))), 1)
    edges = torch.linspace(-1, 1, 257, dtype=torch.float64)
    mass = Normal(0, 0.5).cdf(edges).diff()
    assert (found + mass.log2()).abs().max() < 4 * (2 / 256 / 0.5) ** 2 / 24 / math.log(2)
