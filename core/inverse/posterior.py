"""Measurement guidance: samples of p(x0 | y) for y = A x0 + n, from a model of p(x0).

A method turns (measurement, denoise, solver) into another denoiser and another solver; `sample`
runs the pair::

    guided = pigdm(measurement, denoise, solver, data_std=0.5)
    x0 = sample(guided.denoise, grid, guided.solver, x, noise)

Methods that act on x0 (`pigdm`, `ddnm`, `diffpir`, `dds`) wrap the denoiser and serve every solver.
Methods that act on x_t (`projection`, `ilvr`, `repaint`, `dps`) wrap the solver, which must take
one step for each of the grid and build on the x it is given.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from core.denoiser.guidance import with_pull
from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.errors import InputError
from core.inverse.measurement import Measurement, dot, pseudo_inverse, residual, update
from core.process.gaussian import GaussianPath, over
from core.process.noise import Source
from core.sampler.solver import Ends, Estimate, Solver, ends


class Guided(NamedTuple):
    """What `sample` takes in place of a denoiser and a solver."""

    denoise: Denoiser
    solver: Solver


Method = Callable[[Measurement, Denoiser, Solver], Guided]

# --- methods that act on x0 --------------------------------------------------------------------


def pigdm(
    measurement: Measurement,
    denoise: Denoiser,
    solver: Solver,
    *,
    data_std: float = 0.5,
    iterations: int = 100,
    tolerance: float = 1e-6,
) -> Guided:
    """x0' = x0 + (sigma^2 / alpha) J^T A* (A R A* + noise_std^2)^-1 (y - A x0), J = d x0 / d x_t.

    R is the variance of x0 given x_t: the denoiser's `x0_variance` where it says one, otherwise
    sigma^2 d^2 / (alpha^2 d^2 + sigma^2) of Gaussian data with deviation d.  The shift is
    (sigma^2 / alpha) grad log N(y; A x0, A R A* + noise_std^2) with R held fixed; (sigma^2 / alpha)
    J^T is the covariance of x0 given x_t, so that for Gaussian data x0' is exactly E[x0 | x_t, y].
    At alpha = 0, where J vanishes with alpha, that covariance is taken to be R.
    Source: Song et al. 2023, Pseudoinverse-guided diffusion models for inverse problems, ICLR; the
    paper's R is sigma^2 / (alpha^2 + sigma^2), d = 1, and its further factor on the shift is left
    out.

    Args:
        measurement: y, A and the noise of y.
        denoise: the model of p(x0).
        solver: the rule of a step.
        data_std: d, deviation of an element of the data.
        iterations: of conjugate gradients, at most.
        tolerance: of conjugate gradients, relative.

    Raises:
        InputError: data_std not positive.
    """
    if data_std <= 0:
        raise InputError(f"data_std: expected a positive number, got {data_std}")

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction, pull = with_pull(lambda at: denoise(at, t, condition), x)
        alpha, sigma = denoise.process.alpha_sigma(t.double())
        r = prediction.x0_variance
        if r is None:
            r = sigma**2 * data_std**2 / (alpha**2 * data_std**2 + sigma**2)
        shift = update(
            measurement.operator,
            residual(measurement, prediction.x0),
            r,
            torch.full_like(r, measurement.noise_std**2),
            iterations=iterations,
            tolerance=tolerance,
        )  # R A* (A R A* + noise_std^2)^-1 (y - A x0)
        r, alpha, sigma = (over(value, x) for value in (r.double(), alpha, sigma))
        known = (r > 0) & (alpha > 0)
        ratio = torch.where(known, sigma**2 / torch.where(known, alpha * r, 1.0), 0.0)
        bent = pull(ratio * shift)
        return replace(prediction, x0=prediction.x0 + torch.where(alpha > 0, bent, shift))

    return Guided(FunctionDenoiser(denoise.process, guided), solver)


def ddnm(
    measurement: Measurement,
    denoise: Denoiser,
    solver: Solver,
    *,
    noise_gain: float = 1.0,
) -> Guided:
    """x0' = x0 + l A+ (y - A x0), l = s^2 / (s^2 + (noise_gain noise_std)^2), s = sigma / alpha.

    Without noise l is 1 and A x0' = y at every level.  With noise A+ n would enter x0' at full
    strength; l keeps what enters below half the level s.  The published rule, l = min(1, level of
    the step's noise / level that A+ n reaches in it), needs a step that draws noise; this one needs
    no step: where the data's own spread is much larger than noise_std and the singular values of A
    are 1 / noise_gain or 0, the probability-flow ODE with it ends in exactly N(y, noise_std^2)
    along the measured directions.
    Source: Wang, Yu and Zhang 2023, arXiv:2212.00490, section 3.3 (DDNM+).

    Args:
        measurement: y, A and the noise of y.
        denoise: the model of p(x0).
        solver: the rule of a step.
        noise_gain: factor by which A+ enlarges noise, 1 over the singular values of A: 1 for
            masks, the factor for block means; not looked at where noise_std is 0.

    Raises:
        InputError: a gain that is not positive.
    """
    if noise_gain <= 0:
        raise InputError(f"noise_gain: expected a positive number, got {noise_gain}")

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        shift = pseudo_inverse(measurement, residual(measurement, prediction.x0))
        if measurement.noise_std:
            alpha, sigma = denoise.process.alpha_sigma(t.double())
            noise = alpha * noise_gain * measurement.noise_std
            shift = over(sigma**2 / (sigma**2 + noise**2), x) * shift
        return replace(prediction, x0=prediction.x0 + shift)

    return Guided(FunctionDenoiser(denoise.process, guided), solver)


def diffpir(
    measurement: Measurement,
    denoise: Denoiser,
    solver: Solver,
    *,
    prior_weight: float = 1.0,
    iterations: int = 100,
    tolerance: float = 1e-6,
) -> Guided:
    """x0' = argmin |y - A z|^2 / (2 noise_std^2) + prior_weight alpha^2 / (2 sigma^2) |z - x0|^2.

    By conjugate gradients.  Without noise x0' is the limit noise_std -> 0, the z nearest to x0 of
    those that fit y best.  What noise a step adds is the solver's choice (the paper's zeta is
    DDIM's eta).
    Source: Zhu et al. 2023, arXiv:2305.08995, algorithm 1.

    Args:
        measurement: y, A and the noise of y.
        denoise: the model of p(x0).
        solver: the rule of a step.
        prior_weight: the paper's lambda: trust in x0 against the measurement.
        iterations: of conjugate gradients, at most.
        tolerance: of conjugate gradients, relative.

    Raises:
        InputError: a weight that is not positive.
    """
    if prior_weight <= 0:
        raise InputError(f"prior_weight: expected a positive number, got {prior_weight}")

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        alpha, sigma = denoise.process.alpha_sigma(t.double())
        shift = update(
            measurement.operator,
            residual(measurement, prediction.x0),
            sigma**2,
            prior_weight * (alpha * measurement.noise_std) ** 2,
            iterations=iterations,
            tolerance=tolerance,
        )
        return replace(prediction, x0=prediction.x0 + shift)

    return Guided(FunctionDenoiser(denoise.process, guided), solver)


def dds(
    measurement: Measurement,
    denoise: Denoiser,
    solver: Solver,
    *,
    iterations: int = 5,
    noise_gain: float = 1.0,
) -> Guided:
    """x0' from a few conjugate-gradient steps that begin at x0 and fit y: no gradient of the model.

    The steps are those of (A* A + c) z = A* y + c x0, c = (noise_gain noise_std)^2: of the plain
    normal equations where there is no noise.  So few steps move x0 along what A measures well and
    leave the rest to the model; `diffpir` is their limit with c lowered at noisy levels.
    Source: Chung, Lee and Ye 2024, arXiv:2303.05754, algorithm 2 and eq. 20 (their gamma is 1 / c).

    Args:
        measurement: y, A and the noise of y.
        denoise: the model of p(x0).
        solver: the rule of a step.
        iterations: of conjugate gradients.
        noise_gain: factor on the noise that x0 is trusted against, in units of the data.

    Raises:
        InputError: no iteration, or a negative gain.
    """
    if iterations < 1 or noise_gain < 0:
        raise InputError(
            f"expected iterations >= 1 and noise_gain >= 0, got iterations={iterations}, "
            f"noise_gain={noise_gain}"
        )

    def guided(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        shift = update(
            measurement.operator,
            residual(measurement, prediction.x0),
            one,
            one * (noise_gain * measurement.noise_std) ** 2,
            iterations=iterations,
        )
        return replace(prediction, x0=prediction.x0 + shift)

    return Guided(FunctionDenoiser(denoise.process, guided), solver)


# --- methods that act on x_t -------------------------------------------------------------------


def projection(
    measurement: Measurement,
    denoise: Denoiser,
    solver: Solver,
    *,
    strength: float = 1.0,
) -> Guided:
    """Before each step x <- x + strength A+ (y_t - A x), y_t = alpha y + sigma A z with a fresh z.

    At the clean end x0 <- x0 + strength A+ (y - A x0).  Takes y as exact.
    Source: Song et al. 2022, arXiv:2111.08005; strength is their lambda.

    Args:
        measurement: y, A and the noise of y.
        denoise: the model of p(x0).
        solver: the rule of a step.
        strength: 0 is the model alone, 1 replaces all that is measured.

    Raises:
        InputError: strength not in [0, 1].
    """
    if not 0 <= strength <= 1:
        raise InputError(f"strength: expected 0 to 1, got {strength}")

    return Guided(denoise, Replacing(solver, measurement, strength=strength, before=True))


def ilvr(
    measurement: Measurement,
    denoise: Denoiser,
    solver: Solver,
    *,
    log_snr_max: float | None = None,
) -> Guided:
    """After each step x <- x + A+ (alpha y + sigma A z - A x), up to a log-SNR.

    With `core/average` the low frequencies follow a reference and the rest is free; the earlier
    it stops, the more of the reference may change.  Takes y as exact.
    Source: Choi et al. 2021, arXiv:2108.02938, algorithm 1.

    Args:
        measurement: y, A and the noise of y.
        denoise: the model of p(x0).
        solver: the rule of a step.
        log_snr_max: last log-SNR at which x is replaced; to the clean end where null.
    """
    most = math.inf if log_snr_max is None else log_snr_max

    return Guided(denoise, Replacing(solver, measurement, log_snr_max=most))


def repaint(
    measurement: Measurement,
    denoise: Denoiser,
    solver: Solver,
    *,
    resamples: int = 5,
    jump: int = 1,
) -> Guided:
    """`ilvr` to the clean end, every stretch of `jump` steps walked `resamples` times.

    After a stretch noise is added back, x_t drawn from q(x_t | x_u), so that what is free can
    agree with what was put in.  The step into the clean end is walked once.  A solver begins each
    stretch without a history.  Takes y as exact; costs `resamples` times the calls.
    Source: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1.

    Args:
        measurement: y, A and the noise of y.
        denoise: the model of p(x0).
        solver: the rule of a step.
        resamples: times that each stretch is walked, at least 1.
        jump: steps of the grid in a stretch, at least 1.

    Raises:
        InputError: less than one of either.
    """
    if resamples < 1 or jump < 1:
        raise InputError(
            f"expected resamples >= 1 and jump >= 1, got resamples={resamples}, jump={jump}"
        )

    return Guided(denoise, Replacing(solver, measurement, resamples=resamples, jump=jump))


def dps(
    measurement: Measurement,
    denoise: Denoiser,
    solver: Solver,
    *,
    scale: float = 1.0,
) -> Guided:
    """After each step x_u <- x_u - scale / |y - A x0| grad_x |y - A x0(x)|^2.

    The gradient is taken at the step's start, through its first call of the denoiser.  Its length
    does not fall with the residual: a scale that is too large for the size of a sample oscillates.
    Source: Chung et al. 2023, arXiv:2209.14687, algorithm 1.

    Args:
        measurement: y, A and the noise of y.
        denoise: the model of p(x0).
        solver: the rule of a step.
        scale: the paper's zeta', about 0.1 to 1 for pictures in [-1, 1]; 0 is the model alone.

    Raises:
        InputError: a negative scale.
    """
    if scale < 0:
        raise InputError(f"scale: expected at least 0, got {scale}")

    return Guided(denoise, Descending(solver, measurement, scale))


class _Leg(NamedTuple):
    """A step of the wrapped solver, or a jump back where there is no row."""

    ends: Ends
    row: Any
    begins: bool


def _legs(solver: Solver, process: GaussianPath, grid: Tensor) -> list[_Leg]:
    """The solver's rows with the levels they run between.

    Raises:
        InputError: not one row for each step, or a solver whose steps undo a change of x.
    """
    steps, rows = list(ends(process, grid, falls=True)), solver.plan(process, grid)
    name = type(solver).__name__
    if len(rows) != len(steps):
        raise InputError(
            f"{name} takes {len(rows)} steps on a grid of {len(steps)}; this posterior method "
            "wants one for each: take another sampler, or core/pigdm, core/ddnm or core/diffpir"
        )
    _check_builds_on_x(solver, rows, steps, name)
    pairs = enumerate(zip(steps, rows, strict=True))
    return [_Leg(e, row, number == 0) for number, (e, row) in pairs]


class _Zero:
    """A source of silence."""

    def like(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def between(self, x: Tensor, start: float, end: float) -> Tensor:
        return torch.zeros_like(x)


def _check_builds_on_x(solver: Solver, rows: list[Any], steps: list[Ends], name: str) -> None:
    """Refuse solvers such as UniPC, which take a step again from where the one before began.

    What a method did to x in between would be lost without a word, so a step is tried from two x.
    """
    zero = torch.zeros(1, 1, dtype=torch.float64)
    prediction, silent, state = (
        Prediction(zero, variance_fraction=zero, x0_variance=zero),
        _Zero(),
        None,
    )
    for row, e in zip(rows, steps, strict=True):
        here, after = solver.step(zero, row, state, lambda x, t: prediction, silent)
        there, _ = solver.step(zero + 1, row, state, lambda x, t: prediction, silent)
        # A step into the clean end or from pure noise may keep nothing of x with every solver.
        if state is not None and e.sigma_u > 0 and e.alpha_t > 0 and torch.equal(here, there):
            raise InputError(
                f"{name} steps again from an earlier x and would lose what this posterior method "
                "changes; take core/multistep, core/ddim or core/heun"
            )
        state = after


class _Fresh:
    """Draws that forget intervals: a stretch walked again must not hear the same noise again."""

    def __init__(self, noise: Source) -> None:
        self._noise = noise

    def like(self, x: Tensor) -> Tensor:
        return self._noise.like(x)

    def between(self, x: Tensor, start: float, end: float) -> Tensor:
        return self._noise.like(x)


@dataclass(frozen=True)
class Replacing:
    """A solver between whose steps what is measured is put in place: see the three methods.

    Args:
        solver: takes the steps.
        measurement: what is put in place.
        strength: see `projection`.
        before: whether before a step (and at the clean end), or after it.
        log_snr_max: see `ilvr`.
        resamples: see `repaint`.
        jump: see `repaint`.
    """

    solver: Solver
    measurement: Measurement
    strength: float = 1.0
    before: bool = False
    log_snr_max: float = math.inf
    resamples: int = 1
    jump: int = 1

    convergence = 0
    restarts = False

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Leg]:
        """The solver's rows; with resamples, stretch by stretch with jumps back."""
        if self.resamples == 1:
            return _legs(self.solver, process, grid)
        steps = list(ends(process, grid, falls=True))
        last = len(steps) - (steps[-1].sigma_u == 0)  # the step into the clean end stands alone
        legs: list[_Leg] = []
        for first in range(0, last, self.jump):
            part = grid[first : min(first + self.jump, last) + 1]
            (back,) = ends(process, part[[-1, 0]])
            down = _legs(self.solver, process, part)
            legs += down + [_Leg(back, None, True), *down] * (self.resamples - 1)
        return legs + (_legs(self.solver, process, grid[last:]) if last < len(steps) else [])

    def step(
        self, x: Tensor, row: _Leg, state: Any, estimate: Estimate, noise: Source
    ) -> tuple[Tensor, Any]:
        """A step with x replaced before or after it, or a jump back."""
        e = row.ends
        if row.row is None:  # q(x_u | x_t) towards the noise
            kept = e.alpha_u / e.alpha_t
            spread = math.sqrt(max(e.sigma_u**2 - (kept * e.sigma_t) ** 2, 0.0))
            return (kept * x).add_(noise.like(x), alpha=spread), None
        if self.before:
            x = self._replaced(x, e.alpha_t, e.sigma_t, noise)
        source = noise if self.resamples == 1 else _Fresh(noise)
        x, state = self.solver.step(x, row.row, None if row.begins else state, estimate, source)
        if (not self.before or e.sigma_u == 0) and e.clock[1] <= self.log_snr_max:
            x = self._replaced(x, e.alpha_u, e.sigma_u, noise)
        return x, state

    def _replaced(self, x: Tensor, alpha: float, sigma: float, noise: Source) -> Tensor:
        operator = self.measurement.operator
        level = replace(self.measurement, y=alpha * self.measurement.y)
        if sigma > 0:
            level = replace(level, y=level.y + sigma * operator.forward(noise.like(x)))
        return x + self.strength * pseudo_inverse(level, residual(level, x))


@dataclass(frozen=True)
class Descending:
    """A solver after whose steps x goes down the gradient of the residual: see `dps`.

    Args:
        solver: takes the steps.
        measurement: whose residual falls.
        scale: see `dps`.
    """

    solver: Solver
    measurement: Measurement
    scale: float

    convergence = 0
    restarts = False

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Leg]:
        """The solver's rows."""
        return _legs(self.solver, process, grid)

    def step(
        self, x: Tensor, row: _Leg, state: Any, estimate: Estimate, noise: Source
    ) -> tuple[Tensor, Any]:
        """A step, and the descent; one pass backwards through the denoiser."""
        slopes: list[Tensor] = []

        def watched(at: Tensor, t: float | Tensor) -> Prediction:
            if slopes:
                return estimate(at, t)
            prediction, pull = with_pull(lambda at: estimate(at, t), at)
            r = residual(self.measurement, prediction.x0)
            square = dot(r, r)
            norm = torch.where(square > 0, square, 1.0).sqrt()  # nothing to descend at 0
            slopes.append(pull(-2 * self.measurement.operator.adjoint(r)) / over(norm, at))
            return prediction

        x, state = self.solver.step(x, row.row, None if row.begins else state, watched, noise)
        return x - self.scale * slopes[0], state
