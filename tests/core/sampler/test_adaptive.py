"""Dormand-Prince against scipy's rule of the same name, tight references and closed forms."""

import math

import numpy
import pytest
import torch

from core.errors import InputError
from core.process import schedules
from core.process.noise import Noise
from core.sampler.adaptive import DormandPrince, angle_of, at_angle, dormand_prince, velocity
from core.sampler.sample import conditioned, encode, sample
from core.testing.distributions import Gaussian, Mixture
from core.testing.orders import slope as fitted_slope

pytestmark = pytest.mark.battery

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "zero_snr": schedules.zero_terminal_snr(),
}


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


WORLD = Mixture(normal(4, 3, seed=1), 0.3, double([0.1, 0.2, 0.3, 0.4]))


def angle_slope(path, world=WORLD):
    """dz/dtheta of the probability flow, rows in and out."""
    estimate = conditioned(world.denoiser(path), None)
    return lambda y, theta: velocity(path, estimate, y, theta)[0]


def tight(slope, y, start, end):
    """Scipy's rule of order 8 at rtol 1e-11, a sample at a time."""
    integrate = pytest.importorskip("scipy.integrate")

    def one(a, row):
        at = torch.tensor([a], dtype=torch.float64)
        return slope(torch.from_numpy(row)[None], at)[0].numpy()

    rows = [
        integrate.solve_ivp(
            one, (start, end), row.numpy(), method="DOP853", rtol=1e-11, atol=1e-12
        ).y[:, -1]
        for row in y
    ]
    return torch.from_numpy(numpy.stack(rows))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["to the data", "to the noise"])
@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
def test_one_sample_takes_the_steps_of_scipy_s_rule(rtol, way):
    integrate = pytest.importorskip("scipy.integrate")
    path = PATHS["vp_linear"]
    slope = angle_slope(path)
    start, end = angle_of(path, 1.0), angle_of(path, 1e-3)
    if way == "to the noise":
        start, end = end, start
    y = normal(1, 3, seed=4)

    def one(a, row):
        return slope(torch.from_numpy(row)[None], double([a]))[0].numpy()

    theirs = integrate.solve_ivp(one, (start, end), y[0].numpy(), rtol=rtol, atol=rtol)
    ours = dormand_prince(slope, y, start, end, rtol=rtol, atol=rtol)
    assert abs(int(ours.evaluations[0]) / theirs.nfev - 1) <= 0.1
    # The same rule with the same control: the steps differ by rounding alone.
    assert (ours.y[0] - torch.from_numpy(theirs.y[:, -1])).abs().max() < 1e-2 * rtol
    assert (ours.y - tight(slope, y, start, end)).abs().max() < 20 * rtol


@pytest.mark.slow
def test_error_and_work_follow_the_tolerance():
    """Circles: the local error is of order 5, so 10^5 times the tolerance takes a tenth the steps.

    Errors that add up over ten turns, within 20 rtol a turn.
    """

    def turn(y, a):
        return torch.stack([y[:, 1], -y[:, 0]], dim=1)

    y = normal(3, 2)
    tolerances, errors, calls = (1e-4, 1e-6, 1e-9), [], []
    for rtol in tolerances:
        found = dormand_prince(turn, y, 0.0, 20 * math.pi, rtol=rtol, atol=rtol)
        errors.append(float((found.y - y).abs().max()))
        calls.append(float(found.evaluations.double().mean()))
    assert all(e < 200 * rtol for e, rtol in zip(errors, tolerances, strict=True))
    assert 0.9 < fitted_slope([1, 10**2, 10**5], errors) < 1.1
    assert calls[2] / calls[0] == pytest.approx(10, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["vp_linear", "edm", "flow"])
def test_a_sample_takes_the_same_steps_alone_and_in_a_batch(path):
    """And ends in the same place but for the rounding of elementary functions in a vector."""
    path = PATHS[path]
    slope, y = angle_slope(path), normal(64, 3)
    ends = angle_of(path, path.t_max), angle_of(path, path.t_first)
    together = dormand_prince(slope, y, *ends, rtol=1e-4, atol=1e-4)
    assert len(set(together.evaluations.tolist())) > 1  # else they could share their steps
    for i in range(0, 64, 5):
        alone = dormand_prince(slope, y[i : i + 1], *ends, rtol=1e-4, atol=1e-4)
        assert (alone.y[0] - together.y[i]).abs().max() < 1e-10
        assert alone.evaluations[0] == together.evaluations[i]


