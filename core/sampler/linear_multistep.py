"""Adams-Bashforth rules in s = sigma / alpha: orders 1 to 4 at one call a step."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.solver import Ends, Estimate, affine, ends, euler, polynomial_weights


class _LinearRow(NamedTuple):
    ends: Ends
    kept: float
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LinearMultistep:
    """Adams-Bashforth in s = sigma / alpha on eps: x/alpha grows by the polynomial's integral.

    One call a step; keeps its order into the clean end.  Equal to DEIS with polynomials in s.
    Source: Liu et al. 2022, arXiv:2202.09778, eq. 12, for any grid as in Zhang and Chen 2023,
    arXiv:2204.13902, eq. 16 (rho-AB).

    Args:
        order: slopes in the polynomial, 1 to 4.
    """

    order: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4:
            raise InputError(f"order: expected 1 to 4, got {self.order}")

    restarts = False

    @property
    def convergence(self) -> int:
        """The polynomial's."""
        return self.order

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_LinearRow]:
        """The weights of the last slopes for every step."""
        rows: list[_LinearRow] = []
        levels: list[float] = []
        for e in ends(process, grid):
            if e.alpha_t == 0 or e.alpha_u == 0:
                step = euler(e)
                rows.append(_LinearRow(e, step.x, ()))
                levels = []
                continue
            now, then = e.sigma_t / e.alpha_t, e.sigma_u / e.alpha_u
            levels = [now, *levels][: self.order]
            nodes = [(level - now) / (then - now) for level in levels]
            found = polynomial_weights(nodes, [1 / (k + 1) for k in range(len(nodes))])
            length = e.alpha_u * (then - now)
            rows.append(_LinearRow(e, e.alpha_u / e.alpha_t, tuple(length * w for w in found)))
        return rows

    def step(
        self,
        x: Tensor,
        row: _LinearRow,
        state: tuple[Tensor, ...] | None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step; one call; the state is the last slopes, latest first."""
        x0 = estimate(x, row.ends.t).x0
        if not row.weights:
            return affine(x, x0, euler(row.ends), noise), ()
        slope = torch.sub(x, x0, alpha=row.ends.alpha_t).div_(row.ends.sigma_t)
        known = (slope, *(state or ()))[: self.order]
        moved = row.kept * x
        for weight, value in zip(row.weights, known, strict=False):
            moved.add_(value, alpha=weight)
        return moved, known
