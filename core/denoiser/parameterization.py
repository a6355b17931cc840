"""The meaning of a network's output, as one table.

A row states the target of the network, F = a x0 + b eps, and the scale of its input.  With
x = alpha x0 + sigma eps both ways follow:

    x0 = skip x + out F,    skip = -b / (a sigma - b alpha),    out = sigma / (a sigma - b alpha)

In the terms of Karras et al. 2022, arXiv:2206.00364, table 1: `skip`, `out` and `input` are their
c_skip, c_out and c_in; `level` is their c_noise = ln(s) / 4, s = sigma / alpha, times -200.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor, nn

from core.errors import InputError
from core.network.predict_refine import ESTIMATE, with_estimate
from core.process.gaussian import GaussianPath, Time, over, per_sample

Condition = Mapping[str, Shaped[Tensor, "..."]]


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

    x0: Shaped[Tensor, " b *shape"]
    variance_fraction: Float[Tensor, " b *shape"] | None = None
    x0_variance: Float[Tensor, " b ..."] | None = None
    logits: Float[Tensor, " b *shape k"] | None = None

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

    def __call__(
        self, x: Float[Tensor, " b *shape"], t: Time, condition: Condition | None = None
    ) -> Prediction: ...


# (x_t, t, condition) -> `Prediction`; t is float64, (b,) or per element.
Predict = Callable[[Tensor, Tensor, Condition | None], Prediction]


@dataclass(frozen=True, eq=False)
class FunctionDenoiser:
    """A denoiser computed by a function: a guided one, or a closed form.

    Args:
        process: the forward process.
        predict: (x_t, t, condition) -> `Prediction`, of float64 times (b,) or per element.
    """

    process: GaussianPath
    predict: Predict

    def __call__(
        self, x: Float[Tensor, " b *shape"], t: Time, condition: Condition | None = None
    ) -> Prediction:
        """E[x0 | x_t]; t is one number for all samples, (b,) or per element."""
        return self.predict(x, per_sample(t, x), condition)


class Coefficients(NamedTuple):
    """x0 = skip x + out F(input x, level), and F* = a x0 + b eps is the network's target."""

    skip: Float64[Tensor, "..."]
    out: Float64[Tensor, "..."]
    input: Float64[Tensor, "..."]
    a: Float64[Tensor, "..."]
    b: Float64[Tensor, "..."]


LevelName = Literal["log_snr", "noise_level", "time", "index"]


@dataclass(frozen=True)
class Level:
    """The scalar that a network embeds; each kind spans tens to a thousand, as embeddings need.

    Args:
        kind: log_snr, noise_level, time or index.
        chain: number of steps that an index counts in.
        unit: scale of an index.
    """

    kind: LevelName
    chain: int = 1000
    unit: float = 1.0

    def __call__(
        self,
        t: Float64[Tensor, " *shape"],
        alpha: Float64[Tensor, " *shape"],
        sigma: Float64[Tensor, " *shape"],
    ) -> Float64[Tensor, " *shape"]:
        """The level at t, alpha(t), sigma(t)."""
        if self.kind == "log_snr":  # 25 log-SNR = -200 c_noise, log-SNR clamped to [-20, 20]
            return 50 * (alpha / sigma).log().clamp(-10, 10)
        if self.kind == "noise_level":  # in [0, 1] it would leave an embedding almost constant
            return 1000 * alpha
        if self.kind == "time":
            return 1000 * t
        # Node n of a table of betas lies at t = n / chain; published chains count from 0.  Between
        # the clean end and the first node no level is earlier than the first.
        return self.unit * (self.chain * t - 1).clamp(min=0)

    def __str__(self) -> str:
        if self.kind != "index":
            return self.kind
        return f"index, chain={self.chain}, unit={self.unit:g}"


