"""The weight of a time, always in units of the eps error: one for every parameterization.

A weighting is `(process, t) -> weight`, elementwise and in float64; the loss converts by the
network's own out coefficient.  Most are functions of log-SNR.  Those of a likelihood depend on how
fast log-SNR falls as well, which is the process's.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath

Weighting = Callable[[GaussianPath, Float[Tensor, "..."]], Float[Tensor, "..."]]
"""(process, t) -> the weight of each time, float64."""


def inside(process: GaussianPath, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`t` in float64, clamped just below `t_max` (1e-9 of the range).

    Where a process ends in pure noise log-SNR is infinite, and weight times scale would be
    infinity times zero; both are finite beside it, and their product is near its limit.
    """
    return t.double().clamp(max=process.t_max - 1e-9 * (process.t_max - process.t_first))


def _of_log_snr(weight: Callable[[Tensor], Tensor]) -> Weighting:
    return lambda process, t: weight(process.log_snr(t))


def _half_fall(process: GaussianPath, t: Tensor) -> Tensor:
    """|d log-SNR / dt| / 2 = g^2 / (2 sigma^2)."""
    _, sigma = process.alpha_sigma(t.double())
    _, g2 = process.drift_diffusion(t)  # g^2 = -sigma^2 d log-SNR / dt
    return g2 / (2 * sigma**2)


def simple() -> Weighting:
    """1: the plain eps error.  Source: Ho et al. 2020, arXiv:2006.11239, eq. 14."""
    return _of_log_snr(torch.ones_like)


def v() -> Weighting:
    """1 + 1/SNR: the plain v error of a variance-preserving process.

    Source: Salimans and Ho 2022, arXiv:2202.00512, section 4 ("SNR+1" on the x0 error).
    """
    # alpha^2 + sigma^2 = 1: v_hat - v = (eps_hat - eps) / alpha, and 1 / alpha^2 = 1 + 1/SNR
    return _of_log_snr(lambda log_snr: 1 + (-log_snr).exp())


def rectified_flow() -> Weighting:
    """(1 + sigma/alpha)^2: the plain error of the velocity eps - x0, |v_hat - v|^2.

    With uniform times it is the loss of rectified flow on `core/flow`, and its like on every other
    process.  x_t is fixed, so alpha (x0_hat - x0) = -sigma (eps_hat - eps) and the error of the
    velocity is (1 + sigma/alpha) (eps_hat - eps).
    Source: Liu et al. 2022, arXiv:2209.03003, eq. 1.
    """
    return _of_log_snr(lambda log_snr: (1 + (-log_snr / 2).exp()) ** 2)


def truncated_snr() -> Weighting:
    """max(SNR, 1) on the x0 error, which is max(1, 1/SNR) on the error of eps.

    Source: Salimans and Ho 2022, arXiv:2202.00512, section 4.
    """
    return _of_log_snr(lambda log_snr: (-log_snr).exp().clamp(min=1))


def min_snr(*, gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on the x0 error, which is min(1, gamma/SNR) on the error of eps.

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.

    Args:
        gamma: SNR above which the weight of the x0 error stays constant.

    Raises:
        InputError: not positive.
    """
    if gamma <= 0:
        raise InputError(f"min_snr: expected gamma > 0, got {gamma}")
    # |x0_hat - x0|^2 = |eps_hat - eps|^2 / SNR
    return _of_log_snr(lambda log_snr: (gamma * (-log_snr).exp()).clamp(max=1))


def p2(*, k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """1 / (k + SNR)^gamma: less weight on levels of fine detail.

    Source: Choi et al. 2022, arXiv:2204.00227, section 3, lambda'_t over L_simple's lambda_t.

    Args:
        k: bounds the weight of pure noise, which is k^-gamma.
        gamma: how strongly clean levels are down-weighted; 0 is L_simple.

    Raises:
        InputError: k not positive, or gamma negative.
    """
    if k <= 0 or gamma < 0:
        raise InputError(f"p2: expected k > 0 and gamma >= 0, got k={k}, gamma={gamma}")
    return _of_log_snr(lambda log_snr: (k + log_snr.exp()) ** -gamma)


def edm(*, data_std: float = 0.5) -> Weighting:
    """(s^2 + data_std^2) / data_std^2, s = sigma/alpha: unit loss for EDM's network at every level.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1, lambda(sigma) in eps units.

    Args:
        data_std: standard deviation of the clean data.

    Raises:
        InputError: not positive.
    """
    if data_std <= 0:
        raise InputError(f"edm: expected data_std > 0, got {data_std}")
    # lambda = (s^2 + d^2) / (s d)^2 on the x0 error of variance s^2 |eps_hat - eps|^2
    return _of_log_snr(lambda log_snr: ((-log_snr).exp() + data_std**2) / data_std**2)


def likelihood() -> Weighting:
    """|d log-SNR / dt| / 2: the loss over uniform times is the variational bound's diffusion term.

    Nats, averaged over elements; the integral over time is the mean times t_max - t_first.  The
    weight grows as 1/t towards the clean end: draw times by `core/importance`.
    Source: Song et al. 2021, arXiv:2101.09258, theorem 1, lambda = g^2 on the score; Kingma et al.
    2021, arXiv:2107.00630, section 5, the continuous-time loss.
    """
    return _half_fall


def sigmoid(*, bias: float = 2.0) -> Weighting:
    """|d log-SNR / dt| / 2 / (1 + e^(log-SNR - bias)): the bound with little weight on fine detail.

    The same objective whatever the process, for times spread uniformly.
    Source: Kingma and Gao 2023, arXiv:2303.00848, section 5, sigmoid(k - lambda) with k = 2.

    Args:
        bias: log-SNR at which the weight is half of the likelihood's.
    """
    return lambda process, t: torch.sigmoid(bias - process.log_snr(t)) * _half_fall(process, t)
