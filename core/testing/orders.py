"""Orders of convergence, measured against exact answers."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.process.gaussian import GaussianPath
from core.process.noise import Noise
from core.sampler.grids import uniform_log_snr
from core.sampler.sample import sample
from core.sampler.solver import Solver
from core.testing.worlds import Gaussian

STEPS = (64, 128, 256)


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The order p of error ~ steps^-p, by least squares on logarithms."""
    x = torch.tensor([math.log(n) for n in steps], dtype=torch.float64)
    y = torch.tensor([math.log(e) for e in errors], dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return float(-(x * y).sum() / (x * x).sum())


def assert_order(
    error: Callable[[int], float],
    order: int,
    *,
    steps: Sequence[int] = STEPS,
    within: float = 0.1,
) -> None:
    """Assert that `error(n)` falls as n^-order, to `within`.

    Raises:
        AssertionError: another slope; the message gives it with the errors.
    """
    errors = [error(n) for n in steps]
    found = slope(steps, errors)
    shown = ", ".join(f"{n}: {e:.2e}" for n, e in zip(steps, errors, strict=True))
    assert abs(found - order) <= within, (
        f"order {found:.3f}, expected {order} +- {within} ({shown})"
    )


def to_noisy_level(process: GaussianPath, steps: int) -> Tensor:
    """A grid from t_max to log-SNR 8, not to the clean end.

    The last step into sigma = 0 is of order 1 for every solver and would hide the rest.
    """
    return uniform_log_snr(process, steps=steps + 1, log_snr_max=8.0)[:-1]


def ode_error(solver: Solver, process: GaussianPath, world: Gaussian, steps: int) -> float:
    """Largest distance of a solver's end point from the exact flow, over starts of 3 deviations."""
    grid = to_noisy_level(process, steps)
    spread = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    t, u = float(grid[0]), float(grid[-1])
    x = world.mean_at(process, t) + world.std_at(process, t) * spread
    noise = Noise(range(len(x)))
    reached = sample(world.denoiser(process), process, grid, solver, x, noise)
    return float((reached - world.flow(process, x, t, u)).abs().max())


class _Impulses(Noise):
    """Sample k hears a unit of noise at draw k and silence otherwise."""

    def __init__(self, draws: int) -> None:
        super().__init__(range(draws))
        self._next = 0

    def like(self, x: Tensor) -> Tensor:
        unit = torch.zeros_like(x)
        unit[self._next] = 1
        self._next += 1
        return unit


def variance_after(
    solver: Solver, process: GaussianPath, world: Gaussian, grid: Tensor
) -> tuple[float, float]:
    """The exact mean and variance of a solver's result on a Gaussian world; no random draw.

    Every step is affine there, so the responses to the start and to each draw add up.
    """
    centred = Gaussian(0.0, world.std)
    draws = 3 * len(grid)  # no solver draws more often
    x = torch.zeros(draws + 1, 1, dtype=torch.float64)
    x[-1] = centred.std_at(process, float(grid[0]))  # the start, one standard deviation away
    impulses = _Impulses(draws + 1)
    responses = sample(centred.denoiser(process), process, grid, solver, x, impulses)
    start = torch.full((1, 1), world.mean_at(process, float(grid[0])), dtype=torch.float64)
    silent = _Impulses(1)
    silent.like = torch.zeros_like  # pyright: ignore[reportAttributeAccessIssue]
    mean = sample(world.denoiser(process), process, grid, solver, start, silent)
    return float(mean), float(responses.square().sum())


def variance_error(solver: Solver, process: GaussianPath, world: Gaussian, steps: int) -> float:
    """|variance / exact variance - 1| at the end of a grid."""
    grid = to_noisy_level(process, steps)
    _, variance = variance_after(solver, process, world, grid)
    return abs(variance / world.std_at(process, float(grid[-1])) ** 2 - 1)


def draws_noise(solver: Solver, process: GaussianPath) -> bool:
    """Whether the solver's result depends on its noise."""
    world, grid = Gaussian(), to_noisy_level(process, 4)
    x = torch.ones(1, 1, dtype=torch.float64)
    ends = [
        sample(world.denoiser(process), process, grid, solver, x, Noise([seed])) for seed in (0, 1)
    ]
    return not torch.equal(ends[0], ends[1])


def check_solver(solver: Solver, process: GaussianPath) -> None:
    """Assert that a solver has the order it states on a Gaussian world.

    Of the trajectory where it is deterministic; of the variance where it draws noise, whose mean
    must then follow the flow's as well.

    Raises:
        AssertionError: another order, or a mean that goes astray.
    """
    world = Gaussian(mean=0.3, std=0.5)
    if not draws_noise(solver, process):
        assert_order(lambda n: ode_error(solver, process, world, n), solver.convergence)
        return
    assert_order(lambda n: variance_error(solver, process, world, n), solver.convergence)
    grid = to_noisy_level(process, 512)
    mean, _ = variance_after(solver, process, world, grid)
    exact = world.mean_at(process, float(grid[-1]))
    # From the exact mean every estimate is the data's mean, and alpha_u = x alpha_t + x0 must hold.
    assert abs(mean - exact) < 1e-9, f"mean {mean:.12f}, expected {exact:.12f}"
