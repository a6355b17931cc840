"""Adams-Bashforth rules in s = sigma / alpha: orders 1 to 4 at one call a step."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.solver import Ends, Estimate, affine, ends, euler, polynomial_weights


class _LinearRow(NamedTuple):
    ends: Ends
    kept: float  # alpha_u / alpha_t
    weights: tuple[float, ...]  # of the last slopes, latest first; none at pure noise


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
                rows.append(_LinearRow(e, euler(e).x, ()))
                levels = []
                continue
            levels = [e.s_t, *levels][: self.order]
            # On r = (s - s_t) / (s_u - s_t) the integral of r^k over the step is 1 / (k + 1).
            nodes = [(level - e.s_t) / (e.s_u - e.s_t) for level in levels]
            weights = polynomial_weights(nodes, [1 / (k + 1) for k in range(len(nodes))])
            # x_u / alpha_u = x_t / alpha_t + (s_u - s_t) sum_j w_j eps_j
            length = e.alpha_u * (e.s_u - e.s_t)
            rows.append(_LinearRow(e, e.alpha_u / e.alpha_t, tuple(length * w for w in weights)))
        return rows

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _LinearRow,
        state: tuple[Float[Tensor, " b *shape"], ...] | None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], tuple[Float[Tensor, " b *shape"], ...]]:
        """One step; one call; the state is the last slopes, latest first."""
        x0 = estimate(x, row.ends.t).x0
        if not row.weights:
            return affine(x, x0, euler(row.ends), noise), ()
        eps = torch.sub(x, x0, alpha=row.ends.alpha_t).div_(row.ends.sigma_t)  # dz/ds
        slopes = (eps, *(state or ()))[: self.order]
        x_u = row.kept * x
        for weight, slope in zip(row.weights, slopes, strict=False):
            x_u.add_(slope, alpha=weight)
        return x_u, slopes
