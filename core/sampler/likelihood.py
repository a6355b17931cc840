"""Likelihoods of data: the density of the probability-flow ODE, and two variational bounds.

All are in nats of a sample; `bits_per_dim` converts them.  The prior is the sampler's,
N(0, sigma^2) at the noisy end.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, Prediction
from core.denoiser.variance import Variance, jacobian_trace, rademacher, step_variance
from core.errors import InputError
from core.process.gaussian import GaussianPath, over
from core.process.noise import Source
from core.process.rows import row_sum
from core.sampler.adaptive import Slope, angle_of, at_angle, dormand_prince
from core.sampler.ancestral import Ancestral
from core.sampler.sample import conditioned
from core.sampler.solver import Estimate

# Exact traces cost a backward pass for every element: above this, days.
MOST_ELEMENTS = 4096
# Log-SNR below which a process that ends in pure noise is cut: e^-20 of the signal is left.
LOWEST_LOG_SNR = -20.0

LogDensity = Callable[[Tensor], Tensor]


# --- the probability-flow ODE ------------------------------------------------------------------


class Likelihood(NamedTuple):
    """Negative log densities.

    Args:
        nats: negative log density of each sample.
        evaluations: calls of the denoiser that each sample took.
    """

    nats: Float64[Tensor, " b"]
    evaluations: Int[Tensor, " b"]


def nll(
    denoise: Denoiser,
    x0: Float[Tensor, " b *shape"],
    noise: Source | None = None,
    condition: Condition | None = None,
    *,
    trace: Literal["hutchinson", "exact"] = "hutchinson",
    probes: int = 1,
    fixed_steps: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    prior: LogDensity | None = None,
) -> Likelihood:
    """-log p(x0) = -log p_T(x_T) - int div, along the probability-flow ODE from t_first to t_max.

    In z = x / sqrt(alpha^2 + sigma^2) and the angle theta = atan(sigma / alpha) the divergence is
    (n cos(theta) - tr d x0_hat / d z) / sin(theta).  The density is that of x at `t_first`, with
    the scale alpha taken out, at x0: the data's, smoothed by the little noise there.
    Source: Song et al. 2021, arXiv:2011.13456, eq. 39 and 40; Grathwohl et al. 2019,
    arXiv:1810.01367.

    Args:
        denoise: estimates the clean sample.
        x0: continuous data; see `dequantise`.
        noise: draws the probes, one stream per sample; not needed for exact traces.
        condition: passed on to `denoise`.
        trace: exact, a vector-Jacobian product for every element, or Hutchinson's estimate.
        probes: random signs per estimate, averaged.
        fixed_steps: of the classical Runge-Kutta rule, with fresh probes in every step, more exact
            for the same work; None adapts the steps to `rtol` and keeps the probes.
        rtol: relative tolerance of adapted steps.
        atol: absolute tolerance of adapted steps.
        prior: log density of x at t_max (b,); that of N(0, sigma^2) where None.

    Raises:
        InputError: no noise for probes, none of them, no step, or too many elements for `exact`.
    """
    elements = x0[0].numel()
    _check_nll(trace, probes, fixed_steps, elements)
    process, estimate = denoise.process, conditioned(denoise, condition)
    first, last = _floats(process, process.t_first), _floats(process, process.t_max)
    start, end = angle_of(process, process.t_first), angle_of(process, process.t_max)

    def slope() -> Slope:  # of (z, int div), with fresh probes
        signs = None if trace == "exact" else _probes(noise, x0, probes)
        return lambda y, theta: _flow_and_divergence(process, estimate, y, theta, x0, signs)

    # z = x / scale at t_first, where x = alpha x0, and the integral so far
    z = first.alpha / first.scale * x0.flatten(1).double()
    y = torch.cat([z, torch.zeros_like(z[:, :1])], dim=1)
    if fixed_steps is None:
        y, evaluations = dormand_prince(slope(), y, start, end, rtol=rtol, atol=atol)
    else:
        for now, then in pairwise(_angles(start, end, fixed_steps)):
            y = _runge_kutta(slope(), y, now, then)
        evaluations = torch.full((len(x0),), 4 * fixed_steps, device=x0.device)
    # eq. 39: log p(x0) = log p_T(x_T) + int div + log |d (x_T, x0) / d (z_T, z_0)|
    x = (last.scale * y[:, :-1]).reshape(x0.shape)
    log_prior = _log_normal(x, last.sigma) if prior is None else prior(x).double()
    log_p = log_prior + y[:, -1] + elements * math.log(first.alpha * last.scale / first.scale)
    return Likelihood(-log_p, evaluations)


def _probes(noise: Source | None, x0: Tensor, count: int) -> list[Tensor]:
    if noise is None:
        raise InputError("noise: hutchinson draws probes; give a noise, or take trace='exact'")
    return [rademacher(noise, x0) for _ in range(count)]


def _check_nll(trace: str, probes: int, steps: int | None, elements: int) -> None:
    if trace == "exact" and elements > MOST_ELEMENTS:
        raise InputError(
            f"trace: exact takes a backward pass for each of {elements} elements, more than "
            f"{MOST_ELEMENTS}; take hutchinson"
        )
    if probes < 1 or (steps is not None and steps < 1):
        raise InputError(f"expected probes and fixed_steps >= 1, got {probes} and {steps}")


def _flow_and_divergence(
    process: GaussianPath,
    estimate: Estimate,
    y: Tensor,
    theta: Tensor,
    like: Tensor,
    signs: list[Tensor] | None,
) -> Tensor:
    """The slope of (z, int div) at every sample's angle."""
    angle = at_angle(process, theta)
    # x = scale z, so tr(d x0 / d z) = scale tr(d x0 / d x), eq. 40 by probes
    z = y[:, :-1].reshape(like.shape)
    x = (over(angle.scale, z) * z).to(like.dtype)
    prediction, trace = jacobian_trace(lambda x: estimate(x, angle.t), x, signs)
    # dz/dtheta = v = (cos z - x0) / sin, and div v
    v = (over(angle.cos, z) * z - prediction.x0.double()) / over(angle.sin, z)
    divergence = (like[0].numel() * angle.cos - angle.scale * trace) / angle.sin
    return torch.cat([v.flatten(1), divergence[:, None]], dim=1)


