"""What a solver is, and the geometry of its steps.

A solver plans its coefficients once, in float64, from the process and the grid; a step then costs
a few multiplications.  State is explicit.  All are written in alpha, sigma and half the log-SNR,
lambda = log(alpha / sigma), so every Gaussian process has the same trajectory up to the scale alpha
(Lu et al. 2022, arXiv:2206.00927, proposition 3.1).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float64
from torch import Tensor

from core.denoiser.parameterization import Prediction
from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source

# x, t -> what the denoiser says, its condition bound.  t is a float, or (b,) where samples differ.
Estimate = Callable[[Tensor, float | Tensor], Prediction]


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
        self, x: Tensor, row: Any, state: Any, estimate: Estimate, noise: Source
    ) -> tuple[Tensor, Any]:
        """X at the step's end, and what the next step wants to know; `state` is None at first."""
        ...


class Ends(NamedTuple):
    """alpha and sigma at both ends of a step."""

    t: float
    u: float
    alpha_t: float
    sigma_t: float
    alpha_u: float
    sigma_u: float

    @property
    def h(self) -> float:
        """Rise of lambda; infinite where an end is pure noise or clean."""
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


def ends(process: GaussianPath, grid: Tensor, *, falls: bool = False) -> Iterator[Ends]:
    """The steps of a grid that runs one way, from a time with noise in it.

    Raises:
        InputError: it turns, starts clean, or rises though the solver draws noise (`falls`).
    """
    grid = grid.double().cpu()
    alphas, sigmas = process.alpha_sigma(grid)
    steps = grid.diff()
    if float(sigmas[0]) <= 0 or not (bool((steps < 0).all()) or bool((steps > 0).all())):
        raise InputError("a grid runs strictly one way, from a time with noise in it")
    if falls and bool((steps > 0).any()):
        raise InputError(
            "a solver that draws noise runs on falling times only; take a deterministic one, such "
            "as core/multistep with eta 0"
        )
    nodes = zip(grid.tolist(), alphas.tolist(), sigmas.tolist(), strict=True)
    for (t, alpha_t, sigma_t), (u, alpha_u, sigma_u) in pairwise(nodes):
        yield Ends(t, u, alpha_t, sigma_t, alpha_u, sigma_u)


class Affine(NamedTuple):
    """x_u = x x_t + x0 x0_hat + noise z."""

    t: float
    x: float
    x0: float
    noise: float = 0.0
    clock: tuple[float, float] = (0.0, 0.0)


def affine(x: Tensor, x0: Tensor, row: Affine, noise: Source) -> Tensor:
    """The step that `row` states."""
    moved = (row.x * x).add_(x0, alpha=row.x0)
    return moved.add_(noise.between(x, *row.clock), alpha=row.noise) if row.noise else moved


def euler(e: Ends) -> Affine:
    """DDIM's step, Euler's rule in sigma / alpha: exact for a constant x0, finite at every end."""
    kept = e.sigma_u / e.sigma_t
    return Affine(e.t, kept, e.alpha_u - kept * e.alpha_t)


def polynomial_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The w with sum_j w_j nodes_j^k = moments_k: integrates the polynomial through the nodes.

    Source: Bjorck and Pereyra 1970, Math. Comp. 24, whose elimination of Vandermonde systems is
    exact to rounding for the few nodes of a solver.
    """
    w, last = list(moments), len(nodes) - 1
    for k in range(last):
        for i in range(last, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(last - 1, -1, -1):
        for i in range(k + 1, last + 1):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, last):
            w[i] -= w[i + 1]
    return w
