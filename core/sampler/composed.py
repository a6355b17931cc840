"""Solvers made from solvers."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from jaxtyping import Float64
from torch import Tensor

from core.errors import InputError
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.solver import Ends, Estimate, Solver, ends


def predictor_corrector(
    *,
    predictor: Annotated[Spec, "sampler"] = Spec("core/ancestral"),
    corrections: int = 1,
    snr: float = 0.16,
) -> Solver:
    """A step of `predictor`, then Langevin steps at the level it led to.

    Source: Song et al. 2021, arXiv:2011.13456, algorithms 1, 4 and 5.

    Args:
        predictor: the solver to correct.
        corrections: Langevin steps, and calls, after each of its steps.
        snr: size of a Langevin step: deviation of what the score moves over that of the noise.

    Raises:
        InputError: no correction, or snr not in (0, 1).
    """
    return PredictorCorrector(configure("sampler", predictor)(), corrections, snr)


class _Pair(NamedTuple):
    row: Any
    ends: Ends


@dataclass(frozen=True)
class PredictorCorrector:
    """See `predictor_corrector`: x <- x + (snr sigma)^2 2 score + snr sigma 2 z at every level.

    The paper's step 2 (snr |z| / |score|)^2 with both norms at their expectations, sqrt d and
    sqrt d / sigma: a sample then does not depend on its batch.  A step of finite size has a
    stationary variance that is a little too large, whatever the number of steps.
    """

    predictor: Solver
    corrections: int
    snr: float

    convergence = 0

    @property
    def restarts(self) -> bool:
        """The predictor's."""
        return self.predictor.restarts

    def __post_init__(self) -> None:
        if self.corrections < 1 or not 0 < self.snr < 1:
            raise InputError(
                "expected corrections >= 1 and 0 < snr < 1, got "
                f"corrections={self.corrections}, snr={self.snr}"
            )

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Pair]:
        """The predictor's rows, with the levels they lead to."""
        rows, steps = self.predictor.plan(process, grid), list(ends(process, grid, falls=True))
        if len(rows) != len(steps):
            raise InputError("predictor: expected a solver that takes one step for each of a grid")
        return [_Pair(row, e) for row, e in zip(rows, steps, strict=True)]

    def step(
        self, x: Tensor, row: _Pair, state: Any, estimate: Estimate, noise: Source
    ) -> tuple[Tensor, Any]:
        """The predictor's step; `corrections` calls more, none at the clean end."""
        x, state = self.predictor.step(x, row.row, state, estimate, noise)
        e, size = row.ends, 2 * self.snr**2
        for _ in range(self.corrections if e.sigma_u > 0 else 0):
            x0 = estimate(x, e.u).x0
            x = ((1 - size) * x).add_(x0, alpha=size * e.alpha_u)
            x.add_(noise.like(x), alpha=math.sqrt(2 * size) * e.sigma_u)
        return x, state


def stochastic_then_ode(
    *,
    first: Annotated[Spec, "sampler"] = Spec("core/multistep", {"eta": 1.0}),
    then: Annotated[Spec, "sampler"] = Spec("core/multistep"),
    log_snr: float = 0.0,
) -> Solver:
    """`first` while there is more noise than `log_snr`, `then` from there on.

    Noise forgets the errors of early steps; the ODE is more exact where detail is made.
    Source: Karras et al. 2022, arXiv:2206.00364, section 4 (noise in a range of levels only).

    Args:
        first: the solver of the noisy part.
        then: the solver of the rest.
        log_snr: where to change, log(alpha^2 / sigma^2); 0 is as much noise as signal.
    """
    return Switched(configure("sampler", first)(), configure("sampler", then)(), log_snr)


class _Turn(NamedTuple):
    solver: Solver
    row: Any
    begins: bool


@dataclass(frozen=True)
class Switched:
    """See `stochastic_then_ode`."""

    first: Solver
    then: Solver
    log_snr: float

    @property
    def convergence(self) -> int:
        """The lower of the two."""
        return min(self.first.convergence, self.then.convergence)

    @property
    def restarts(self) -> bool:
        """Whether either does."""
        return self.first.restarts or self.then.restarts

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Turn]:
        """The rows of both, the grid cut at its last time with more noise than `log_snr`."""
        list(ends(process, grid, falls=True))
        noisy = int((process.log_snr(grid.cpu()) < self.log_snr).sum())
        cut = min(max(noisy - 1, 0), len(grid) - 1)
        turns: list[_Turn] = []
        for solver, part in ((self.first, grid[: cut + 1]), (self.then, grid[cut:])):
            rows = solver.plan(process, part) if len(part) > 1 else []
            turns += [_Turn(solver, row, number == 0) for number, row in enumerate(rows)]
        return turns

    def step(
        self, x: Tensor, row: _Turn, state: Any, estimate: Estimate, noise: Source
    ) -> tuple[Tensor, Any]:
        """A step of the one or the other; histories are not shared."""
        return row.solver.step(x, row.row, None if row.begins else state, estimate, noise)
