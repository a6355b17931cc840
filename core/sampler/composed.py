"""Solvers made from solvers."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import InputError
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.solver import Ends, Estimate, Solver, check_grid, ends


class _Corrected(NamedTuple):
    row: Any  # the predictor's
    ends: Ends


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector:
    """A step of `predictor`, then Langevin steps x <- x + e score + sqrt(2 e) z at its end.

    The paper's step size e = 2 (snr |z| / |score|)^2 with both norms at their expectations, sqrt d
    and sqrt d / sigma: a sample then does not depend on its batch.  A step of finite size has a
    stationary variance that is a little too large, whatever the number of steps.
    Source: Song et al. 2021, arXiv:2011.13456, algorithms 1, 4 and 5.

    Args:
        predictor: the solver to correct.
        corrections: Langevin steps, and calls, after each of its steps.
        snr: size of a Langevin step: standard deviation of the score's move over that of the noise.

    Raises:
        InputError: no correction, or snr not in (0, 1).
    """

    convergence = 0

    predictor: Annotated[Spec, "sampler"] = Spec("core/ancestral")
    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.corrections < 1 or not 0 < self.snr < 1:
            raise InputError(
                "expected corrections >= 1 and 0 < snr < 1, got "
                f"corrections={self.corrections}, snr={self.snr}"
            )

    @cached_property
    def _predictor(self) -> Solver:
        return configure("sampler", self.predictor)()

    @property
    def restarts(self) -> bool:
        """Those of the predictor."""
        return self._predictor.restarts

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Corrected]:
        """The predictor's rows, with the levels they lead to."""
        rows = self._predictor.plan(process, grid)
        steps = list(ends(process, grid, falls=True))
        if len(rows) != len(steps):
            raise InputError(
                f"predictor: expected a solver that takes one step for each of a grid, got "
                f"{self.predictor.name}"
            )
        return [_Corrected(row, e) for row, e in zip(rows, steps, strict=True)]

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _Corrected,
        state: Any,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], Any]:
        """The predictor's step; `corrections` calls more, none at the clean end."""
        x, state = self._predictor.step(x, row.row, state, estimate, noise)
        e = row.ends
        # Algorithm 5 with e = 2 (snr sigma)^2 and score = (alpha x0 - x) / sigma^2:
        # x <- x + 2 snr^2 (alpha x0 - x) + 2 snr sigma z
        size = 2 * self.snr**2
        for _ in range(self.corrections if e.sigma_u > 0 else 0):
            x0 = estimate(x, e.u).x0
            x = ((1 - size) * x).add_(x0, alpha=size * e.alpha_u)
            x.add_(noise.like(x), alpha=math.sqrt(2 * size) * e.sigma_u)
        return x, state


class _Turn(NamedTuple):
    solver: Solver
    row: Any
    begins: bool


@dataclass(frozen=True, kw_only=True)
class StochasticThenODE:
    """`first` while there is more noise than `log_snr`, `then` from there on.

    Noise forgets the errors of early steps; the ODE is more exact where detail is made.
    Source: Karras et al. 2022, arXiv:2206.00364, section 4 (noise in a range of levels only).

    Args:
        first: the solver of the noisy part.
        then: the solver of the rest.
        log_snr: where to change, log(alpha^2 / sigma^2); 0 is as much noise as signal.
    """

    first: Annotated[Spec, "sampler"] = Spec("core/multistep", {"eta": 1.0})
    then: Annotated[Spec, "sampler"] = Spec("core/multistep")
    log_snr: float = 0.0

    @cached_property
    def _solvers(self) -> tuple[Solver, Solver]:
        return configure("sampler", self.first)(), configure("sampler", self.then)()

    @property
    def convergence(self) -> int:
        """The lower of the two."""
        return min(solver.convergence for solver in self._solvers)

    @property
    def restarts(self) -> bool:
        """Whether either does."""
        return any(solver.restarts for solver in self._solvers)

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Turn]:
        """The rows of both, the grid cut at its last time with more noise than `log_snr`."""
        grid = check_grid(process, grid, falls=True)
        noisy = int((process.log_snr(grid) < self.log_snr).sum())
        cut = min(max(noisy - 1, 0), len(grid) - 1)
        turns: list[_Turn] = []
        for solver, part in zip(self._solvers, (grid[: cut + 1], grid[cut:]), strict=True):
            rows = solver.plan(process, part) if len(part) > 1 else []
            turns += [_Turn(solver, row, number == 0) for number, row in enumerate(rows)]
        return turns

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _Turn,
        state: Any,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], Any]:
        """A step of the one or the other; each begins without a history."""
        return row.solver.step(x, row.row, None if row.begins else state, estimate, noise)


@dataclass(frozen=True, kw_only=True)
class GradedStart:
    """A multistep solver whose first step is cut so that a start in the middle keeps its order.

    A rule of order p takes its first steps with rules of order 1, 2, ..., whose errors stay: from
    the middle of a process (an edit, an encoding) the result is of order 2, whatever p.  Steps that
    end at h^(p / (k + 1)), k = 1, ..., p - 1, for a first step of h, make those errors of order p.
    Costs p - 1 calls more.  From pure noise, where x0 hardly changes at first, the calls are better
    spent on the whole grid: at equal calls results are 5 to 50 % worse.
    Source: for one-step starts of multistep rules, Hairer, Norsett and Wanner, Solving ODEs I,
    section III.1; the grading equates local errors h_k^(k + 1) = h^p.

    Args:
        solver: a solver that keeps its last estimates, such as core/multistep.
    """

    solver: Annotated[Spec, "sampler"] = Spec("core/multistep", {"order": 3, "prediction": "eps"})

    @cached_property
    def _solver(self) -> Solver:
        return configure("sampler", self.solver)()

    @property
    def convergence(self) -> int:
        """That of the solver, also from the middle of a process."""
        return self._solver.convergence

    @property
    def restarts(self) -> bool:
        """Whether the solver does."""
        return self._solver.restarts

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[Any]:
        """The solver's rows on the grid with its first step cut."""
        grid = check_grid(process, grid)
        steps, order = list(ends(process, grid)), self.convergence
        regular = [number for number, e in enumerate(steps) if not e.singular]
        if not regular:
            return self._solver.plan(process, grid)
        first, e = regular[0], steps[regular[0]]
        h = abs(e.h)
        # Fractions of the step, at most 1/2, 1/4, ... of it from its end backwards, so that a long
        # step is halved and not cut into slivers.
        fractions = [min(h ** (order / (k + 1) - 1), 2.0 ** (k - order)) for k in range(1, order)]
        start, end = e.clock
        log_snr = [start + fraction * (end - start) for fraction in fractions]
        cuts = process.time_of_log_snr(torch.tensor(log_snr, dtype=torch.float64))
        finer = torch.cat([grid[: first + 1], cuts, grid[first + 1 :]])
        return self._solver.plan(process, finer)

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: Any,
        state: Any,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], Any]:
        """The solver's step."""
        return self._solver.step(x, row, state, estimate, noise)
