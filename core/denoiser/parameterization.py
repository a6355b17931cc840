"""What a network's output means, as one table.

A row states what is asked of the network, F = a x0 + b eps, and the scale of its input.  With
x = alpha x0 + sigma eps both ways follow:

    x0 = skip x + out F,    skip = -b / (a sigma - b alpha),    out = sigma / (a sigma - b alpha)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.errors import InputError
from core.process.gaussian import GaussianPath, over

Condition = Mapping[str, Tensor]


@dataclass(frozen=True)
class Prediction:
    """The output of a denoiser at x_t.

    Args:
        x0: E[x0 | x_t], the shape of x_t.
        variance_fraction: of networks with learned variances, the interpolation between the log of
            the small variance of a step (0) and of the large one (1); the shape of x_t.
        x0_variance: variance of an element of x0 given x_t, (b,) or the shape of x_t, where it is
            known.
        logits: of the clean categories, for categorical processes.
    """

    x0: Tensor
    variance_fraction: Tensor | None = None
    x0_variance: Tensor | None = None
    logits: Tensor | None = None

    def detached(self) -> "Prediction":
        """The same without a graph."""
        rest = (self.variance_fraction, self.x0_variance, self.logits)
        return Prediction(self.x0.detach(), *(None if v is None else v.detach() for v in rest))


@runtime_checkable
class Denoiser(Protocol):
    """(x_t, t, condition) -> E[x0 | x_t], and the forward process of x_t.

    Guidance makes one of these from one.
    """

    @property
    def process(self) -> GaussianPath:
        """The forward process that its x_t and t belong to."""
        ...

    def __call__(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction: ...


@dataclass(frozen=True, eq=False)
class FunctionDenoiser:
    """A denoiser computed by a function: a guided one, or a closed form.

    Args:
        process: the forward process.
        predict: (x_t, t, condition) -> `Prediction`.
    """

    process: GaussianPath
    predict: Callable[[Tensor, Tensor, Condition | None], Prediction]

    def __call__(
        self,
        x: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        condition: Condition | None = None,
    ) -> Prediction:
        """E[x0 | x_t] at times (b,) or per element."""
        return self.predict(x, t, condition)


class Coefficients(NamedTuple):
    """x0 = skip x + out F(input x), and F = of_x0 x0 + of_eps eps."""

    skip: Tensor
    out: Tensor
    input: Tensor
    of_x0: Tensor
    of_eps: Tensor


# (alpha, sigma) -> what multiplies x0 and eps in what is asked of the network.
Asked = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Parameterization:
    """A row of the table, and what of the noise level the network is told.

    Args:
        asked: a and b of F = a x0 + b eps, from alpha(t), sigma(t).
        level: the scalar that the network embeds, from t, alpha(t), sigma(t).
        scale: of the network's input, from alpha(t), sigma(t); 1 where None.
    """

    asked: Asked
    level: Callable[[Tensor, Tensor, Tensor], Tensor]
    scale: Callable[[Tensor, Tensor], Tensor] | None = None

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        """The row at alpha, sigma.

        Where F says nothing of x0, as eps does at alpha = 0, x0 is taken to be 0.
        """
        a, b = self.asked(alpha, sigma)
        whole = a * sigma - b * alpha
        inverse = torch.where(whole == 0, 0.0, 1 / whole)
        scale = torch.ones_like(alpha) if self.scale is None else self.scale(alpha, sigma)
        return Coefficients(-b * inverse, sigma * inverse, scale, a, b)

    def to_x0(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The x0 that an output F means at x; alpha, sigma (b,) or per element."""
        row = self.coefficients(alpha, sigma)
        return over(row.skip, x) * x + over(row.out, x) * output

    def from_x0(self, x0: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The output F that means x0 at x; sigma positive, (b,) or per element."""
        row = self.coefficients(alpha, sigma)
        eps = (x - over(alpha, x) * x0) / over(sigma, x)
        return over(row.of_x0, x) * x0 + over(row.of_eps, x) * eps


def _level(name: str, chain: int = 0, unit: float = 0.0) -> Callable[..., Tensor]:
    """What the network is told; each spans tens to a thousand, as sinusoidal embeddings want."""
    return {
        # A level in [0, 1] fed as it is leaves the embedding almost constant over the whole chain.
        "noise_level": lambda t, alpha, sigma: 1000 * alpha,
        "log_snr": lambda t, alpha, sigma: 50 * (alpha / sigma).log().clamp(-10, 10),
        "time": lambda t, alpha, sigma: 1000 * t,
        # Node n of a table of betas lies at t = n / chain; published chains count from 0.  Between
        # the clean end and the first node the network knows nothing earlier than the first.
        "index": lambda t, alpha, sigma: unit * (chain * t - 1).clamp(min=0),
    }[name]


def _told(level: str, chain: int | None, unit: float | None) -> Callable[..., Tensor]:
    """The level of a row whose networks may have been trained on a chain.

    Raises:
        InputError: options of a chain without its level, or out of range.
    """
    if level != "index" and (chain is not None or unit is not None):
        raise InputError(
            f"chain, unit: only the level 'index' has them, got level={level!r}; leave them out"
        )
    chain, unit = 1000 if chain is None else chain, 1.0 if unit is None else unit
    if chain < 2 or unit <= 0:
        raise InputError(f"chain, unit: expected chain >= 2 and unit > 0, got {chain} and {unit}")
    return _level(level, chain, unit)


def eps(
    *,
    level: Literal["log_snr", "noise_level", "time", "index"] = "log_snr",
    chain: int | None = None,
    unit: float | None = None,
) -> Parameterization:
    """The network says the noise: x0 = (x - sigma eps) / alpha.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 15.

    Args:
        level: what the network is told: log-SNR, 1000 alpha (SR3's continuous noise level,
            scaled), 1000 t, or the index in a chain, from 0, as published networks are.
        chain: steps of the chain that `index` counts in; 1000 by default.
        unit: what an index counts for; 1 by default, 1000 / chain in networks trained with
            ``rescale_timesteps``.

    Raises:
        InputError: chain or unit without the level `index`, or out of range.
    """
    return Parameterization(
        lambda alpha, sigma: (torch.zeros_like(alpha), torch.ones_like(alpha)),
        _told(level, chain, unit),
    )


def x0(
    *,
    level: Literal["log_snr", "noise_level", "time", "index"] = "log_snr",
    chain: int | None = None,
    unit: float | None = None,
) -> Parameterization:
    """The network says the clean sample.

    Args:
        level: what the network is told: log-SNR, 1000 alpha (SR3's continuous noise level,
            scaled), 1000 t, or the index in a chain, from 0, as published networks are.
        chain: steps of the chain that `index` counts in; 1000 by default.
        unit: what an index counts for; 1 by default, 1000 / chain in networks trained with
            ``rescale_timesteps``.

    Raises:
        InputError: chain or unit without the level `index`, or out of range.
    """
    return Parameterization(
        lambda alpha, sigma: (torch.ones_like(alpha), torch.zeros_like(alpha)),
        _told(level, chain, unit),
    )


def v(
    *,
    level: Literal["log_snr", "noise_level", "time", "index"] = "log_snr",
    chain: int | None = None,
    unit: float | None = None,
) -> Parameterization:
    """The network says v = alpha eps - sigma x0, so x0 = (alpha x - sigma v) / (alpha^2 + sigma^2).

    Source: Salimans and Ho 2022, arXiv:2202.00512, section 4, for processes of any variance.

    Args:
        level: what the network is told: log-SNR, 1000 alpha (SR3's continuous noise level,
            scaled), 1000 t, or the index in a chain, from 0, as published networks are.
        chain: steps of the chain that `index` counts in; 1000 by default.
        unit: what an index counts for; 1 by default, 1000 / chain in networks trained with
            ``rescale_timesteps``.

    Raises:
        InputError: chain or unit without the level `index`, or out of range.
    """
    return Parameterization(lambda alpha, sigma: (-sigma, alpha), _told(level, chain, unit))


def score(*, level: Literal["log_snr", "noise_level", "time"] = "log_snr") -> Parameterization:
    """The network says the score grad log p_t(x) = -eps / sigma.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 7.

    Args:
        level: what the network is told: log-SNR, 1000 alpha (SR3's continuous noise level,
            scaled) or 1000 t.
    """
    return Parameterization(
        lambda alpha, sigma: (torch.zeros_like(alpha), -1 / sigma), _level(level)
    )


def flow(*, level: Literal["log_snr", "noise_level", "time"] = "log_snr") -> Parameterization:
    """The network says u = eps - x0, the velocity of a straight path.

    x0 = (x - sigma u) / (alpha + sigma).
    Source: Liu et al. 2022, arXiv:2209.03003, eq. 1, for processes of any alpha and sigma; time
    runs towards the noise here.

    Args:
        level: what the network is told: log-SNR, 1000 alpha (SR3's continuous noise level,
            scaled) or 1000 t.
    """
    return Parameterization(
        lambda alpha, sigma: (-torch.ones_like(alpha), torch.ones_like(alpha)), _level(level)
    )


def edm(*, data_std: float = 0.5) -> Parameterization:
    """EDM preconditioning: unit variance in and out of the network at every level.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1, on x / alpha and sigma / alpha, which
    makes it serve every Gaussian process.

    Args:
        data_std: standard deviation of the clean data.

    Raises:
        InputError: not positive.
    """
    if data_std <= 0:
        raise InputError(f"edm: expected data_std > 0, got {data_std}")

    def spread(alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha**2 * data_std**2 + sigma**2).sqrt()

    def asked(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        whole = spread(alpha, sigma)
        return sigma / (data_std * whole), -alpha * data_std / whole

    # The paper's c_noise is log(sigma)/4 into frequencies up to 1000s; ours is the same quantity
    # in the scale that the other rows use.
    return Parameterization(asked, _level("log_snr"), lambda a, s: 1 / spread(a, s))


def network_output(
    network: nn.Module,
    process: GaussianPath,
    parameterization: Parameterization,
    x: Float[Tensor, " b *shape"],
    t: Float[Tensor, "..."],
    condition: Condition | None,
) -> tuple[Tensor, Tensor | None, Coefficients]:
    """F(input x, level), the variance fraction if learned, and the row's float64 coefficients.

    Of a network with twice the channels of x the first half is F; the second half is v in [-1, 1],
    and the variance fraction is (v + 1) / 2.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15.

    Raises:
        ValueError: an output of another shape.
    """
    alpha, sigma = process.alpha_sigma(t.double())
    row = parameterization.coefficients(alpha, sigma)
    level = parameterization.level(t.double(), alpha, sigma).to(x)
    output = network(over(row.input, x) * x, level, condition)
    if output.shape == x.shape:
        return output, None, row
    if output.shape != (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
        raise ValueError(f"the network made {tuple(output.shape)} of {tuple(x.shape)}")
    mean, v = output.chunk(2, dim=1)
    return mean, (v + 1) / 2, row


@dataclass(frozen=True, eq=False)
class NetworkDenoiser:
    """A network as a denoiser: x0 = skip x + out F(input x, level).

    Args:
        network: F; its output has the channels of x, or twice as many where variances are learned.
        process: the forward process it was trained for.
        parameterization: the meaning of F.
    """

    network: nn.Module
    process: GaussianPath
    parameterization: Parameterization

    def __call__(
        self,
        x: Float[Tensor, " b *shape"],
        t: Float[Tensor, "..."],
        condition: Condition | None = None,
    ) -> Prediction:
        """E[x0 | x_t] at times (b,) or per element.

        Raises:
            ValueError: the network's output has another shape.
        """
        output, fraction, row = network_output(
            self.network, self.process, self.parameterization, x, t, condition
        )
        return Prediction(over(row.skip, x) * x + over(row.out, x) * output, fraction)

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.network.parameters())
        return f"NetworkDenoiser({type(self.network).__name__}, {parameters:,} parameters)"