def _level(kind: LevelName, chain: int | None, unit: float | None) -> Level:
    """A level from the options of a row.

    Raises:
        InputError: options of a chain without its level, or out of range.
    """
    if kind != "index" and (chain is not None or unit is not None):
        raise InputError(
            f"chain, unit: only the level 'index' has them, got level={kind!r}; leave them out"
        )
    chain, unit = 1000 if chain is None else chain, 1.0 if unit is None else unit
    if chain < 2 or unit <= 0:
        raise InputError(f"chain, unit: expected chain >= 2 and unit > 0, got {chain} and {unit}")
    return Level(kind, chain, unit)


# (alpha, sigma) -> a and b of the target F* = a x0 + b eps.
Target = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# (alpha, sigma) -> the scale of the network's input.
Scale = Callable[[Tensor, Tensor], Tensor]
# (t, alpha, sigma) -> the scalar that the network embeds.
LevelOf = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Parameterization:
    """A row of the table, and the noise level that its network embeds.

    Args:
        name: of the row, for people.
        target: a and b of F* = a x0 + b eps, from alpha(t), sigma(t).
        level: the scalar that the network embeds, from t, alpha(t), sigma(t).
        scale: of the network's input, from alpha(t), sigma(t); 1 where None.
    """

    name: str
    target: Target
    level: LevelOf
    scale: Scale | None = None

    def __repr__(self) -> str:
        return f"{self.name}(level={self.level})"

    def coefficients(
        self, alpha: Float[Tensor, " *shape"], sigma: Float[Tensor, " *shape"]
    ) -> Coefficients:
        """The row at alpha, sigma.

        Where F* does not depend on x0, as eps does not at alpha = 0, x0 is taken to be 0.
        """
        a, b = self.target(alpha, sigma)
        determinant = a * sigma - b * alpha  # of x = alpha x0 + sigma eps, F = a x0 + b eps
        inverse = torch.where(determinant == 0, 0.0, 1 / determinant)
        scale = torch.ones_like(alpha) if self.scale is None else self.scale(alpha, sigma)
        return Coefficients(-b * inverse, sigma * inverse, scale, a, b)

    def gain(
        self, alpha: Float[Tensor, " *shape"], sigma: Float[Tensor, " *shape"]
    ) -> Float[Tensor, " *shape"]:
        """The error of x0 for an error of the network's output in units of the output's size.

        |out| sqrt(a^2 + b^2), with the size of F* = a x0 + b eps for data of unit size: for eps
        sigma / alpha, for v and flow at most 1.5.
        """
        row = self.coefficients(alpha, sigma)
        return row.out.abs() * (row.a**2 + row.b**2).sqrt()

    def to_x0(
        self,
        output: Float[Tensor, " b *shape"],
        x: Float[Tensor, " b *shape"],
        alpha: Float[Tensor, "..."],
        sigma: Float[Tensor, "..."],
    ) -> Float[Tensor, " b *shape"]:
        """The x0 that an output F means at x; alpha, sigma (b,) or per element."""
        row = self.coefficients(alpha, sigma)
        return over(row.skip, x) * x + over(row.out, x) * output

    def from_x0(
        self,
        x0: Float[Tensor, " b *shape"],
        x: Float[Tensor, " b *shape"],
        alpha: Float[Tensor, "..."],
        sigma: Float[Tensor, "..."],
    ) -> Float[Tensor, " b *shape"]:
        """The output F that means x0 at x; sigma positive, (b,) or per element."""
        row = self.coefficients(alpha, sigma)
        eps = (x - over(alpha, x) * x0) / over(sigma, x)
        return over(row.a, x) * x0 + over(row.b, x) * eps


# --- the rows ----------------------------------------------------------------------------------


