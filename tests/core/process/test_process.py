"""Forward processes against formulas written in the papers, not in the code."""

import math

import pytest
import torch

from core.errors import InputError
from core.parts.registry import Spec
from core.process import schedules
from core.process.gaussian import GaussianPath, over
from core.process.schedules import from_betas

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "beta_table": schedules.beta_table(),
    "edm": schedules.edm(),
    "sub_vp": schedules.sub_vp(),
    "ve": schedules.ve(),
    "flow": schedules.flow(),
    "flow_3": schedules.flow(shift=3.0),
    "zero_linear": schedules.zero_terminal_snr(),
    "zero_table": schedules.beta_table(zero_terminal_snr=True),
    "shifted": schedules.shifted(),
}
PRESERVING = ["vp_linear", "vp_cosine", "beta_table", "zero_linear", "zero_table", "shifted"]


def times(path: GaussianPath, n: int = 50) -> torch.Tensor:
    share = torch.linspace(0.001, 0.999, n, dtype=torch.float64)
    return path.t_first + share * (path.t_max - path.t_first)


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_is_preserved(name):
    alpha, sigma = PATHS[name].alpha_sigma(times(PATHS[name]))
    assert (alpha**2 + sigma**2 - 1).abs().max() < 1e-14


@pytest.mark.parametrize("name", PATHS)
def test_log_snr_falls_and_its_inverse_undoes_it(name):
    path = PATHS[name]
    t = times(path)
    assert (path.log_snr(t).diff() < 0).all()
    assert (path.time_of_log_snr(path.log_snr(t)) - t).abs().max() < 1e-9 * path.t_max


def test_inverse_by_bisection_equals_the_closed_form():
    path = PATHS["vp_cosine"]

    class NoInverse:
        def alpha_sigma(self, t):
            return path.alpha_sigma(t)

    blind = GaussianPath(NoInverse(), path.t_min, path.t_max, path.t_first)
    t = times(path)
    assert (blind.time_of_log_snr(path.log_snr(t)) - t).abs().max() < 1e-12


def test_vp_linear_has_the_drift_and_diffusion_of_the_vp_sde():
    t = times(PATHS["vp_linear"])
    beta = 0.1 + t * 19.9  # Song et al. 2021, eq. 32
    f, g2 = PATHS["vp_linear"].drift_diffusion(t)
    assert (f + beta / 2).abs().max() < 1e-12
    assert (g2 / beta - 1).abs().max() < 1e-12


def test_edm_has_no_drift_and_diffusion_2t():
    t = times(PATHS["edm"])
    f, g2 = PATHS["edm"].drift_diffusion(t)
    assert f.abs().max() == 0
    assert (g2 / (2 * t) - 1).abs().max() < 1e-12


def alpha_of_vp(t):
    """exp(-int beta / 2) with Song et al. 2021, eq. 32."""
    return torch.exp(-(0.1 * t + 19.9 * t**2 / 2) / 2)


def test_sub_vp_has_the_drift_and_diffusion_of_its_sde():
    """Song et al. 2021, eq. 29: f = -beta/2, g^2 = beta (1 - exp(-2 int beta))."""
    t = times(PATHS["sub_vp"])
    beta = 0.1 + t * 19.9
    f, g2 = PATHS["sub_vp"].drift_diffusion(t)
    assert (f + beta / 2).abs().max() < 1e-12
    assert (g2 / (beta * (1 - alpha_of_vp(t) ** 4)) - 1).abs().max() < 1e-9  # 1 - near 1 cancels
    alpha, sigma = PATHS["sub_vp"].alpha_sigma(t)
    assert (sigma - (1 - alpha_of_vp(t) ** 2)).abs().max() < 1e-14
    assert (alpha - alpha_of_vp(t)).abs().max() < 1e-14


def test_ve_is_the_exact_solution_of_its_sde():
    """Song et al. 2021, eq. 30: no drift, g = s sqrt(2 log(S/s)) (S/s)^t, from sigma(0) = 0."""
    path, low, high = PATHS["ve"], 0.01, 50.0
    t = times(path)
    f, g2 = path.drift_diffusion(t)
    assert f.abs().max() == 0
    g = low * (2 * math.log(high / low)) ** 0.5 * (high / low) ** t
    assert (g2 / g**2 - 1).abs().max() < 1e-12
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(path.alpha_sigma(zero)[1]) == 0


