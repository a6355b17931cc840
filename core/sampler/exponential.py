"""Exponential integrators in half the log-SNR: multistep, singlestep and UniPC.

With lambda = log(alpha / sigma), h its rise over a step and strength eta of the noise,

    x_u = (sigma_u / sigma_t) e^(-eta h) x_t + sigma_u sqrt(1 - e^(-2 eta h)) z
          + alpha_u (1 + eta) int_0^h e^(-(1 + eta)(h - s)) x0(lambda_t + s) ds

is exact; a rule replaces x0 by a polynomial in s.  eta = 0 is the probability-flow ODE, 1 the
reverse SDE.  The same integral with rate -1 in place of 1 + eta, over eps, serves predictions of
the noise:  x_u = (alpha_u / alpha_t) x_t + sigma_u (-1) int_0^h e^(h - s) eps ds.
Source: Lu et al. 2022, arXiv:2206.00927, eq. 3.4, and arXiv:2211.01095, eq. 8 and 12; the family in
eta is Xue et al. 2023 (SA-Solver), arXiv:2305.14267, eq. 9.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from core.denoiser.parameterization import Prediction
from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.solver import Affine, Ends, Estimate, affine, ends, euler, polynomial_weights

INVERSE_FACTORIALS = tuple(1 / math.factorial(k) for k in range(24))


def phis(count: int, z: float) -> list[float]:
    """phi_k = int_0^1 e^((1 - r) z) r^(k-1) / (k-1)! dr, k = 1 to `count`, exact near z = 0 too."""
    values = [0.0] * count
    if abs(z) < 1:
        # The highest by its series, sum_j z^j / (j + k)!, and phi_k = z phi_(k+1) + 1/k! downwards:
        # upwards would lose all digits in cancellation.
        value = 0.0
        for inverse in INVERSE_FACTORIALS[count + 18 : count - 1 : -1]:
            value = value * z + inverse
        for k in range(count, 0, -1):
            values[k - 1] = value
            value = value * z + INVERSE_FACTORIALS[k - 1]
        return values
    value = math.exp(z)
    for k in range(count):
        value = (value - INVERSE_FACTORIALS[k]) / z
        values[k] = value
    return values


def moments(count: int, rate: float, h: float) -> list[float]:
    """Rate int_0^h e^(-rate (h - s)) (s / h)^k ds for k = 0 to `count` - 1."""
    found, factor = phis(count, -rate * h), rate * h
    for k in range(count):
        found[k] *= factor
        factor *= k + 1
    return found


def adams_weights(nodes: Sequence[float], rate: float, h: float) -> list[float]:
    """Weights of the values at `nodes` (rises of lambda from the step's start) in that integral."""
    return polynomial_weights([node / h for node in nodes], moments(len(nodes), rate, h))


def _noise(e: Ends, eta: float) -> tuple[float, tuple[float, float]]:
    """Deviation of the noise over a step, and the clock of its Brownian motion."""
    if eta == 0 or e.sigma_u == 0:
        return 0.0, (0.0, 0.0)
    start, end = e.clock
    spread = e.sigma_u * math.sqrt(-math.expm1(-2 * eta * e.h))
    return spread, (eta * start, eta * end)


def _first_order(e: Ends, eta: float) -> Affine:
    """The rule for a constant x0."""
    if eta == 0:
        return euler(e)
    spread, clock = _noise(e, eta)
    kept = e.sigma_u / e.sigma_t * math.exp(-eta * e.h)
    return Affine(e.t, kept, e.alpha_u * -math.expm1(-(1 + eta) * e.h), spread, clock)


def _check(prediction: str, eta: float, order: int, highest: int) -> None:
    if not 1 <= order <= highest:
        raise InputError(f"order: expected 1 to {highest}, got {order}")
    if eta < 0 or (eta > 0 and prediction == "eps"):
        raise InputError(
            f"eta: expected at least 0, and 0 for predictions of eps, got {eta} for {prediction}"
        )


class _Row(NamedTuple):
    ends: Ends
    affine: Affine
    weights: tuple[float, ...]


# (h, rise before, rate) -> weights of the last two estimates.
Rule2 = Callable[[float, float, float], list[float]]


def _midpoint(h: float, last: float, rate: float) -> list[float]:
    """The slope taken at half the step: M0 (1 + h / 2 last), -M0 h / 2 last."""
    gain = moments(1, rate, h)[0]
    slope = gain * h / (2 * last)
    return [gain + slope, -slope]


def _plan(
    process: GaussianPath,
    grid: Tensor,
    order: int,
    *,
    eta: float = 0.0,
    prediction: str = "x0",
    rule2: Rule2 | None = None,
) -> Iterator[tuple[_Row, list[float]]]:
    """Adams-Bashforth rows, and the rises of lambda from each start to the estimates known then."""
    rate = 1 + eta if prediction == "x0" else -1.0
    nodes: list[float] = []
    for e in ends(process, grid, falls=eta > 0):
        step = _first_order(e, eta)
        if e.singular:
            # Pure noise has no finite lambda: its estimate supports no polynomial.
            yield _Row(e, step, ()), []
            nodes = []
            continue
        nodes = [0.0, *nodes][:order]
        if rule2 is not None and len(nodes) == 2:
            found = rule2(e.h, -nodes[1], rate)
        else:
            found = adams_weights(nodes, rate, e.h)
        scale = e.alpha_u if prediction == "x0" else e.sigma_u
        if prediction == "eps":
            step = step._replace(x=e.alpha_u / e.alpha_t)
        yield _Row(e, step, tuple(scale * w for w in found)), nodes
        nodes = [node - e.h for node in nodes]


@dataclass(frozen=True, kw_only=True)
class Multistep:
    """Exponential Adams-Bashforth: the polynomial through the last `order` estimates; one call.

    eta = 0 is DPM-Solver++ (x0) or DEIS in log-SNR (eps), eta = 1 SDE-DPM-Solver++.  The weights
    integrate the polynomial exactly, so order 3 is of order 3; the published third-order rule
    counts a second difference twice and is of order 2.  First steps use what estimates there are;
    steps from pure noise and into the clean end are of order 1.
    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2; Zhang and Chen 2023, arXiv:2204.13902,
    section 3.3; Xue et al. 2023, arXiv:2305.14267, eq. 14.

    Args:
        order: estimates in the polynomial, 1 to 4; 1 to 3 with noise.
        eta: strength of the noise: 0 is the ODE, 1 the reverse SDE.
        prediction: what the polynomial approximates: x0 or eps.
        weights: exact, or, for order 2, the published rule with the slope at the midpoint.
    """

    order: int = 2
    eta: float = 0.0
    prediction: Literal["x0", "eps"] = "x0"
    weights: Literal["exact", "midpoint"] = "exact"

    def __post_init__(self) -> None:
        _check(self.prediction, self.eta, self.order, 3 if self.eta else 4)
        if self.weights == "midpoint" and self.order > 2:
            raise InputError(f"weights: midpoint is a rule of order 2, got order {self.order}")

    restarts = False

    @property
    def convergence(self) -> int:
        """The order of the trajectory; of the variance, at most 2, with noise."""
        return min(self.order, 2) if self.eta else self.order

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Row]:
        """The weights of the last estimates for every step."""
        rows = _plan(
            process,
            grid,
            self.order,
            eta=self.eta,
            prediction=self.prediction,
            rule2=_midpoint if self.weights == "midpoint" else None,
        )
        return [row for row, _ in rows]

    def step(
        self,
        x: Tensor,
        row: _Row,
        state: tuple[Tensor, ...] | None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step; one call; the state is the last estimates, latest first."""
        said = estimate(x, row.affine.t)
        if not row.weights:
            return affine(x, said.x0, row.affine, noise), ()
        known = (_value(said, x, row.ends, self.prediction), *(state or ()))[: self.order]
        return _combine(x, row, known, noise), known


def _value(said: Prediction, x: Tensor, e: Ends, prediction: str) -> Tensor:
    if prediction == "x0":
        return said.x0
    return (x - e.alpha_t * said.x0) / e.sigma_t


def _combine(x: Tensor, row: _Row, known: Sequence[Tensor], noise: Source) -> Tensor:
    moved = row.affine.x * x
    for weight, value in zip(row.weights, known, strict=False):
        moved.add_(value, alpha=weight)
    if row.affine.noise:
        moved.add_(noise.between(x, *row.affine.clock), alpha=row.affine.noise)
    return moved


class _Corrected(NamedTuple):
    predict: _Row
    kept: float  # of x at the start of the step that led here
    weights: tuple[float, ...]  # of the estimate made here and of those before it


@dataclass(frozen=True, kw_only=True)
class UniPC:
    """Predictor and corrector that share one call a step; order of convergence `order` + 1.

    The predictor is `Multistep`'s; the estimate made at its end corrects the step that led there
    before it serves the next one.  The last step is not corrected.
    Source: Zhao et al. 2023, arXiv:2302.04867, algorithms 1 to 4.  Their coefficients solve for the
    polynomial's weights, where B(h) cancels; it stays where one coefficient is set to 1/2: in the
    predictor of order 2 and the corrector of order 1.

    Args:
        order: of the predictor, 1 to 3.
        variant: their B(h): h (bh1) or e^h - 1 (bh2).
    """

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"

    def __post_init__(self) -> None:
        _check("x0", 0.0, self.order, 3)

    restarts = True

    @property
    def convergence(self) -> int:
        """One more than the predictor's."""
        return self.order + 1

    def _scale(self, h: float) -> float:
        return h if self.variant == "bh1" else -math.expm1(-h)

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Corrected]:
        """For every step the predictor's row and the correction of the step before."""

        def rule2(h: float, last: float, rate: float) -> list[float]:
            slope = self._scale(h) * h / (2 * last)
            return [moments(1, rate, h)[0] + slope, -slope]

        rows: list[_Corrected] = []
        kept, correct = 0.0, ()
        for row, nodes in _plan(process, grid, self.order, rule2=rule2):
            rows.append(_Corrected(row, kept, correct))
            kept, correct = row.affine.x, ()
            if len(nodes) == 1:
                half = self._scale(row.ends.h) / 2
                correct = (half, -math.expm1(-row.ends.h) - half)
            elif nodes:
                correct = tuple(adams_weights([row.ends.h, *nodes], 1.0, row.ends.h))
            correct = tuple(row.ends.alpha_u * w for w in correct)
        return rows

    def step(
        self,
        x: Tensor,
        row: _Corrected,
        state: tuple[Tensor, tuple[Tensor, ...]] | None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Tensor, tuple[Tensor, tuple[Tensor, ...]]]:
        """One step; one call; the state is x before it and the last estimates."""
        x0 = estimate(x, row.predict.affine.t).x0
        start, known = state if state is not None else (x, ())
        if row.weights:
            x = row.kept * start
            for weight, value in zip(row.weights, (x0, *known), strict=False):
                x.add_(value, alpha=weight)
        if not row.predict.weights:
            return affine(x, x0, row.predict.affine, noise), (x, ())
        known = (x0, *known)[: self.order]
        return _combine(x, row.predict, known, noise), (x, known)


