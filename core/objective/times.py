"""Training times: `(process, noise) -> t`, one a sample, from its own stream."""

from collections.abc import Callable

import torch
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Noise

Times = Callable[[GaussianPath, Noise], Tensor]


def _spread(process: GaussianPath, u: Tensor) -> Tensor:
    return process.t_first + u * (process.t_max - process.t_first)


def uniform() -> Times:
    """Uniform on [t_first, t_max]."""
    return lambda process, noise: _spread(process, noise.uniform())


def stratified() -> Times:
    """Uniform on the whole, and sample i of b on the i-th of b equal strata: less variance.

    Source: Kingma et al. 2021, arXiv:2107.00630, appendix I.1, with independent draws per stratum.
    """

    def draw(process: GaussianPath, noise: Noise) -> Tensor:
        u = (torch.arange(len(noise), dtype=torch.float64) + noise.uniform()) / len(noise)
        return _spread(process, u)

    return draw


def log_normal(*, mean: float = -1.2, std: float = 1.2) -> Times:
    """log(sigma/alpha) normal, within the process's range.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1.

    Args:
        mean: of log(sigma/alpha).
        std: of log(sigma/alpha).

    Raises:
        InputError: std not positive.
    """
    if std <= 0:
        raise InputError(f"log_normal: expected std > 0, got {std}")

    def draw(process: GaussianPath, noise: Noise) -> Tensor:
        level = mean + std * noise.normal((), torch.float64)
        return process.time_of_log_snr(-2 * level).clamp(process.t_first, process.t_max)

    return draw
