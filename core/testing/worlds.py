"""Worlds whose every answer is known: data distributions with closed-form denoisers."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, Prediction
from core.process.gaussian import GaussianPath, over


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
        """E[x0 | x_t] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mean)."""

        def denoise(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
            alpha, sigma = (over(value, x) for value in process.alpha_sigma(t))
            gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
            return Prediction(self.mean + gain * (x - alpha * self.mean))

        return denoise

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


@dataclass(frozen=True)
class Mixture:
    """Data from a mixture of isotropic Gaussians in any shape.

    Args:
        means: one for each component.
        std: of every component, positive.
        weights: of the components, summing to one.
    """

    means: Float[Tensor, " k *shape"]
    std: float
    weights: Float[Tensor, " k"]

    def denoiser(self, process: GaussianPath) -> Denoiser:
        """E[x0 | x_t], the components' answers weighted by their posterior probabilities."""

        def denoise(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
            alpha, sigma = (over(value, x) for value in process.alpha_sigma(t))
            means = self.means.to(x)[None]  # 1 k *shape
            variance = (alpha**2 * self.std**2 + sigma**2)[:, None]
            apart = x[:, None] - alpha[:, None] * means
            log_p = -(apart**2 / (2 * variance)).flatten(2).sum(-1) + self.weights.to(x).log()
            share = log_p.softmax(1).reshape(*log_p.shape, *[1] * (x.ndim - 1))
            gain = alpha[:, None] * self.std**2 / variance
            return Prediction((share * (means + gain * apart)).sum(1))

        return denoise

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, " n *shape"]:
        """`n` clean samples."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        shape = (n, *self.means.shape[1:])
        eps = torch.randn(shape, generator=generator, dtype=self.means.dtype)
        return self.means[chosen] + self.std * eps
