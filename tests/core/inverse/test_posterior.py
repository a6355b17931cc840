"""Measurement guidance in Gaussian worlds, where p(x0 | y) and p(x0 | x_t, y) are known."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.inverse.measurement import Measurement
from core.inverse.operators import Average, Matrix
from core.inverse.posterior import (
    ddnm,
    dds,
    diffpir,
    dps,
    ilvr,
    pigdm,
    projection,
    repaint,
)
from core.process import schedules
from core.process.gaussian import over
from core.process.noise import Noise
from core.sampler.adaptive import DormandPrince
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.exponential import Multistep, Singlestep
from core.sampler.grids import uniform_log_snr
from core.sampler.runge_kutta import Heun
from core.sampler.sample import prior, sample
from core.sampler.unipc import UniPC
from core.testing.distributions import Gaussian, Mixture

sys.path.insert(0, str(Path(__file__).parent))
from made_measurements import PATHS, WORLD, Bare, like, normal

METHODS = {
    "projection": projection,
    "ilvr": ilvr,
    "repaint": partial(repaint, resamples=2, jump=2),
    "dps": partial(dps, scale=0.2),
    "pigdm": pigdm,
    "ddnm": ddnm,
    "diffpir": diffpir,
    "dds": dds,
}
SOLVERS = [DDIM(), Ancestral(), Heun(), Multistep(), Singlestep()]


# --- PiGDM: exact on Gaussians -------------------------------------------------------------------

N = 3
A = normal(2, N, seed=1)
MEAN, VARIANCE = (torch.full((N,), v, dtype=torch.float64) for v in (0.3, 0.25))


def posterior(mean, variance, rows, y, noise):
    """Mean and covariance of N(mean, diag(variance)) given y = rows x0 + n."""
    precision = torch.diag(1 / variance) + rows.T @ rows / noise**2
    covariance = torch.linalg.inv(precision)
    return (mean / variance + y @ rows / noise**2) @ covariance, covariance


def at_levels(path, levels, n=N):
    """x_t at some log-SNR and, last, at the noisy end, where flow has alpha = 0."""
    t = path.time_of_log_snr(torch.tensor(levels, dtype=torch.float64))
    t = torch.cat([t, torch.tensor([path.t_max], dtype=torch.float64)])
    alpha, sigma = (value[:, None] for value in path.alpha_sigma(t))
    return alpha * (0.3 + 0.5 * normal(len(t), n)) + sigma * normal(len(t), n, seed=5), t


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["isotropic", "said", "complex"])
def test_pigdm_is_the_exact_posterior_mean_of_gaussian_data(path, kind):
    """E[x0 | x_t, y] with x_t one more measurement, at every level and alpha = 0."""
    path, noise = PATHS[path], 0.2
    x, t = at_levels(path, [9.0, 4.0, 0.0, -4.0])
    matrix = torch.complex(A, normal(2, N, seed=8)) if kind == "complex" else A
    rows = torch.cat([matrix.real, matrix.imag]) if kind == "complex" else A
    y = like(Matrix(matrix, (N,)).forward(x), 2)
    variance = torch.tensor([0.1, 0.4, 0.9]).double() if kind == "said" else VARIANCE

    @partial(FunctionDenoiser, path)
    def denoise(x, t, condition=None):
        alpha, sigma = (over(value, x) for value in path.alpha_sigma(t))
        whole = alpha**2 * variance + sigma**2
        known = sigma**2 * variance / whole
        return Prediction(
            0.3 + alpha * variance / whole * (x - alpha * 0.3),
            x0_variance=known if kind == "said" else None,
        )

    measurement = Measurement(Matrix(matrix, (N,)), y, noise)
    method = partial(pigdm, data_std=0.5, tolerance=1e-13)
    with torch.no_grad():
        found = method(measurement, denoise, DDIM()).denoise(x, t).x0
    flat = torch.cat([y.real, y.imag], 1) if kind == "complex" else y
    for i, (alpha, sigma) in enumerate(zip(*path.alpha_sigma(t), strict=True)):
        # Both measurements at once, each divided by its noise.
        both = torch.cat([rows / noise, alpha / sigma * torch.eye(N).double()])
        seen = torch.cat([flat[i] / noise, x[i] / sigma])
        exact, _ = posterior(MEAN, variance, both, seen, 1.0)
        assert (found[i] - exact).abs().max() < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_pigdm_samples_have_the_posteriors_mean_and_covariance(path):
    """Deterministic steps are affine: the responses to a start's directions give the covariance."""
    path, noise = PATHS[path], 0.2
    y = normal(1, 2, seed=2)
    mean, covariance = posterior(MEAN, VARIANCE, A, y[0], noise)
    grid = uniform_log_snr(path, steps=50)
    alpha, sigma = path.alpha_sigma(grid[0])
    spread = torch.linalg.cholesky(alpha**2 * covariance + sigma**2 * torch.eye(N).double())
    start = alpha * mean + torch.cat([torch.zeros(1, N).double(), spread.T])
    measurement = Measurement(Matrix(A, (N,)), y.expand(N + 1, -1), noise)
    guided = pigdm(measurement, WORLD.denoiser(path), Multistep(order=3), tolerance=1e-12)
    end = sample(guided.denoise, grid, guided.solver, start, Noise(range(N + 1)))
    reached = (end[1:] - end[0]).T @ (end[1:] - end[0])
    # The mean is where no step errs; the spread is of order 3 at 50 steps, 6e-5 to 3e-4.
    assert (end[0] - mean).abs().max() < 1e-9
    assert (reached - covariance).abs().max() < 6e-4
    assert (reached - 0.25 * torch.eye(N)).abs().max() > 0.1  # y tells something


