"""Dormand-Prince 5(4) with a step size of its own for every sample.

The probability-flow ODE is integrated in the angle theta = atan(sigma / alpha), where
z = x / sqrt(alpha^2 + sigma^2) moves by dz/dtheta = v = cos(theta) eps - sin(theta) x0: bounded at
both ends of every process.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath, over
from core.process.noise import Source
from core.process.rows import row_mean
from core.sampler.solver import Affine, Ends, Estimate, affine, check_grid, ends, euler

# Dormand and Prince 1980, table 2 (RK5(4)7M): nodes, stages and the error's weights.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)

Slope = Callable[[Tensor, Tensor], Tensor]


class Solution(NamedTuple):
    """The end of an ODE.

    Args:
        y: at the end.
        evaluations: of the slope, by every sample.
    """

    y: Float64[Tensor, " b n"]
    evaluations: Int[Tensor, " b"]


def _norm(values: Float[Tensor, " b n"]) -> Float[Tensor, " b"]:
    """Root mean square over a sample."""
    return row_mean(values.square()).sqrt()


def _first_step(
    slope: Slope,
    y: Float64[Tensor, " b n"],
    f: Float64[Tensor, " b n"],
    at: Float64[Tensor, " b"],
    length: float,
    scale: Float64[Tensor, " b n"],
) -> Float64[Tensor, " b"]:
    """Source: Hairer, Norsett and Wanner, Solving ODEs I, section II.4, steps a to f."""
    # a, b: a guess by which Euler's step is small against y.
    d0, d1 = _norm(y / scale), _norm(f / scale)
    guess = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    # A slope that starts near zero allows any step; none may leave the interval.
    guess = guess.clamp(max=abs(length))
    way = math.copysign(1.0, length)
    # c, d: the second derivative from one such step.
    there = slope(y + (way * guess)[:, None] * f, at + way * guess)
    d2 = _norm((there - f) / scale) / guess
    # e, f: the step whose error of order 5 would be a hundredth of the tolerance.
    steep = torch.maximum(d1, d2)
    fine = torch.where(steep <= 1e-15, (1e-3 * guess).clamp(min=1e-6), (0.01 / steep) ** 0.2)
    return torch.minimum(100 * guess, fine)


def _next_size(
    step: Float64[Tensor, " b"],
    ratio: Float64[Tensor, " b"],
    rejected: Bool[Tensor, " b"],
    active: Bool[Tensor, " b"],
    good: Bool[Tensor, " b"],
    size: Float64[Tensor, " b"],
) -> Float64[Tensor, " b"]:
    """h 0.9 err^(-1/5), at least h / 5 and at most 10 h; no more than h just after a rejection.

    Source: Hairer, Norsett and Wanner, Solving ODEs I, eq. 4.13.
    """
    growth = (0.9 * ratio.clamp(min=1e-30) ** -0.2).clamp(max=10)
    growth = torch.where(rejected, growth.clamp(max=1), growth)
    shrunk = torch.where(active, step * growth.clamp(min=0.2), size)
    return torch.where(good, step * growth, shrunk)


def dormand_prince(
    slope: Slope,
    y: Float64[Tensor, " b n"],
    start: float,
    end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    most: int = 10_000,
) -> Solution:
    """Integrate dy/da = slope(y, a) from `start` to `end`, either way.

    The local error of each sample is kept below atol + rtol |y| in root mean square over the
    sample, so that it does not depend on its batch.
    Source: Dormand and Prince 1980; the controller of Hairer, Norsett and Wanner, section II.4,
    factor 0.9, between 0.2 and 10.

    Args:
        slope: (y, a) -> dy/da; a is (b,), the samples' own.
        y: at `start`.
        start: of a.
        end: of a.
        rtol: relative tolerance.
        atol: absolute tolerance.
        most: evaluations a sample may take.

    Raises:
        InputError: a sample took more, or stopped being finite; loosen the tolerance.
    """
    way = 1.0 if end > start else -1.0
    at = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    f = slope(y, at)
    size = _first_step(slope, y, f, at, end - start, atol + rtol * y.abs())
    rejected = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    evaluations = torch.full((len(y),), 2, device=y.device)
    while bool((active := at != end).any()):
        if bool((active & ((evaluations > most) | ~torch.isfinite(size))).any()):
            raise InputError(
                f"dopri5: a sample needed more than {most} evaluations or left the finite numbers "
                f"at rtol {rtol:g}, atol {atol:g}; loosen them, or look at the denoiser"
            )
        left = (end - at) * way
        step = torch.where(active, torch.minimum(size, left), 0.0)
        lasts = step >= left
        h = (way * step)[:, None]
        # The stages k_i = f(y + h sum_j a_ij k_j, t + c_i h); k_1 is the last stage of the step
        # before.  The last row of the tableau equals b, so the last stage is taken at the solution
        # of order 5 itself: `ahead` after the loop.
        k, ahead = [f], y
        for node, weights in zip(NODES, STAGES, strict=True):
            ahead = y.clone()
            for weight, value in zip(weights, k, strict=True):
                if weight:
                    ahead += weight * h * value
            k.append(slope(ahead, at + node * way * step))
        # Error estimate: the solution of order 5 less the embedded one of order 4, in units of the
        # tolerance (Hairer et al., eq. 4.10 and 4.11).
        error = sum(weight * value for weight, value in zip(ERROR, k, strict=True) if weight)
        scale = atol + rtol * torch.maximum(y.abs(), ahead.abs())
        # A sample that has arrived has no error, and the norm of 0 no gradient.
        ratio = _norm(torch.where(active[:, None], h * error / scale, 1.0))
        good = active & (ratio < 1)
        size = _next_size(step, ratio, rejected, active, good, size)
        y = torch.where(good[:, None], ahead, y)
        f = torch.where(good[:, None], k[-1], f)
        at = torch.where(good, torch.where(lasts, end, at + way * step), at)
        rejected = active & ~good
        evaluations = evaluations + 6 * active
    return Solution(y, evaluations)


class Angle(NamedTuple):
    """A time, the cosine and sine of its angle theta, and sqrt(alpha^2 + sigma^2) there."""

    t: Float64[Tensor, " b"]
    cos: Float64[Tensor, " b"]
    sin: Float64[Tensor, " b"]
    scale: Float64[Tensor, " b"]


def angle_of(process: GaussianPath, t: float) -> float:
    """`theta` = atan(sigma / alpha)."""
    alpha, sigma = process.alpha_sigma(torch.tensor(t, dtype=torch.float64))
    return float(torch.atan2(sigma, alpha))


def at_angle(process: GaussianPath, theta: Float64[Tensor, " b"]) -> Angle:
    """The time at an angle, and sqrt(alpha^2 + sigma^2) there."""
    cos, sin = theta.cos().clamp(min=0), theta.sin()
    t = process.time_of_log_snr(2 * (cos.log() - sin.log()))
    alpha, sigma = process.alpha_sigma(t)
    return Angle(t, cos, sin, (alpha**2 + sigma**2).sqrt())


def velocity(
    process: GaussianPath,
    estimate: Estimate,
    z: Float[Tensor, " b *shape"],
    theta: Float64[Tensor, " b"],
) -> tuple[Float[Tensor, " b *shape"], Angle, Float[Tensor, " b *shape"]]:
    """`dz/dtheta` = (cos(theta) z - x0) / sin(theta), the angle, and x there."""
    angle = at_angle(process, theta)
    x = over(angle.scale, z) * z
    x0 = estimate(x, angle.t).x0
    return (over(angle.cos, z) * z - x0) / over(angle.sin, z), angle, x


class _Whole(NamedTuple):
    process: GaussianPath
    ends: Ends
    last: Affine | None  # into the clean end, where there is no v to evaluate


@dataclass(frozen=True, kw_only=True)
class DormandPrince:
    """Dormand-Prince 5(4) on the probability-flow ODE, a step size of its own for every sample.

    Runs from the first to the last time of a grid and ignores those between; from the smallest
    trained time to the clean end it takes one Euler step.  Steps do not depend on the batch, and a
    sample is the same alone and in a batch but for rounding (1e-11 in float64): elementary
    functions round otherwise at other places of a vector.  A batch takes as many calls as its
    hardest sample.
    Source: Dormand and Prince 1980; used for this ODE by Song et al. 2021, arXiv:2011.13456,
    appendix D.4.

    Args:
        rtol: relative tolerance of a step's error.
        atol: absolute tolerance of a step's error, in units of unit-variance data.
    """

    convergence = 5
    restarts = False

    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if self.rtol <= 0 or self.atol <= 0:
            raise InputError(f"expected rtol, atol > 0, got rtol={self.rtol}, atol={self.atol}")

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Whole]:
        """One row, from the first time to the last."""
        grid = check_grid(process, grid)
        first, last = float(grid[0]), float(grid[-1])
        turn = max(last, process.t_first) if last < first else last
        (whole,) = ends(process, torch.tensor([first, turn], dtype=torch.float64))
        if turn == last:
            return [_Whole(process, whole, None)]
        (tail,) = ends(process, torch.tensor([turn, last], dtype=torch.float64))
        return [_Whole(process, whole, euler(tail))]

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _Whole,
        state: None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], None]:
        """The whole way; in float64, as rounding errors of float32 would be taken for curvature."""
        e, process = row.ends, row.process

        def slope(y: Tensor, theta: Tensor) -> Tensor:
            z = y.reshape(x.shape).to(x.dtype)
            return velocity(process, estimate, z, theta)[0].flatten(1).double()

        start, end = angle_of(process, e.t), angle_of(process, e.u)
        y = x.flatten(1).double() / math.hypot(e.alpha_t, e.sigma_t)
        found = dormand_prince(slope, y, start, end, rtol=self.rtol, atol=self.atol).y
        x = (math.hypot(e.alpha_u, e.sigma_u) * found).reshape(x.shape).to(x.dtype)
        if row.last is not None:
            x = affine(x, estimate(x, e.u).x0, row.last, noise)
        return x, None