class _Stage(NamedTuple):
    """A point inside a step, reached from the step's start."""

    asked: Ends  # its start is where the denoiser is asked
    kept: float
    weights: tuple[float, ...]
    noise: float  # deviation of what is drawn since the stage before
    carry: float  # factor on the noise drawn up to the stage before
    clock: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Singlestep:
    """Exponential Runge-Kutta: DPM-Solver(++) 2S and 3S; as many calls a step as its order.

    Keeps no history, so that a step may follow a jump.  Intermediate noise and the step's own
    come from one Brownian path; independent draws would lower the order to 1.  Steps from pure
    noise and into the clean end are of order 1.
    Source: Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2 (r1 = 1/2; 1/3 and 2/3), and
    arXiv:2211.01095, algorithm 1.

    Args:
        order: 2 or 3; calls a step.
        eta: strength of the noise, for order 2: 0 is the ODE, 1 the reverse SDE.
        prediction: what the rule approximates: x0 (DPM-Solver++) or eps (DPM-Solver).
    """

    order: int = 2
    eta: float = 0.0
    prediction: Literal["x0", "eps"] = "x0"

    def __post_init__(self) -> None:
        _check(self.prediction, self.eta, self.order, 2 if self.eta else 3)
        if self.order < 2:
            raise InputError("order: expected 2 or 3; order 1 is core/multistep with order 1")

    restarts = False

    @property
    def convergence(self) -> int:
        """The order of the trajectory; of the variance with noise."""
        return self.order

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[list[_Stage]]:
        """The stages of every step."""
        rows = []
        for e in ends(process, grid, falls=self.eta > 0):
            if e.singular:
                step = _first_order(e, self.eta)
                rows.append([_Stage(e, step.x, (step.x0,), step.noise, 0.0, step.clock)])
            else:
                rows.append(self._stages(process, e))
        return rows

    def _stages(self, process: GaussianPath, e: Ends) -> list[_Stage]:
        rate = 1 + self.eta if self.prediction == "x0" else -1.0
        shares = (1 / 2, 1.0) if self.order == 2 else (1 / 3, 2 / 3, 1.0)
        reached = [*(_until(process, e, share) for share in shares[:-1]), e]
        m0 = [moments(1, rate, to.h)[0] for to in reached]
        if self.order == 2:
            weights = [(m0[0],), (0.0, m0[1])]
        else:  # a difference over r of the step, its slope integrated over the stage
            second = moments(2, rate, reached[1].h)[1] * 2
            third = moments(2, rate, e.h)[1] * 3 / 2
            weights = [(m0[0],), (m0[1] - second, second), (m0[2] - third, 0.0, third)]
        stages, asked, clock = [], e, self.eta * e.clock[0]
        for to, weight in zip(reached, weights, strict=True):
            step = _first_order(to, self.eta)
            kept = step.x if self.prediction == "x0" else to.alpha_u / to.alpha_t
            scale = to.alpha_u if self.prediction == "x0" else to.sigma_u
            end = self.eta * to.clock[1]
            fresh = to.sigma_u * math.sqrt(-math.expm1(clock - end))
            carry = to.sigma_u / asked.sigma_t * math.exp((clock - end) / 2)
            weighed = tuple(scale * w for w in weight)
            stages.append(_Stage(asked, kept, weighed, fresh, carry, (clock, end)))
            # The next stage asks where this one leads.
            asked = to._replace(t=to.u, alpha_t=to.alpha_u, sigma_t=to.sigma_u)
            clock = end
        return stages

    def step(
        self, x: Tensor, row: list[_Stage], state: None, estimate: Estimate, noise: Source
    ) -> tuple[Tensor, None]:
        """One step; `order` calls, one where an end is singular."""
        known: list[Tensor] = []
        at, drawn = x, None
        for stage in row:
            said = estimate(at, stage.asked.t)
            kind = self.prediction if len(row) > 1 else "x0"
            known.append(_value(said, at, stage.asked, kind))
            at = stage.kept * x
            for weight, value in zip(stage.weights, known, strict=True):
                at.add_(value, alpha=weight)
            if stage.noise:
                fresh = stage.noise * noise.between(x, *stage.clock)
                drawn = fresh if drawn is None else fresh.add_(drawn, alpha=stage.carry)
                at.add_(drawn)
        return at, None


def _until(process: GaussianPath, e: Ends, share: float) -> Ends:
    """The first `share` of a step, in lambda."""
    start, end = e.clock
    middle = torch.tensor(start + share * (end - start), dtype=torch.float64)
    s = process.time_of_log_snr(middle)
    alpha, sigma = process.alpha_sigma(s)
    return Ends(e.t, float(s), e.alpha_t, e.sigma_t, float(alpha), float(sigma))
