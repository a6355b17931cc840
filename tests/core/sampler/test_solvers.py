"""Solvers against exact answers: orders, variances, and each other where theory says they agree."""

import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from core.denoiser import parameterization
from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.parts.registry import Spec
from core.process.noise import Noise
from core.sampler import grids
from core.sampler.adaptive import DormandPrince
from core.sampler.adaptive_sde import AdaptiveSDE
from core.sampler.ancestral import DDIM, Ancestral, EulerMaruyama
from core.sampler.composed import GradedStart, PredictorCorrector, StochasticThenODE
from core.sampler.exponential import Multistep, Singlestep
from core.sampler.linear_multistep import LinearMultistep
from core.sampler.runge_kutta import Churn, Heun
from core.sampler.sample import prior, sample
from core.sampler.solver import check_grid
from core.sampler.unipc import SASolver, UniPC
from core.testing.distributions import Gaussian, Mixture
from core.testing.orders import (
    check_solver,
    slope,
    three_modes,
    to_noisy_level,
    variance_after,
)

sys.path.insert(0, str(Path(__file__).parent))
from made_samples import PATHS

pytestmark = pytest.mark.battery
DETERMINISTIC = [
    DDIM(),
    Heun(),
    *(LinearMultistep(order=order) for order in (2, 3, 4)),
    *(Multistep(order=order) for order in (1, 2, 3, 4)),
    Multistep(weights="midpoint"),
    *(Multistep(order=3, weights="published", prediction=kind) for kind in ("x0", "eps")),
    *(Multistep(order=order, prediction="eps") for order in (1, 2, 3, 4)),
    *(Singlestep(order=order, prediction=kind) for order in (2, 3) for kind in ("x0", "eps")),
    *(UniPC(order=order) for order in (1, 2, 3)),
    *(UniPC(order=order, variant="bh1") for order in (1, 2)),
    *(UniPC(order=order, prediction="eps") for order in (1, 2, 3)),
    *(SASolver(order=order, corrector=order, eta=0.0) for order in (1, 2, 3)),
    EulerMaruyama(eta=0.0),
    GradedStart(),
    GradedStart(solver=Spec("core/linear_multistep")),
    GradedStart(solver=Spec("core/unipc", {"order": 3})),
    DormandPrince(),
]
STOCHASTIC = [
    Ancestral(),
    Ancestral(variance="large"),
    DDIM(eta=0.5),
    DDIM(eta=1.0),
    EulerMaruyama(),
    *(Multistep(order=order, eta=eta) for order in (1, 2, 3) for eta in (0.5, 1.0)),
    Multistep(eta=1.0, weights="midpoint"),
    Singlestep(eta=1.0),
    Singlestep(eta=0.4),
    *(SASolver(order=order, corrector=order, eta=eta) for order in (1, 3) for eta in (0.5, 1.0)),
    Churn(),
    StochasticThenODE(),
    PredictorCorrector(),
    AdaptiveSDE(),
]
ADAPTIVE = (DormandPrince, AdaptiveSDE)
SOLVERS = DETERMINISTIC + STOCHASTIC
CORRECTED_UNIPC = PredictorCorrector(predictor=Spec("core/unipc"))


