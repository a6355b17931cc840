"""Exponential Adams rules with a corrector that costs no call: UniPC, and SA-Solver with noise.

The estimate at the end of a step corrects the step that led there, as the newest node of its
polynomial, before it serves the next step: predict, evaluate, correct (PEC).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.exponential import (
    AdamsRow,
    adams_rows,
    adams_weights,
    check_options,
    moments,
    predicted,
    weighted_sum,
)
from core.sampler.solver import Estimate, affine


class _Row(NamedTuple):
    predict: AdamsRow
    kept: float  # of x at the start of the step that led here
    weights: tuple[float, ...]  # of the value at this step's start and of those before it


class _State(NamedTuple):
    """The last step: its start, the values it used, and its noise."""

    start: Float[Tensor, " b *shape"]
    known: tuple[Float[Tensor, " b *shape"], ...]
    drawn: Float[Tensor, " b *shape"] | None


def _step(
    x: Float[Tensor, " b *shape"],
    row: _Row,
    state: _State | None,
    estimate: Estimate,
    noise: Source,
    *,
    prediction: str,
    kept_values: int,
) -> tuple[Float[Tensor, " b *shape"], _State]:
    """Evaluate, correct the step that led here, and predict: one call."""
    e, predict = row.predict.ends, row.predict.affine
    found = estimate(x, e.t)
    value = predicted(found, x, e, prediction) if row.weights or row.predict.weights else found.x0
    known = state.known if state is not None else ()
    if row.weights and state is not None:
        # Correct: the last step again from its start, with the same noise and one node more.
        x = weighted_sum(row.kept, state.start, row.weights, (value, *known))
        if state.drawn is not None:
            x.add_(state.drawn)
    if not row.predict.weights:
        return affine(x, found.x0, predict, noise), _State(x, (), None)
    known = (value, *known)[:kept_values]
    x_u = weighted_sum(predict.x, x, row.predict.weights, known)
    drawn = None
    if predict.noise:
        drawn = predict.noise * noise.between(x, *predict.clock)
        x_u.add_(drawn)
    return x_u, _State(x, known, drawn)


@dataclass(frozen=True, kw_only=True)
class UniPC:
    """Predictor and corrector that share one call a step; order of convergence `order` + 1.

    The predictor is `Multistep`'s.  The last step is not corrected.
    Source: Zhao et al. 2023, arXiv:2302.04867, algorithms 1 to 4.  Their coefficients solve for the
    polynomial's weights, where B(h) cancels; it stays where one coefficient is set to 1/2: in the
    predictor of order 2 and the corrector of order 1.

    Args:
        order: of the predictor, 1 to 3.
        variant: their B(h): h (bh1), or e^h - 1 for eps and 1 - e^-h for x0 (bh2).
        prediction: the quantity that the polynomial approximates: x0 or eps.
        lower_order_final: lower the order of the last steps to 3, 2, 1, as published samplers of
            large models do: of order 2 as a whole, at times more exact in few steps.
    """

    restarts = True

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    prediction: Literal["x0", "eps"] = "x0"
    lower_order_final: bool = False

    def __post_init__(self) -> None:
        check_options(self.prediction, 0.0, self.order, 3)

    @property
    def convergence(self) -> int:
        """One more than the predictor's; 2 where the last step, uncorrected, is of order 1."""
        return 2 if self.lower_order_final else self.order + 1

    def _scale(self, rate: float, h: float) -> float:
        """B(h) with the sign of the integral: `rate` h, or the integral of a constant."""
        return rate * h if self.variant == "bh1" else moments(1, rate, h)[0]

    def _predictor_weights(self, nodes: Sequence[float], rate: float, h: float) -> list[float]:
        if len(nodes) != 2:
            return adams_weights(nodes, rate, h)
        # Order 2: B(h) / 2 times the difference over r_1 = nodes[1] / h.
        slope = self._scale(rate, h) * h / (2 * -nodes[1])
        return [moments(1, rate, h)[0] + slope, -slope]

    def _corrector_weights(self, nodes: Sequence[float], rate: float, h: float) -> list[float]:
        if len(nodes) == 1:
            # Order 1: B(h) / 2 times the difference of the newest value and the one before.
            half = self._scale(rate, h) / 2
            return [half, moments(1, rate, h)[0] - half]
        return adams_weights([h, *nodes], rate, h)

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Row]:
        """For every step the predictor's row and the correction of the step before."""
        rate = 1.0 if self.prediction == "x0" else -1.0
        rows: list[_Row] = []
        kept, correct = 0.0, ()
        predictor = adams_rows(
            process,
            grid,
            self.order,
            prediction=self.prediction,
            rule=self._predictor_weights,
            lower_order_final=self.lower_order_final,
        )
        for row, nodes in predictor:
            rows.append(_Row(row, kept, correct))
            kept, correct = row.affine.x, ()
            if nodes:
                scale = row.ends.alpha_u if self.prediction == "x0" else row.ends.sigma_u
                weights = self._corrector_weights(nodes, rate, row.ends.h)
                correct = tuple(scale * w for w in weights)
        return rows

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _Row,
        state: _State | None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], _State]:
        """One step; one call; the state is x before it and the last estimates."""
        return _step(
            x, row, state, estimate, noise, prediction=self.prediction, kept_values=self.order
        )


@dataclass(frozen=True, kw_only=True)
class SASolver:
    """Stochastic Adams predictor-corrector: `Multistep` with noise, corrected like UniPC.

    The corrector repeats the step with the same noise and the polynomial through the estimate at
    its end too.  A strength that changes with the level is `core/stochastic_then_ode`'s.
    Source: Xue et al. 2023, arXiv:2305.14267, algorithm 1, eq. 14 and 17, with constant tau^2 =
    eta.

    Args:
        order: estimates in the predictor's polynomial, 1 to 3.
        corrector: estimates in the corrector's, besides the newest, 1 to 3; the paper's s-hat.
        eta: strength of the noise: 0 is the ODE, 1 the reverse SDE.
    """

    restarts = True

    order: int = 3
    corrector: int = 3
    eta: float = 1.0

    def __post_init__(self) -> None:
        check_options("x0", self.eta, self.order, 3)
        if not 1 <= self.corrector <= 3:
            raise InputError(
                f"corrector: expected 1 to 3, got {self.corrector}; without a corrector this is "
                "core/multistep"
            )

    @property
    def convergence(self) -> int:
        """The order of the variance, at most 2 with noise; of the trajectory without."""
        order = min(self.order, self.corrector) + 1
        return min(order, 2) if self.eta else order

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Row]:
        """For every step the predictor's row and the correction of the step before."""
        rate, rows = 1 + self.eta, list[_Row]()
        kept, correct = 0.0, ()
        past: list[float] = []  # nodes that only the corrector may use
        for row, nodes in adams_rows(process, grid, self.order, eta=self.eta):
            rows.append(_Row(row, kept, correct))
            kept, correct = row.affine.x, ()
            past = [0.0, *past][: self.corrector] if nodes else []
            if nodes:
                h = row.ends.h
                weights = adams_weights([h, *past], rate, h)
                correct = tuple(row.ends.alpha_u * w for w in weights)
                past = [node - h for node in past]
        return rows

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _Row,
        state: _State | None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], _State]:
        """One step; one call; the state is x before it, the last estimates and the noise."""
        kept_values = max(self.order, self.corrector)
        return _step(x, row, state, estimate, noise, prediction="x0", kept_values=kept_values)
