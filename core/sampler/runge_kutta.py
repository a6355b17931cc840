"""EDM's samplers: Heun's rule on dz/ds = (z - x0) / s, z = x / alpha, s = sigma / alpha."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.solver import Ends, Estimate, affine, ends, euler


def _heun(
    x: Float[Tensor, " b *shape"], e: Ends, estimate: Estimate, noise: Source
) -> Float[Tensor, " b *shape"]:
    """Algorithm 1 of Karras et al. 2022 in z = x / alpha and s = sigma / alpha, lines 4 to 8."""
    x0 = estimate(x, e.t).x0
    ahead = affine(x, x0, euler(e), noise)  # lines 4, 5: Euler's step along d = (z - x0) / s
    if e.singular:  # at s = 0 there is no second slope, at s = inf no first
        return ahead
    x0_next = estimate(ahead, e.u).x0  # line 7: the slope there, d' = (z_ahead - x0') / s'
    # Line 8, z + (s' - s) / 2 (d + d'), with z, x0 and x0' gathered and r = s' / s, is
    # r z + (1 - r) / (2 r) [(2 r - 1) x0 + x0'].
    r = e.s_u / e.s_t
    of_next = e.alpha_u * (1 - r) / (2 * r)
    x_next = e.sigma_u / e.sigma_t * x
    return x_next.add_(x0, alpha=(2 * r - 1) * of_next).add_(x0_next, alpha=of_next)


@dataclass(frozen=True, kw_only=True)
class Heun:
    """Heun's rule on dz/ds = (z - x0) / s, z = x / alpha, s = sigma / alpha; Euler into s = 0.

    Order 2, two calls a step but one in the last.
    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1.
    """

    convergence = 2
    restarts = False

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[Ends]:
        """Both ends of every step."""
        return list(ends(process, grid))

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: Ends,
        state: None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], None]:
        """One step; two calls, one at a singular end."""
        return _heun(x, row, estimate, noise), None


class _ChurnRow(NamedTuple):
    ends: Ends  # from the raised level
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
        inflate: factor on the standard deviation of the added noise, 1 for none; their S_noise.
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
        """The raised level and the step from there, for every step."""
        gamma = min(self.churn / (len(grid) - 1), math.sqrt(2) - 1)  # line 4
        alpha, sigma = map(float, process.alpha_sigma(torch.tensor(process.t_max).double()))
        highest = sigma / alpha if alpha > 0 else math.inf
        rows = []
        for e in ends(process, grid, falls=self.churn > 0):
            raised = min(e.s_t * (1 + gamma), highest)  # line 6: s_hat = s + gamma s
            if not (self.s_min <= e.s_t <= self.s_max and raised > e.s_t):
                rows.append(_ChurnRow(e, 1.0, 0.0))
                continue
            log_snr = torch.tensor(-2 * math.log(raised), dtype=torch.float64)
            t_hat = process.time_of_log_snr(log_snr)
            alpha_hat, sigma_hat = map(float, process.alpha_sigma(t_hat))
            from_hat = e._replace(t=float(t_hat), alpha_t=alpha_hat, sigma_t=sigma_hat)
            # line 7: z_hat = z + sqrt(s_hat^2 - s^2) S_noise eps
            added = alpha_hat * math.sqrt(max(from_hat.s_t**2 - e.s_t**2, 0.0))
            rows.append(_ChurnRow(from_hat, alpha_hat / e.alpha_t, self.inflate * added))
        return rows

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _ChurnRow,
        state: None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], None]:
        """One step; two calls, one at a singular end."""
        if row.noise:
            x = (row.scale * x).add_(noise.like(x), alpha=row.noise)
        return _heun(x, row.ends, estimate, noise), None
