"""What a network's output means, as one table of coefficients.

    x0 = skip x + out F(input x, level)

eps, x0, v and EDM are rows.  Training targets, loss weights and inference share them.
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
    """What a denoiser says of x_t.

    Args:
        x0: E[x0 | x_t], the shape of x_t.
        logvar: log of the reverse variance, where the network learned one.
        logits: of the clean categories, for categorical processes.
    """

    x0: Tensor
    logvar: Tensor | None = None
    logits: Tensor | None = None


@runtime_checkable
class Denoiser(Protocol):
    """(x_t, t, condition) -> E[x0 | x_t].  Guidance makes one of these from one."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction: ...


class Coefficients(NamedTuple):
    """x0 = skip x + out F(input x)."""

    skip: Tensor
    out: Tensor
    input: Tensor


@dataclass(frozen=True)
class Parameterization:
    """A row of the table, and what of the noise level the network is told.

    Args:
        coefficients: from alpha(t), sigma(t).
        level: the scalar that the network embeds, from t, alpha(t), sigma(t).
    """

    coefficients: Callable[[Tensor, Tensor], Coefficients]
    level: Callable[[Tensor, Tensor, Tensor], Tensor]


Level = Literal["log_snr", "noise_level", "time"]


def _level(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """What the network is told; each spans tens to a thousand, as sinusoidal embeddings want."""
    return {
        # A level in [0, 1] fed as it is leaves the embedding almost constant over the whole chain.
        "noise_level": lambda t, alpha, sigma: 1000 * alpha,
        "log_snr": lambda t, alpha, sigma: 50 * (alpha / sigma).log().clamp(-10, 10),
        "time": lambda t, alpha, sigma: 1000 * t,
    }[name]


def eps(*, level: Literal["log_snr", "noise_level", "time"] = "log_snr") -> Parameterization:
    """The network says the noise: x0 = (x - sigma eps) / alpha.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 15.

    Args:
        level: what the network is told: log-SNR, 1000 alpha (SR3's continuous noise level,
            scaled) or 1000 t.
    """

    def coefficients(alpha: Tensor, sigma: Tensor) -> Coefficients:
        return Coefficients(1 / alpha, -sigma / alpha, torch.ones_like(alpha))

    return Parameterization(coefficients, _level(level))


def x0(*, level: Literal["log_snr", "noise_level", "time"] = "log_snr") -> Parameterization:
    """The network says the clean sample.

    Args:
        level: what the network is told: log-SNR, 1000 alpha (SR3's continuous noise level,
            scaled) or 1000 t.
    """

    def coefficients(alpha: Tensor, sigma: Tensor) -> Coefficients:
        return Coefficients(torch.zeros_like(alpha), torch.ones_like(alpha), torch.ones_like(alpha))

    return Parameterization(coefficients, _level(level))


def v(*, level: Literal["log_snr", "noise_level", "time"] = "log_snr") -> Parameterization:
    """The network says v = alpha eps - sigma x0, so x0 = (alpha x - sigma v) / (alpha^2 + sigma^2).

    Source: Salimans and Ho 2022, arXiv:2202.00512, section 4, for processes of any variance.

    Args:
        level: what the network is told: log-SNR, 1000 alpha (SR3's continuous noise level,
            scaled) or 1000 t.
    """

    def coefficients(alpha: Tensor, sigma: Tensor) -> Coefficients:
        whole = alpha**2 + sigma**2
        return Coefficients(alpha / whole, -sigma / whole, torch.ones_like(alpha))

    return Parameterization(coefficients, _level(level))


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

    def coefficients(alpha: Tensor, sigma: Tensor) -> Coefficients:
        s = sigma / alpha
        whole = s**2 + data_std**2
        return Coefficients(
            data_std**2 / whole / alpha, s * data_std / whole.sqrt(), 1 / whole.sqrt() / alpha
        )

    # The paper's c_noise is log(sigma)/4 into frequencies up to 1000s; ours is the same quantity
    # in the scale that the other rows use.
    return Parameterization(coefficients, _level("log_snr"))


def network_output(
    network: nn.Module,
    process: GaussianPath,
    parameterization: Parameterization,
    x: Float[Tensor, " b *shape"],
    t: Float[Tensor, " b"],
    condition: Condition | None,
) -> tuple[Float[Tensor, " b *shape"], Coefficients]:
    """F(input x, level) and the float64 coefficients (b,) that make x0 of it."""
    alpha, sigma = process.alpha_sigma(t.double())
    row = parameterization.coefficients(alpha, sigma)
    level = parameterization.level(t.double(), alpha, sigma).to(x)
    return network(over(row.input, x) * x, level, condition), row


def from_network(
    network: nn.Module, process: GaussianPath, parameterization: Parameterization
) -> Denoiser:
    """The denoiser that a network is, given what its output means."""

    def denoise(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        output, row = network_output(network, process, parameterization, x, t, condition)
        return Prediction(over(row.skip, x) * x + over(row.out, x) * output)

    return denoise
