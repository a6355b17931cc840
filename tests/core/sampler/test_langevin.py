"""Critically-damped Langevin diffusion against matrix exponentials, moment equations and Gaussians.

Exact variances, no random draw: on Gaussian data every step is affine, so the responses to the
start and to each unit of noise add up.
"""

import math
from fractions import Fraction

import pytest
import torch

from core.errors import InputError
from core.process.langevin import (
    CriticallyDamped,
    Phase,
    Symmetric,
    unit_factor,
    unit_flow,
    unit_noise,
)
from core.process.noise import Noise
from core.sampler.langevin import (
    euler_maruyama,
    probability_flow,
    quadratic_times,
    symmetric_splitting,
)
from core.testing.orders import slope

pytestmark = pytest.mark.battery

PROCESSES = {
    "constant": CriticallyDamped(),
    "linear": CriticallyDamped(beta_min=1.0, beta_max=8.0, gamma=0.25),
    "heavy": CriticallyDamped(beta_min=2.0, beta_max=6.0, mass=1.5, gamma=0.5),
}
MEAN, STD = 0.3, 0.5


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def generator(process, t):
    """Drift matrix and noise per unit of time, as section 3 of the paper states the SDE."""
    beta = process.beta_min + (process.beta_max - process.beta_min) * t
    friction = 2 * process.mass**0.5
    drift = beta * float64([0, 1 / process.mass], [-1, -friction / process.mass])
    return drift, float64([0, 0], [0, 2 * friction * beta])


def as_matrix(moments, index=0):
    xx, xv, vv = (float(m.reshape(-1)[index]) for m in moments)
    return float64([xx, xv], [xv, vv])


@pytest.mark.parametrize("name", PROCESSES)
def test_moments_are_those_of_the_matrix_exponential_where_it_is_well_conditioned(name):
    """Van Loan's block exponential with int beta <= 1.4: errors of some e^4 ulps."""
    process, still = PROCESSES[name], float64([0, 0], [0, 0])
    for t in (0.01, 0.1, 0.3):
        area = process.beta_min * t + (process.beta_max - process.beta_min) * t**2 / 2
        drift, noise = (m / process.beta_min * area for m in generator(process, 0.0))
        blocks = torch.cat([torch.cat([-drift, noise], 1), torch.cat([still, drift.T], 1)])
        whole = torch.linalg.matrix_exp(blocks)
        flow = whole[2:, 2:].T
        start = float64([0, 0], [0, process.gamma * process.mass])
        expected = flow @ whole[:2, 2:] + flow @ start @ flow.T
        assert (as_matrix(process.covariance(float64(t))) - expected).abs().max() < 1e-13
        mean = torch.stack(process.mean(float64(t))).flatten()
        assert (mean - flow[:, 0]).abs().max() < 1e-13


