"""The denoising loss, whatever the network says and however levels are weighted."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser.parameterization import Coefficients, Condition, Parameterization, network_output
from core.objective.times import Times
from core.objective.weighting import Weighting, inside
from core.process.gaussian import GaussianPath, over
from core.process.noise import Noise


class Draw(NamedTuple):
    """What a training step draws for a batch.

    Args:
        t: times (b,), float64.
        weight: what each sample's loss is multiplied by (b,).
        eps: standard normal, the shape of x0.
    """

    t: Tensor
    weight: Tensor
    eps: Tensor


@runtime_checkable
class Objective(Protocol):
    """What is minimised.

    Attributes:
        outputs: of the network, for each channel of what is diffused.
        process: the forward process.
        times: how times are drawn.
    """

    @property
    def outputs(self) -> int: ...

    @property
    def process(self) -> GaussianPath: ...

    @property
    def times(self) -> Times: ...

    def draw(self, x0: Tensor, noise: Noise, part: slice | None = None) -> Draw:
        """Times and eps for a batch: a function of its streams and of what `times` has learned.

        Of a `part` of it, `x0` holds that part alone and `noise` the whole batch: what is drawn
        for a sample is then what the whole batch would have drawn for it.
        """
        ...

    def loss(
        self,
        network: nn.Module,
        x0: Tensor,
        t: Tensor,
        eps: Tensor,
        condition: Condition | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of each sample (b,), not yet multiplied by its weight."""
        ...


def denoising(
    process: GaussianPath,
    parameterization: Parameterization,
    weighting: Weighting,
    times: Times,
    *,
    norm: Literal["l1", "l2"] = "l2",
) -> "Denoising":
    """The weighted error of eps, whatever the network says; see `Denoising`.

    Args:
        process: the forward process.
        parameterization: what the network says.
        weighting: of a time, in units of the squared eps error.
        times: how times are drawn.
        norm: squared (l2) or absolute (l1) error.
    """
    return Denoising(process, parameterization, weighting, times, norm)


@dataclass(frozen=True)
class Denoising:
    """|sqrt(w(t)) (eps_hat - eps)|^p, p = 2 (l2) or 1 (l1), averaged over elements.

    The error is taken at the network's output, where it is well scaled, and converted:
    eps_hat - eps = -(alpha/sigma) out (F - F*).  With `core/likelihood` weights this is continuous
    denoising score matching (Song et al. 2021, arXiv:2011.13456, eq. 7, lambda = g^2); with `edm`
    weights, parameterization and log-normal times it is EDM's loss.
    Source: Ho et al. 2020, arXiv:2006.11239, eq. 14; SR3's L1, arXiv:2104.07636, section 2.1.
    """

    process: GaussianPath
    parameterization: Parameterization
    weighting: Weighting
    times: Times
    norm: Literal["l1", "l2"] = "l2"

    @property
    def outputs(self) -> int:
        """One of the network's for each channel."""
        return 1

    def draw(self, x0: Float[Tensor, " n *shape"], noise: Noise, part: slice | None = None) -> Draw:
        """Times and eps for a batch, or for the part of it that `x0` is."""
        part = part or slice(None)
        t, weight = self.times(self.process, self.weighting, noise)  # may look at the whole batch
        return Draw(t[part].to(x0.device), weight[part].to(x0.device), noise.part(part).like(x0))

    def loss(
        self,
        network: nn.Module,
        x0: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        eps: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        mask: Float[Tensor, " b *shape"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The loss of each sample.

        Args:
            network: F.
            x0: clean samples.
            t: one time for each, or for every element.
            eps: the noise, standard normal.
            condition: passed to the network.
            mask: 1 where the error counts; the mean is over those elements.
        """
        return masked_mean(self.of_error(self.error(network, x0, t, eps, condition)[0], t), mask)

    def error(
        self, network: nn.Module, x0: Tensor, t: Tensor, eps: Tensor, condition: Condition | None
    ) -> tuple[Tensor, Tensor | None, Coefficients]:
        """F - F*, the network's share of the variance if it says one, and the row at t."""
        x = self.process.diffuse(x0, t, eps)
        output, share, row = network_output(
            network, self.process, self.parameterization, x, t, condition
        )
        return output - (over(row.of_x0, x0) * x0 + over(row.of_eps, x0) * eps), share, row

    def of_error(self, error: Float[Tensor, " b *shape"], t: Tensor) -> Float[Tensor, " b *shape"]:
        """|sqrt(w) (alpha/sigma) out error|^p, the factor made in float64."""
        at = inside(self.process, t)
        alpha, sigma = self.process.alpha_sigma(at)
        out = self.parameterization.coefficients(alpha, sigma).out
        factor = self.weighting(self.process, at).sqrt() * alpha / sigma * out
        scaled = over(factor, error) * error
        return scaled**2 if self.norm == "l2" else scaled.abs()


def masked_mean(
    each: Float[Tensor, " b *shape"], mask: Float[Tensor, "..."] | None
) -> Float[Tensor, " b"]:
    """The mean over a sample's elements, or over those where `mask` is 1."""
    if mask is None:
        return each.flatten(1).mean(1)
    return (each * mask).flatten(1).sum(1) / mask.expand_as(each).flatten(1).sum(1).clamp(min=1)
