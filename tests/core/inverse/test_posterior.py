"""Measurement guidance in Gaussian worlds, where p(x0 | y) and p(x0 | x_t, y) are known."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.inverse.measurement import Measurement, dot, pseudo_inverse, residual, solve, update
from core.inverse.operators import Average, Mask, Matrix
from core.inverse.posterior import (
    Replacing,
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
from core.process.noise import Brownian, Noise
from core.sampler.adaptive import DormandPrince
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.exponential import Multistep, Singlestep
from core.sampler.grids import uniform_log_snr
from core.sampler.runge_kutta import Heun
from core.sampler.sample import conditioned, prior, sample
from core.sampler.solver import Ends
from core.sampler.unipc import UniPC
from core.testing.distributions import Gaussian, Mixture

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
}
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
WORLD = Gaussian(0.3, 0.5)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Bare:
    """An operator that hides its pseudo-inverse."""

    whole: Matrix

    def forward(self, x):
        return self.whole.forward(x)

    def adjoint(self, y):
        return self.whole.adjoint(y)


def of_rank_two():
    return normal(4, 2, seed=1) @ normal(2, 6, seed=2)


OPERATORS = {
    "mask": (Mask((normal(1, 2, 4, 6) > 0).double()), (2, 4, 6)),
    "matrix": (Matrix(normal(5, 6), (2, 3)), (2, 3)),
    "low rank": (Matrix(of_rank_two(), (6,)), (6,)),
    "complex": (Matrix(torch.complex(normal(2, 6), normal(2, 6, seed=1)), (6,)), (6,)),
    "average": (Average(factor=2), (2, 4, 6)),
}


def like(y, seed):
    """Random, of the shape and kind of y."""
    return torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed))


# --- linear algebra ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoints_and_pseudo_inverses_are_what_they_are_called(name):
    """<A x, y> = <x, A* y> and the four conditions of Moore and Penrose."""
    operator, shape = OPERATORS[name]
    x, z = normal(3, *shape, seed=3), normal(3, *shape, seed=4)
    y = operator.forward(x)
    u, w = like(y, 5), like(y, 6)
    back, through = operator.pseudo_inverse, lambda v: operator.pseudo_inverse(operator.forward(v))
    onto = lambda v: operator.forward(operator.pseudo_inverse(v))  # noqa: E731
    assert (dot(y, w) - dot(x, operator.adjoint(w))).abs().max() < 1e-12
    assert (onto(y) - y).abs().max() < 1e-12
    assert (through(back(w)) - back(w)).abs().max() < 1e-12
    assert (dot(through(x), z) - dot(x, through(z))).abs().max() < 1e-12
    assert (dot(onto(u), w) - dot(u, onto(w))).abs().max() < 1e-12


def test_block_means_are_those_of_pooling():
    x = normal(2, 3, 4, 6)
    pooled = torch.nn.functional.avg_pool2d(x, 2)
    assert (Average(factor=2).forward(x) - pooled).abs().max() < 1e-15


@pytest.mark.parametrize("complex_", [False, True])
def test_conjugate_gradients_solve_as_a_dense_solver_does(complex_):
    b, n = 4, 7
    root = normal(b, n, n) + 1j * normal(b, n, n, seed=1) if complex_ else normal(b, n, n)
    matrices = root @ root.mH + torch.diag_embed(
        torch.tensor([0.1, 1, 10, 100])[:, None].expand(b, n)
    )
    right = root[:, 0] + 1
    right[2] = 0
    found = solve(
        lambda x: torch.einsum("bij,bj->bi", matrices, x), right, iterations=60, tolerance=1e-13
    )
    exact = torch.linalg.solve(matrices, right)
    # Condition numbers to a few hundred times the tolerance.
    assert (found - exact).abs().max() < 1e-9 * exact.abs().max()


def test_a_solution_alone_is_that_in_a_batch_bit_for_bit():
    """Samples that need 1 to 6 iterations stop on their own."""
    operator = Matrix(normal(5, 6), (6,))
    right = normal(4, 6) * torch.tensor([1.0, 1e-9, 1e6, 0]).double()[:, None]
    right[0] = operator.adjoint(operator.forward(normal(1, 6)))[0]

    def run(rows):
        scale = torch.tensor([1.0, 10.0, 0.1, 1.0]).double()[rows, None]
        return solve(
            lambda x: operator.adjoint(operator.forward(x)) + scale * x, right[rows],
            tolerance=1e-3,
        )  # fmt: skip

    together = run(slice(None))
    for i in range(4):
        assert torch.equal(run(slice(i, i + 1))[0], together[i])
    assert (together[3] == 0).all()


@pytest.mark.parametrize("name", ["matrix", "low rank", "complex"])
def test_an_operator_without_a_pseudo_inverse_gets_one(name):
    """Also for measurements outside its range: the nearest, of least norm."""
    operator, shape = OPERATORS[name]
    y = like(operator.forward(normal(3, *shape)), 7)
    found = pseudo_inverse(Measurement(Bare(operator), y), y)
    # The residual is below 1e-6; singular values lie between 0.3 and 6.
    assert (found - operator.pseudo_inverse(y)).abs().max() < 1e-5


@pytest.mark.parametrize("per_element", [False, True])
def test_updates_are_those_of_dense_algebra(per_element):
    a, r, c = normal(4, 6), normal(3, 4, seed=1), torch.tensor([0.5, 2.0, 1e-3]).double()
    variance = normal(3, 6, seed=2).exp() if per_element else normal(3, seed=2).exp()
    found = update(Matrix(a, (6,)), r, variance, c, tolerance=1e-13)
    for i in range(3):
        prior_ = torch.diag(variance[i].expand(6))
        gain = prior_ @ a.T @ torch.linalg.inv(a @ prior_ @ a.T + c[i] * torch.eye(4).double())
        assert (found[i] - gain @ r[i]).abs().max() < 1e-9


def test_measurements_of_other_samples_are_refused():
    measurement = Measurement(Matrix(normal(2, 3), (3,)), normal(1, 2))
    with pytest.raises(InputError, match="one y for each sample"):
        residual(measurement, normal(4, 3))
    with pytest.raises(InputError, match="noise_std"):
        Measurement(Average(), normal(1, 2), -1.0)
    with pytest.raises(InputError, match="blocks of side 4"):
        Average().forward(normal(1, 3, 6, 8))
    with pytest.raises(InputError, match="ones"):
        Mask(normal(3))
    with pytest.raises(InputError, match="3 elements"):
        Matrix(normal(2, 3), (2, 2))


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


# --- RePaint -------------------------------------------------------------------------------------


class Constant:
    """Draws that are all one value: the response to a draw, or, at 0, the mean over them."""

    def __init__(self, value):
        self.value = value

    def like(self, x):
        return torch.full_like(x, self.value)

    def between(self, x, start, end):
        return self.like(x)


def walked(rows):
    return [(round(row.ends.t, 6), round(row.ends.u, 6)) for row in rows]


def test_repaint_walks_each_stretch_again_but_not_the_last_step():
    path = PATHS["flow"]
    grid = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], dtype=torch.float64)
    solver = Replacing(Multistep(), Measurement(Average(), normal(1, 1)), resamples=2, jump=3)
    stretch = [(1.0, 0.8), (0.8, 0.6), (0.6, 0.4)]
    assert walked(solver.plan(path, grid)) == [
        *stretch, (0.4, 1.0), *stretch, (0.4, 0.2), (0.2, 0.4), (0.4, 0.2), (0.2, 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_jump_back_keeps_the_marginal(path):
    """Variance and mean of x_u after noise is added to x_t are those of the process."""
    path = PATHS[path]
    back = path.time_of_log_snr(torch.tensor([2.0, -3.0], dtype=torch.float64))
    for first, to in ((back[0], back[1]), (back[0], torch.tensor(path.t_max).double())):
        (alpha_t, sigma_t), (alpha_u, sigma_u) = (path.alpha_sigma(t) for t in (first, to))
        e = Ends(*(float(v) for v in (first, to, alpha_t, sigma_t, alpha_u, sigma_u)))
        solver = Replacing(DDIM(), Measurement(Average(), normal(1, 1)), resamples=2)
        leg = solver.plan(path, torch.stack([to, first]))[1]
        assert leg.row is None
        assert tuple(leg.ends) == pytest.approx(tuple(e))

        one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        kept = float(solver.step(one, leg, None, lambda x, t: Prediction(x), Constant(0.0))[0])
        spread = float(solver.step(zero, leg, None, lambda x, t: Prediction(x), Constant(1.0))[0])
        variance = kept**2 * WORLD.std_at(path, float(first)) ** 2 + spread**2
        assert variance == pytest.approx(WORLD.std_at(path, float(to)) ** 2, rel=1e-9)
        assert kept * WORLD.mean_at(path, float(first)) == pytest.approx(
            WORLD.mean_at(path, float(to)), abs=1e-12
        )


CORRELATION = 0.9


def correlated(path):
    """The denoiser of two standard normal coordinates with that correlation."""
    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)

    @partial(FunctionDenoiser, path)
    def denoise(x, t, condition=None):
        alpha, sigma = path.alpha_sigma(t)
        whole = alpha[:, None, None] ** 2 * covariance + sigma[:, None, None] ** 2 * torch.eye(2)
        gain = alpha[:, None, None] * covariance @ torch.linalg.inv(whole)
        return Prediction(torch.einsum("bij,bj->bi", gain, x))

    return denoise


def test_repaint_comes_nearer_to_the_conditional_mean_the_more_it_resamples():
    """E[free | known] = correlation * known; steps are affine, so no draw gives the exact mean."""
    path = PATHS["vp_linear"]
    grid = uniform_log_snr(path, steps=20)
    mask, y = Mask(torch.tensor([[1.0, 0.0]])), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    bias = []
    for resamples in (1, 2, 4, 10):
        guided = repaint(Measurement(mask, y), correlated(path), Ancestral(), resamples=resamples)
        start = torch.zeros(1, 2, dtype=torch.float64)
        end = sample(guided.denoise, grid, guided.solver, start, Constant(0.0))
        assert float(end[0, 0]) == pytest.approx(1.0, abs=1e-12)
        bias.append(abs(float(end[0, 1]) - CORRELATION))
    assert all(b < a for a, b in pairwise(bias)), bias
    assert bias[-1] < bias[0] / 4, bias


def test_stretches_walked_again_hear_other_noise():
    """A Brownian path would give a second walk the increments of the first."""
    path = PATHS["vp_linear"]
    grid = path.time_of_log_snr(torch.tensor([-2.0, 0.0], dtype=torch.float64))
    heard = []

    @dataclass(frozen=True)
    class Listening:
        convergence = 1
        restarts = False

        def plan(self, process, grid):
            return Ancestral().plan(process, grid)

        def step(self, x, row, state, estimate, noise):
            heard.append(noise.between(x, *row.mean.clock))
            return Ancestral().step(x, row, state, estimate, noise)

    guided = repaint(
        Measurement(Mask(torch.zeros(1, 3)), torch.zeros(1, 3).double()),
        WORLD.denoiser(path), Listening(), resamples=2,
    )  # fmt: skip
    x = normal(1, 3)
    rows = guided.solver.plan(path, grid)
    heard.clear()
    state, noise = None, Brownian([7])
    for row in rows:
        x, state = guided.solver.step(x, row, state, conditioned(guided.denoise, None), noise)
    assert len(heard) == 2
    assert not torch.equal(*heard)


def test_every_stretch_begins_without_a_history():
    """The solver plans each stretch for itself: its first row knows of no estimate before."""
    path, heard = PATHS["flow"], []

    @dataclass(frozen=True)
    class Numbered:
        convergence = 1
        restarts = False

        def plan(self, process, grid):
            return list(enumerate(DDIM().plan(process, grid)))

        def step(self, x, row, state, estimate, noise):
            heard.append((row[0], state))
            x, _ = DDIM().step(x, row[1], None, estimate, noise)
            return x, row[0]

    measurement = Measurement(Mask(torch.zeros(1, 3)), torch.zeros(1, 3, dtype=torch.float64))
    guided = repaint(measurement, WORLD.denoiser(path), Numbered(), resamples=2, jump=2)
    grid = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)
    rows = guided.solver.plan(path, grid)
    heard.clear()
    state, noise = None, Noise([0])
    for row in rows:
        estimate = conditioned(guided.denoise, None)
        _, state = guided.solver.step(normal(1, 3), row, state, estimate, noise)
    assert heard == [(0, None), (1, 0)] * 4


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