def test_flow_is_a_straight_line_and_its_shift_that_of_sd3():
    t, one = times(PATHS["flow"]), torch.ones(50, dtype=torch.float64)
    alpha, sigma = PATHS["flow"].alpha_sigma(t)
    assert torch.allclose(alpha, 1 - t, rtol=0, atol=1e-15)
    assert torch.allclose(sigma, t, rtol=0, atol=1e-15)
    later = 3 * t / (1 + (3 - 1) * t)  # Esser et al. 2024, eq. 23
    alpha, sigma = PATHS["flow_3"].alpha_sigma(t)
    assert (sigma - later).abs().max() < 1e-15
    assert (alpha + sigma - one).abs().max() < 1e-15


def test_zero_terminal_snr_is_the_algorithm_written_out():
    """Lin et al. 2023, algorithm 1, line by line in plain floats."""
    betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    product, roots = 1.0, []
    for beta in betas:
        product *= 1 - beta
        roots.append(product**0.5)
    first, last = roots[0], roots[-1]
    fixed = [(root - last) * first / (first - last) for root in roots]
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    alpha, sigma = PATHS["zero_table"].alpha_sigma(t)
    expected = torch.tensor(fixed, dtype=torch.float64)
    assert (alpha - expected).abs().max() < 1e-12
    assert float(alpha[-1]) == 0
    assert float(sigma[-1]) == 1
    assert float(alpha[0]) == pytest.approx((1 - 1e-4) ** 0.5, abs=1e-12)


def test_ending_in_noise_keeps_the_clean_end_and_removes_the_rest_of_the_signal():
    before, after = PATHS["vp_linear"], PATHS["zero_linear"]
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert after.alpha_sigma(ends)[0].tolist() == [1.0, 0.0]
    t = times(before)
    a = float(before.alpha_sigma(ends)[0][1])
    assert (after.alpha_sigma(t)[0] - (before.alpha_sigma(t)[0] - a) / (1 - a)).abs().max() < 1e-15


@pytest.mark.parametrize("name", ["vp_cosine", "sub_vp", "ve", "flow"])
def test_a_shift_lowers_log_snr_by_twice_the_logarithm_and_keeps_the_scale(name):
    path = PATHS[name]
    shifted, t = schedules.shifted(process=Spec(f"core/{name}"), factor=4.0), times(path)
    assert (shifted.log_snr(t) - path.log_snr(t) + 2 * math.log(4)).abs().max() < 1e-12
    squares = [sum(value**2 for value in p.alpha_sigma(t)) for p in (path, shifted)]
    assert (squares[1] / squares[0] - 1).abs().max() < 1e-14


def test_beta_table_has_ddpm_products_at_its_nodes():
    betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    product, expected = 1.0, []
    for beta in betas:
        product *= 1 - beta
        expected.append(product)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    alpha, sigma = PATHS["beta_table"].alpha_sigma(t)
    assert (alpha**2 / torch.tensor(expected, dtype=torch.float64) - 1).abs().max() < 1e-12
    assert (sigma**2 - (1 - torch.tensor(expected, dtype=torch.float64))).abs().max() < 1e-14


def test_beta_table_is_exact_where_one_minus_alpha_cancels():
    betas = torch.full((4,), 1e-12, dtype=torch.float64)
    _, sigma = from_betas(betas).alpha_sigma(torch.tensor([0.25, 1.0], dtype=torch.float64))
    assert (sigma**2 / torch.tensor([1e-12, 4e-12], dtype=torch.float64) - 1).abs().max() < 1e-9


