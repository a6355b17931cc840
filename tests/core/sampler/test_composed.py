"""Composed solvers: Langevin corrections, a change of solver, a graded start."""

import sys
from pathlib import Path

import pytest
import torch

from core.parts.config import configure
from core.parts.registry import Spec
from core.process.noise import Noise
from core.sampler.adaptive import DormandPrince
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.composed import GradedStart, PredictorCorrector, StochasticThenODE
from core.sampler.runge_kutta import Heun
from core.sampler.sample import sample
from core.testing.distributions import Gaussian
from core.testing.orders import (
    draws_noise,
    slope,
    three_modes,
    to_noisy_level,
    variance_after,
)

sys.path.insert(0, str(Path(__file__).parent))
from made_samples import PATHS

pytestmark = pytest.mark.battery


def langevin_variance(start, data, sigma, snr, steps):
    """x <- x - (snr sigma)^2 2 x / (data + sigma^2) + noise, carried by hand on edm's process."""
    variance, size = start, 2 * (snr * sigma) ** 2
    for _ in range(steps):
        variance = (1 - size / (data + sigma**2)) ** 2 * variance + 2 * size
    return variance


def test_langevin_corrections_have_the_variance_computed_by_hand():
    """One step from sigma 2 to 1 on N(0, 0.25), then three corrections at snr 0.3."""
    path, world = PATHS["edm"], Gaussian(0.0, 0.5)
    grid = torch.tensor([2.0, 1.0], dtype=torch.float64)
    solver = PredictorCorrector(corrections=3, snr=0.3)
    _, variance = variance_after(solver, path, world, grid)
    _, predicted = variance_after(Ancestral(), path, world, grid)
    assert variance == pytest.approx(langevin_variance(predicted, 0.25, 1.0, 0.3, 3), rel=1e-12)


@pytest.mark.parametrize("size", [0.4, 0.2, 0.1])
def test_the_bias_of_langevin_steps_falls_with_their_size(size):
    """Stationary variance (data + sigma^2) / (1 - snr^2 sigma^2 / (data + sigma^2))."""
    stationary = langevin_variance(1.0, 0.25, 1.0, size, 5000)
    assert stationary == pytest.approx(1.25 / (1 - size**2 / 1.25), rel=1e-9)


@pytest.mark.parametrize(("log_snr", "first"), [(0.0, 2), (-99.0, 0), (99.0, 5)])
def test_a_switched_solver_changes_at_its_log_snr(log_snr, first):
    path = PATHS["vp_linear"]
    grid = path.time_of_log_snr(torch.tensor([-6.0, -3, -1, 1, 3, 6], dtype=torch.float64))
    solver = StochasticThenODE(
        first=Spec("core/ancestral"), then=Spec("core/heun"), log_snr=log_snr
    )
    rows = solver.plan(path, grid)
    assert [row.solver for row in rows] == [Ancestral()] * first + [Heun()] * (5 - first)
    assert [number for number, row in enumerate(rows) if row.begins] == sorted({0, first % 5})


def test_composed_solvers_take_the_steps_of_the_named_ones():
    """On either side of a switch, and of a predictor whose corrections are negligible."""
    path, denoise = PATHS["vp_linear"], three_modes().denoiser(PATHS["vp_linear"])
    grid, x = to_noisy_level(path, 6), torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    turned = StochasticThenODE(then=Spec("core/heun"), log_snr=-99.0)
    assert torch.equal(
        sample(denoise, grid, turned, x, Noise([0])), sample(denoise, grid, Heun(), x, Noise([0]))
    )
    corrected = PredictorCorrector(predictor=Spec("core/ddim"), snr=1e-9)
    reached = sample(denoise, grid, corrected, x, Noise([0]))
    assert (reached - sample(denoise, grid, DDIM(), x, Noise([0]))).abs().max() < 1e-6
    assert draws_noise(StochasticThenODE(then=Spec("core/heun")), PATHS["edm"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("core/multistep", {"order": 3}, 3),
        ("core/multistep", {"order": 4, "prediction": "eps"}, 4),
        ("core/linear_multistep", {"order": 4}, 4),
    ],
)
@pytest.mark.parametrize("rising", [False, True], ids=["sampling", "encoding"])
def test_a_graded_start_keeps_the_order_from_the_middle(name, options, order, rising):
    """Between log-SNR -2 and 5, either way, against Dormand-Prince at 1e-11."""
    path, inner = PATHS["vp_linear"], Spec(name, options)
    denoise = three_modes().denoiser(path)
    noisy = torch.tensor([[0.3, -1.0], [1.1, 0.2], [-0.4, 0.9]], dtype=torch.float64)

    def run(solver, x, steps):
        span = (5.0, -2.0) if rising else (-2.0, 5.0)
        grid = path.time_of_log_snr(torch.linspace(*span, steps + 1, dtype=torch.float64))
        return sample(denoise, grid, solver, x, Noise(range(3)))

    reference = DormandPrince(rtol=1e-11, atol=1e-12)
    x = noisy
    if rising:
        falling = path.time_of_log_snr(torch.tensor([-2.0, 5.0], dtype=torch.float64))
        x = sample(denoise, falling, reference, noisy, Noise(range(3)))
    exact, steps = run(reference, x, 1), (64, 128, 256)
    plain, graded = (
        [float((run(solver, x, n) - exact).norm(dim=1).median()) for n in steps]
        for solver in (configure("sampler", inner)(), GradedStart(solver=inner))
    )
    assert slope(steps, plain) < 2.4
    assert slope(steps, graded) > order - 0.4
    assert graded[-1] < plain[-1] / 4
