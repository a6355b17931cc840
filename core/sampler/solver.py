"""The solver protocol and the geometry of a step.

A solver plans its coefficients once, in float64, from the process and the grid; a step then costs
a few multiplications.  State is explicit.  All are written in alpha, sigma, the relative level
s = sigma / alpha and lambda = -log s, half the log-SNR: x / alpha as a function of lambda is the
same for every Gaussian process (Lu et al. 2022, arXiv:2206.00927, proposition 3.1).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Float64
from torch import Tensor

from core.denoiser.parameterization import Prediction
from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source

# (x, t) -> the prediction at x, its condition fixed.  t is a float, or (b,) where samples differ.
Estimate = Callable[[Tensor, float | Tensor], Prediction]

FLOAT32_ROUNDING = 2.0**-23


@runtime_checkable
class Solver(Protocol):
    """A reverse-time integrator; stateless, its history travels in `state`.

    Attributes:
        convergence: order of the trajectory, or of the variance where steps draw noise; 0 where
            an option sets a floor that more steps do not lower.
        restarts: whether a step may begin from an earlier `x`, kept in `state`, instead of the one
            it is given, so that a change made to `x` between two steps is lost.
    """

    @property
    def convergence(self) -> int: ...

    @property
    def restarts(self) -> bool: ...

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[Any]:
        """The coefficients of every step, plain floats."""
        ...

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: Any,
        state: Any,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], Any]:
        """`x` at the end of the step, and the state of the next step; None at the first."""
        ...


class Ends(NamedTuple):
    """alpha and sigma at both ends of a step from `t` to `u`."""

    t: float
    u: float
    alpha_t: float
    sigma_t: float
    alpha_u: float
    sigma_u: float

    @property
    def s_t(self) -> float:
        """s = sigma / alpha at the start; infinite at pure noise."""
        return self.sigma_t / self.alpha_t if self.alpha_t > 0 else math.inf

    @property
    def s_u(self) -> float:
        """s = sigma / alpha at the end; infinite at pure noise."""
        return self.sigma_u / self.alpha_u if self.alpha_u > 0 else math.inf

    @property
    def h(self) -> float:
        """lambda_u - lambda_t; infinite where an end is pure noise or clean."""
        up, down = self.alpha_u * self.sigma_t, self.sigma_u * self.alpha_t
        if down == 0:
            return math.inf
        return math.log(up / down) if up > 0 else -math.inf

    @property
    def singular(self) -> bool:
        """Whether lambda is infinite at an end, so that a step is of order 1 whatever the rule."""
        return self.alpha_t * self.sigma_t * self.alpha_u * self.sigma_u == 0

    @property
    def clock(self) -> tuple[float, float]:
        """The log-SNR at both ends: the clock of the reverse process' Brownian motion."""
        start = 2 * math.log(self.alpha_t / self.sigma_t) if self.alpha_t > 0 else -math.inf
        if self.sigma_u == 0:
            return start, math.inf
        return start, 2 * math.log(self.alpha_u / self.sigma_u) if self.alpha_u > 0 else -math.inf


def check_grid(
    process: GaussianPath, grid: Float[Tensor, " n"], *, falls: bool = False
) -> Float64[Tensor, " n"]:
    """The grid in float64 on the CPU, if a solver can run on it.

    Args:
        process: the process whose times these are.
        grid: at least two times; float32 rounding beyond an end of the process is put right.
        falls: whether times must fall, as for a solver that draws noise.

    Raises:
        InputError: a time outside the process, times that turn, a clean start, or, where `falls`,
            rising times.
    """
    grid = grid.detach().double().cpu()
    slack = FLOAT32_ROUNDING * max(abs(process.t_min), abs(process.t_max))
    inside = (grid >= process.t_min - slack) & (grid <= process.t_max + slack)  # NaN is outside
    if not bool(inside.all()):
        raise InputError(
            f"grid: expected times of the process, {process.t_min:g} to {process.t_max:g}, got "
            f"{float(grid[~inside][0]):g}; build the grid from the denoiser's own process"
        )
    grid = grid.clamp(process.t_min, process.t_max)
    steps = grid.diff()
    if len(steps) == 0 or not (bool((steps < 0).all()) or bool((steps > 0).all())):
        raise InputError("grid: expected at least two times that run strictly one way")
    if float(process.alpha_sigma(grid[0])[1]) <= 0:
        raise InputError("grid: expected a first time with noise in it, got the clean end")
    if falls and bool((steps > 0).any()):
        raise InputError(
            "grid: a solver that draws noise runs on falling times only; use a deterministic one, "
            "such as core/multistep with eta 0"
        )
    return grid


def ends(
    process: GaussianPath, grid: Float[Tensor, " n"], *, falls: bool = False
) -> Iterator[Ends]:
    """The steps of a grid that `check_grid` accepts.

    Raises:
        InputError: see `check_grid`.
    """
    grid = check_grid(process, grid, falls=falls)
    alphas, sigmas = process.alpha_sigma(grid)
    nodes = zip(grid.tolist(), alphas.tolist(), sigmas.tolist(), strict=True)
    for (t, alpha_t, sigma_t), (u, alpha_u, sigma_u) in pairwise(nodes):
        yield Ends(t, u, alpha_t, sigma_t, alpha_u, sigma_u)


class Affine(NamedTuple):
    """Coefficients of x_u = x x_t + x0 x0_hat + noise z, z of unit variance over `clock`."""

    t: float
    x: float
    x0: float
    noise: float = 0.0
    clock: tuple[float, float] = (0.0, 0.0)


def affine(
    x: Float[Tensor, " b *shape"], x0: Float[Tensor, " b *shape"], row: Affine, noise: Source
) -> Float[Tensor, " b *shape"]:
    """x_u = x x_t + x0 x0_hat + noise z, with the coefficients of `row`."""
    x_u = (row.x * x).add_(x0, alpha=row.x0)
    return x_u.add_(noise.between(x, *row.clock), alpha=row.noise) if row.noise else x_u


def euler(e: Ends) -> Affine:
    """Euler's rule in s, which is DDIM: x_u = alpha_u x0 + sigma_u eps, finite at every end.

    Exact for a constant x0.
    Source: Song et al. 2021, arXiv:2010.02502, eq. 12 and 13, with eps = (x_t - alpha_t x0) /
    sigma_t.
    """
    ratio = e.sigma_u / e.sigma_t
    return Affine(e.t, ratio, e.alpha_u - ratio * e.alpha_t)


def polynomial_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The w with sum_j w_j nodes_j^k = moments_k: integrates the polynomial through the nodes.

    Source: Bjorck and Pereyra 1970, Math. Comp. 24, whose elimination of Vandermonde systems is
    exact to rounding for the few nodes of a solver.
    """
    w, last = list(moments), len(nodes) - 1
    # Rows of the transposed Vandermonde matrix, eliminated from the highest power down.
    for k in range(last):
        for i in range(last, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    # Back substitution through divided differences.
    for k in range(last - 1, -1, -1):
        for i in range(k + 1, last + 1):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, last):
            w[i] -= w[i + 1]
    return w