# --- measurements without noise ------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("name", ["projection", "ilvr", "repaint", "ddnm"])
def test_exact_measurements_are_met_exactly(name, solver, path):
    path = PATHS[path]
    grid = uniform_log_snr(path, steps=8)
    operator, y = Matrix(A, (N,)), normal(4, 2, seed=2)
    measurement, noise = Measurement(operator, y), Noise(range(4))
    guided = METHODS[name](measurement, WORLD.denoiser(path), solver)
    x = prior(path, grid, torch.zeros(4, N, dtype=torch.float64), noise)
    end = sample(guided.denoise, grid, guided.solver, x, noise)
    assert (operator.forward(end) - y).abs().max() < 1e-9


@pytest.mark.parametrize("name", METHODS)
def test_samples_are_finite_and_their_own_with_every_solver(name):
    """From pure noise into the clean end in float32, through an operator without A+."""
    operator = Bare(Matrix(A, (1, N)))
    for path in PATHS.values():
        grid = uniform_log_snr(path, steps=3)

        def draw(seeds, path=path, grid=grid, solver=None):
            noise = Noise(seeds)
            x = prior(path, grid, torch.zeros(len(seeds), 1, N), noise)
            y = normal(3, 2, seed=2, dtype=torch.float32)[[s - 1 for s in seeds]]
            guided = METHODS[name](Measurement(operator, y), WORLD.denoiser(path), solver)
            return sample(guided.denoise, grid, guided.solver, x, noise)

        for solver in SOLVERS:
            together = draw([1, 2, 3], solver=solver)
            assert together.isfinite().all()
            assert together.dtype == torch.float32
            assert torch.equal(draw([2], solver=solver)[0], together[1])


# --- noisy measurements --------------------------------------------------------------------------


