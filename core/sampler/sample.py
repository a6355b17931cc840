"""The loop that runs a solver from noise to data."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser
from core.process.gaussian import GaussianPath
from core.process.noise import Noise
from core.sampler.solvers import Solver

Trace = Callable[[int, int], None]


def prior(process: GaussianPath, like: Float[Tensor, " b *shape"], noise: Noise) -> Tensor:
    """A start x at `t_max`: noise of the process's final level, in the shape of `like`."""
    return process.prior_std() * noise.like(like)


@torch.no_grad()
def sample(
    denoise: Denoiser,
    process: GaussianPath,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    x: Float[Tensor, " b *shape"],
    noise: Noise,
    condition: Condition | None = None,
    *,
    watch: Trace | None = None,
) -> Float[Tensor, " b *shape"]:
    """Integrate from `x` at grid[0] to grid[-1].

    Args:
        denoise: estimates the clean sample.
        process: the forward process that `denoise` was made for.
        grid: falling times.
        solver: the rule of a step.
        x: the start, usually from `prior`.
        noise: draws for stochastic solvers, one stream per sample.
        condition: passed on to `denoise`.
        watch: called with (steps done, steps in all) after each step.

    Raises:
        InputError: the grid does not fall.
    """

    def estimate(x: Tensor, t: float) -> Tensor:
        # Below t_first the network was never trained; sigma = 0 is never asked for.
        times = torch.full((len(x),), max(t, process.t_first), dtype=torch.float64, device=x.device)
        return denoise(x, times, condition).x0

    rows, state = solver.plan(process, grid), None
    for done, row in enumerate(rows, start=1):
        x, state = solver.step(x, row, state, estimate, noise)
        if watch is not None:
            watch(done, len(rows))
    return x