@pytest.mark.parametrize("name", PROCESSES)
def test_moments_solve_their_differential_equations_to_the_end(name):
    """dm = A m dt, dS = (A S + S A^T + G) dt by Runge-Kutta 4 in 3000 steps: error below 1e-10."""
    process, n = PROCESSES[name], 3000
    mean = float64(1, 0)
    cov = float64([0, 0], [0, process.gamma * process.mass])

    def rates(t, mean, cov):
        drift, noise = generator(process, t)
        return drift @ mean, drift @ cov + cov @ drift.T + noise

    for i in range(n):
        t, h = i / n, 1 / n
        k1 = rates(t, mean, cov)
        k2 = rates(t + h / 2, mean + h / 2 * k1[0], cov + h / 2 * k1[1])
        k3 = rates(t + h / 2, mean + h / 2 * k2[0], cov + h / 2 * k2[1])
        k4 = rates(t + h, mean + h * k3[0], cov + h * k3[1])
        mean = mean + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        cov = cov + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
        if i + 1 in (n // 3, 2 * n // 3, n):
            now = float64((i + 1) / n)
            assert (torch.stack(process.mean(now)).flatten() - mean).abs().max() < 1e-10
            assert (as_matrix(process.covariance(now)) - cov).abs().max() < 1e-10


@pytest.mark.parametrize("s", [1e-9, 1e-6, 1e-3, 0.1, 1.0, 4.0])
@pytest.mark.parametrize("gamma", [0.0, 0.04])
def test_the_factor_keeps_its_digits_down_to_tiny_times(s, gamma):
    """Against exact rational arithmetic, relative, where float64 formulas would lose all of it."""
    exact = Fraction(s)
    decay = sum(((-2 * exact) ** k / math.factorial(k) for k in range(60)), Fraction(0))
    exact_gamma = Fraction(gamma)
    xx = 1 - decay * (1 + 2 * exact + 2 * exact**2) + decay * exact_gamma * exact**2
    xw = 2 * exact**2 * decay + decay * exact_gamma * exact * (1 - exact)
    ww = 1 - decay * (1 - 2 * exact + 2 * exact**2) + decay * exact_gamma * (1 - exact) ** 2
    found = unit_factor(float64(s), gamma)
    assert float(found.xx) ** 2 == pytest.approx(float(xx), rel=1e-13, abs=0)
    assert float(found.xv) ** 2 == pytest.approx(float(xw**2 / xx), rel=1e-13, abs=0)
    # A constant factor of the brackets is lost to cancellation; it is at most 100.
    assert float(found.vv) ** 2 == pytest.approx(float(ww - xw**2 / xx), rel=1e-13, abs=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_diffusing_gives_the_stated_mean_and_covariance(name):
    """The response to x0 and to each unit of noise, at times that differ in the batch."""
    process, t = PROCESSES[name], float64(0.0, 1e-4, 0.3, 1.0)
    one, zero = torch.ones(4, 2, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)
    of_x0 = process.diffuse(one, t, Phase(zero, zero))
    left, right = (process.diffuse(zero, t, Phase(a, b)) for a, b in [(one, zero), (zero, one)])
    expected, mean = process.covariance(t), process.mean(t)
    assert torch.equal(of_x0.position[:, 1], mean[0])
    assert torch.equal(of_x0.velocity[:, 1], mean[1])
    assert not right.position.any()
    found = Symmetric(
        left.position[:, 0] ** 2,
        left.position[:, 0] * left.velocity[:, 0],
        left.velocity[:, 0] ** 2 + right.velocity[:, 0] ** 2,
    )
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 1e-14
    assert float(left.position[0, 0]) == 0  # at t = 0 the data, and v0 ~ N(0, gamma M)
    assert float(right.velocity[0, 0]) == pytest.approx((process.gamma * process.mass) ** 0.5)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_score_of_the_true_noise_is_the_gradient_of_the_log_density(name):
    """By autograd through N(mean x0, covariance), the velocity's part."""
    process, t = PROCESSES[name], float64(0.05, 0.7)
    x0 = float64([0.4], [-1.2])
    eps = Phase(float64([0.3], [-0.9]), float64([1.1], [0.2]))
    phase = process.diffuse(x0, t, eps)
    for i in range(2):
        v = phase.velocity[i].clone().requires_grad_()
        point = torch.stack([phase.position[i, 0], v[0]])
        mean = torch.stack([m[i] * x0[i, 0] for m in process.mean(t)])
        law = torch.distributions.MultivariateNormal(mean, as_matrix(process.covariance(t), i))
        (gradient,) = torch.autograd.grad(law.log_prob(point), v)
        assert abs(gradient - process.score(eps.velocity, t)[i]) < 1e-9


@pytest.mark.parametrize("name", PROCESSES)
def test_the_clock_is_the_integral_of_the_rate_and_has_its_inverse(name):
    process, t = PROCESSES[name], torch.linspace(0, 1, 1001, dtype=torch.float64)
    rate = (process.beta_min + (process.beta_max - process.beta_min) * t) / process.mass**0.5
    area = torch.trapezoid(rate, t)  # exact for a linear rate
    assert abs(process.clock(float64(1.0))[0] - area) < 1e-12
    assert (process.time_of_clock(process.clock(t)) - t).abs().max() < 1e-14


def test_a_prior_has_unit_positions_and_velocities_of_the_mass():
    """4 standard errors of 40,000 draws; the process itself ends within 1e-3 of it."""
    process, n = PROCESSES["heavy"], 40_000
    start = process.prior(torch.zeros(1, n, dtype=torch.float64), Noise([5]))
    for found, variance in [(start.position, 1.0), (start.velocity, 1.5)]:
        assert abs(float(found.var()) / variance - 1) < 4 * (2 / n) ** 0.5
    correlation = float((start.position * start.velocity).mean()) / 1.5**0.5
    assert abs(correlation) < 4 / n**0.5
    end = CriticallyDamped().covariance(float64(1.0))
    assert (as_matrix(end) - float64([1, 0], [0, 0.25])).abs().max() < 1e-3


# --- samplers on Gaussian data -----------------------------------------------------------------


def law_of(process, t):
    """Mean and covariance of unit (x, w) at t, data N(MEAN, STD^2): the moment equations' answer.

    The flow and the noise are checked above, against the matrix exponential.
    """
    a, b, c, d = unit_flow(process.clock(t))
    n, data, velocity = unit_noise(process.clock(t)), STD**2, process.gamma
    cov = Symmetric(
        n.xx + a * a * data + b * b * velocity,
        n.xv + a * c * data + b * d * velocity,
        n.vv + c * c * data + d * d * velocity,
    )
    return (a * MEAN, c * MEAN), cov


def score_of(process, centred=True):
    root = process.mass**0.5

    def score(phase, t):
        (m_x, m_w), cov = law_of(process, t)
        xx, xw, ww = (value[:, None] for value in cov)
        x, w = phase.position, phase.velocity / root
        if not centred:
            x, w = x - m_x[:, None], w - m_w[:, None]
        return -(xx * w - xw * x) / (xx * ww - xw**2) / root

    return score


class Impulses(Noise):
    """Sample k hears a unit of noise at draw k and silence otherwise."""

    def __init__(self, draws):
        super().__init__(range(draws))
        self._next = 0

    def like(self, x):
        unit = torch.zeros_like(x)
        unit[self._next] = 1
        self._next += 1
        return unit


def start_of(process, rows):
    """The last two rows: columns of the Cholesky factor at t = 1."""
    _, (xx, xw, ww) = law_of(process, float64(1.0))
    x, w = (torch.zeros(rows, 1, dtype=torch.float64) for _ in range(2))
    x[-1], w[-1], w[-2] = xx.sqrt(), xw / xx.sqrt(), (ww - xw**2 / xx).sqrt()
    return Phase(x, process.mass**0.5 * w)


def covariance_of(end, process):
    """Of unit (x, w): responses add up."""
    x, w = end.position[:, 0], end.velocity[:, 0] / process.mass**0.5
    return float64([float(x @ x), float(x @ w)], [float(x @ w), float(w @ w)])


METHODS = {
    "euler_maruyama": (euler_maruyama, {}, 1),
    "splitting_euler": (symmetric_splitting, {"kick": "euler"}, 1),
    "splitting_midpoint": (symmetric_splitting, {"kick": "midpoint"}, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", METHODS)
def test_each_sampler_has_its_weak_order_on_a_gaussian(method, name):
    """The variances of position and velocity, from 96 to 384 steps."""
    solve, options, order = METHODS[method]
    process = PROCESSES[name]
    counts, errors = (96, 192, 384), []
    for count in counts:
        rows = 4 * count + 2
        grid, start = quadratic_times(steps=count), start_of(process, rows)
        end = solve(score_of(process), process, grid, start, Impulses(rows), **options)
        found = covariance_of(end, process).diagonal()
        errors.append((found / float64(STD**2, process.gamma) - 1).abs())
    for which in range(2):
        found = slope(counts, [float(error[which]) for error in errors])
        assert found == pytest.approx(order, abs=0.15), f"{found:.3f} of {which}"


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_each_sampler_goes_to_the_datas_mean(method):
    """Without noise and from the mean: what 400 steps leave, 0.013 and 1e-4 at most."""
    solve, options, order = METHODS[method]
    process = PROCESSES["linear"]
    (m_x, m_w), _ = law_of(process, float64(1.0))
    start = Phase(m_x[:, None], process.mass**0.5 * m_w[:, None])
    noise = Noise([0])
    noise.like = torch.zeros_like
    found = solve(
        score_of(process, centred=False), process, quadratic_times(steps=400), start, noise,
        **options,
    )  # fmt: skip
    assert float(found.position) == pytest.approx(MEAN, abs=0.02 if order == 1 else 2e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_probability_flow_carries_the_last_law_to_the_first(name):
    """A linear map, so its covariance is exact; tolerances 1e-9, one Euler step of 1e-5 at last."""
    process = PROCESSES[name]
    end = probability_flow(score_of(process), process, start_of(process, 2), rtol=1e-9, atol=1e-9)
    found = covariance_of(end, process)
    assert (found - float64([STD**2, 0], [0, process.gamma])).abs().max() < 1e-6


def test_a_sample_is_the_same_alone_and_in_a_batch():
    process, x = CriticallyDamped(), torch.zeros(5, 2, 3)

    def run(seeds, like):
        noise, grid = Noise(seeds), quadratic_times(steps=8)
        start = process.prior(like, noise)
        score = score_of(process)

        def of_any_shape(phase, t):
            flat = Phase(*(part.flatten(1) for part in phase))
            return score(flat, t).reshape(phase.position.shape).to(phase.position)

        return symmetric_splitting(of_any_shape, process, grid, start, noise).position

    together = run(range(5), x)
    assert together.dtype == torch.float32
    assert torch.equal(run([3], x[:1])[0], together[3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: CriticallyDamped(beta_min=5.0), "beta_min <= beta_max"),
        (lambda: CriticallyDamped(gamma=0.0), "gamma > 0"),
        (lambda: quadratic_times(steps=0), "at least 1"),
        (
            lambda: euler_maruyama(
                score_of(CriticallyDamped()), CriticallyDamped(), float64(0.0, 1.0),
                start_of(CriticallyDamped(), 2), Noise([0, 1]),
            ),
            "fall strictly",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_one_sentence(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()