def test_cosine_follows_the_paper_and_ends_where_its_beta_is_clipped():
    path = PATHS["vp_cosine"]
    t = times(path)

    def f(time):  # Nichol and Dhariwal 2021, eq. 17
        return torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    alpha, _ = path.alpha_sigma(t)
    assert (alpha**2 / (f(t) / f(torch.zeros((), dtype=torch.float64))) - 1).abs().max() < 1e-9
    last = torch.tensor([path.t_max, path.t_max - 1e-3], dtype=torch.float64)
    kept = path.alpha_sigma(last)[0] ** 2
    assert float(1 - kept[0] / kept[1]) == pytest.approx(0.999, abs=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_posterior_is_bayes_rule_on_three_jointly_gaussian_variables(name):
    """q(x_u | x_t, x0) by conditioning the covariance of (x_u, x_t) given x0."""
    path = PATHS[name]
    t, u = path.t_first + 0.7 * (path.t_max - path.t_first), path.t_first + 0.3 * path.t_max
    t, u = torch.tensor(t, dtype=torch.float64), torch.tensor(u, dtype=torch.float64)
    (alpha_t, sigma_t), (alpha_u, sigma_u) = path.alpha_sigma(t), path.alpha_sigma(u)
    ratio = alpha_t / alpha_u
    shared = ratio * sigma_u**2  # cov(x_u, x_t | x0), x_t = ratio x_u + fresh noise
    gain = shared / sigma_t**2
    a, b, variance = path.posterior_coefficients(t, u)
    assert float(a) == pytest.approx(float(gain), rel=1e-12)
    assert float(b) == pytest.approx(float(alpha_u - gain * alpha_t), rel=1e-10)
    assert float(variance) == pytest.approx(float(sigma_u**2 - gain * shared), rel=1e-9)


@pytest.mark.parametrize(
    "name", ["vp_linear", "vp_cosine", "beta_table", "edm", "sub_vp", "ve", "flow"]
)
def test_marginal_spread_equals_a_simulated_sde(name):
    """Euler-Maruyama on dx = f x dt + g dw from x0 = 1; 4 standard errors of 10,000 paths."""
    path = PATHS[name]
    start, end = (path.t_first + part * (path.t_max - path.t_first) for part in (0.05, 0.5))
    alpha, sigma = path.alpha_sigma(torch.tensor([start, end], dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    n, steps = 10_000, 1000
    x = alpha[0] + sigma[0] * torch.randn(n, dtype=torch.float64, generator=generator)
    # Time steps in proportion to a power, so that the early, fast noise is resolved.
    grid = torch.linspace(start**0.25, end**0.25, steps + 1, dtype=torch.float64) ** 4
    f, g2 = path.drift_diffusion((grid[1:] + grid[:-1]) / 2)
    for step, size in enumerate(grid.diff()):
        z = torch.randn(n, dtype=torch.float64, generator=generator)
        x = x + f[step] * x * size + (g2[step] * size).sqrt() * z
    assert abs(float(x.mean() - alpha[1])) < 4 * float(sigma[1]) / n**0.5 + 1e-3
    assert abs(float(x.std() / sigma[1]) - 1) < 4 / (2 * n) ** 0.5 + 2e-3


def test_time_may_differ_per_sample_and_per_element():
    path, x0 = PATHS["vp_linear"], torch.ones(2, 3, 4, dtype=torch.float64)
    eps = torch.zeros_like(x0)
    t = torch.tensor([0.1, 0.9], dtype=torch.float64)
    per_sample = path.diffuse(x0, t, eps)
    assert torch.equal(per_sample, path.diffuse(x0, t[:, None, None].expand(2, 3, 4), eps))
    assert float(per_sample[1, 0, 0]) == float(path.alpha_sigma(t)[0][1])
    assert over(t, x0).shape == (2, 1, 1)


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (schedules.vp_linear, {"beta_min": 5.0, "beta_max": 1.0}),
        (schedules.vp_cosine, {"offset": 0.0}),
        (schedules.vp_cosine, {"beta_max": 1.0}),
        (schedules.beta_table, {"steps": 1}),
        (schedules.beta_table, {"beta_end": 1.5}),
        (schedules.edm, {"sigma_min": 90.0}),
        (schedules.sub_vp, {"beta_min": 5.0, "beta_max": 1.0}),
        (schedules.ve, {"sigma_min": 60.0}),
        (schedules.flow, {"shift": 0.0}),
        (schedules.shifted, {"factor": -1.0}),
        (schedules.zero_terminal_snr, {"process": Spec("core/flow")}),
    ],
)
def test_impossible_schedules_are_refused(build, options):
    with pytest.raises(InputError, match="expected"):
        build(**options)