def _angles(start: float, end: float, steps: int) -> list[float]:
    """Angles from `start` to `end` that crowd towards `start`, where sharp data bends the flow."""
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return (start + (end - start) * ramp**2).tolist()


def _runge_kutta(slope: Slope, y: Tensor, now: float, then: float) -> Tensor:
    """One step of the classical rule of order 4."""
    h, at = then - now, torch.full((len(y),), now, dtype=torch.float64, device=y.device)
    k1 = slope(y, at)
    k2 = slope(y + h / 2 * k1, at + h / 2)
    k3 = slope(y + h / 2 * k2, at + h / 2)
    k4 = slope(y + h * k3, torch.full_like(at, then))
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _log_normal(x: Tensor, std: float) -> Tensor:
    """Log density of N(0, std^2) at every sample (b,)."""
    return row_sum(-((x.double() / std) ** 2) / 2 - math.log(std) - math.log(2 * math.pi) / 2)


class _Level(NamedTuple):
    """A noise level as floats."""

    alpha: float
    sigma: float

    @property
    def scale(self) -> float:
        """sqrt(alpha^2 + sigma^2)."""
        return math.hypot(self.alpha, self.sigma)


def _floats(process: GaussianPath, t: float) -> _Level:
    alpha, sigma = process.alpha_sigma(t)
    return _Level(float(alpha), float(sigma))


# --- bounds ------------------------------------------------------------------------------------


class VariationalBound(NamedTuple):
    """The terms of an upper bound on the negative log-likelihood, in nats of each sample.

    Args:
        prior: KL of the noisy end from the prior.
        diffusion: the terms between the two ends.
        reconstruction: of the data given the cleanest level.
    """

    prior: Float64[Tensor, " b"]
    diffusion: Float64[Tensor, " b"]
    reconstruction: Float64[Tensor, " b"]

    @property
    def total(self) -> Float64[Tensor, " b"]:
        """The bound."""
        return self.prior + self.diffusion + self.reconstruction


