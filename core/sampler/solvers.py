"""Solvers: one step from t to u < t of the reverse process, given an estimate of the clean sample.

A solver plans its coefficients once, in float64, from the process and the grid; a step then costs
a few multiplications.  State is explicit.  All are written in alpha, sigma and
h = log(alpha_u / sigma_u) - log(alpha_t / sigma_t), so every Gaussian process has the same
trajectory up to the scale alpha (Lu et al. 2022, arXiv:2206.00927, proposition 3.1).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Noise

# x, t -> x0: a denoiser with its condition bound.  t is a Python float; the loop expands it.
Estimate = Callable[[Tensor, float], Tensor]


@runtime_checkable
class Solver(Protocol):
    """A reverse-time integrator; stateless, its history travels in `state`.

    Attributes:
        order: of convergence: of the trajectory, or of the variance where steps draw noise.
    """

    order: int

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[Any]:
        """The coefficients of every step, plain floats."""
        ...

    def step(
        self, x: Tensor, row: Any, state: Any, estimate: Estimate, noise: Noise
    ) -> tuple[Tensor, Any]:
        """X at the step's end, and what the next step wants to know; `state` is None at first."""
        ...


class _Ends(NamedTuple):
    """alpha and sigma at both ends of a step; the times at which the denoiser is asked."""

    t: float
    u: float
    alpha_t: float
    sigma_t: float
    alpha_u: float
    sigma_u: float

    @property
    def h(self) -> float:
        """Rise of log(alpha / sigma); infinite into sigma = 0."""
        if self.sigma_u == 0:
            return math.inf
        return math.log(self.alpha_u / self.sigma_u) - math.log(self.alpha_t / self.sigma_t)


def _ends(process: GaussianPath, grid: Tensor) -> Iterator[_Ends]:
    grid = grid.double()
    alphas, sigmas = process.alpha_sigma(grid)
    if float(sigmas[0]) <= 0 or bool((grid.diff() >= 0).any()):
        raise InputError("a grid falls strictly, from a noisy time to a cleaner one")
    nodes = zip(grid.tolist(), alphas.tolist(), sigmas.tolist(), strict=True)
    for (t, alpha_t, sigma_t), (u, alpha_u, sigma_u) in pairwise(nodes):
        yield _Ends(t, u, alpha_t, sigma_t, alpha_u, sigma_u)


class _Affine(NamedTuple):
    """x_u = x x_t + x0 x0_hat + noise z."""

    t: float
    x: float
    x0: float
    noise: float


def _affine_step(
    x: Tensor, row: _Affine, estimate: Estimate, noise: Noise
) -> Float[Tensor, " b *shape"]:
    x0 = estimate(x, row.t)
    x = row.x * x + row.x0 * x0
    return x + row.noise * noise.like(x) if row.noise else x


@dataclass(frozen=True, kw_only=True)
class Ancestral:
    """DDPM's reverse chain: a draw from q(x_u | x_t, x0_hat), with a choice of variance.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 7 and section 3.2; SR3 (arXiv:2104.07636,
    algorithm 2) uses the large variance.

    Args:
        variance: of each step: small, the posterior's for a known x0, or large, the forward step's.
    """

    order = 1

    variance: Literal["small", "large"] = "small"

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Affine]:
        """Coefficients of the posterior q(x_u | x_t, x0) for every step."""
        rows = []
        for e in _ends(process, grid):
            t, u = (torch.tensor(time, dtype=torch.float64) for time in (e.t, e.u))
            a, b, small = map(float, process.posterior_coefficients(t, u))
            forward = 1 - (e.alpha_t * e.sigma_u / (e.alpha_u * e.sigma_t)) ** 2
            # No noise into the last, clean level: the chain's result is its mean.
            large = forward * e.sigma_t**2 if e.sigma_u > 0 else 0.0
            chosen = small if self.variance == "small" else large
            rows.append(_Affine(e.t, a, b, math.sqrt(max(chosen, 0.0))))
        return rows

    def step(
        self, x: Tensor, row: _Affine, state: None, estimate: Estimate, noise: Noise
    ) -> tuple[Tensor, None]:
        """One draw of the chain; one call."""
        return _affine_step(x, row, estimate, noise), None


