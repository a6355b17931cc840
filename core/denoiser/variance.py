"""The variance of x0 given x_t, and of an ancestral step.

By Tweedie's formula of second order Cov[x0 | x_t] = (sigma^2 / alpha) d x0_hat / d x_t.  Its mean
over the elements makes the best variance of an ancestral step,

    variance(u | t) + b^2 x0_variance,      q(x_u | x_t, x0) = N(a x_t + b x0, variance(u | t)),

which is theorem 1 of Bao et al. 2022, arXiv:2201.06503.  It is measured once over a data set
(`score_norms`, `analytic`), or for every sample as it goes (`by_trace`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.errors import InputError
from core.process.gaussian import over
from core.process.noise import Source
from core.process.rows import row_mean, row_sum

Variance = Literal["small", "large", "learned", "analytic"]


# x -> the prediction at x, its time and condition fixed.
Predict = Callable[[Tensor], Prediction]


def step_variance(
    prediction: Prediction,
    kind: Variance,
    x: Float[Tensor, " b *shape"],
    *,
    small: float,
    large: float,
    b: float,
) -> Float64[Tensor, " b *shape"]:
    """The variance of every element of a reverse step.

    Source: Ho et al. 2020, arXiv:2006.11239, section 3.2 (small, large); Nichol and Dhariwal 2021,
    arXiv:2102.09672, eq. 15 (learned); Bao et al. 2022, arXiv:2201.06503, theorem 1 (analytic).

    Args:
        prediction: of the denoiser at `x`.
        kind: of the variance.
        x: at the step's start; gives shape and device.
        small: variance of q(x_u | x_t, x0).
        large: variance of q(x_t | x_u).
        b: coefficient of x0 in the mean of q(x_u | x_t, x0).

    Raises:
        InputError: the prediction lacks what this kind needs.
    """
    if kind == "learned":
        if prediction.variance_fraction is None:
            raise InputError(
                "variance: the network learned none; train with core/hybrid, or choose small, "
                "large or analytic"
            )
        # Nichol and Dhariwal, eq. 15: log variance = v log large + (1 - v) log small
        low, high = math.log(small), math.log(large)
        return (low + prediction.variance_fraction.double() * (high - low)).exp()
    if kind == "analytic":
        if prediction.x0_variance is None:
            raise InputError(
                "variance: analytic requires a denoiser with the variance of x0; see "
                "core.denoiser.variance.analytic"
            )
        # Bao et al., theorem 1: small + b^2 Var[x0 | x_t]
        return (small + b**2 * over(prediction.x0_variance, x.double())).expand(x.shape)
    chosen = small if kind == "small" else large
    return torch.full_like(x, chosen, dtype=torch.float64)


def rademacher(noise: Source, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
    """A draw of signs, +1 or -1 with equal chance, in the shape of `x`."""
    return torch.where(noise.like(x) < 0, -1.0, 1.0).to(x)


def jacobian_trace(
    predict: Predict,
    x: Float[Tensor, " b *shape"],
    probes: Sequence[Float[Tensor, " b *shape"]] | None = None,
) -> tuple[Prediction, Float64[Tensor, " b"]]:
    """The prediction at x, without a graph, and tr(d x0 / d x) of each sample.

    One vector-Jacobian product for each probe, mean of e^T (d x0 / d x) e (Hutchinson); without
    probes one for each element, exact.  Works where gradients are switched off.
    Source: Grathwohl et al. 2019, arXiv:1810.01367, eq. 7.

    Args:
        predict: x -> the denoiser's prediction; samples must not depend on one another.
        x: the point.
        probes: random directions with the identity as covariance; with another, C, the result is
            tr(C d x0 / d x).

    Raises:
        InputError: the prediction has no graph.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        prediction = predict(x)
        x0 = prediction.x0
        if not x0.requires_grad:
            raise InputError(
                "the trace of a denoiser's Jacobian requires gradients, and this prediction has no "
                "graph; remove the no_grad or detach inside the denoiser"
            )
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if probes is not None:  # Hutchinson: the mean of e^T J e
            for probe in probes:
                (pulled,) = torch.autograd.grad(x0, x, probe.to(x0), retain_graph=True)
                total = total + row_sum(pulled.double() * probe)
            total = total / len(probes)
        else:  # the diagonal of J, an element at a time
            flat = x0.flatten(1)
            for i in range(flat.shape[1]):
                (pulled,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)
                total = total + pulled.flatten(1)[:, i].double()
    return prediction.detached(), total