# --- T1, T4: orders ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PATHS if name != "zero_snr"])
def test_heun_is_algorithm_1_line_by_line(name):
    """Karras et al. 2022, in z = x / alpha and s = sigma / alpha; the code gathers its terms."""
    path = PATHS[name]
    denoise = three_modes().denoiser(path)
    grid = torch.linspace(0.9, 0.1, 7, dtype=torch.float64) * path.t_max
    start = prior(path, grid, torch.empty(64, 2, dtype=torch.float64), Noise(range(64)))
    x = sample(denoise, grid, Heun(), start, Noise(range(64)))
    alpha, sigma = path.alpha_sigma(grid)
    s, z = (sigma / alpha).tolist(), start / alpha[0]
    for i in range(len(grid) - 1):
        d = (z - denoise(alpha[i] * z, grid[i].expand(64)).x0) / s[i]  # line 4
        ahead = z + (s[i + 1] - s[i]) * d  # line 5
        d_next = (ahead - denoise(alpha[i + 1] * ahead, grid[i + 1].expand(64)).x0) / s[i + 1]
        z = z + (s[i + 1] - s[i]) / 2 * (d + d_next)  # line 8
    torch.testing.assert_close(x, alpha[-1] * z, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_each_solver_has_its_order(solver):
    """T1, T4: on vp_linear; `test_the_same_levels_...` carries the result to every process."""
    check_solver(solver, PATHS["vp_linear"])


@pytest.mark.slow
@pytest.mark.parametrize("path", ["edm", "flow"])
@pytest.mark.parametrize("solver", [EulerMaruyama(eta=0.0), EulerMaruyama()], ids=str)
def test_euler_maruyama_has_its_order_on_other_processes(solver, path):
    """The one rule that steps in the process's own time."""
    check_solver(solver, PATHS[path])


def test_the_stated_orders_are_those_of_the_papers():
    stated = {str(solver): solver.convergence for solver in SOLVERS}
    assert [Multistep(order=k).convergence for k in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert [LinearMultistep(order=k).convergence for k in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert [UniPC(order=k).convergence for k in (1, 2, 3)] == [2, 3, 4]  # Zhao et al., theorem 3.1
    assert [Singlestep(order=k).convergence for k in (2, 3)] == [2, 3]
    assert stated[str(Multistep(order=2, eta=1.0))] == stated[str(Singlestep(eta=1.0))] == 2
    assert stated[str(Heun())] == stated[str(Churn())] == 2


@pytest.mark.parametrize("solver", [LinearMultistep(order=3), Heun()], ids=str)
def test_rules_that_state_it_keep_going_into_the_clean_end(solver):
    """sigma = 0 itself, where a Gaussian's trajectory ends at its own standardised value."""
    world, path = Gaussian(0.3, 0.5), PATHS["edm"]
    errors, x = [], 80 * torch.tensor([[0.7], [-1.1]], dtype=torch.float64)
    exact = world.flow(path, x, 80.0, 0.0)
    for steps in (40, 80, 160):
        grid = grids.karras(path, steps=steps)
        reached = sample(world.denoiser(path), grid, solver, x, Noise([0, 1]))
        errors.append(float((reached - exact).abs().max()))
    assert slope((40, 80, 160), errors) > 1.8


# --- T7: invariance ---------------------------------------------------------------------------


# Not in the same list: Euler-Maruyama steps in time; the forward step's variance, "large", depends
# on alpha; Dormand-Prince may turn rounding into another step, and is compared to its tolerance.
@pytest.mark.parametrize(
    "solver",
    [
        solver
        for solver in SOLVERS
        if not isinstance(solver, (EulerMaruyama, *ADAPTIVE))
        and solver != Ancestral(variance="large")
    ],
    ids=str,
)
def test_the_same_levels_give_the_same_trajectory_on_every_process(solver):
    """T7: x / alpha at equal log-SNR depends on no schedule (Kingma et al. 2021, section 5)."""
    levels = torch.linspace(-6, 6, 12, dtype=torch.float64)
    start = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ends = []
    for path in PATHS.values():
        grid = path.time_of_log_snr(levels.clone())
        alpha, _ = path.alpha_sigma(grid)
        x = alpha[0] * 20 * start
        reached = sample(three_modes().denoiser(path), grid, solver, x, Noise(range(5)))
        ends.append(reached / alpha[-1])
    for end in ends[1:]:
        assert (end - ends[0]).abs().max() < 1e-12 * max(1.0, float(ends[0].abs().max()))


@pytest.mark.slow
def test_dormand_prince_agrees_over_processes_to_its_tolerance():
    start, ends = torch.tensor([[1.0, -0.4], [0.2, 0.9]], dtype=torch.float64), []
    for path in PATHS.values():
        grid = path.time_of_log_snr(torch.tensor([-6.0, 6.0], dtype=torch.float64))
        alpha, _ = path.alpha_sigma(grid)
        solver = DormandPrince(rtol=1e-9, atol=1e-9)
        x = alpha[0] * 20 * start
        reached = sample(three_modes().denoiser(path), grid, solver, x, Noise([0, 1]))
        ends.append(reached / alpha[-1])
    for end in ends[1:]:
        assert (end - ends[0]).abs().max() < 1e-8


ROWS = {
    name: getattr(parameterization, name)() for name in ("eps", "x0", "v", "score", "flow", "edm")
}


def said_by(rows, denoise, path):
    """`denoise` as networks of each row say it: sample i through row i's F and back."""
    known = {}

    def at(t):
        if t not in known:
            alpha, sigma = path.alpha_sigma(torch.tensor([t], dtype=torch.float64))
            each = [row.coefficients(alpha, sigma) for row in rows]
            columns = [torch.stack(column) for column in zip(*each, strict=True)]
            known[t] = (float(alpha), float(sigma), *columns)
        return known[t]

    @partial(FunctionDenoiser, path)
    def ask(x, t, condition=None):
        x0 = denoise(x, t).x0
        if (t != t[0]).any():  # adaptive solvers
            return Prediction(torch.cat([one(i, x, t, x0) for i in range(len(x))]))
        alpha, sigma, skip, out, _, of_x0, of_eps = at(float(t[0]))
        output = of_x0 * x0 + of_eps * (x - alpha * x0) / sigma
        return Prediction(skip * x + out * output)

    def one(i, x, t, x0):
        alpha, sigma = path.alpha_sigma(t[i : i + 1])
        output = rows[i].from_x0(x0[i : i + 1], x[i : i + 1], alpha, sigma)
        return rows[i].to_x0(output, x[i : i + 1], alpha, sigma)

    return ask


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", [Multistep(order=3), Heun(), Singlestep(order=3)], ids=str)
def test_what_the_network_says_does_not_matter(solver, path):
    """T7: eps, x0, v, score, flow and EDM networks that know the same give the same sample."""
    process, rows = PATHS[path], list(ROWS.values())
    grid = process.time_of_log_snr(torch.linspace(-6, 6, 12, dtype=torch.float64))
    _, sigma = process.alpha_sigma(grid[0])
    x = float(sigma) * torch.tensor([[0.7, -1.2]], dtype=torch.float64).expand(len(rows), 2)
    denoise = said_by(rows, three_modes().denoiser(process), process)
    reached = sample(denoise, grid, solver, x, Noise(range(len(rows))))
    assert (reached - reached[1]).abs().max() < 1e-12


# --- T13: seeds ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_sample_does_not_depend_on_its_batch(solver):
    """T13: bit for bit, alone, together and in another order."""
    path, world = PATHS["vp_cosine"], three_modes()
    grid = grids.uniform_log_snr(path, steps=6)

    def draw(seeds):
        noise = Noise(seeds)
        x = prior(path, grid, torch.zeros(len(seeds), 2, dtype=torch.float64), noise)
        return sample(world.denoiser(path), grid, solver, x, noise)

    together = draw([1, 2, 3])
    assert torch.equal(draw([2])[0], together[1])
    assert torch.equal(draw([3, 1]), together[[2, 0]])


@pytest.mark.parametrize(
    "solver", [s for s in SOLVERS if not isinstance(s, ADAPTIVE)] + [CORRECTED_UNIPC], ids=str
)
def test_a_solver_that_loses_a_change_of_x_restarts(solver):
    """The second step from x and from x + 1, where all that is predicted is 0: equal or not."""
    path = PATHS["vp_linear"]
    first, second, *_ = solver.plan(path, to_noisy_level(path, 4))

    def estimate(x, t):
        alpha, _ = path.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        x0 = x / alpha if getattr(solver, "prediction", "x0") == "eps" else 0 * x
        return Prediction(x0, variance_fraction=0 * x, x0_variance=0 * x)

    ends = []
    for change in (0.0, 1.0):
        x, noise = torch.ones(1, 2, dtype=torch.float64), Noise([0])
        x, state = solver.step(x, first, None, estimate, noise)
        ends.append(solver.step(x + change, second, state, estimate, noise)[0])
    assert solver.restarts == bool((ends[0] - ends[1]).abs().max() < 1e-12)


# --- T14: gradients -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_sampling_can_be_differentiated(solver):
    """T14: the gradient of a sample by its start against finite differences."""
    path = PATHS["vp_linear"]
    grid = to_noisy_level(path, 3)
    if isinstance(solver, ADAPTIVE):
        solver = type(solver)(rtol=1e-2, atol=1e-2)
    start = torch.tensor([[0.3, -0.8]], dtype=torch.float64, requires_grad=True)

    def run(x):
        denoise = three_modes().denoiser(path)
        return sample(denoise, grid, solver, x, Noise([4]), gradients=True)

    assert torch.autograd.gradcheck(run, (start,), eps=1e-6, atol=1e-6)
    assert not sample(three_modes().denoiser(path), grid, solver, start, Noise([4])).requires_grad


# --- T15: no NaN --------------------------------------------------------------------------------

GRIDS = {
    "karras": grids.karras,
    "uniform_log_snr": grids.uniform_log_snr,
    "uniform_time": grids.uniform_time,
    "discrete": grids.discrete,
}


# One of each rule and order; variants differ in numbers that have no other limits.
KINDS = [
    DDIM(),
    Heun(),
    LinearMultistep(order=4),
    Multistep(order=4),
    Multistep(weights="midpoint"),
    Multistep(order=4, prediction="eps"),
    Singlestep(order=3),
    Singlestep(order=3, prediction="eps"),
    UniPC(order=3, variant="bh1"),
    UniPC(order=2, variant="bh2"),
    UniPC(order=3, prediction="eps"),
    SASolver(),
    EulerMaruyama(eta=0.0),
    GradedStart(),
    DormandPrince(rtol=1e-3, atol=1e-3),
    AdaptiveSDE(rtol=0.5, atol=0.1),
    Ancestral(variance="large"),
    DDIM(eta=1.0),
    EulerMaruyama(),
    Multistep(order=3, eta=1.0),
    Singlestep(eta=0.4),
    Churn(),
    StochasticThenODE(then=Spec("core/multistep", {"order": 4})),
    PredictorCorrector(),
]


def quick_gaussian(path):
    """The denoiser of N(0.3, 0.5^2), its gain remembered."""
    known = {}

    @partial(FunctionDenoiser, path)
    def denoise(x, t, condition=None):
        time = float(t[0])
        if (t != t[0]).any():
            return Gaussian(0.3, 0.5).denoiser(path)(x, t)
        if time not in known:
            alpha, sigma = (float(value) for value in path.alpha_sigma(t[0]))
            known[time] = alpha, alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
        alpha, gain = known[time]
        return Prediction(0.3 + gain * (x - alpha * 0.3))

    return denoise


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("path", PATHS)
def test_nothing_stops_being_a_number(path, name):
    """T15: every solver, grid, process, parameterization; 1 to 50 steps, both ends included."""
    process, rows = PATHS[path], list(ROWS.values())
    denoise = said_by(rows, quick_gaussian(process), process)
    like = torch.zeros(len(rows), 1, dtype=torch.float64)
    # Of 50 steps the trailing times of a chain are those of even time.
    for steps in (1, 2, 3) if name == "discrete" else (1, 2, 3, 50):
        if name == "karras" and steps == 1:
            continue  # its formula wants two levels
        grid = GRIDS[name](process, steps=steps)
        assert len(grid) == steps + 1
        assert float(grid[-1]) == process.t_min
        for solver in KINDS:
            if isinstance(solver, ADAPTIVE) and steps != 2:
                continue  # takes no notice of the times between
            noise = Noise(range(len(rows)))
            x = prior(process, grid, like, noise)
            reached = sample(denoise, grid, solver, x, noise)
            assert torch.isfinite(reached).all(), f"{solver}, {steps} steps: {reached[:, 0]}"
            # Near data of mean 0.3 and deviation 0.5; explicit rules are not stable in long steps.
            if steps == 50 and not isinstance(solver, EulerMaruyama):
                assert reached.abs().max() < 10, f"{solver}, {steps} steps: {reached[:, 0]}"


# --- statistics ---------------------------------------------------------------------------------


# Not the adaptive ones: their steps depend on the sample, so that they are not affine.
@pytest.mark.parametrize("solver", [s for s in KINDS if not isinstance(s, ADAPTIVE)], ids=str)
@pytest.mark.parametrize(
    ("name", "path"),
    [("uniform_time", "vp_linear"), ("uniform_log_snr", "flow"), ("karras", "edm")],
)
def test_samples_of_a_gaussian_have_its_mean_and_spread(solver, name, path):
    """Full grids, into the clean end: the exact variance is near the data's at 100 steps."""
    process = PATHS[path]
    grid = getattr(grids, name)(process, steps=100)
    mean, variance = variance_after(solver, process, Gaussian(0.3, 0.5), grid)
    assert mean == pytest.approx(0.3, abs=0.01 if isinstance(solver, EulerMaruyama) else 1e-9)
    # DDPM's variances are of order 1 with a constant near 10 at log-SNR spans of 20.
    assert variance**0.5 == pytest.approx(0.5, rel=0.11)


def test_a_mixture_is_sampled_in_its_proportions():
    """An ODE solver on 2,000 starts: shares within 4 standard errors, spread within 5 %."""
    path = PATHS["vp_linear"]
    world = Mixture(
        torch.tensor([[-2.0], [2.0]], dtype=torch.float64),
        0.2,
        torch.tensor([0.25, 0.75], dtype=torch.float64),
    )
    noise = Noise(range(2000))
    grid = grids.uniform_log_snr(path, steps=60)
    x = prior(path, grid, torch.zeros(2000, 1, dtype=torch.float64), noise)
    reached = sample(world.denoiser(path), grid, Multistep(), x, noise)[:, 0]
    assert abs(float((reached > 0).double().mean()) - 0.75) < 4 * (0.75 * 0.25 / 2000) ** 0.5
    assert float(reached[reached > 0].std()) == pytest.approx(0.2, rel=0.05)


# --- what is refused ----------------------------------------------------------------------------


def test_a_grid_that_turns_is_refused():
    path = PATHS["vp_linear"]
    with pytest.raises(InputError, match="one way"):
        DDIM().plan(path, torch.tensor([0.5, 0.7, 0.0], dtype=torch.float64))
    for solver in STOCHASTIC[:5]:
        with pytest.raises(InputError, match="falling times only"):
            solver.plan(path, torch.tensor([0.2, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("times", [(1.5, 0.5, 0.0), (0.5, -0.1), (0.5, math.nan), (80.0, 0.0)])
def test_a_grid_outside_its_process_is_refused(solver, times):
    """vp_linear lives on [0, 1]; Karras levels of EDM's process are times up to 80."""
    with pytest.raises(InputError, match="times of the process, 0 to 1, got"):
        solver.plan(PATHS["vp_linear"], torch.tensor(times, dtype=torch.float64))


def test_float32_times_at_the_ends_of_a_process_are_taken():
    """Rounding to float32 may lift the first time above t_max: the end itself is meant."""
    path = PATHS["vp_cosine"]
    times = grids.uniform_time(path, steps=4).float()
    times[0] = times[0].nextafter(torch.tensor(2.0))
    assert float(times[0]) > path.t_max
    assert float(check_grid(path, times)[0]) == path.t_max


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DDIM, {"eta": 1.5}),
        (EulerMaruyama, {"eta": -0.1}),
        (Multistep, {"order": 5}),
        (Multistep, {"order": 4, "eta": 1.0}),
        (Multistep, {"eta": 1.0, "prediction": "eps"}),
        (Multistep, {"order": 3, "weights": "midpoint"}),
        (Singlestep, {"order": 1}),
        (Singlestep, {"order": 3, "eta": 0.5}),
        (UniPC, {"order": 4}),
        (LinearMultistep, {"order": 0}),
        (Multistep, {"order": 2, "weights": "published"}),
        (SASolver, {"corrector": 0}),
        (SASolver, {"eta": -1.0}),
        (AdaptiveSDE, {"atol": 0.0}),
        (Churn, {"s_min": 3.0, "s_max": 1.0}),
        (DormandPrince, {"rtol": 0.0}),
        (PredictorCorrector, {"corrections": 0}),
        (PredictorCorrector, {"snr": 1.0}),
    ],
)
def test_impossible_options_are_refused(kind, options):
    with pytest.raises(InputError, match=r"expected|is a rule of order"):
        kind(**options)
