"""Exponential integrators in lambda = log(alpha / sigma): multistep and singlestep.

With h the rise of lambda over a step and eta the strength of the noise,

    x_u = (sigma_u / sigma_t) e^(-eta h) x_t + sigma_u sqrt(1 - e^(-2 eta h)) z
          + alpha_u (1 + eta) int_0^h e^(-(1 + eta)(h - s)) x0(lambda_t + s) ds            (A)

is exact; a rule replaces x0 by a polynomial in s.  eta = 0 is the probability-flow ODE, 1 the
reverse SDE.  The same integral with rate -1 in place of 1 + eta, over eps, serves predictions of
the noise:

    x_u = (alpha_u / alpha_t) x_t + sigma_u (-1) int_0^h e^(h - s) eps(lambda_t + s) ds    (B)

Source: Lu et al. 2022, arXiv:2206.00927, eq. 3.4 (B), and arXiv:2211.01095, eq. 8 and 12; the
family in eta is Xue et al. 2023 (SA-Solver), arXiv:2305.14267, eq. 9.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
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
    # phi_(k+1) = (phi_k - 1/k!) / z, from phi_0 = e^z.
    value = math.exp(z)
    for k in range(count):
        value = (value - INVERSE_FACTORIALS[k]) / z
        values[k] = value
    return values


def moments(count: int, rate: float, h: float) -> list[float]:
    """`rate` int_0^h e^(-rate (h - s)) (s / h)^k ds = rate h k! phi_(k+1)(-rate h), k < `count`."""
    found, factor = phis(count, -rate * h), rate * h
    for k in range(count):
        found[k] *= factor
        factor *= k + 1
    return found


# (nodes, rate, h) -> weights of the values at `nodes`, rises of lambda from the step's start, in
# the integral of (A) or (B): 0 for the value there, negative for those before it.
Rule = Callable[[Sequence[float], float, float], list[float]]


def adams_weights(nodes: Sequence[float], rate: float, h: float) -> list[float]:
    """The rule that integrates the polynomial through all `nodes` exactly."""
    return polynomial_weights([node / h for node in nodes], moments(len(nodes), rate, h))


def _midpoint_weights(nodes: Sequence[float], rate: float, h: float) -> list[float]:
    """Of two nodes: M0 (x0 + h / 2 slope); DPM-Solver++(2M), arXiv:2211.01095, algorithm 2."""
    if len(nodes) != 2:
        return adams_weights(nodes, rate, h)
    gain = moments(1, rate, h)[0]
    slope = gain * h / (2 * -nodes[1])
    return [gain + slope, -slope]


def _published_weights(nodes: Sequence[float], rate: float, h: float) -> list[float]:
    """Of three nodes: the integral of the square at half its value."""
    m = moments(len(nodes), rate, h)
    if len(nodes) == 3:
        # D2 of the source is h^2 x0'' / 2, and phi_3, of which M2 is twice, multiplies it.
        m[2] /= 2
    return polynomial_weights([node / h for node in nodes], m)


RULES: dict[str, Rule] = {
    "exact": adams_weights,
    "midpoint": _midpoint_weights,
    "published": _published_weights,
}


def step_noise(e: Ends, eta: float) -> tuple[float, tuple[float, float]]:
    """sigma_u sqrt(1 - e^(-2 eta h)), 0 into the clean end, and the clock of its Brownian path."""
    if eta == 0 or e.sigma_u == 0:
        return 0.0, (0.0, 0.0)
    start, end = e.clock
    std = e.sigma_u * math.sqrt(-math.expm1(-2 * eta * e.h))
    return std, (eta * start, eta * end)


def first_order(e: Ends, eta: float) -> Affine:
    """(A) for a constant x0: the integral is 1 - e^(-(1 + eta) h); finite at every end."""
    if eta == 0:
        return euler(e)
    std, clock = step_noise(e, eta)
    kept = e.sigma_u / e.sigma_t * math.exp(-eta * e.h)
    return Affine(e.t, kept, e.alpha_u * -math.expm1(-(1 + eta) * e.h), std, clock)


def check_options(prediction: str, eta: float, order: int, highest: int) -> None:
    """Refuse orders above `highest`, and noise with predictions of eps.

    Raises:
        InputError: either.
    """
    if not 1 <= order <= highest:
        raise InputError(f"order: expected 1 to {highest}, got {order}")
    if eta < 0 or (eta > 0 and prediction == "eps"):
        raise InputError(
            f"eta: expected at least 0, and 0 for predictions of eps, got {eta} for {prediction}"
        )


class AdamsRow(NamedTuple):
    """A step of an exponential Adams rule.

    Args:
        ends: its ends.
        affine: the coefficient of x, the noise, and, where there are no weights, the whole step.
        weights: of the last values, latest first; none at a singular end.
    """

    ends: Ends
    affine: Affine
    weights: tuple[float, ...]


def adams_rows(
    process: GaussianPath,
    grid: Float64[Tensor, " n"],
    order: int,
    *,
    eta: float = 0.0,
    prediction: str = "x0",
    rule: Rule = adams_weights,
    lower_order_final: bool = False,
) -> Iterator[tuple[AdamsRow, list[float]]]:
    """Adams-Bashforth rows, each with the nodes of its polynomial: rises of lambda from its start.

    Args:
        process: the forward process.
        grid: times that run one way.
        order: values in the polynomial, where so many are known.
        eta: strength of the noise.
        prediction: the quantity that the polynomial approximates, x0 or eps.
        rule: the weights of the values at the nodes.
        lower_order_final: whether the last steps use no more values than there are steps left.
    """
    rate = 1 + eta if prediction == "x0" else -1.0
    nodes: list[float] = []
    for left, e in zip(
        range(len(grid) - 1, 0, -1), ends(process, grid, falls=eta > 0), strict=True
    ):
        step = first_order(e, eta)
        if e.singular:
            # Pure noise has no finite lambda: its estimate supports no polynomial.
            yield AdamsRow(e, step, ()), []
            nodes = []
            continue
        nodes = [0.0, *nodes][: min(order, left) if lower_order_final else order]
        weights = rule(nodes, rate, e.h)
        scale = e.alpha_u if prediction == "x0" else e.sigma_u
        if prediction == "eps":
            step = step._replace(x=e.alpha_u / e.alpha_t)
        yield AdamsRow(e, step, tuple(scale * w for w in weights)), nodes
        # Seen from the start of the next step the nodes lie h further back.
        nodes = [node - e.h for node in nodes]


def predicted(
    prediction: Prediction, x: Float[Tensor, " b *shape"], e: Ends, kind: str
) -> Float[Tensor, " b *shape"]:
    """x0, or eps = (x - alpha_t x0) / sigma_t, of a prediction at the start of a step."""
    if kind == "x0":
        return prediction.x0
    return (x - e.alpha_t * prediction.x0) / e.sigma_t


def weighted_sum(
    kept: float,
    x: Float[Tensor, " b *shape"],
    weights: Sequence[float],
    values: Sequence[Float[Tensor, " b *shape"]],
) -> Float[Tensor, " b *shape"]:
    """`kept` x + sum_j weights_j values_j, over as many as there are of both."""
    total = kept * x
    for weight, value in zip(weights, values, strict=False):
        total.add_(value, alpha=weight)
    return total


@dataclass(frozen=True, kw_only=True)
class Multistep:
    """Exponential Adams-Bashforth: the polynomial through the last `order` estimates; one call.

    eta = 0 is DPM-Solver++ (x0), DPM-Solver or DEIS in log-SNR (eps), eta = 1 SDE-DPM-Solver++.
    Exact weights integrate the polynomial, so order 3 is of order 3.  First steps use what
    estimates there are; steps from pure noise and into the clean end are of order 1.
    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2; Zhang and Chen 2023, arXiv:2204.13902,
    section 3.3; Xue et al. 2023, arXiv:2305.14267, eq. 14.

    Args:
        order: estimates in the polynomial, 1 to 4; 1 to 3 with noise.
        eta: strength of the noise: 0 is the ODE, 1 the reverse SDE.
        prediction: the quantity that the polynomial approximates: x0 or eps.
        weights: exact; midpoint, for order 2, the published rule with the slope at the midpoint;
            published, for order 3, the third-order rule of DPM-Solver and DPM-Solver++, which takes
            the second difference at half its weight: of order 2, but it extrapolates less, which
            long steps can reward.
    """

    restarts = False

    order: int = 2
    eta: float = 0.0
    prediction: Literal["x0", "eps"] = "x0"
    weights: Literal["exact", "midpoint", "published"] = "exact"

    def __post_init__(self) -> None:
        check_options(self.prediction, self.eta, self.order, 3 if self.eta else 4)
        if self.weights == "midpoint" and self.order > 2:
            raise InputError(f"weights: midpoint is a rule of order 2, got order {self.order}")
        if self.weights == "published" and self.order != 3:
            raise InputError(f"weights: published is a rule of order 3, got order {self.order}")

    @property
    def convergence(self) -> int:
        """The order of the trajectory; of the variance, at most 2, with noise."""
        return min(self.order, 2) if self.eta or self.weights == "published" else self.order

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[AdamsRow]:
        """The weights of the last estimates for every step."""
        rows = adams_rows(
            process,
            grid,
            self.order,
            eta=self.eta,
            prediction=self.prediction,
            rule=RULES[self.weights],
        )
        return [row for row, _ in rows]

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: AdamsRow,
        state: tuple[Float[Tensor, " b *shape"], ...] | None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], tuple[Float[Tensor, " b *shape"], ...]]:
        """One step; one call; the state is the last estimates, latest first."""
        prediction = estimate(x, row.affine.t)
        if not row.weights:
            return affine(x, prediction.x0, row.affine, noise), ()
        value = predicted(prediction, x, row.ends, self.prediction)
        known = (value, *(state or ()))[: self.order]
        x_u = weighted_sum(row.affine.x, x, row.weights, known)
        if row.affine.noise:
            x_u.add_(noise.between(x, *row.affine.clock), alpha=row.affine.noise)
        return x_u, known


class _Stage(NamedTuple):
    """A point inside a step, reached from the step's start."""

    at: Ends  # its start is where the denoiser is called
    kept: float
    weights: tuple[float, ...]
    noise: float  # standard deviation of the draw since the stage before
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
        prediction: the quantity that the rule approximates: x0 (DPM-Solver++) or eps (DPM-Solver).
    """

    order: int = 2
    eta: float = 0.0
    prediction: Literal["x0", "eps"] = "x0"

    def __post_init__(self) -> None:
        check_options(self.prediction, self.eta, self.order, 2 if self.eta else 3)
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
                step = first_order(e, self.eta)
                rows.append([_Stage(e, step.x, (step.x0,), step.noise, 0.0, step.clock)])
            else:
                rows.append(self._stages(process, e))
        return rows

    def _stages(self, process: GaussianPath, e: Ends) -> list[_Stage]:
        """The stages at r1 h (and r2 h) and the end, each from the values at those before it."""
        rate = 1 + self.eta if self.prediction == "x0" else -1.0
        r = (1 / 2,) if self.order == 2 else (1 / 3, 2 / 3)
        reached = [*(_until(process, e, fraction) for fraction in r), e]
        m0 = [moments(1, rate, to.h)[0] for to in reached]
        if self.order == 2:
            # Algorithm 1: u from the value at the start, the end from the value at u alone.
            weights = [(m0[0],), (0.0, m0[1])]
        else:
            # Algorithm 2: differences D1, D2 to the value at the start over r1 and r2; their slope
            # is integrated over the stage, M1 of its own length times r2 / r1 and 1 / r2.
            second = moments(2, rate, reached[1].h)[1] * 2
            third = moments(2, rate, e.h)[1] * 3 / 2
            weights = [(m0[0],), (m0[1] - second, second), (m0[2] - third, 0.0, third)]
        stages, at, clock = [], e, self.eta * e.clock[0]
        for to, weight in zip(reached, weights, strict=True):
            step = first_order(to, self.eta)
            kept = step.x if self.prediction == "x0" else to.alpha_u / to.alpha_t
            scale = to.alpha_u if self.prediction == "x0" else to.sigma_u
            # One Brownian path: the noise so far decays, and what the stage adds is drawn.
            end = self.eta * to.clock[1]
            fresh = to.sigma_u * math.sqrt(-math.expm1(clock - end))
            carry = to.sigma_u / at.sigma_t * math.exp((clock - end) / 2)
            scaled = tuple(scale * w for w in weight)
            stages.append(_Stage(at, kept, scaled, fresh, carry, (clock, end)))
            # The denoiser is called next where this stage leads.
            at = to._replace(t=to.u, alpha_t=to.alpha_u, sigma_t=to.sigma_u)
            clock = end
        return stages

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: list[_Stage],
        state: None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], None]:
        """One step; `order` calls, one where an end is singular."""
        known: list[Tensor] = []
        y, drawn = x, None
        for stage in row:
            kind = self.prediction if len(row) > 1 else "x0"
            known.append(predicted(estimate(y, stage.at.t), y, stage.at, kind))
            # Every stage starts at x, not at the stage before.
            y = weighted_sum(stage.kept, x, stage.weights, known)
            if stage.noise:
                fresh = stage.noise * noise.between(x, *stage.clock)
                drawn = fresh if drawn is None else fresh.add_(drawn, alpha=stage.carry)
                y.add_(drawn)
        return y, None


def _until(process: GaussianPath, e: Ends, fraction: float) -> Ends:
    """The first `fraction` of a step, in lambda."""
    start, end = e.clock
    log_snr = torch.tensor(start + fraction * (end - start), dtype=torch.float64)
    s = process.time_of_log_snr(log_snr)
    alpha, sigma = process.alpha_sigma(s)
    return Ends(e.t, float(s), e.alpha_t, e.sigma_t, float(alpha), float(sigma))