@torch.no_grad()
def continuous_bound(
    denoise: Denoiser,
    x0: Float[Tensor, " b *shape"],
    noise: Source,
    condition: Condition | None = None,
    *,
    nodes: int = 64,
    draws: int = 1,
    levels: int | None = None,
) -> VariationalBound:
    """The bound of continuous time: (1/2) int E|eps - eps_hat|^2 d log-SNR, and both its ends.

    The integral is Gauss and Legendre's over log-SNR from the noisy end, or -20 where that is
    lower, to `t_first`; it is the same for every process with these ends.  The reconstruction of
    continuous data is N(x / alpha, (sigma / alpha)^2) at `t_first`, whose mean over x is known:
    n/2 (log(2 pi e) - log-SNR).  That of data with `levels` values 2 k / (levels - 1) - 1 gives
    each value the probability it has from x alone, and the bound is then of a probability.
    Source: Kingma et al. 2021, arXiv:2107.00630, eq. 8 and 15 to 18.

    Args:
        denoise: estimates the clean sample.
        x0: data.
        noise: draws eps, one stream per sample; fresh at every node.
        condition: passed on to `denoise`.
        nodes: of the quadrature; a call each.
        draws: of eps at every node, averaged.
        levels: number of values that the data has; None for continuous data.

    Raises:
        InputError: fewer than one node or draw, or data that has other values than the levels.
    """
    _check_draws(x0, nodes, draws, levels)
    process, estimate = denoise.process, conditioned(denoise, condition)
    ends = torch.tensor([process.t_max, process.t_first], dtype=torch.float64)
    low, high = process.log_snr(ends).tolist()
    low = max(low, LOWEST_LOG_SNR)
    points, weights = _gauss_legendre(nodes, low, high)
    # eq. 15 to 18: 1/2 int SNR E|x0 - x0_hat|^2 d log-SNR, which is the error of eps
    diffusion = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for t, weight in zip(process.time_of_log_snr(points).tolist(), weights.tolist(), strict=True):
        alpha, sigma = _floats(process, t)
        for _ in range(draws):
            x = alpha * x0 + sigma * noise.like(x0)
            error = x0.double() - estimate(x, t).x0.double()
            diffusion += weight / (2 * draws) * (alpha / sigma) ** 2 * row_sum(error**2)
    # KL(N(alpha x0, sigma^2), N(0, sigma^2)) = SNR |x0|^2 / 2 at the noisy end
    prior = math.exp(low) / 2 * row_sum(x0.double() ** 2)
    # the entropy of x / alpha given x0, or -log p(x0 | x) among the levels
    if levels is None:
        each = (math.log(2 * math.pi * math.e) - high) / 2
        return VariationalBound(prior, diffusion, torch.full_like(prior, x0[0].numel() * each))
    alpha, sigma = _floats(process, process.t_first)
    reconstruction = torch.zeros_like(prior)
    for _ in range(draws):
        centre = x0.double() + sigma / alpha * noise.like(x0)
        reconstruction += _nats_of_level(x0, centre, sigma / alpha, levels) / draws
    return VariationalBound(prior, diffusion, reconstruction)