def own_slope(name):
    """The probability flow as each process' paper has it, in the process' own time."""
    path = PATHS[name]
    denoise = WORLD.denoiser(path)
    if name == "vp_linear":  # Song et al. 2021, eq. 13 and 29
        return lambda x, t: -(0.1 + 19.9 * t) / 2 * (x + WORLD.score(path, x, t))
    return lambda x, t: (x - denoise(x, t).x0) / t  # x - x0 = t eps (edm), t (eps - x0) (flow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "start", "end"),
    [("vp_linear", 1.0, 1e-3), ("edm", 80.0, 0.002), ("flow", 1.0, 1e-3)],
)
def test_the_solver_follows_each_process_s_own_flow(name, start, end):
    path, rtol = PATHS[name], 1e-7
    _, sigma = path.alpha_sigma(double(start))
    x = float(sigma) * normal(2, 3)
    reference = tight(own_slope(name), x, start, end)
    grid = torch.tensor([start, end], dtype=torch.float64)
    solver = DormandPrince(rtol=rtol, atol=rtol)
    found = sample(WORLD.denoiser(path), grid, solver, x, Noise(range(2)))
    assert (found - reference).abs().max() < 20 * rtol


@pytest.mark.slow
@pytest.mark.parametrize("path", ["vp_linear", "edm", "flow"])
def test_encoding_undoes_sampling(path):
    path = PATHS[path]
    _, sigma = path.alpha_sigma(double(path.t_max))
    x = float(sigma) * normal(3, 3, seed=7)
    grid = torch.tensor([path.t_max, path.t_first], dtype=torch.float64)
    solver, denoise = DormandPrince(rtol=1e-10, atol=1e-10), WORLD.denoiser(path)
    x0 = sample(denoise, grid, solver, x, Noise(range(3)))
    alpha, _ = path.alpha_sigma(double(path.t_first))
    again = encode(denoise, grid, solver, x0 / float(alpha))
    # Relative to the level, and times what the flow between stretches: about the level again.
    assert ((again - x) / float(sigma)).abs().max() < 1e-8
    back = sample(denoise, grid, solver, again, Noise(range(3)))
    assert (back - x0).abs().max() < 1e-8


@pytest.mark.parametrize("path", PATHS)
def test_the_step_into_the_clean_end_is_the_estimate_there(path):
    path, world = PATHS[path], Gaussian(0.3, 0.5)
    x = world.std_at(path, path.t_max) * normal(3, 2) + world.mean_at(path, path.t_max)
    grid = torch.tensor([path.t_max, path.t_min], dtype=torch.float64)
    solver = DormandPrince(rtol=1e-6, atol=1e-8)
    found = sample(world.denoiser(path), grid, solver, x, Noise(range(3)))
    before = world.flow(path, x, path.t_max, path.t_first)
    t = torch.full((3,), path.t_first, dtype=torch.float64)
    assert (found - world.denoiser(path)(before, t).x0).abs().max() < 20e-6


def test_single_precision_is_integrated_in_double_and_any_shape_is_taken():
    path, world = PATHS["flow"], Gaussian(0.3, 0.5)
    x = normal(2, 3, 2, 2)
    grid = torch.tensor([1.0, 1e-2], dtype=torch.float64)
    exact = world.flow(path, x, 1.0, 1e-2)
    for dtype, within in ((torch.float64, 1e-4), (torch.float32, 1e-4)):
        found = sample(world.denoiser(path), grid, DormandPrince(), x.to(dtype), Noise(range(2)))
        assert found.dtype == dtype
        assert (found - exact).abs().max() < within  # 20 rtol is 2e-4


def test_a_slope_that_starts_at_zero_does_not_leave_the_interval():
    """y' = a^2 from 0: the first guess of a step is unbounded there."""
    seen = []

    def slope(y, a):
        seen.append(a)
        return (a**2)[:, None].expand_as(y) + 0 * y

    y = torch.full((2, 1), 5.0, dtype=torch.float64)
    found = dormand_prince(slope, y, 1e-4, 1.5)
    assert float(torch.cat(seen).max()) <= 1.5
    # A polynomial of degree 3 is integrated exactly.
    assert (found.y - 5 - (1.5**3 - 1e-12) / 3).abs().max() < 1e-12


def test_at_angle_inverts_angle_of():
    for path in PATHS.values():
        for t in (path.t_first, 0.3 * path.t_max, path.t_max):
            theta = angle_of(path, t)
            angle = at_angle(path, torch.tensor([theta], dtype=torch.float64))
            alpha, sigma = (float(v) for v in path.alpha_sigma(double(t)))
            assert float(angle.t) == pytest.approx(t, rel=1e-6)
            assert float(angle.scale) == pytest.approx(math.hypot(alpha, sigma), rel=1e-9)


def test_a_slope_that_blows_up_or_wants_too_much_is_refused():
    y = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(InputError, match="left the finite numbers"):
        dormand_prince(lambda y, a: y * math.nan, y, 0.0, 1.0)
    with pytest.raises(InputError, match="more than 100 evaluations"):
        dormand_prince(lambda y, a: -1e4 * (y - a[:, None].cos()), y, 0.0, 1.0, most=100)
    with pytest.raises(InputError, match="rtol, atol > 0"):
        DormandPrince(rtol=0.0)
