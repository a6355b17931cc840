"""Time grids: falling times from noise to data, float64, the last one clean (sigma = 0)."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath

Grid = Float64[Tensor, " n"]


def _steps(steps: int, least: int) -> None:
    if steps < least:
        raise InputError(f"steps: expected at least {least}, got {steps}")


def _finished(process: GaussianPath, times: Tensor) -> Tensor:
    """`times` from exactly `t_max`, with the clean end appended."""
    times = times.clone()
    times[0] = process.t_max
    return torch.cat([times, torch.tensor([process.t_min], dtype=torch.float64)])


def uniform_time(process: GaussianPath, *, steps: int = 20) -> Float64[Tensor, " n"]:
    """Even steps of time from `t_max` to `t_min`; "trailing" spacing, in the terms of DDPM tables.

    Args:
        steps: number of steps; the grid has steps + 1 times.

    Raises:
        InputError: no step.
    """
    _steps(steps, 1)
    return torch.linspace(process.t_max, process.t_min, steps + 1, dtype=torch.float64)


def uniform_log_snr(
    process: GaussianPath, *, steps: int = 20, log_snr_max: float = 12.0
) -> Float64[Tensor, " n"]:
    """Even steps of log-SNR from its value at `t_max` to `log_snr_max`, then the clean end.

    Source: Lu et al. 2022, arXiv:2206.00927, section 3.3.

    Args:
        steps: number of steps; the grid has steps + 1 times.
        log_snr_max: log-SNR before the last step; 12 is noise of 0.0025 of the signal.

    Raises:
        InputError: no step, or a log_snr_max below the noisy end's.
    """
    _steps(steps, 1)
    start = float(process.log_snr(torch.tensor(process.t_max, dtype=torch.float64)))
    if log_snr_max <= start:
        raise InputError(f"log_snr_max: expected more than {start:.2f}, got {log_snr_max}")
    values = torch.linspace(start, log_snr_max, steps, dtype=torch.float64)
    return _finished(process, process.time_of_log_snr(values))


def karras(
    process: GaussianPath,
    *,
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Float64[Tensor, " n"]:
    """Levels sigma / alpha spaced evenly in their rho-th root, then the clean end.

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 5.

    Args:
        steps: number of steps; the grid has steps + 1 times.
        sigma_min: last level before the clean end, relative to the data.
        sigma_max: first level, lowered to the process's own largest where that is less.
        rho: how strongly levels crowd towards sigma_min; 1 spaces them evenly.

    Raises:
        InputError: fewer than two steps, or levels out of order.
    """
    _steps(steps, 2)
    end = float(process.log_snr(torch.tensor(process.t_max, dtype=torch.float64)))
    highest = min(sigma_max, math.exp(-end / 2))
    if not 0 < sigma_min < highest or rho <= 0:
        raise InputError(
            f"expected 0 < sigma_min < sigma_max and rho > 0, got sigma_min={sigma_min}, "
            f"sigma_max={highest:g}, rho={rho}"
        )
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = highest ** (1 / rho), sigma_min ** (1 / rho)
    levels = (high + ramp * (low - high)) ** rho
    times = process.time_of_log_snr(-2 * levels.log())
    zero = torch.tensor([process.t_min], dtype=torch.float64)
    return torch.cat([times, zero])