def test_ddnm_keeps_the_measurements_own_noise_and_no_more():
    """Under a flat prior p(x0 | y) = N(y, noise_std^2); a full correction would give no spread."""
    path, noise = schedules.edm(), 0.3
    flat = Gaussian(0.0, 1e4).denoiser(path)  # 80 / 1e4 squared: flat to 1e-4
    grid = uniform_log_snr(path, steps=100, log_snr_max=14.0)
    start = float(grid[0]) * torch.tensor([[0.0], [1.0]]).double()
    y = torch.full((2, 1), 0.7, dtype=torch.float64)
    for gain, row in ((1.0, 1.0), (4.0, 0.25)):
        operator = Matrix(torch.full((1, 1), row).double(), (1,))
        guided = ddnm(Measurement(operator, y, noise), flat, Multistep(order=3), noise_gain=gain)
        end = sample(guided.denoise, grid, guided.solver, start, Noise([0, 1]))
        # sqrt(s^2 + noise^2) is kept from s = 80; order 3, and a last step of order 1 from 1e-3.
        assert float(end[1] - end[0]) == pytest.approx(noise / row, rel=1e-3)
        left = noise / row / float(grid[0])  # of the start's distance from y / row
        assert float(end[0]) == pytest.approx(0.7 / row * (1 - left), rel=1e-3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_diffpir_is_the_minimiser_of_its_objective(path, noise):
    path, weight = PATHS[path], 3.0
    x, t = at_levels(path, [6.0, 0.0, -6.0])
    x0 = WORLD.denoiser(path)(x, t).x0
    y = normal(len(x), 2, seed=2)
    method = partial(diffpir, prior_weight=weight, tolerance=1e-13)
    guided = method(Measurement(Matrix(A, (N,)), y, noise), WORLD.denoiser(path), DDIM())
    found = guided.denoise(x, t).x0
    for i, (alpha, sigma) in enumerate(zip(*path.alpha_sigma(t), strict=True)):
        trust = weight * (alpha * max(noise, 1e-7)) ** 2 / sigma**2
        exact = x0[i] + A.T @ torch.linalg.solve(
            A @ A.T + trust * torch.eye(2).double(), y[i] - A @ x0[i]
        )
        assert (found[i] - exact).abs().max() < 1e-9


# --- methods that act on x_t ---------------------------------------------------------------------


def one_step(method, measurement, path, grid, x, solver, noise):
    guided = method(measurement, WORLD.denoiser(path), solver)
    return sample(guided.denoise, grid, guided.solver, x, noise)


@pytest.mark.parametrize("path", PATHS)
def test_dps_goes_down_the_gradient_of_the_residual(path):
    """On a Gaussian x0 = m + gain (x - alpha m), so the gradient is -2 gain A^T (y - A x0)."""
    path = PATHS[path]
    grid = path.time_of_log_snr(torch.tensor([-1.0, 1.0], dtype=torch.float64))
    x, y, solver = normal(3, N), normal(3, 2, seed=2), Heun()
    found = one_step(
        partial(dps, scale=0.7),
        Measurement(Matrix(A, (N,)), y),
        path,
        grid,
        x,
        solver,
        Noise(range(3)),
    )  # fmt: skip
    plain = sample(WORLD.denoiser(path), grid, solver, x, Noise(range(3)))
    alpha, sigma = path.alpha_sigma(grid[0])
    gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
    r = y - (0.3 + gain * (x - alpha * 0.3)) @ A.T
    slope = -2 * gain * r @ A / r.norm(dim=1, keepdim=True)
    assert (found - (plain - 0.7 * slope)).abs().max() < 1e-12


def test_dps_stands_still_where_nothing_is_left():
    path = PATHS["edm"]
    grid = torch.tensor([1.0, 0.5], dtype=torch.float64)
    x, matrix = normal(2, N), Matrix(A, (N,))
    y = matrix.forward(WORLD.denoiser(path)(x, grid[:1].expand(2)).x0)
    found = one_step(dps, Measurement(matrix, y), path, grid, x, DDIM(), Noise([0, 1]))
    assert torch.equal(found, sample(WORLD.denoiser(path), grid, DDIM(), x, Noise([0, 1])))


@pytest.mark.parametrize("name", ["dps", "pigdm"])
def test_guided_samples_can_be_differentiated(name):
    """gradcheck compares with finite differences; the denoiser of a mixture bends."""
    path = PATHS["vp_linear"]
    means = torch.tensor([[-1.0, 0.5, 0.0], [0.8, -0.2, 0.4]], dtype=torch.float64)
    world = Mixture(means, 0.4, torch.tensor([0.4, 0.6], dtype=torch.float64))
    grid = uniform_log_snr(path, steps=3, log_snr_max=2.0)
    measurement = Measurement(Matrix(A, (N,)), normal(2, 2, seed=2), 0.1)
    guided = METHODS[name](measurement, world.denoiser(path), DDIM())

    def run(x):
        noise = Noise([0, 1])
        return sample(guided.denoise, grid, guided.solver, x, noise, gradients=True)

    # Conjugate gradients stop at 1e-6 of their right-hand side.
    assert torch.autograd.gradcheck(run, (normal(2, N).requires_grad_(),), atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_projection_pulls_before_a_step_and_at_the_clean_end(path):
    """By dense algebra, with strength 0.6 and the draw that the step hears."""
    path, strength = PATHS[path], 0.6
    grid = torch.tensor([path.t_max, path.t_min], dtype=torch.float64)
    x, y, inverse = normal(3, N), normal(3, 2, seed=2), torch.linalg.pinv(A)
    found = one_step(
        partial(projection, strength=strength), Measurement(Matrix(A, (N,)), y), path, grid, x,
        DDIM(), Noise(range(3)),
    )  # fmt: skip
    alpha, sigma = path.alpha_sigma(grid[0])
    noised = alpha * y + sigma * Noise(range(3)).like(x) @ A.T
    pulled = x + strength * (noised - x @ A.T) @ inverse.T
    end = WORLD.denoiser(path)(pulled, grid[:1].expand(3)).x0
    end = end + strength * (y - end @ A.T) @ inverse.T
    assert (found - end).abs().max() < 1e-9


def test_ilvr_leaves_off_at_its_level():
    path, noise = PATHS["vp_linear"], Noise(range(3))
    grid = path.time_of_log_snr(torch.tensor([-4.0, -2.0, 0.0], dtype=torch.float64))
    operator, y, x = Average(factor=2), normal(3, 1, 2, 2), normal(3, 1, 4, 4)
    path_of = []

    def run(most):
        guided = ilvr(Measurement(operator, y), WORLD.denoiser(path), DDIM(), log_snr_max=most)
        path_of.clear()
        return sample(
            guided.denoise, grid, guided.solver, x, Noise(range(3)),
            watch=lambda moment: path_of.append(moment.x.clone()),
        )  # fmt: skip

    plain = sample(WORLD.denoiser(path), grid, DDIM(), x, Noise(range(3)))
    assert torch.equal(run(-3.0), plain)
    run(-1.0)
    alpha, sigma = path.alpha_sigma(grid[1])
    noised = alpha * y + sigma * operator.forward(noise.like(x))
    assert (operator.forward(path_of[0]) - noised).abs().max() < 1e-12
    # From there on the sampler is alone again.
    alone = sample(WORLD.denoiser(path), grid[1:], DDIM(), path_of[0], Noise(range(3)))
    assert torch.equal(path_of[1], alone)


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["projection", "ilvr", "repaint", "dps"])
def test_solvers_that_would_lose_the_measurement_are_refused(name):
    path = PATHS["vp_linear"]
    grid = uniform_log_snr(path, steps=6)
    measurement = Measurement(Matrix(A, (N,)), normal(1, 2))
    for solver, reason in ((UniPC(), "earlier x"), (DormandPrince(), "one for each")):
        steps = METHODS["repaint" if name == "repaint" else name]
        guided = steps(measurement, WORLD.denoiser(path), solver)
        with pytest.raises(InputError, match=reason):
            guided.solver.plan(path, grid)


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (projection, {"strength": 1.5}),
        (repaint, {"resamples": 0}),
        (repaint, {"jump": 0}),
        (dps, {"scale": -1.0}),
        (pigdm, {"data_std": 0.0}),
        (ddnm, {"noise_gain": 0.0}),
        (diffpir, {"prior_weight": 0.0}),
        (dds, {"iterations": 0}),
        (dds, {"noise_gain": -1.0}),
    ],
)
def test_options_out_of_range_are_refused(build, options):
    measurement = Measurement(Average(), normal(1, 1))
    with pytest.raises(InputError, match="expected"):
        build(measurement, WORLD.denoiser(PATHS["edm"]), DDIM(), **options)