@torch.no_grad()
def discrete_bound(
    denoise: Denoiser,
    x0: Float[Tensor, " b *shape"],
    noise: Source,
    condition: Condition | None = None,
    *,
    grid: Float64[Tensor, " n"],
    variance: Variance = "small",
    draws: int = 1,
    levels: int | None = None,
) -> VariationalBound:
    """The bound of a chain: L_T + sum KL(q(x_u | x_t, x0) | p(x_u | x_t)) + L_0.

    The last step, into the clean level, is the decoder: N(x0_hat, s^2), with s^2 the denoiser's
    variance of x0 where `variance` is analytic, (sigma / alpha)^2 otherwise; for data with `levels`
    values the mass of that normal in each value's bin, the outer bins open.
    Source: Ho et al. 2020, arXiv:2006.11239, eq. 5 and 13; the variances as in
    `core.sampler.ancestral.Ancestral`.

    Args:
        denoise: estimates the clean sample.
        x0: data.
        noise: draws eps, one stream per sample; fresh at every step.
        condition: passed on to `denoise`.
        grid: falling times, the last clean; a call for each step.
        variance: of each step: small, large, learned or analytic.
        draws: of eps at every step, averaged.
        levels: number of values 2 k / (levels - 1) - 1 that the data has; None for continuous.

    Raises:
        InputError: a grid that does not end clean, a variance that the denoiser lacks, no draw, or
            data that has other values than the levels.
    """
    _check_draws(x0, 1, draws, levels)
    process, estimate = denoise.process, conditioned(denoise, condition)
    if len(grid) < 2 or _floats(process, float(grid[-1])).sigma > 0:
        raise InputError(
            f"grid: expected falling times that end clean, at t = {process.t_min}, got "
            f"{len(grid)} times down to {float(grid[-1])}"
        )
    *steps, decoder = Ancestral(variance=variance).plan(process, grid)
    diffusion = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    reconstruction = torch.zeros_like(diffusion)
    for row in (*steps, decoder):
        level = _floats(process, row.mean.t)
        for _ in range(draws):
            prediction = estimate(level.alpha * x0 + level.sigma * noise.like(x0), row.mean.t)
            if row is decoder:
                nats = _decoder_nats(prediction, x0, level, variance, levels)
                reconstruction += nats / draws
            else:
                p_variance = step_variance(
                    prediction, variance, x0, small=row.small, large=row.large, b=row.mean.x0
                )
                shift = row.mean.x0 * (x0.double() - prediction.x0.double())
                diffusion += _divergence(shift, row.small, p_variance) / draws
    # L_T = KL(N(alpha x0, sigma^2), N(0, sigma^2))
    alpha, sigma = _floats(process, float(grid[0]))
    prior = (alpha / sigma) ** 2 / 2 * row_sum(x0.double() ** 2)
    return VariationalBound(prior, diffusion, reconstruction)


def _divergence(error: Tensor, q_variance: float, p_variance: Tensor) -> Tensor:
    """KL(q, p) of each sample: two diagonal normals with means `error` apart."""
    ratio = (q_variance + error**2) / p_variance
    return row_sum((p_variance / q_variance).log() + ratio - 1) / 2


def _decoder_nats(
    prediction: Prediction, x0: Tensor, level: _Level, variance: Variance, levels: int | None
) -> Tensor:
    """L_0 = -log p(x0 | x_t) of each sample at the last step."""
    known = (level.sigma / level.alpha) ** 2 if level.alpha > 0 else math.inf  # of x0 from x alone
    if variance == "analytic":
        s2 = step_variance(prediction, "analytic", x0, small=0.0, large=0.0, b=1.0)
    else:
        s2 = step_variance(prediction, "small", x0, small=known, large=0.0, b=1.0)
    return _nats(x0, x0.double() - prediction.x0.double(), s2.sqrt(), levels)


def _check_draws(x0: Tensor, nodes: int, draws: int, levels: int | None) -> None:
    if nodes < 1 or draws < 1:
        raise InputError(f"expected nodes and draws >= 1, got {nodes} and {draws}")
    if levels is not None:
        _level_numbers(x0, levels)


