"""The denoising loss, whatever the network says and however levels are weighted."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser.parameterization import Condition, Parameterization, network_output
from core.objective.times import Times
from core.objective.weighting import Weighting
from core.process.gaussian import GaussianPath, over
from core.process.noise import Noise


@dataclass(frozen=True)
class Denoising:
    """w(log-SNR) |eps_hat - eps|^p, p = 2 (l2) or 1 (l1), averaged over elements.

    The error is taken at the network's output, where it is well scaled, and converted:
    eps_hat - eps = -(alpha/sigma) out (F - F*).
    Source: Ho et al. 2020, arXiv:2006.11239, eq. 14; SR3's L1, arXiv:2104.07636, section 2.1.
    """

    process: GaussianPath
    parameterization: Parameterization
    weighting: Weighting
    times: Times
    norm: Literal["l1", "l2"] = "l2"

    def draw(
        self, x0: Float[Tensor, " b *shape"], noise: Noise
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b *shape"]]:
        """Times and eps for a batch: a function of its streams alone."""
        t = self.times(self.process, noise).to(x0.device)
        return t, noise.like(x0)

    def loss(
        self,
        network: nn.Module,
        x0: Float[Tensor, " b *shape"],
        t: Float[Tensor, " b"],
        eps: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        mask: Float[Tensor, " b *shape"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The loss of each sample.

        Args:
            network: F.
            x0: clean samples.
            t: one time for each.
            eps: the noise, standard normal.
            condition: passed to the network.
            mask: 1 where the error counts; the mean is over those elements.
        """
        x = self.process.diffuse(x0, t, eps)
        output, _, row = network_output(
            network, self.process, self.parameterization, x, t, condition
        )
        alpha, sigma = self.process.alpha_sigma(t.double())
        target = over(row.of_x0, x0) * x0 + over(row.of_eps, x0) * eps
        scale = over(alpha / sigma * row.out, x0)
        weight = over(self.weighting(2 * (alpha / sigma).log()), x0)
        error = output - target
        each = (scale * error) ** 2 if self.norm == "l2" else (scale * error).abs()
        each = weight * each
        if mask is None:
            return each.flatten(1).mean(1)
        return (each * mask).flatten(1).sum(1) / mask.expand_as(each).flatten(1).sum(1).clamp(min=1)