def _eps_target(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(alpha), torch.ones_like(alpha)


def eps(
    *, level: LevelName = "log_snr", chain: int | None = None, unit: float | None = None
) -> Parameterization:
    """The output is the noise: x0 = (x - sigma eps) / alpha.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 15.

    Args:
        level: the scalar that the network embeds: log_snr, 25 log-SNR with log-SNR clamped to
            [-20, 20] (c_noise of EDM times -200); noise_level, 1000 alpha; time, 1000 t; index,
            the number of a step of a chain, from 0, as published networks count.
        chain: number of steps that `index` counts in; 1000 by default.
        unit: scale of an index; 1 by default, 1000 / chain for ``rescale_timesteps``.

    Raises:
        InputError: chain or unit without the level `index`, or out of range.
    """
    return Parameterization("eps", _eps_target, _level(level, chain, unit))


def _x0_target(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(alpha), torch.zeros_like(alpha)


def x0(
    *, level: LevelName = "log_snr", chain: int | None = None, unit: float | None = None
) -> Parameterization:
    """The output is the clean sample.

    Args:
        level: the scalar that the network embeds: log_snr, 25 log-SNR with log-SNR clamped to
            [-20, 20] (c_noise of EDM times -200); noise_level, 1000 alpha; time, 1000 t; index,
            the number of a step of a chain, from 0, as published networks count.
        chain: number of steps that `index` counts in; 1000 by default.
        unit: scale of an index; 1 by default, 1000 / chain for ``rescale_timesteps``.

    Raises:
        InputError: chain or unit without the level `index`, or out of range.
    """
    return Parameterization("x0", _x0_target, _level(level, chain, unit))


def _v_target(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return -sigma, alpha


def v(
    *, level: LevelName = "log_snr", chain: int | None = None, unit: float | None = None
) -> Parameterization:
    """The output is v = alpha eps - sigma x0: x0 = (alpha x - sigma v) / (alpha^2 + sigma^2).

    Source: Salimans and Ho 2022, arXiv:2202.00512, section 4, for processes of any variance.

    Args:
        level: the scalar that the network embeds: log_snr, 25 log-SNR with log-SNR clamped to
            [-20, 20] (c_noise of EDM times -200); noise_level, 1000 alpha; time, 1000 t; index,
            the number of a step of a chain, from 0, as published networks count.
        chain: number of steps that `index` counts in; 1000 by default.
        unit: scale of an index; 1 by default, 1000 / chain for ``rescale_timesteps``.

    Raises:
        InputError: chain or unit without the level `index`, or out of range.
    """
    return Parameterization("v", _v_target, _level(level, chain, unit))


def _score_target(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(alpha), -1 / sigma


def score(
    *, level: LevelName = "log_snr", chain: int | None = None, unit: float | None = None
) -> Parameterization:
    """The output is the score grad log p_t(x) = -eps / sigma.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 7.

    Args:
        level: the scalar that the network embeds: log_snr, 25 log-SNR with log-SNR clamped to
            [-20, 20] (c_noise of EDM times -200); noise_level, 1000 alpha; time, 1000 t; index,
            the number of a step of a chain, from 0, as published networks count.
        chain: number of steps that `index` counts in; 1000 by default.
        unit: scale of an index; 1 by default, 1000 / chain for ``rescale_timesteps``.

    Raises:
        InputError: chain or unit without the level `index`, or out of range.
    """
    return Parameterization("score", _score_target, _level(level, chain, unit))


def _flow_target(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return -torch.ones_like(alpha), torch.ones_like(alpha)


def flow(
    *, level: LevelName = "log_snr", chain: int | None = None, unit: float | None = None
) -> Parameterization:
    """The output is u = eps - x0, the velocity of a straight path.

    x0 = (x - sigma u) / (alpha + sigma).
    Source: Liu et al. 2022, arXiv:2209.03003, eq. 1, for processes of any alpha and sigma; time
    runs towards the noise here.

    Args:
        level: the scalar that the network embeds: log_snr, 25 log-SNR with log-SNR clamped to
            [-20, 20] (c_noise of EDM times -200); noise_level, 1000 alpha; time, 1000 t; index,
            the number of a step of a chain, from 0, as published networks count.
        chain: number of steps that `index` counts in; 1000 by default.
        unit: scale of an index; 1 by default, 1000 / chain for ``rescale_timesteps``.

    Raises:
        InputError: chain or unit without the level `index`, or out of range.
    """
    return Parameterization("flow", _flow_target, _level(level, chain, unit))


@dataclass(frozen=True)
class _Preconditioning:
    """EDM's row for data of standard deviation d: S^2 = alpha^2 d^2 + sigma^2."""

    data_std: float

    def target(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        spread = self._spread(alpha, sigma)
        return sigma / (self.data_std * spread), -alpha * self.data_std / spread

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return 1 / self._spread(alpha, sigma)

    def _spread(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha**2 * self.data_std**2 + sigma**2).sqrt()


def edm(*, data_std: float = 0.5) -> Parameterization:
    """EDM preconditioning: unit variance in and out of the network at every level.

    The level is `log_snr` of the other rows, which is the paper's c_noise times -200.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1, on x / alpha and sigma / alpha, which
    makes it serve every Gaussian process.

    Args:
        data_std: standard deviation of the clean data.

    Raises:
        InputError: not positive.
    """
    if data_std <= 0:
        raise InputError(f"edm: expected data_std > 0, got {data_std}")
    row = _Preconditioning(data_std)
    return Parameterization("edm", row.target, Level("log_snr"), row.scale)


# --- networks as denoisers ---------------------------------------------------------------------


class NetworkOutput(NamedTuple):
    """F of a network at x_t, and what it means there.

    Args:
        output: F, the shape of x_t.
        variance_fraction: of networks that learn variances; see `Prediction`.
        row: the row's coefficients at the times of x_t, float64.
    """

    output: Float[Tensor, " b *shape"]
    variance_fraction: Float[Tensor, " b *shape"] | None
    row: Coefficients


def network_output(
    network: nn.Module,
    process: GaussianPath,
    parameterization: Parameterization,
    x: Float[Tensor, " b *shape"],
    t: Time,
    condition: Condition | None,
) -> NetworkOutput:
    """F(input x, level), the variance fraction if learned, and the row's coefficients.

    Of a network with twice the channels of x the first half is F; the second half is v in [-1, 1],
    and the variance fraction is (v + 1) / 2.  A network that makes an estimate f of x0 refines it:
    its input is x - alpha f, and the F of x is its own plus a f, since F* is linear in x0.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15; Whang et al. 2022,
    arXiv:2112.02475, section 3.

    Raises:
        ValueError: an output of another shape.
    """
    t = per_sample(t, x)
    alpha, sigma = process.alpha_sigma(t)
    row = parameterization.coefficients(alpha, sigma)
    level = parameterization.level(t, alpha, sigma).to(x)
    condition = with_estimate(network, condition)
    f = (condition or {}).get(ESTIMATE)
    z = x if f is None else x - over(alpha, x) * f
    output = network(over(row.input, x) * z, level, condition)
    variance_fraction = None
    if output.shape != x.shape:
        if output.shape != (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
            raise ValueError(
                f"expected the network's output in the shape of its input {tuple(x.shape)}, or "
                f"with twice its channels, got {tuple(output.shape)}"
            )
        output, v = output.chunk(2, dim=1)
        variance_fraction = (v + 1) / 2
    if f is not None:
        output = output + over(row.a, x) * f
    return NetworkOutput(output, variance_fraction, row)


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
        self, x: Float[Tensor, " b *shape"], t: Time, condition: Condition | None = None
    ) -> Prediction:
        """E[x0 | x_t]; t is one number for all samples, (b,) or per element.

        Raises:
            ValueError: the network's output has another shape.
        """
        output, fraction, row = network_output(
            self.network, self.process, self.parameterization, x, t, condition
        )
        return Prediction(over(row.skip, x) * x + over(row.out, x) * output, fraction)

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.network.parameters())
        return (
            f"NetworkDenoiser({type(self.network).__name__}, {parameters:,} parameters, "
            f"{self.parameterization} on {self.process.schedule})"
        )
