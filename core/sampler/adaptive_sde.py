"""Stochastic improved Euler with error control on the reverse SDE, a step size for every sample.

In lambda = log(alpha / sigma) the reverse SDE of z = x / alpha is the same for every process,

    dz = 2 (x0 - z) dlambda + sqrt(2) s dw,    s = sigma / alpha = e^-lambda.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.process.rows import row_mean
from core.sampler.solver import Affine, Ends, Estimate, affine, check_grid, ends, euler

# (z, lambda) -> drift and diffusion of the SDE; lambda (b,), z (b, n).
Coefficients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

DEEPEST = 24  # halvings of a cell of the path; shorter steps are refused


class Path:
    """Brownian paths over [`start`, `end`], one a sample, refined by halving and never redrawn.

    The part of a path that is still to come is a stack of intervals with known increments; a step
    takes the top one.  `halve` splits it by a Brownian bridge.  What was drawn for a step that was
    rejected is thus kept, so that rejections do not bias the result.
    Source: Rackauckas and Nie 2017, Adaptive methods for stochastic differential equations via
    natural embeddings and rejection sampling with memory, section 4, on a dyadic grid.

    Args:
        x: the samples, (b, n).
        start: of every path.
        end: of every path.
        noise: draws for the paths.
        cells: equal intervals that the paths begin with.
    """

    def __init__(
        self, x: Float[Tensor, " b n"], start: float, end: float, noise: Source, cells: int
    ) -> None:
        self._noise, self._whole = noise, (end - start) / cells
        increments = [math.sqrt(self._whole) * noise.like(x) for _ in range(cells)]
        # Latest first, so that the top of the stack is the last entry in use.
        self._increments = torch.stack([*reversed(increments)], dim=1)
        self._halvings = torch.zeros(x.shape[0], cells, dtype=torch.long, device=x.device)
        self._used = torch.full((x.shape[0],), cells, device=x.device)

    def top(self) -> tuple[Float64[Tensor, " b"], Float[Tensor, " b n"]]:
        """Length and increment of the next interval; the last one again at the end of a path."""
        row, at = self._top_index()
        halvings = self._halvings[row, at].double()
        return self._whole * 0.5**halvings, self._increments[row, at]

    def _top_index(self) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        return torch.arange(len(self._used), device=self._used.device), (self._used - 1).clamp(0)

    def ended(self) -> Bool[Tensor, " b"]:
        """Whether a path has been walked to its end."""
        return self._used == 0

    def advance(self, which: Bool[Tensor, " b"]) -> None:
        """Take the next interval off the paths of some samples."""
        self._used = self._used - which.long()

    def halve(self, which: Bool[Tensor, " b"]) -> None:
        """Split the next interval of some samples; one draw, whichever they are."""
        length, increment = self.top()
        std = (length / 4).sqrt()[:, None].to(increment)
        # The bridge at the middle: half the increment, variance length / 4.
        left = increment / 2 + std * self._noise.like(increment)
        row, at = self._top_index()
        if int(self._used[which].max()) == self._increments.shape[1]:
            pad = torch.zeros_like(self._increments[:, :1])
            self._increments = torch.cat([self._increments, pad], dim=1)
            self._halvings = torch.cat([self._halvings, self._halvings[:, :1]], dim=1)
        self._increments, self._halvings = self._increments.clone(), self._halvings.clone()
        rows, below = row[which], at[which]
        deeper = self._halvings[rows, below] + 1
        self._increments[rows, below] = (increment - left)[which]
        self._increments[rows, below + 1] = left[which]
        self._halvings[rows, below] = deeper
        self._halvings[rows, below + 1] = deeper
        self._used = self._used + which.long()

    def deepest(self) -> int:
        """Halvings of the shortest interval ahead."""
        row, at = self._top_index()
        return int(self._halvings[row, at].max())


def improved_euler(
    sde: Coefficients,
    z: Float[Tensor, " b n"],
    start: float,
    end: float,
    noise: Source,
    *,
    rtol: float,
    atol: float,
    cells: int = 8,
) -> Float[Tensor, " b n"]:
    """Integrate dz = f dlambda + g dw from `start` up to `end`.

    Source: Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, algorithms 1 and 2, with the norm
    over a sample, theta = 0.9, r = 0.9 and extrapolation.  Step sizes are halves of halves of a
    cell, the largest that does not exceed the paper's.

    Args:
        sde: (z, lambda) -> f, g.
        z: at `start`.
        start: of lambda.
        end: of lambda, above `start`.
        noise: draws, one stream per sample.
        rtol: their epsilon_rel.
        atol: their epsilon_abs.
        cells: longest steps: `end` - `start` over this.

    Raises:
        InputError: a step would be shorter than 2^-24 of a cell.
    """
    path = Path(z, start, end, noise, cells)
    at = torch.full((len(z),), start, dtype=torch.float64, device=z.device)
    wanted = torch.full_like(at, 0.01)  # their h_init
    before = z  # x'_prev
    while not bool((done := path.ended()).all()):
        length, dw = path.top()
        # A step of the wanted length or a rejected one is reached by halving.
        ready = ~done & (length <= wanted * (1 + 1e-9))
        good = torch.zeros_like(done)
        if bool(ready.any()):
            h = torch.where(ready, length, 0.0)[:, None].to(z)
            dw = torch.where(ready[:, None], dw, 0.0)
            f, g = sde(z, at)
            euler_maruyama = z + h * f + g * dw  # x'
            f, g = sde(euler_maruyama, torch.where(ready, at + length, at))
            shifted = z + h * f + g * dw  # x~
            improved = (euler_maruyama + shifted) / 2  # x''
            scale = torch.maximum(euler_maruyama.abs(), before.abs()).mul(rtol).clamp(min=atol)
            # A sample that waits has no error, and the norm of 0 no gradient.
            off = torch.where(ready[:, None], (euler_maruyama - improved) / scale, 1.0)
            error = row_mean(off.square()).sqrt().detach().double()
            good = ready & (error <= 1)
            at = torch.where(good, at + length, at)
            z = torch.where(good[:, None], improved, z)
            before = torch.where(good[:, None], euler_maruyama, before)
            growth = 0.9 * error.clamp(min=1e-30) ** -0.9
            wanted = torch.where(ready, length * growth, wanted)
            path.advance(good)
        # Of every sample whose next interval is too long, also one that has just been rejected.
        length, _ = path.top()
        long = ~path.ended() & (length > wanted * (1 + 1e-9))
        if path.deepest() > DEEPEST:
            raise InputError(
                f"adaptive_sde: a sample needed a step below {2.0**-DEEPEST:.0e} of the longest at "
                f"rtol {rtol:g}, atol {atol:g}; raise them, or look at the denoiser"
            )
        if bool(long.any()):
            path.halve(long)
        else:
            noise.like(z)  # the streams of all samples advance alike, whatever their batch does
    return z


class _Whole(NamedTuple):
    process: GaussianPath
    first: Affine | None  # out of pure noise, where lambda is infinite
    ends: Ends
    last: Affine | None  # into the clean end


@dataclass(frozen=True, kw_only=True)
class AdaptiveSDE:
    """Stochastic improved Euler on the reverse SDE, with a step size for every sample.

    Runs from the first to the last time of a grid and ignores those between; from the smallest
    trained time to the clean end it takes one Euler step.  Two calls a trial; a batch takes as many
    as its hardest sample, and a sample does not depend on its batch.
    Source: Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, algorithms 1 and 2, in lambda in
    place of t and with Brownian bridges where a step is rejected.

    Args:
        rtol: relative tolerance of a step; their epsilon_rel, 0.01 to 0.5 in the source.
        atol: absolute tolerance in units of the data; their epsilon_abs, 0.0078 for images in
            [-1, 1].
    """

    convergence = 0
    restarts = False

    rtol: float = 0.05
    atol: float = 0.0078

    def __post_init__(self) -> None:
        if self.rtol < 0 or self.atol <= 0:
            raise InputError(
                f"expected rtol >= 0, atol > 0, got rtol={self.rtol}, atol={self.atol}"
            )

    def plan(self, process: GaussianPath, grid: Float64[Tensor, " n"]) -> list[_Whole]:
        """One row, from the first time to the last."""
        grid = check_grid(process, grid, falls=True)
        start, last = grid[0], grid[-1]
        first = tail = None
        if float(process.alpha_sigma(start)[0]) == 0:
            # Pure noise: Euler's step to log-SNR -20 is exact but for e^-10 of the data.
            inside = process.time_of_log_snr(torch.tensor(-20.0, dtype=torch.float64))
            inside = torch.maximum(inside, last)
            (out,) = ends(process, torch.stack([start, inside]))
            first, start = euler(out), inside
        turn = last.clamp(min=process.t_first)
        if float(turn) > float(last) and float(turn) < float(start):
            (clean,) = ends(process, torch.stack([turn, last]))
            tail, last = euler(clean), turn
        (whole,) = ends(process, torch.stack([start, last]))
        return [_Whole(process, first, whole, tail)]

    def step(
        self,
        x: Float[Tensor, " b *shape"],
        row: _Whole,
        state: None,
        estimate: Estimate,
        noise: Source,
    ) -> tuple[Float[Tensor, " b *shape"], None]:
        """The whole way."""
        shape, e = x.shape, row.ends

        def sde(z: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
            t = row.process.time_of_log_snr(2 * lambdas)
            alpha, _ = row.process.alpha_sigma(t)
            x0 = estimate((alpha[:, None].to(z) * z).reshape(shape), t).x0.flatten(1)
            return 2 * (x0 - z), math.sqrt(2) * (-lambdas).exp()[:, None].to(z)

        if row.first is not None:
            x = affine(x, estimate(x, row.first.t).x0, row.first, noise)
        z = x.flatten(1) / e.alpha_t
        start, end = (log_snr / 2 for log_snr in e.clock)
        z = improved_euler(sde, z, start, end, noise, rtol=self.rtol, atol=self.atol)
        x = (e.alpha_u * z).reshape(shape)
        if row.last is not None:
            x = affine(x, estimate(x, e.u).x0, row.last, noise)
        return x, None
