"""The denoising loss of any parameterization, with any weighting of noise levels."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from core.denoiser.parameterization import Coefficients, Condition, Parameterization, network_output
from core.objective.times import Times
from core.objective.weighting import Weighting, inside
from core.process.gaussian import GaussianPath, over
from core.process.noise import Noise


class Draw(NamedTuple):
    """The random variables of a training step, for a batch.

    Args:
        t: times, float64.
        weight: factor of each sample's loss.
        eps: standard normal, the shape of x0.
    """

    t: Float[Tensor, " b"]
    weight: Float[Tensor, " b"]
    eps: Float[Tensor, " b *shape"]


class OutputError(NamedTuple):
    """The error of a network's output, and what is needed to convert it.

    Args:
        error: F - F*.
        variance_fraction: the network's second half of channels as a fraction of the log variance;
            None for a network without it.
        row: float64 coefficients of the parameterization at t.
    """

    error: Float[Tensor, " b *shape"]
    variance_fraction: Float[Tensor, " b *shape"] | None
    row: Coefficients


@runtime_checkable
class Objective(Protocol):
    """A loss to minimise.

    Attributes:
        outputs: of the network, for each channel of the diffused variable.
        process: the forward process.
        times: the distribution of training times.
    """

    @property
    def outputs(self) -> int: ...

    @property
    def process(self) -> GaussianPath: ...

    @property
    def times(self) -> Times: ...

    def draw(self, x0: Float[Tensor, " n *shape"], noise: Noise, part: slice | None = None) -> Draw:
        """Times and eps for a batch: a function of its streams and of what `times` has learned.

        Of a `part` of it, `x0` holds that part alone and `noise` the whole batch: the draws of a
        sample are then those of the whole batch.
        """
        ...

    def loss(
        self,
        network: nn.Module,
        x0: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        eps: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        mask: Float[Tensor, " b *shape"] | None = None,
    ) -> Float[Tensor, " b"]:
        """The loss of each sample, not yet multiplied by its weight."""
        ...


@dataclass(frozen=True)
class Denoising:
    """|sqrt(w(t)) (eps_hat - eps)|^p, p = 2 (l2) or 1 (l1), averaged over elements.

    The error is taken at the network's output, where it is well scaled, and converted:
    eps_hat - eps = -(alpha/sigma) out (F - F*).  With `core/likelihood` weights this is continuous
    denoising score matching (Song et al. 2021, arXiv:2011.13456, eq. 7, lambda = g^2); with `edm`
    weights, parameterization and log-normal times it is EDM's loss.
    Source: Ho et al. 2020, arXiv:2006.11239, eq. 14; SR3's L1, arXiv:2104.07636, section 2.1.

    Args:
        process: the forward process.
        parameterization: the meaning of the network's output.
        weighting: of a time, in units of the squared eps error.
        times: the distribution of training times.
        norm: squared (l2) or absolute (l1) error.
    """

    process: GaussianPath
    parameterization: Parameterization
    weighting: Weighting
    times: Times
    _: KW_ONLY
    norm: Literal["l1", "l2"] = "l2"

    @property
    def outputs(self) -> int:
        """One of the network's for each channel."""
        return 1

    def draw(self, x0: Float[Tensor, " n *shape"], noise: Noise, part: slice | None = None) -> Draw:
        """Times and eps for a batch, or for the part of it that `x0` is."""
        part = part or slice(None)
        # Stratified times depend on the position in the whole batch: draw all, then cut.
        t, weight = self.times(self.process, self.weighting, noise)
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
        return masked_mean(self.weighted(self.error(network, x0, t, eps, condition).error, t), mask)

    def error(
        self,
        network: nn.Module,
        x0: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        eps: Float[Tensor, " b *shape"],
        condition: Condition | None,
    ) -> OutputError:
        """F - F*, where F* = a x0 + b eps is the row's target."""
        x = self.process.diffuse(x0, t, eps)  # x_t = alpha x0 + sigma eps
        output, variance_fraction, row = network_output(
            network, self.process, self.parameterization, x, t, condition
        )
        target = over(row.a, x0) * x0 + over(row.b, x0) * eps
        return OutputError(output - target, variance_fraction, row)

    def weighted(
        self, error: Float[Tensor, " b *shape"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, " b *shape"]:
        """|sqrt(w) (alpha/sigma) out (F - F*)|^p of every element."""
        # The factor is computed in float64: near the ends it is a product of a large and a small
        # number.
        t = inside(self.process, t)
        alpha, sigma = self.process.alpha_sigma(t)
        out = self.parameterization.coefficients(alpha, sigma).out
        factor = self.weighting(self.process, t).sqrt() * alpha / sigma * out
        eps_error = over(factor, error) * error  # sqrt(w) |eps_hat - eps|, up to its sign
        return eps_error**2 if self.norm == "l2" else eps_error.abs()


def masked_mean(
    each: Float[Tensor, " b *shape"], mask: Float[Tensor, "..."] | None
) -> Float[Tensor, " b"]:
    """The mean over a sample's elements, or over those where `mask` is 1."""
    if mask is None:
        return each.flatten(1).mean(1)
    return (each * mask).flatten(1).sum(1) / mask.expand_as(each).flatten(1).sum(1).clamp(min=1)
