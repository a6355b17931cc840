"""The denoising loss with a variational bound beside it, for networks that learn variances."""

import math
from dataclasses import dataclass
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


def hybrid(
    process: GaussianPath,
    parameterization: Parameterization,
    weighting: Weighting,
    times: Times,
    *,
    norm: Literal["l1", "l2"] = "l2",
    steps: int = 1000,
    vlb_weight: float = 0.001,
) -> "Hybrid":
    """The weighted error of eps plus a bound that teaches variances; see `Hybrid`.

    Args:
        process: the forward process.
        parameterization: what the first half of the network's channels says.
        weighting: of a time in the error of eps, in units of its square; not in the bound.
        times: how times are drawn; they are moved to the chain's.
        norm: squared (l2) or absolute (l1) error of eps.
        steps: length of the chain whose variances are learned.
        vlb_weight: weight of the bound in bits per element.

    Raises:
        InputError: fewer than two steps, or a weight that is not positive.
    """
    if steps < 2 or vlb_weight <= 0:
        raise InputError(
            f"hybrid: expected steps >= 2 and vlb_weight > 0, got steps={steps}, "
            f"vlb_weight={vlb_weight}"
        )
    return Hybrid(Denoising(process, parameterization, weighting, times, norm), steps, vlb_weight)


@dataclass(frozen=True)
class Hybrid:
    """L_simple + vlb_weight steps L_t, L_t = KL(q(x_u | x_t, x0) || p(x_u | x_t)) in bits.

    The mean over elements; steps L_t at a random t is an estimate of the bound's sum.  The bound
    teaches the variance alone: gradients do not pass from it to the mean.  The chain has `steps`
    equal steps of time from t_first to t_max.  What the bound has besides, the ends of the chain,
    is not changed by a variance and is left out.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15 and 16.
    """

    simple: Denoising
    steps: int = 1000
    vlb_weight: float = 0.001

    @property
    def outputs(self) -> int:
        """Two of the network's for each channel: what it says of x0 and of the variance."""
        return 2

    @property
    def process(self) -> GaussianPath:
        """The forward process."""
        return self.simple.process

    @property
    def times(self) -> Times:
        """How times are drawn."""
        return self.simple.times

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
            InputError: the network says nothing of the variance.
        """
        error, share, row = self.simple.error(network, x0, t, eps, condition)
        if share is None:
            raise InputError(
                "hybrid: expected a network with two outputs for each channel, got one; give it "
                "outputs = 2 channels"
            )
        x0_error = over(row.out, error) * error.detach()
        bound = self.bits(x0_error, share, t)
        each = self.simple.of_error(error, t) + self.vlb_weight * self.steps * bound
        return masked_mean(each, mask)

    def bits(
        self, x0_error: Float[Tensor, " b *shape"], share: Float[Tensor, " b *shape"], t: Tensor
    ) -> Float[Tensor, " b *shape"]:
        """L_t of every element: the KL divergence of a step that ends at t, in bits.

        With variances small e^(s l), l = log(large / small) = log(sigma_t^2 / sigma_u^2), it is
        (s l + e^(-s l) (1 + (SNR_u - SNR_t) (x0_hat - x0)^2) - 1) / 2 nats.
        """
        path = self.process
        size = (path.t_max - path.t_first) / self.steps
        (alpha_t, sigma_t), (alpha_u, sigma_u) = (
            path.alpha_sigma(time) for time in (t.double(), (t.double() - size).clamp(path.t_first))
        )
        width = over(2 * (sigma_t / sigma_u).log(), x0_error)
        gained = over(((alpha_u / sigma_u) ** 2 - (alpha_t / sigma_t) ** 2).sqrt(), x0_error)
        log_ratio = share * width
        apart = torch.exp(-log_ratio) * (1 + (gained * x0_error) ** 2)
        return (log_ratio + apart - 1) / (2 * math.log(2))
