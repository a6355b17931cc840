"""Reverse processes of critically-damped Langevin diffusion, over position and velocity.

In the unit variables of `core.process.langevin` the reverse SDE is, for s falling,

    dx = -w ds,    dw = (x + 2 w + 4 grad_w log p) ds + 2 dW.

Library only: no registered sampler reaches it, since none takes a `CriticallyDamped` process::

    process = CriticallyDamped()
    grid = quadratic_times(steps=200)
    start = process.prior(torch.zeros(8, 3, 32, 32), noise)
    x = symmetric_splitting(score, process, grid, start, noise).position
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from core.errors import InputError
from core.process.langevin import CriticallyDamped, Phase, unit_factor, unit_flow
from core.process.noise import Source
from core.sampler.adaptive import dormand_prince

# (position and velocity, t (b,)) -> grad_v log p_t, for example `process.score(network(...), t)`.
VelocityScore = Callable[[Phase, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


def quadratic_times(*, steps: int = 200) -> Float64[Tensor, " n"]:
    """(1 - i / steps)^2: times that crowd towards the clean end, where the velocity is stiff.

    Source: Dockhorn et al. 2022, arXiv:2112.07068, section 5 (quadratic striding).

    Args:
        steps: of the sampler.

    Raises:
        InputError: no step.
    """
    if steps < 1:
        raise InputError(f"steps: expected at least 1, got {steps}")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2


def _steps(process: CriticallyDamped, grid: Tensor) -> Iterator[tuple[float, float]]:
    """The clock s and the length h of every step."""
    if len(grid) < 2 or not bool((grid.diff() < 0).all()) or float(grid[-1]) < 0:
        raise InputError(
            f"grid: expected times that fall strictly and not below 0, got {grid.tolist()}"
        )
    for now, then in pairwise(process.clock(grid.cpu()).tolist()):
        yield now, now - then


def _unit_score(score: VelocityScore, process: CriticallyDamped) -> Callable[..., Tensor]:
    """grad_w log p at x, w and clock s, one for all or one for each."""
    root = process.mass**0.5

    def unit_score(x: Tensor, w: Tensor, s: float | Tensor) -> Tensor:
        clock = torch.as_tensor(s, dtype=torch.float64, device=x.device).expand(len(x))
        t = process.time_of_clock(clock).clamp(min=process.t_first)
        return root * score(Phase(x, root * w), t)  # v = root w

    return unit_score


@torch.no_grad()
def euler_maruyama(
    score: VelocityScore,
    process: CriticallyDamped,
    grid: Float64[Tensor, " n"],
    start: Phase,
    noise: Source,
) -> Phase:
    """Euler's rule on the reverse SDE; one call a step, weak order 1.

    Args:
        score: grad_v log p_t.
        process: the forward process.
        grid: falling times, for example `quadratic_times`.
        start: at grid[0], usually from `process.prior`.
        noise: one stream for each sample.

    Raises:
        InputError: the grid does not fall.
    """
    unit_score, root = _unit_score(score, process), process.mass**0.5
    x, w = start.position, start.velocity / root
    for s, h in _steps(process, grid):
        push = x + 2 * w + 4 * unit_score(x, w, s)
        x, w = x - h * w, w + h * push + 2 * math.sqrt(h) * noise.like(x)
    return Phase(x, root * w)


def _drift(x: Tensor, w: Tensor, h: float, noise: Source) -> Pair:
    """The exact step of dx = -w ds, dw = (x - 2 w) ds + 2 dW: the forward flow of (-x, w)."""
    length = torch.tensor(h, dtype=torch.float64)
    a, b, c, d = map(float, unit_flow(length))
    xx, xw, ww = map(float, unit_factor(length))
    z, z_w = noise.like(x), noise.like(x)
    # Of (-x, w) the off-diagonal entries of flow and factor change sign.
    return a * x - b * w + xx * z, -c * x + d * w - xw * z + ww * z_w


@torch.no_grad()
def symmetric_splitting(
    score: VelocityScore,
    process: CriticallyDamped,
    grid: Float64[Tensor, " n"],
    start: Phase,
    noise: Source,
    *,
    kick: Literal["euler", "midpoint"] = "euler",
) -> Phase:
    """SSCS: half a step of the exact linear part, a kick by the score, the other half.

    The kick dw = 4 (grad_w log p + w) ds moves the velocity alone.  By Euler's rule, as published,
    it takes one call a step and the whole is of weak order 1 (0.8 times Euler-Maruyama's error in
    the variance of a Gaussian); by the midpoint rule it takes two calls and is of weak order 2.
    Source: Dockhorn et al. 2022, arXiv:2112.07068, section 3.3.

    Args:
        score: grad_v log p_t.
        process: the forward process.
        grid: falling times, for example `quadratic_times`.
        start: at grid[0], usually from `process.prior`.
        noise: one stream for each sample.
        kick: rule for the score's part.

    Raises:
        InputError: the grid does not fall.
    """
    unit_score, root = _unit_score(score, process), process.mass**0.5
    x, w = start.position, start.velocity / root
    for s, h in _steps(process, grid):
        # the linear part over h / 2
        x, w = _drift(x, w, h / 2, noise)
        # the score's part over h, of the velocity alone
        middle = s - h / 2
        at = w
        if kick == "midpoint":
            at = w + 2 * h * (unit_score(x, w, middle) + w)
        w = w + 4 * h * (unit_score(x, at, middle) + at)
        # the linear part over h / 2
        x, w = _drift(x, w, h / 2, noise)
    return Phase(x, root * w)


@torch.no_grad()
def probability_flow(
    score: VelocityScore,
    process: CriticallyDamped,
    start: Phase,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Phase:
    """Dormand-Prince on dx = w ds, dw = -(x + 2 w + 2 grad_w log p) ds, from t = 1 to 0.

    The last step, from the smallest time that networks are trained at, is Euler's.
    Source: Dockhorn et al. 2022, arXiv:2112.07068, appendix (the ODE); Dormand and Prince 1980.

    Args:
        score: grad_v log p_t.
        process: the forward process.
        start: at t = 1, usually from `process.prior`.
        rtol: relative tolerance of a step's error.
        atol: absolute tolerance of a step's error.

    Raises:
        InputError: too many evaluations, or values that are not finite; loosen the tolerances.
    """
    unit_score, root = _unit_score(score, process), process.mass**0.5
    like = start.position
    last, first = process.clock(torch.tensor([process.t_first, 1.0], dtype=torch.float64)).tolist()

    def slope(y: Tensor, s: Tensor) -> Tensor:
        x, w = (part.reshape(like.shape).to(like.dtype) for part in y.chunk(2, 1))
        push = -(x + 2 * w + 2 * unit_score(x, w, s))
        return torch.cat([w.flatten(1), push.flatten(1)], 1).double()

    y = torch.cat([like.flatten(1), start.velocity.flatten(1) / root], 1).double()
    y = dormand_prince(slope, y, first, last, rtol=rtol, atol=atol).y
    y = y - last * slope(y, torch.full((len(y),), last, dtype=torch.float64, device=y.device))
    x, w = (part.reshape(like.shape).to(like.dtype) for part in y.chunk(2, 1))
    return Phase(x, root * w)