def _gauss_legendre(nodes: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Points and weights on [low, high], from the eigenvalues of the Jacobi matrix.

    Source: Golub and Welsch 1969, Math. Comp. 23.
    """
    k = torch.arange(1, nodes, dtype=torch.float64)
    off_diagonal = k / (4 * k**2 - 1).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    points, vectors = torch.linalg.eigh(jacobi)
    half = (high - low) / 2
    return low + half * (points + 1), 2 * half * vectors[0] ** 2


def _nats(x0: Tensor, error: Tensor, std: Tensor, levels: int | None) -> Tensor:
    """-log N(error; 0, std^2) of each sample, or of the mass in the bin around each value."""
    if levels is None:
        return row_sum((error / std) ** 2 / 2 + (2 * math.pi * std**2).log() / 2)
    # Ho et al. 2020, eq. 13: the mass between half a level below and above
    half = 1 / (levels - 1)
    upper, lower = (error + half) / std, (error - half) / std
    # In the upper tail the difference of two values near 1 would vanish: mirror it.
    mirror = error > 0
    upper, lower = torch.where(mirror, -lower, upper), torch.where(mirror, -upper, lower)
    # The outer bins are open.
    last, first = x0 > 1 - half, x0 < half - 1
    upper = torch.where(torch.where(mirror, first, last), math.inf, upper)
    lower = torch.where(torch.where(mirror, last, first), -math.inf, lower)
    # log(Phi(upper) - Phi(lower))
    top, bottom = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return -row_sum(top + torch.log1p(-(bottom - top).exp()))


def _nats_of_level(x0: Tensor, centre: Tensor, std: float, levels: int) -> Tensor:
    """-log p(x0 | centre) among the levels, in proportion to N(centre; level, std^2)."""
    values = torch.linspace(-1, 1, levels, dtype=torch.float64, device=x0.device)
    rows = []
    for row, at in zip(x0.double(), centre, strict=True):  # a sample at a time, for memory
        log_all = -((at[..., None] - values) ** 2) / (2 * std**2)
        log_own = -((at - row) ** 2) / (2 * std**2)
        rows.append((log_all.logsumexp(-1) - log_own).reshape(1, -1))
    return row_sum(torch.cat(rows))


# --- discrete data -----------------------------------------------------------------------------


def dequantise(
    x: Float[Tensor, " b *shape"], noise: Source, *, levels: int = 256
) -> Float[Tensor, " b *shape"]:
    """Data with `levels` values made continuous: value k is spread evenly over its bin.

    Value k, stored as 2 k / (levels - 1) - 1, becomes 2 (k + u) / levels - 1 with u uniform in
    [0, 1): bins of width 2 / levels that fill [-1, 1].  The mean of -log2 of a density of this is
    at least that of the values' probability (Theis et al. 2016, arXiv:1511.01844, section 3.1).

    Args:
        x: values in [-1, 1].
        noise: one stream per sample.
        levels: number of values.

    Raises:
        InputError: fewer than two levels, or a value that is none of them.
    """
    k = _level_numbers(x, levels)
    u = torch.special.ndtr(noise.like(x.double())).clamp(max=1 - 1e-12)
    return (2 * (k + u) / levels - 1).to(x.dtype)


def _level_numbers(x: Tensor, levels: int) -> Tensor:
    """The k of values 2 k / (levels - 1) - 1, float64.

    Raises:
        InputError: fewer than two levels, or a value that is none of them.
    """
    if levels < 2:
        raise InputError(f"levels: expected at least 2, got {levels}")
    exact = (x.double() + 1) / 2 * (levels - 1)
    k = exact.round()
    # Half precision misplaces 256 values by up to an eighth of a step.
    if bool(((exact - k).abs() > 0.13).any()) or bool(((k < 0) | (k >= levels)).any()):
        raise InputError(
            f"levels: expected values 2 k / {levels - 1} - 1 in [-1, 1], got others; the data is "
            f"not quantised to {levels} levels"
        )
    return k


def bits_per_dim(
    nats: Float[Tensor, " *b"], dims: int | Sequence[int], *, levels: int | None = 256
) -> Float[Tensor, " *b"]:
    """Bits per element: nats / (n log 2) + log2(levels / 2).

    The offset turns a density over [-1, 1] into the probability of a bin of width 2 / levels, as
    `dequantise` makes them: a uniform density costs log2(levels) bits.

    Args:
        nats: negative log-likelihood of each sample, over all its elements.
        dims: number of elements of a sample, or their shape.
        levels: number of values; None where `nats` is of a probability already, or of the density
            of data that was never quantised.
    """
    elements = dims if isinstance(dims, int) else math.prod(dims)
    offset = 0.0 if levels is None else math.log2(levels / 2)
    return nats / (elements * math.log(2)) + offset
