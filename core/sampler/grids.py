"""Time grids: falling times from noise to data, float64, the last one clean (sigma = 0).

By default the last level before the clean end is no lower than the level at `t_first`, below which
a network was never trained; an option that names a lower level is followed.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath


def _steps(steps: int, least: int) -> None:
    if steps < least:
        raise InputError(f"steps: expected at least {least}, got {steps}")


def _level(process: GaussianPath, t: float) -> float:
    """sigma / alpha at a time; infinite at pure noise."""
    alpha, sigma = process.alpha_sigma(torch.tensor(t, dtype=torch.float64))
    return float(sigma) / float(alpha) if float(alpha) > 0 else math.inf


def _to_clean(process: GaussianPath, times: Float64[Tensor, " n"]) -> Float64[Tensor, " m"]:
    """`times` with the clean end appended."""
    return torch.cat([times, times.new_tensor([process.t_min])])


def uniform_time(process: GaussianPath, *, steps: int = 20) -> Float64[Tensor, " n"]:
    """Even steps of time from `t_max` to `t_min`; "trailing" spacing, in the terms of DDPM tables.

    Where steps are so many that one would end between `t_first` and `t_min`, the last goes from
    `t_first` to `t_min` and the others are even.

    Args:
        steps: number of steps; the grid has steps + 1 times.

    Raises:
        InputError: no step.
    """
    _steps(steps, 1)
    times = torch.linspace(process.t_max, process.t_min, steps + 1, dtype=torch.float64)
    if steps > 1 and float(times[-2]) < process.t_first:
        times = torch.linspace(process.t_max, process.t_first, steps, dtype=torch.float64)
        return _to_clean(process, times)
    return times


def uniform_log_snr(
    process: GaussianPath,
    *,
    steps: int = 20,
    log_snr_max: float | None = None,
    log_snr_min: float = -20.0,
) -> Float64[Tensor, " n"]:
    """Even steps of log-SNR from its value at `t_max` to `log_snr_max`, then the clean end.

    Where the process has more noise than `log_snr_min` the steps are counted from there, and the
    first begins at `t_max` all the same.
    Source: Lu et al. 2022, arXiv:2206.00927, section 3.3.

    Args:
        steps: number of steps; the grid has steps + 1 times.
        log_snr_max: log-SNR before the last step; where null 12, noise of 0.0025 of the signal, or
            the log-SNR at the process's `t_first` where that is lower.
        log_snr_min: lowest log-SNR that is counted; for processes that end in pure noise.

    Raises:
        InputError: no step, or a log_snr_max below the noisy end's.
    """
    _steps(steps, 1)
    end = float(process.log_snr(torch.tensor(process.t_max, dtype=torch.float64)))
    start = max(end, log_snr_min)
    if log_snr_max is None:
        first = torch.tensor(process.t_first, dtype=torch.float64)
        log_snr_max = min(12.0, float(process.log_snr(first)))
    if log_snr_max <= start:
        raise InputError(f"log_snr_max: expected more than {start:.2f}, got {log_snr_max}")
    values = torch.linspace(start, log_snr_max, steps, dtype=torch.float64)
    times = process.time_of_log_snr(values)
    times[0] = process.t_max
    return _to_clean(process, times)


def karras(
    process: GaussianPath,
    *,
    steps: int = 18,
    sigma_min: float | None = None,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Float64[Tensor, " n"]:
    """Levels sigma / alpha spaced evenly in their rho-th root, then the clean end.

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 5.

    Args:
        steps: number of steps; the grid has steps + 1 times.
        sigma_min: last level before the clean end, relative to the data; where null 0.002, or the
            level at the process's `t_first` where that is higher.
        sigma_max: first level, lowered to the process's own largest where that is less.
        rho: how strongly levels crowd towards sigma_min; 1 spaces them evenly.

    Raises:
        InputError: fewer than two steps, or levels out of order.
    """
    _steps(steps, 2)
    end = float(process.log_snr(torch.tensor(process.t_max, dtype=torch.float64)))
    highest = min(sigma_max, math.exp(-end / 2))
    if sigma_min is None:
        sigma_min = max(0.002, _level(process, process.t_first))
    if not 0 < sigma_min < highest or rho <= 0:
        raise InputError(
            f"expected 0 < sigma_min < sigma_max and rho > 0, got sigma_min={sigma_min}, "
            f"sigma_max={highest:g}, rho={rho}"
        )
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = highest ** (1 / rho), sigma_min ** (1 / rho)
    levels = (high + ramp * (low - high)) ** rho
    return _to_clean(process, process.time_of_log_snr(-2 * levels.log()))


def discrete(
    process: GaussianPath,
    *,
    steps: int = 50,
    chain: int = 1000,
    spacing: Literal["leading", "trailing", "linspace"] = "trailing",
) -> Float64[Tensor, " n"]:
    """Times of a chain of `chain` steps that a shorter run visits, then the clean end.

    Node n of the chain, n = 1 to `chain`, lies at the n-th of so many parts of the time.
    Source: Lin et al. 2023, arXiv:2305.08891, table 2; only trailing and linspace begin at the
    noisy end.

    Args:
        steps: number of steps; the grid has steps + 1 times.
        chain: length of the chain that the network was trained on.
        spacing: leading, every (chain // steps)-th from the first; trailing, every (chain /
            steps)-th back from the last; linspace, evenly from the first to the last, both visited.

    Raises:
        InputError: no step, more steps than the chain has, or a node below `t_first`.
    """
    _steps(steps, 1)
    if steps > chain:
        raise InputError(f"steps: expected at most the {chain} of the chain, got {steps}")
    count = torch.arange(steps, dtype=torch.float64)
    if spacing == "leading":
        nodes = 1 + count * (chain // steps)
    elif spacing == "trailing":
        nodes = (chain - count * chain / steps).round().flip(0)
    else:
        nodes = 1 + torch.linspace(0, chain - 1, steps, dtype=torch.float64).round()
        nodes = nodes if steps > 1 else torch.tensor([chain], dtype=torch.float64)
    times = process.t_min + nodes.flip(0) / chain * (process.t_max - process.t_min)
    if float(times[-1]) < process.t_first * (1 - 1e-9):
        raise InputError(
            f"discrete: the last node before the clean end, t = {float(times[-1]):g}, lies below "
            f"the process's smallest trained time, {process.t_first:g}; use core/karras or a "
            "shorter chain"
        )
    return _to_clean(process, times)


def custom(
    process: GaussianPath,
    *,
    values: tuple[float, ...] = (80.0, 20.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.05),
    unit: Literal["sigma", "log_snr", "time"] = "sigma",
    clean: bool = True,
) -> Float64[Tensor, " n"]:
    """Exactly the given levels, from noisy to clean.

    Args:
        values: the levels; those beyond the process's own noisy end become that end.
        unit: sigma / alpha, log(alpha^2 / sigma^2), or the process's own time.
        clean: append the clean end.

    Raises:
        InputError: fewer than two levels in all, or levels out of order or out of range.
    """
    given = torch.tensor(values, dtype=torch.float64)
    if unit == "sigma" and bool((given <= 0).any()):
        raise InputError("values: expected sigma above 0; the clean end is appended by itself")
    if unit == "time":
        times = given
    else:
        times = process.time_of_log_snr(-2 * given.log() if unit == "sigma" else given)
    if clean and (len(times) == 0 or float(times[-1]) > process.t_min):
        times = _to_clean(process, times)
    inside = bool((times >= process.t_min).all() and (times <= process.t_max).all())
    if len(times) < 2 or not inside or bool((times.diff() >= 0).any()):
        raise InputError(
            f"values: expected at least two levels from noisy to clean within the process, got "
            f"{list(values)} in {unit}"
        )
    return times