def by_trace(denoise: Denoiser, noise: Source) -> Denoiser:
    """`denoise` with x0_variance = (sigma^2 / alpha) tr(d x0 / d x) / d of each sample.

    One random probe a call: unbiased for an exact denoiser, at the price of a backward pass.

    Args:
        denoise: the denoiser.
        noise: draws the probes, one stream per sample.

    Raises:
        InputError: when called at pure noise, where x does not depend on x0.
    """

    def with_variance(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        alpha, sigma = denoise.process.alpha_sigma(t)
        if bool((alpha == 0).any()):
            raise InputError(
                "by_trace: alpha is 0 at the noisy end of this process; start the grid at a time "
                "with some signal, or take core.denoiser.variance.analytic"
            )
        # Probes of covariance sigma^2 / alpha: the scale may differ from element to element.
        probe = over((sigma**2 / alpha).sqrt(), x) * rademacher(noise, x)
        prediction, trace = jacobian_trace(lambda x: denoise(x, t, condition), x, [probe])
        return replace(prediction, x0_variance=(trace / x[0].numel()).clamp(min=0))

    return FunctionDenoiser(denoise.process, with_variance)


@dataclass(frozen=True)
class ScoreNorms:
    """Mean squares of a denoiser's noise and of its error over a data set, at nodes of log-SNR.

    Args:
        log_snr: the nodes, rising.
        norm: E|eps_hat|^2 / d; 1 in pure noise, lower where eps is uncertain.
        error: E|eps - eps_hat|^2 / d; 1 - norm for an exact denoiser.
    """

    log_snr: Float64[Tensor, " n"]
    norm: Float64[Tensor, " n"]
    error: Float64[Tensor, " n"]


@torch.no_grad()
def score_norms(
    denoise: Denoiser,
    batches: Iterable[tuple[Float[Tensor, " b *shape"], Condition | None]],
    noise: Source,
    log_snrs: Float64[Tensor, " n"],
) -> ScoreNorms:
    """Monte Carlo means of |eps_hat|^2 / d and |eps - eps_hat|^2 / d over clean samples.

    Source: Bao et al. 2022, arXiv:2201.06503, section 3.1 (their Gamma, times sigma^2).

    Args:
        denoise: the denoiser.
        batches: clean samples with their conditions; every batch of the size of `noise`.
        noise: draws eps, one stream per sample.
        log_snrs: nodes, rising, within the process.

    Raises:
        InputError: no batch, one of another size than `noise`, or nodes that do not rise.
    """
    if len(log_snrs) == 0 or bool((log_snrs.diff() <= 0).any()):
        raise InputError(f"log_snrs: expected rising values, got {log_snrs.tolist()}")
    times = denoise.process.time_of_log_snr(log_snrs)
    alphas, sigmas = denoise.process.alpha_sigma(times)
    norm, error = torch.zeros_like(times), torch.zeros_like(times)
    samples = 0
    for x0, condition in batches:
        samples += len(x0)
        for n in range(len(times)):
            eps = noise.like(x0)
            if eps.shape != x0.shape:
                raise InputError(
                    f"score_norms: expected batches of {len(eps)} samples, as many as the noise "
                    f"has streams, got {len(x0)}; leave the last, smaller batch out"
                )
            t = times[n].expand(len(x0)).to(x0.device)
            x = float(alphas[n]) * x0 + float(sigmas[n]) * eps
            prediction = denoise(x, t, condition).x0
            eps_hat = (x.double() - float(alphas[n]) * prediction.double()) / float(sigmas[n])
            norm[n] += row_mean(eps_hat**2).sum().cpu()
            error[n] += row_mean((eps - eps_hat) ** 2).sum().cpu()
    if samples == 0:
        raise InputError("score_norms: expected at least one batch, got none")
    return ScoreNorms(log_snrs, norm / samples, error / samples)


def analytic(
    denoise: Denoiser,
    table: ScoreNorms,
    *,
    of: Literal["norm", "error"] = "norm",
) -> Denoiser:
    """`denoise` with x0_variance = (sigma^2 / alpha^2) (1 - E|eps_hat|^2 / d) at t.

    Between the nodes log((1 - norm) / norm) is linear in log-SNR, which is exact for Gaussian
    data; beyond them it continues as for Gaussian data.  A norm outside (0, 1), as too few samples
    give at low log-SNR, is taken to be at its end.
    Source: Bao et al. 2022, arXiv:2201.06503, theorem 1, for the norm; with the error it is the
    best variance for a denoiser that is not exact (Bao et al. 2022, arXiv:2206.07309), and needs
    fewer samples.

    Args:
        denoise: the denoiser.
        table: from `score_norms`.
        of: column of the table: the norm, as in the first source, or the error.
    """
    # E|eps - eps_hat|^2 / d; of Gaussian data with variance v it is v SNR / (1 + v SNR)
    unknown = (1 - table.norm if of == "norm" else table.error).clamp(1e-12, 1 - 1e-12)
    log_data = unknown.log() - torch.log1p(-unknown) - table.log_snr  # log v

    def with_variance(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        alpha, sigma = denoise.process.alpha_sigma(t)
        value = _interpolated(2 * (alpha.log() - sigma.log()), table.log_snr, log_data).exp()
        # v sigma^2 / (alpha^2 v + sigma^2): finite where alpha or sigma is 0.
        of_x0 = value * sigma**2 / (alpha**2 * value + sigma**2)
        variance = of_x0 if t.ndim == 1 else over(of_x0, x)
        return replace(denoise(x, t, condition), x0_variance=variance)

    return FunctionDenoiser(denoise.process, with_variance)


def _interpolated(at: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Linear between the nodes, constant beyond."""
    nodes, values = nodes.to(at.device), values.to(at.device)
    if len(nodes) == 1:
        return values.expand(at.shape)
    at = at.clamp(nodes[0], nodes[-1])
    right = torch.searchsorted(nodes, at).clamp(1, len(nodes) - 1)
    weight = (at - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    return torch.lerp(values[right - 1], values[right], weight)