@dataclass(frozen=True, kw_only=True)
class DDIM:
    """x_u = alpha_u x0 + sqrt(sigma_u^2 - s^2) eps + s z, s = eta times the posterior's deviation.

    Order 1 for eta = 0, where it is Euler's rule on the probability-flow ODE in sigma / alpha.
    Source: Song et al. 2021, arXiv:2010.02502, eq. 12 and 16.

    Args:
        eta: 0 is deterministic, 1 the ancestral chain with the small variance.
    """

    order = 1

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta: expected 0 to 1, got {self.eta}")

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Affine]:
        """Coefficients of x_t, x0 and z for every step."""
        rows = []
        for e in _ends(process, grid):
            kept = e.alpha_t * e.sigma_u / (e.alpha_u * e.sigma_t)
            s = self.eta * e.sigma_u * math.sqrt(max(1 - kept**2, 0.0))
            direction = math.sqrt(max(e.sigma_u**2 - s**2, 0.0)) / e.sigma_t
            rows.append(_Affine(e.t, direction, e.alpha_u - direction * e.alpha_t, s))
        return rows

    def step(
        self, x: Tensor, row: _Affine, state: None, estimate: Estimate, noise: Noise
    ) -> tuple[Tensor, None]:
        """One step; one call."""
        return _affine_step(x, row, estimate, noise), None


class _HeunRow(NamedTuple):
    ends: _Ends
    s_t: float
    s_u: float


@dataclass(frozen=True, kw_only=True)
class Heun:
    """Heun's rule on d(x/alpha)/ds = (x/alpha - x0) / s, s = sigma / alpha; Euler into s = 0.

    Order 2, two calls a step but one in the last.
    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1.
    """

    order = 2

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_HeunRow]:
        """The relative levels at both ends of every step."""
        return [
            _HeunRow(e, e.sigma_t / e.alpha_t, e.sigma_u / e.alpha_u) for e in _ends(process, grid)
        ]

    def step(
        self, x: Tensor, row: _HeunRow, state: None, estimate: Estimate, noise: Noise
    ) -> tuple[Tensor, None]:
        """One step; two calls, one into the clean end."""
        e, length = row.ends, row.s_u - row.s_t
        y = x / e.alpha_t
        slope = (y - estimate(x, e.t)) / row.s_t
        ahead = y + length * slope
        if row.s_u > 0:
            there = (ahead - estimate(e.alpha_u * ahead, e.u)) / row.s_u
            ahead = y + length * (slope + there) / 2
        return e.alpha_u * ahead, None


class _MultistepRow(NamedTuple):
    t: float
    x: float
    x0: float
    difference: float


@dataclass(frozen=True, kw_only=True)
class DPMpp2M:
    """DPM-Solver++(2M): x_u = (sigma_u/sigma_t) x_t + alpha_u (1 - e^-h) (x0 + (x0 - last)/2r).

    `last` is the step before's x0, r its h over this one's.  Order 2, one call a step; the
    first step and the step into sigma = 0 are of order 1.
    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2.
    """

    order = 2

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_MultistepRow]:
        """Coefficients of x_t, x0 and its last difference for every step."""
        rows, last_h = [], None
        for e in _ends(process, grid):
            gain = e.alpha_u * -math.expm1(-e.h)
            second = 0.0 if last_h is None or math.isinf(e.h) else gain * e.h / (2 * last_h)
            rows.append(_MultistepRow(e.t, e.sigma_u / e.sigma_t, gain, second))
            last_h = e.h
        return rows

    def step(
        self, x: Tensor, row: _MultistepRow, state: Tensor | None, estimate: Estimate, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step; one call; the state is the estimate it made."""
        x0 = estimate(x, row.t)
        moved = row.x * x + row.x0 * x0
        if state is not None and row.difference:
            moved = moved + row.difference * (x0 - state)
        return moved, x0
