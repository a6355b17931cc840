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
from jaxtyping import Float, Float64
from torch import Tensor

from core.denoiser.guidance import with_pull
from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.errors import InputError
from core.inverse.measurement import Measurement, dot, pseudo_inverse, residual, update
from core.process.gaussian import GaussianPath, over
from core.process.noise import Source
from core.sampler.solver import Ends, Estimate, Solver, ends


class Guided(NamedTuple):
    """A denoiser and a solver that draw from p(x0 | y); `sample` runs the pair."""

    denoise: Denoiser
    solver: Solver


Method = Callable[[Measurement, Denoiser, Solver], Guided]

# (prediction, t, x) -> what is added to its x0; the result is in the shape of x.
Shift = Callable[[Prediction, Tensor, Tensor], Tensor]

# --- methods that act on x0 --------------------------------------------------------------------


def _shifted(denoise: Denoiser, shift: Shift) -> Denoiser:
    """`denoise` with x0' = x0 + shift."""

    def predict(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        return replace(prediction, x0=prediction.x0 + shift(prediction, t, x))

    return FunctionDenoiser(denoise.process, predict)


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

    R is the variance of x0 given x_t: the denoiser's `x0_variance` where it has one, otherwise
    sigma^2 d^2 / (alpha^2 d^2 + sigma^2) of Gaussian data with standard deviation d.  The shift is
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
        data_std: d, standard deviation of an element of the data.
        iterations: of conjugate gradients, at most.
        tolerance: of conjugate gradients, relative.

    Raises:
        InputError: data_std not positive.
    """
    if data_std <= 0:
        raise InputError(f"data_std: expected a positive number, got {data_std}")

    def predict(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction, pull = with_pull(lambda at: denoise(at, t, condition), x)
        alpha, sigma = denoise.process.alpha_sigma(t)
        # R, the variance of x0 given x_t
        r = prediction.x0_variance
        if r is None:
            r = sigma**2 * data_std**2 / (alpha**2 * data_std**2 + sigma**2)
        # R A* (A R A* + noise_std^2)^-1 (y - A x0)
        shift = update(
            measurement.operator,
            residual(measurement, prediction.x0),
            r,
            torch.full_like(r, measurement.noise_std**2),
            iterations=iterations,
            tolerance=tolerance,
        )
        # (sigma^2 / alpha) J^T R^-1 of it; where alpha = 0 the covariance is R itself
        r, alpha, sigma = (over(value, x) for value in (r.double(), alpha, sigma))
        known = (r > 0) & (alpha > 0)
        ratio = torch.where(known, sigma**2 / torch.where(known, alpha * r, 1.0), 0.0)
        pulled = pull(ratio * shift)
        return replace(prediction, x0=prediction.x0 + torch.where(alpha > 0, pulled, shift))

    return Guided(FunctionDenoiser(denoise.process, predict), solver)


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
            masks, the factor for block means; of no effect where noise_std is 0.

    Raises:
        InputError: a gain that is not positive.
    """
    if noise_gain <= 0:
        raise InputError(f"noise_gain: expected a positive number, got {noise_gain}")

    def shift(prediction: Prediction, t: Tensor, x: Tensor) -> Tensor:
        # x0' = A+ y + (I - A+ A) x0
        shift = pseudo_inverse(measurement, residual(measurement, prediction.x0))
        if measurement.noise_std:  # l = s^2 / (s^2 + (noise_gain noise_std)^2)
            alpha, sigma = denoise.process.alpha_sigma(t)
            noise = alpha * noise_gain * measurement.noise_std
            shift = over(sigma**2 / (sigma**2 + noise**2), x) * shift
        return shift

    return Guided(_shifted(denoise, shift), solver)


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
    those that fit y best.  The noise that a step adds is the solver's choice (the paper's zeta is
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

    def shift(prediction: Prediction, t: Tensor, x: Tensor) -> Tensor:
        # variances of x0 and of y, both times alpha^2: only their ratio counts
        alpha, sigma = denoise.process.alpha_sigma(t)
        return update(
            measurement.operator,
            residual(measurement, prediction.x0),
            sigma**2,
            prior_weight * (alpha * measurement.noise_std) ** 2,
            iterations=iterations,
            tolerance=tolerance,
        )

    return Guided(_shifted(denoise, shift), solver)


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

    def shift(prediction: Prediction, t: Tensor, x: Tensor) -> Tensor:
        # conjugate gradients on (A* A + c) d = A* (y - A x0), begun at d = 0
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        return update(
            measurement.operator,
            residual(measurement, prediction.x0),
            one,
            one * (noise_gain * measurement.noise_std) ** 2,
            iterations=iterations,
        )

    return Guided(_shifted(denoise, shift), solver)


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
    """`ilvr` to the clean end, every stretch of `jump` steps taken `resamples` times.

    After a stretch noise is added back, x_t drawn from q(x_t | x_u), so that unmeasured elements
    can agree with the measured ones.  The step into the clean end is taken once.  A solver begins
    each stretch without a history.  Takes y as exact; costs `resamples` times the calls.
    Source: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1.

    Args:
        measurement: y, A and the noise of y.
        denoise: the model of p(x0).
        solver: the rule of a step.
        resamples: times that each stretch is taken, at least 1.
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
        scale: the paper's zeta', about 0.1 to 1 for images in [-1, 1]; 0 is the model alone.

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
            "requires one for each: take another sampler, or core/pigdm, core/ddnm or core/diffpir"
        )
    if solver.restarts:
        raise InputError(
            f"{name} steps again from an earlier x and would lose what this posterior method "
            "changes; take core/multistep, core/ddim or core/heun"
        )
    pairs = enumerate(zip(steps, rows, strict=True))
    return [_Leg(e, row, number == 0) for number, (e, row) in pairs]


class _Fresh:
    """Fresh draws for every interval: a stretch that is taken again gets other noise."""

    def __init__(self, noise: Source) -> None:
        self._noise = noise

    def like(self, x: Tensor) -> Tensor:
        return self._noise.like(x)

    def between(self, x: Tensor, start: float, end: float) -> Tensor:
        return self._noise.like(x)


@dataclass(frozen=True)
class Replacing:
    """A solver with measured elements replaced between its steps: projection, ILVR, RePaint.

    Args:
        solver: takes the steps.
        measurement: y, noised to the level of x, replaces A x.
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
        # The step into the clean end is taken once: nothing is noised back from there.
        last = len(steps) - 1 if steps[-1].sigma_u == 0 else len(steps)
        legs: list[_Leg] = []
        for first in range(0, last, self.jump):
            part = grid[first : min(first + self.jump, last) + 1]
            (back,) = ends(process, part[[-1, 0]])
            down = _legs(self.solver, process, part)
            legs += down + [_Leg(back, None, True), *down] * (self.resamples - 1)
        return legs + (_legs(self.solver, process, grid[last:]) if last < len(steps) else [])

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _Leg,
        state: Any,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], Any]:
        """A step with x replaced before or after it, or a jump back."""
        e = row.ends
        if row.row is None:  # towards the noise, q(x_u | x_t) = N(ratio x_t, std^2)
            ratio = e.alpha_u / e.alpha_t
            std = math.sqrt(max(e.sigma_u**2 - (ratio * e.sigma_t) ** 2, 0.0))
            return (ratio * x).add_(noise.like(x), alpha=std), None
        if self.before:
            x = self._replaced(x, e.alpha_t, e.sigma_t, noise)
        source = noise if self.resamples == 1 else _Fresh(noise)
        x, state = self.solver.step(x, row.row, None if row.begins else state, estimate, source)
        if (not self.before or e.sigma_u == 0) and e.clock[1] <= self.log_snr_max:
            x = self._replaced(x, e.alpha_u, e.sigma_u, noise)
        return x, state

    def _replaced(self, x: Tensor, alpha: float, sigma: float, noise: Source) -> Tensor:
        # y_t = alpha y + sigma A z
        operator = self.measurement.operator
        level = replace(self.measurement, y=alpha * self.measurement.y)
        if sigma > 0:
            level = replace(level, y=level.y + sigma * operator.forward(noise.like(x)))
        # x + strength A+ (y_t - A x)
        return x + self.strength * pseudo_inverse(level, residual(level, x))


@dataclass(frozen=True)
class Descending:
    """A solver with a gradient step on the residual after each of its steps: see `dps`.

    Args:
        solver: takes the steps.
        measurement: gives the residual.
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
        self,
        x: Float[Tensor, " b *shape"],
        row: _Leg,
        state: Any,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], Any]:
        """A step, and the descent; one pass backwards through the denoiser."""
        gradients: list[Tensor] = []

        def with_gradient(at: Tensor, t: float | Tensor) -> Prediction:
            if gradients:  # later stages of a step
                return estimate(at, t)
            prediction, pull = with_pull(lambda at: estimate(at, t), at)
            # grad_x |y - A x0(x)|^2 = -2 J^T A* (y - A x0)
            r = residual(self.measurement, prediction.x0)
            gradient = pull(-2 * self.measurement.operator.adjoint(r))
            # over |y - A x0|; where that is 0 the gradient is too
            square = dot(r, r)
            norm = torch.where(square > 0, square, 1.0).sqrt()
            gradients.append(gradient / over(norm, at))
            return prediction

        begun = None if row.begins else state
        x, state = self.solver.step(x, row.row, begun, with_gradient, noise)
        return x - self.scale * gradients[0], state
