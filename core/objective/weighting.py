"""w(log-SNR): the weight of a noise level, always in units of the eps error.

One definition serves every parameterization: the loss converts by the network's own out
coefficient.  A weighting is `(log_snr) -> weight`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from core.errors import InputError

Weighting = Callable[[Tensor], Tensor]


def simple() -> Weighting:
    """1: the plain eps error.  Source: Ho et al. 2020, arXiv:2006.11239, eq. 14."""
    return torch.ones_like


def v() -> Weighting:
    """1 + 1/SNR: the plain v error of a variance-preserving process.

    Source: Salimans and Ho 2022, arXiv:2202.00512, section 4 ("SNR+1" on the x0 error).
    """
    return lambda log_snr: 1 + (-log_snr).exp()


def min_snr(*, gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on the x0 error, which is min(1, gamma/SNR) here.

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.

    Args:
        gamma: SNR above which a level counts no more.

    Raises:
        InputError: not positive.
    """
    if gamma <= 0:
        raise InputError(f"min_snr: expected gamma > 0, got {gamma}")
    return lambda log_snr: (gamma * (-log_snr).exp()).clamp(max=1)


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
    return lambda log_snr: ((-log_snr).exp() + data_std**2) / data_std**2
