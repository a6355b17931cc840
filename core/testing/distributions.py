"""Data distributions with closed-form denoisers: Gaussians and mixtures of them.

Each has the density of x_t at any time, its score, the denoiser and the trace of the denoiser's
Jacobian.  Times are a float, or (b,), or per element.  Results are computed in float64 and do not
depend on a sample's batch.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.process.gaussian import GaussianPath, Time, over, per_sample
from core.process.rows import row_sum


def _levels(process: GaussianPath, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
    """`alpha` and `sigma` in float64, broadcasting over x."""
    alpha, sigma = process.alpha_sigma(per_sample(t, x).to(x.device))
    return over(alpha, x.double()), over(sigma, x.double())


def _log_normal(apart: Tensor, variance: Tensor) -> Tensor:
    return -(apart**2 / variance + (2 * math.pi * variance).log()) / 2


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, std^2), independent in every element, of any shape.

    Args:
        mean: of the data.
        std: of the data, positive.
    """

    mean: float = 0.3
    std: float = 0.5

    def denoiser(self, process: GaussianPath) -> Denoiser:
        """E[x0 | x_t] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mean).

        With the variance of x0: std^2 sigma^2 / (alpha^2 std^2 + sigma^2).
        """

        def denoise(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
            alpha, sigma = _levels(process, t, x)
            of_x = alpha**2 * self.std**2 + sigma**2
            x0 = self.mean + alpha * self.std**2 / of_x * (x - alpha * self.mean)
            variance = (self.std**2 * sigma**2 / of_x).expand(x.shape)
            return Prediction(x0.to(x.dtype), x0_variance=variance)

        return FunctionDenoiser(process, denoise)

    def draw(
        self, shape: tuple[int, ...], generator: torch.Generator
    ) -> Float64[Tensor, " b *shape"]:
        """Clean samples (b, *shape)."""
        return self.mean + self.std * torch.randn(shape, generator=generator, dtype=torch.float64)

    def std_at(self, process: GaussianPath, t: float) -> float:
        """Standard deviation of x_t."""
        alpha, sigma = process.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        return float((alpha**2 * self.std**2 + sigma**2).sqrt())

    def mean_at(self, process: GaussianPath, t: float) -> float:
        """Mean of x_t."""
        alpha, _ = process.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        return float(alpha) * self.mean

    def flow(
        self, process: GaussianPath, x: Float[Tensor, " b *shape"], t: float, u: float
    ) -> Float[Tensor, " b *shape"]:
        """Where the probability-flow ODE takes x from t to u: (x - mean) / std is kept."""
        scale = self.std_at(process, u) / self.std_at(process, t)
        return self.mean_at(process, u) + scale * (x - self.mean_at(process, t))

    def log_density(self, x0: Float[Tensor, " b *shape"]) -> Float64[Tensor, " b"]:
        """Log density of clean data, nats."""
        variance = torch.full_like(x0, self.std**2, dtype=torch.float64)
        return row_sum(_log_normal(x0.double() - self.mean, variance))

    def log_prob(
        self, process: GaussianPath, x: Float[Tensor, " b *shape"], t: Time
    ) -> Float64[Tensor, " b"]:
        """Log density of x_t, nats."""
        alpha, sigma = _levels(process, t, x)
        apart, variance = x - alpha * self.mean, alpha**2 * self.std**2 + sigma**2
        return row_sum(_log_normal(apart, variance))

    def score(
        self, process: GaussianPath, x: Float[Tensor, " b *shape"], t: Time
    ) -> Float[Tensor, " b *shape"]:
        """Gradient of the log density of x_t."""
        alpha, sigma = _levels(process, t, x)
        return ((alpha * self.mean - x) / (alpha**2 * self.std**2 + sigma**2)).to(x.dtype)

    def x0_variance(self, process: GaussianPath, t: float) -> float:
        """Variance of an element of x0 given x_t, the same for every x_t."""
        alpha, sigma = process.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        return float(self.std**2 * sigma**2 / (alpha**2 * self.std**2 + sigma**2))

    def trace(
        self, process: GaussianPath, x: Float[Tensor, " b *shape"], t: Time
    ) -> Float64[Tensor, " b"]:
        """Trace of the denoiser's Jacobian d E[x0 | x_t] / d x_t."""
        alpha, sigma = _levels(process, t, x)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return row_sum(gain.expand(x.shape))


class _Parts(NamedTuple):
    """Quantities of each component at x_t."""

    log_joint: Float64[Tensor, " b k"]  # log of weight times density
    score: Float64[Tensor, " b k *shape"]
    gain: Float64[Tensor, " b k *shape"]  # d mean / d x_t
    mean: Float64[Tensor, " b k *shape"]  # E[x0 | x_t, component]


@dataclass(frozen=True)
class Mixture:
    """Data from a mixture of Gaussians with diagonal covariances, in any shape.

    Args:
        means: one for each component.
        std: positive; one for all, or one for every element of every component.
        weights: of the components, summing to one.
    """

    means: Float[Tensor, " k *shape"]
    std: float | Float[Tensor, " k *shape"]
    weights: Float[Tensor, " k"]

    def _std(self, device: torch.device) -> Tensor:
        std = torch.as_tensor(self.std, dtype=torch.float64, device=device)
        return std.expand(self.means.shape)

    def _parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> _Parts:
        x, alpha, sigma = x.double()[:, None], alpha[:, None], sigma[:, None]
        means = self.means.to(x)[None]
        std2 = self._std(x.device)[None] ** 2
        apart, variance = x - alpha * means, alpha**2 * std2 + sigma**2
        log_p = row_sum(_log_normal(apart, variance).flatten(0, 1)).reshape(len(x), -1)
        gain = alpha * std2 / variance
        mean = means + gain * apart
        return _Parts(self.weights.to(x).log() + log_p, -apart / variance, gain, mean)

    def _at(self, process: GaussianPath, x: Tensor, t: Time) -> tuple[_Parts, Tensor]:
        """The components, and their posterior probabilities r (b, k, 1 ...)."""
        parts = self._parts(x, *_levels(process, t, x))
        r = (parts.log_joint - _log_sum(parts.log_joint)[:, None]).exp()
        return parts, r.reshape(*r.shape, *[1] * (x.ndim - 1))

    def denoiser(self, process: GaussianPath) -> Denoiser:
        """E[x0 | x_t] = sum_k r_k E[x0 | x_t, k], r_k the probability of component k."""

        def denoise(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
            parts, r = self._at(process, x, t)
            return Prediction(_over_components(r * parts.mean).to(x.dtype))

        return FunctionDenoiser(process, denoise)

    def component(self, process: GaussianPath, k: int) -> Denoiser:
        """E[x0 | x_t, component k]."""

        def denoise(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
            parts = self._parts(x, *_levels(process, t, x))
            return Prediction(parts.mean[:, k].to(x.dtype))

        return FunctionDenoiser(process, denoise)

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, " n *shape"]:
        """`n` clean samples."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        shape = (n, *self.means.shape[1:])
        eps = torch.randn(shape, generator=generator, dtype=self.means.dtype)
        return self.means[chosen] + self._std(eps.device).to(eps)[chosen] * eps

    def log_density(self, x0: Float[Tensor, " b *shape"]) -> Float64[Tensor, " b"]:
        """Log density of clean data, nats."""
        one = torch.ones(len(x0), *[1] * (x0.ndim - 1), dtype=torch.float64, device=x0.device)
        return _log_sum(self._parts(x0, one, 0 * one).log_joint)

    def log_prob(
        self, process: GaussianPath, x: Float[Tensor, " b *shape"], t: Time
    ) -> Float64[Tensor, " b"]:
        """Log density of x_t, nats."""
        return _log_sum(self._parts(x, *_levels(process, t, x)).log_joint)

    def responsibilities(
        self, process: GaussianPath, x: Float[Tensor, " b *shape"], t: Time
    ) -> Float64[Tensor, " b k"]:
        """Probability of each component given x_t."""
        return self._at(process, x, t)[1].reshape(len(x), -1)

    def score(
        self, process: GaussianPath, x: Float[Tensor, " b *shape"], t: Time
    ) -> Float[Tensor, " b *shape"]:
        """Gradient of the log density of x_t."""
        parts, r = self._at(process, x, t)
        return _over_components(r * parts.score).to(x.dtype)

    def trace(
        self, process: GaussianPath, x: Float[Tensor, " b *shape"], t: Time
    ) -> Float64[Tensor, " b"]:
        """Trace of the denoiser's Jacobian: sum_k r_k (gain_k + mean_k (score_k - score))."""
        parts, r = self._at(process, x, t)
        turn = parts.score - _over_components(r * parts.score)[:, None]  # d log r_k / d x
        return row_sum(_over_components(r * (parts.gain + parts.mean * turn)))


def _over_components(values: Tensor) -> Tensor:
    # One component after the other, so that the order is the same in every batch.
    total = values[:, 0]
    for k in range(1, values.shape[1]):
        total = total + values[:, k]
    return total


def _log_sum(log_joint: Tensor) -> Tensor:
    highest = log_joint.amax(1, keepdim=True)
    return highest[:, 0] + _over_components((log_joint - highest).exp()).log()
