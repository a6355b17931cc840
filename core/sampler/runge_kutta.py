"""Rules in the relative level s = sigma / alpha: d(x/alpha)/ds = (x/alpha - x0) / s = eps."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.solver import Affine, Ends, Estimate, affine, ends, euler


class _HeunRow(NamedTuple):
    ends: Ends
    euler: Affine


def _heun(x: Tensor, row: _HeunRow, estimate: Estimate, noise: Source) -> Tensor:
    """Euler's step, then the mean of the slopes at both ends; Euler alone at singular ends."""
    e = row.ends
    x0 = estimate(x, e.t).x0
    ahead = affine(x, x0, row.euler, noise)
    if e.singular:
        return ahead
    there = estimate(ahead, e.u).x0
    # ahead + alpha_u (s_u - s_t) / 2 times the difference of the slopes, (x / alpha - x0) / s; what
    # multiplies x is then Euler's factor again.
    half = (e.sigma_u - e.sigma_t * e.alpha_u / e.alpha_t) / 2
    of_x0 = row.euler.x0 * (1 + half / e.sigma_u) + half * e.alpha_t / e.sigma_t
    moved = (row.euler.x * x).add_(x0, alpha=of_x0)
    return moved.add_(there, alpha=-half * e.alpha_u / e.sigma_u)


@dataclass(frozen=True, kw_only=True)
class Heun:
    """Heun's rule on d(x/alpha)/ds = (x/alpha - x0) / s, s = sigma / alpha; Euler into s = 0.

    Order 2, two calls a step but one in the last.
    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1.
    """

    convergence = 2
    restarts = False

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_HeunRow]:
        """Both ends of every step, and Euler's step between them."""
        return [_HeunRow(e, euler(e)) for e in ends(process, grid)]

    def step(
        self, x: Tensor, row: _HeunRow, state: None, estimate: Estimate, noise: Source
    ) -> tuple[Tensor, None]:
        """One step; two calls, one at a singular end."""
        return _heun(x, row, estimate, noise), None


class _ChurnRow(NamedTuple):
    heun: _HeunRow
    scale: float  # of x, from the level before the noise to the level after it
    noise: float


@dataclass(frozen=True, kw_only=True)
class Churn:
    """EDM's stochastic sampler: noise is added to reach s (1 + gamma), then Heun's rule.

    gamma = min(churn / steps, sqrt 2 - 1).  The raised level is kept within the process's own.
    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2 and table 5.

    Args:
        churn: noise added over the whole run, in units of the level; their S_churn, 10 to 80 in
            the source, for runs of 18 to 256 steps.
        s_min: relative level below which none is added; their S_tmin.
        s_max: relative level above which none is added; their S_tmax.
        inflate: factor on the deviation of the added noise, 1 for none; their S_noise.
    """

    convergence = 2
    restarts = False

    churn: float = 20.0
    s_min: float = 0.05
    s_max: float = 50.0
    inflate: float = 1.0

    def __post_init__(self) -> None:
        if self.churn < 0 or not 0 <= self.s_min <= self.s_max or self.inflate <= 0:
            raise InputError(
                "expected churn >= 0, 0 <= s_min <= s_max and inflate > 0, got "
                f"churn={self.churn}, s_min={self.s_min}, s_max={self.s_max}, "
                f"inflate={self.inflate}"
            )

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_ChurnRow]:
        """The raised level and Heun's row from there, for every step."""
        gamma = min(self.churn / (len(grid) - 1), math.sqrt(2) - 1)
        alpha, sigma = map(float, process.alpha_sigma(torch.tensor(process.t_max).double()))
        highest = sigma / alpha if alpha > 0 else math.inf
        rows = []
        for e in ends(process, grid, falls=self.churn > 0):
            s = e.sigma_t / e.alpha_t if e.alpha_t > 0 else math.inf
            raised = min(s * (1 + gamma), highest)
            if not (self.s_min <= s <= self.s_max and raised > s):
                rows.append(_ChurnRow(_HeunRow(e, euler(e)), 1.0, 0.0))
                continue
            level = torch.tensor(-2 * math.log(raised), dtype=torch.float64)
            at = process.time_of_log_snr(level)
            alpha_s, sigma_s = map(float, process.alpha_sigma(at))
            there = e._replace(t=float(at), alpha_t=alpha_s, sigma_t=sigma_s)
            added = alpha_s * math.sqrt(max((sigma_s / alpha_s) ** 2 - s**2, 0.0))
            rows.append(
                _ChurnRow(_HeunRow(there, euler(there)), alpha_s / e.alpha_t, self.inflate * added)
            )
        return rows

    def step(
        self, x: Tensor, row: _ChurnRow, state: None, estimate: Estimate, noise: Source
    ) -> tuple[Tensor, None]:
        """One step; two calls, one at a singular end."""
        if row.noise:
            x = (row.scale * x).add_(noise.like(x), alpha=row.noise)
        return _heun(x, row.heun, estimate, noise), None
