"""The loss of a plain network of pixels' classes: the Brier score, as an objective of the core."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser.parameterization import Condition, Parameterization, network_output
from core.objective.denoising import Draw, masked_mean
from core.objective.times import Times
from core.objective.weighting import Weighting
from core.process.gaussian import GaussianPath, over
from core.process.noise import Noise


class Brier:
    """|D(sigma eps, image) - x0|^2 at the noisiest time alone, averaged over labelled elements.

    The variable x0 is 1 in the channel of the class and -1 in the others.  At the end of the
    process x says nothing of it, so the network is given pure noise beside the image and becomes a
    plain classifier of pixels: the minimiser is D = 2 p(class | image) - 1.  One step of any solver
    from noise is the prediction.  Cross-entropy has the same minimiser in probabilities, but none
    that is a denoiser.
    Source: Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2, of several classes.

    Args:
        process: the forward process.
        parameterization: the meaning of the network's output; `core/x0` is a plain network's.
        weighting: not used: there is one time.
        times: not used.
    """

    def __init__(
        self,
        process: GaussianPath,
        parameterization: Parameterization,
        weighting: Weighting,
        times: Times,
    ) -> None:
        self.process, self.parameterization = process, parameterization
        self.weighting, self.times = weighting, times

    @property
    def outputs(self) -> int:
        """One of the network's for each class."""
        return 1

    def draw(self, x0: Float[Tensor, " n *shape"], noise: Noise, part: slice | None = None) -> Draw:
        """The noisiest time, weight 1, and the noise that the network is given."""
        t = torch.full((len(x0),), self.process.t_max, dtype=torch.float64, device=x0.device)
        return Draw(t, torch.ones_like(t), noise.part(part or slice(None)).like(x0))

    def loss(
        self,
        network: nn.Module,
        x0: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        eps: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        mask: Float[Tensor, " b *shape"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The mean squared error of each sample over its labelled elements."""
        _, sigma = self.process.alpha_sigma(t)
        x = over(sigma, x0).to(x0) * eps  # without x0, of which alpha would leave a trace
        found = estimate(network, self.process, self.parameterization, x, t, condition)
        return masked_mean((found - x0).square(), mask)


def estimate(
    network: nn.Module,
    process: GaussianPath,
    parameterization: Parameterization,
    x: Float[Tensor, " b *shape"],
    t: Float[Tensor, "..."] | float,
    condition: Condition | None,
) -> Float[Tensor, " b *shape"]:
    """The network's estimate of x0 = 2 p - 1."""
    output, _, row = network_output(network, process, parameterization, x, t, condition)
    return over(row.skip, x).to(x) * x + over(row.out, x).to(x) * output.to(x)
