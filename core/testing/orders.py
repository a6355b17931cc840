"""Orders of convergence, measured against exact answers."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from core.denoiser.parameterization import Denoiser
from core.process.gaussian import GaussianPath
from core.process.noise import Noise, Silence
from core.sampler.adaptive import DormandPrince
from core.sampler.sample import conditioned, sample
from core.sampler.solver import Solver
from core.testing.distributions import Gaussian, Mixture

STEPS = (64, 128, 256)
NOISY, CLEAN = -8.0, 7.0  # log-SNR between which orders are measured


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
    within: float | None = None,
) -> None:
    """Assert that `error(n)` falls as n^-order.

    Orders 1 and 2 are met to `within`, 0.1 by default.  Of higher orders, where leading terms may
    cancel, a slope of at least order - `within` is asked: 0.15 for order 3, 0.4 from order 4 on,
    whose asymptote is reached late.

    Args:
        error: of a run of n steps.
        order: expected.
        steps: where it is measured.
        within: how near the slope must come.

    Raises:
        AssertionError: another slope; the message gives it with the errors.
    """
    errors = [error(n) for n in steps]
    found = slope(steps, errors)
    within = within if within is not None else {1: 0.1, 2: 0.1, 3: 0.15}.get(order, 0.4)
    shown = ", ".join(f"{n}: {e:.2e}" for n, e in zip(steps, errors, strict=True))
    near = found >= order - within and (order > 2 or found <= order + within)
    assert near, f"order {found:.3f}, expected {order} - {within} or better ({shown})"


def to_noisy_level(process: GaussianPath, steps: int) -> Float64[Tensor, " n"]:
    """Even steps of log-SNR from -8, or the process's own end, to 7: not to the clean end.

    The last step into sigma = 0 is of order 1 for every solver and would hide the rest.
    """
    end = process.log_snr(torch.tensor(process.t_max, dtype=torch.float64))
    start = max(float(end) + 1e-9, NOISY)
    values = torch.linspace(start, CLEAN, steps + 1, dtype=torch.float64)
    return process.time_of_log_snr(values)


def _run(
    solver: Solver,
    process: GaussianPath,
    grid: Tensor,
    denoise: Denoiser,
    exact: Sequence[Tensor],
) -> Tensor:
    """`sample` without draws, put back on the exact trajectory after the first steps.

    Solvers that build on their past begin with rules of lower order.  From pure noise that costs
    nothing that one could see; from the middle of a process it would hide the order of the rule.
    """
    estimate, noise = conditioned(denoise, None), Noise(range(len(exact[0])))
    x, state, rows = exact[0], None, solver.plan(process, grid)
    for done, row in enumerate(rows, start=1):
        x, state = solver.step(x, row, state, estimate, noise)
        if done < len(exact) and len(rows) == len(grid) - 1:
            x = exact[done]
    return x


def three_modes() -> Mixture:
    """A mixture in two dimensions on which no rule is exact."""
    return Mixture(
        torch.tensor([[-1.0, 0.2], [0.6, 0.9], [0.5, -1.1]], dtype=torch.float64),
        0.35,
        torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64),
    )


@cache
def _trajectory(process: GaussianPath, steps: int) -> tuple[Tensor, ...]:
    """The exact flow of `three_modes` from a ring of noise, to 1e-11: first times, and the last."""
    grid, turn = to_noisy_level(process, steps), torch.arange(16, dtype=torch.float64) / 16
    turn = 2 * math.pi * turn + 0.1
    _, sigma = process.alpha_sigma(grid[0])
    x = [float(sigma) * torch.stack([turn.cos(), turn.sin()], dim=1)]
    solver, denoise = DormandPrince(rtol=1e-11, atol=1e-12), three_modes().denoiser(process)
    cuts = [*range(min(4, steps)), steps]
    for start, end in pairwise(cuts):
        part = grid[[start, end]]
        x.append(sample(denoise, part, solver, x[-1], Noise(range(16))))
    return tuple(x)


def mixture_error(solver: Solver, process: GaussianPath, steps: int) -> float:
    """Median distance of a solver's end points from the exact flow of a mixture.

    The median: a trajectory that changes its mode would hide the order of all others.
    """
    *first, exact = _trajectory(process, steps)
    grid = to_noisy_level(process, steps)
    reached = _run(solver, process, grid, three_modes().denoiser(process), first)
    return float((reached - exact).norm(dim=1).median())


class _Impulses(Noise):
    """Draw k is 1 for sample k and 0 for the others."""

    def __init__(self, draws: int) -> None:
        super().__init__(range(draws))
        self._next = 0

    def like(self, x: Tensor) -> Tensor:
        unit = torch.zeros_like(x)
        unit[self._next] = 1
        self._next += 1
        return unit


def variance_after(
    solver: Solver, process: GaussianPath, world: Gaussian, grid: Float64[Tensor, " n"]
) -> tuple[float, float]:
    """The exact mean and variance of a solver's result on a Gaussian world; no random draw.

    Every step is affine there, so the responses to the start and to each draw add up.
    """
    centred = Gaussian(0.0, world.std)
    draws = 3 * len(grid)  # no solver draws more often
    x = torch.zeros(draws + 1, 1, dtype=torch.float64)
    x[-1] = centred.std_at(process, float(grid[0]))  # the start, one standard deviation away
    impulses = _Impulses(draws + 1)
    responses = sample(centred.denoiser(process), grid, solver, x, impulses)
    start = torch.full((1, 1), world.mean_at(process, float(grid[0])), dtype=torch.float64)
    mean = sample(world.denoiser(process), grid, solver, start, Silence())
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
    ends = [sample(world.denoiser(process), grid, solver, x, Noise([seed])) for seed in (0, 1)]
    return not torch.equal(ends[0], ends[1])


def _check_draws(solver: Solver, process: GaussianPath, world: Gaussian) -> None:
    """Mean and standard deviation of 4,000 draws, each of a sample of its own.

    Raises:
        AssertionError: further off than 5 % and four standard errors.
    """
    count, grid = 4000, to_noisy_level(process, 4)
    noise, first, last = Noise(range(count)), float(grid[0]), float(grid[-1])
    z = noise.like(torch.zeros(count, 1, dtype=torch.float64))
    x = world.mean_at(process, first) + world.std_at(process, first) * z
    x = sample(world.denoiser(process), grid, solver, x, noise)
    std = world.std_at(process, last)
    mean_off = abs(float(x.mean()) - world.mean_at(process, last)) / std
    std_off = abs(float(x.std()) / std - 1)
    assert mean_off < 0.05 + 4 / count**0.5, f"the mean is off by {mean_off:.3f} deviations"
    assert std_off < 0.05 + 4 / (2 * count) ** 0.5, f"the deviation is off by {std_off:.3f}"


def check_solver(solver: Solver, process: GaussianPath) -> None:
    """Assert that a solver has the order it states.

    Of the trajectory on a mixture, where it is deterministic (a Gaussian's symmetry would cancel
    leading terms); of the variance on a Gaussian where it draws noise, whose mean must then follow
    the flow's as well.  One that states order 0 must come near: the variance to 5 %.  An adaptive
    one takes the whole way in one row: without noise it must come to 1e-3, with noise its draws
    must have the mean and, to 5 %, the standard deviation of a Gaussian.

    Raises:
        AssertionError: another order, or a mean that goes astray.
    """
    world, order = Gaussian(mean=0.3, std=0.5), solver.convergence
    if draws_noise(solver, process) and len(solver.plan(process, to_noisy_level(process, 4))) == 1:
        _check_draws(solver, process, world)
        return
    if not draws_noise(solver, process):
        if len(solver.plan(process, to_noisy_level(process, 4))) == 1:
            assert mixture_error(solver, process, 4) < 1e-3, "an adaptive solver goes astray"
            return
        # The asymptote of higher orders comes later.
        steps = STEPS if order < 3 else tuple(2 * n for n in STEPS)
        assert_order(lambda n: mixture_error(solver, process, n), order, steps=steps)
        return
    if order:
        assert_order(lambda n: variance_error(solver, process, world, n), order)
    else:
        error = variance_error(solver, process, world, STEPS[-1])
        assert error < 0.05, f"the variance is off by {error:.3f}"

    def mean_error(steps: int) -> float:
        grid = to_noisy_level(process, steps)
        mean, _ = variance_after(solver, process, world, grid)
        return abs(mean - world.mean_at(process, float(grid[-1])))

    # From the exact mean every estimate is the data's mean; rules with alpha_u = x alpha_t + x0
    # stay on it, others come back to it with their order.
    if mean_error(STEPS[-1]) > 1e-9:
        assert_order(mean_error, order)
