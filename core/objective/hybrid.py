"""The denoising loss plus a variational bound, for networks that learn variances."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser.parameterization import Condition, Parameterization
from core.errors import InputError
from core.objective.denoising import Denoising, Draw, masked_mean
from core.objective.times import Times
from core.objective.weighting import Weighting
from core.process.gaussian import GaussianPath, over
from core.process.noise import Noise


@dataclass(frozen=True)
class Hybrid:
    """L_simple + vlb_weight steps L_t, L_t = KL(q(x_u | x_t, x0) || p(x_u | x_t)) in bits.

    The mean over elements; steps L_t at a random t is an estimate of the bound's sum.  The bound
    trains the variance alone: its gradient does not reach the mean.  The chain has `steps` equal
    steps of time from t_first to t_max.  The bound's terms at the ends of the chain do not depend
    on the variance and are left out.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15 and 16.

    Args:
        process: the forward process.
        parameterization: the meaning of the first half of the network's channels.
        weighting: of a time in the error of eps, in units of its square; not in the bound.
        times: the distribution of training times; each is moved to the end of its step.
        norm: squared (l2) or absolute (l1) error of eps.
        steps: length of the chain whose variances are learned, at least 2.
        vlb_weight: weight of the bound in bits per element, positive.

    Raises:
        InputError: fewer than two steps, or a weight that is not positive.
    """

    process: GaussianPath
    parameterization: Parameterization
    weighting: Weighting
    times: Times
    _: KW_ONLY
    norm: Literal["l1", "l2"] = "l2"
    steps: int = 1000
    vlb_weight: float = 0.001

    def __post_init__(self) -> None:
        if self.steps < 2 or self.vlb_weight <= 0:
            raise InputError(
                f"hybrid: expected steps >= 2 and vlb_weight > 0, got steps={self.steps}, "
                f"vlb_weight={self.vlb_weight}"
            )

    @property
    def simple(self) -> Denoising:
        """L_simple: the weighted error of eps."""
        return Denoising(
            self.process, self.parameterization, self.weighting, self.times, norm=self.norm
        )

    @property
    def outputs(self) -> int:
        """Two of the network's for each channel: F and the variance fraction."""
        return 2

    def draw(self, x0: Float[Tensor, " n *shape"], noise: Noise, part: slice | None = None) -> Draw:
        """Times of the chain, each the end of the step that the drawn time is in, and eps."""
        draw, path = self.simple.draw(x0, noise, part), self.process
        size = (path.t_max - path.t_first) / self.steps
        step = ((draw.t - path.t_first) / size).ceil().clamp(1, self.steps)
        return draw._replace(t=(path.t_first + step * size).clamp(max=path.t_max))

    def loss(
        self,
        network: nn.Module,
        x0: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        eps: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        mask: Float[Tensor, " b *shape"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The loss of each sample; as `Denoising.loss`, with times of the chain.

        Raises:
            InputError: the network has no outputs for the variance.
        """
        error, variance_fraction, row = self.simple.error(network, x0, t, eps, condition)
        if variance_fraction is None:
            raise InputError(
                "hybrid: expected a network with two outputs for each channel, got one; give it "
                "outputs = 2 channels"
            )
        x0_error = over(row.out, error) * error.detach()  # no gradient from the bound to the mean
        bound = self.bits(x0_error, variance_fraction, t)
        # L_hybrid = L_simple + lambda L_vlb (eq. 16), L_vlb = steps E_t[L_t]
        each = self.simple.weighted(error, t) + self.vlb_weight * self.steps * bound
        return masked_mean(each, mask)

    def bits(
        self,
        x0_error: Float[Tensor, " b *shape"],
        variance_fraction: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
    ) -> Float[Tensor, " b *shape"]:
        """L_t of every element: the KL divergence of a step from t to u = t - size, in bits.

        With variances small e^(f l), l = log(large / small) = log(sigma_t^2 / sigma_u^2) and f the
        variance fraction (eq. 15), it is
        (f l + e^(-f l) (1 + (SNR_u - SNR_t) (x0_hat - x0)^2) - 1) / 2 nats.
        """
        path = self.process
        size = (path.t_max - path.t_first) / self.steps
        t = t.double()
        u = (t - size).clamp(path.t_first)
        (alpha_t, sigma_t), (alpha_u, sigma_u) = path.alpha_sigma(t), path.alpha_sigma(u)
        # f l, the log of the step's variance over the smallest
        log_ratio = variance_fraction * over(2 * (sigma_t / sigma_u).log(), x0_error)
        # |difference of the two means|^2 over the smallest variance is (SNR_u - SNR_t) error^2
        gain = over(((alpha_u / sigma_u) ** 2 - (alpha_t / sigma_t) ** 2).sqrt(), x0_error)
        scaled = torch.exp(-log_ratio) * (1 + (gain * x0_error) ** 2)
        return (log_ratio + scaled - 1) / (2 * math.log(2))
