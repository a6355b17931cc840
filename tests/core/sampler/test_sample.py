"""Along the process and back: round trips, edits, paths between latents, trajectories."""

import math
from functools import partial

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.process import schedules
from core.process.noise import Brownian, Noise
from core.sampler import grids
from core.sampler.adaptive import DormandPrince
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.composed import PredictorCorrector
from core.sampler.exponential import Multistep, Singlestep
from core.sampler.runge_kutta import Heun
from core.sampler.sample import edit, encode, interpolate, prior, sample
from core.sampler.unipc import UniPC
from core.testing.distributions import Gaussian
from core.testing.orders import slope, three_modes

pytestmark = pytest.mark.battery

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "zero_snr": schedules.zero_terminal_snr(),
}


def data(n=6):
    return three_modes().draw(n, torch.Generator().manual_seed(3)).double()


def fine(path, steps):
    """Even log-SNR from noise to 10: the step below, into sigma = 0, loses what it drops."""
    return grids.uniform_log_snr(path, steps=steps + 1, log_snr_max=10.0, log_snr_min=-10.0)[:-1]


# --- T6: there and back ----------------------------------------------------------------------


def there_and_back(path, solver, grid):
    world, x0 = three_modes(), data()
    denoise = world.denoiser(path)
    alpha, _ = path.alpha_sigma(grid[-1])
    latent = encode(denoise, grid, solver, x0)
    back = sample(denoise, grid, solver, latent, Noise(range(6))) / alpha
    return float((back - x0).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_encoding_is_undone_by_sampling_to_the_tolerance(name):
    """T6, in and out of pure noise too."""
    solver = DormandPrince(rtol=1e-10, atol=1e-10)
    assert there_and_back(PATHS[name], solver, fine(PATHS[name], 1)) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        (UniPC(order=3), 600),
        (Singlestep(order=3), 300),
        (Multistep(order=4, prediction="eps"), 800),
        (Multistep(order=4), 800),
    ],
    ids=str,
)
def test_encoding_is_undone_by_sampling_to_the_error_of_the_solver(solver, steps):
    """T6, on the process whose ends are finite; a first step of order 1 is not undone."""
    assert there_and_back(PATHS["edm"], solver, fine(PATHS["edm"], steps)) < 1e-6


@pytest.mark.parametrize("name", PATHS)
def test_latents_of_a_gaussian_are_its_standardised_data(name):
    """The flow keeps (x - mean) / std (closed form), in steps that end in pure noise too."""
    path, world = PATHS[name], Gaussian(0.3, 0.5)
    x0 = torch.tensor([[0.3], [0.9], [-0.4]], dtype=torch.float64)
    errors = []
    for steps in (50, 100, 200):
        grid = fine(path, steps)
        latent = encode(world.denoiser(path), grid, Heun(), x0)
        end = float(grid[-1])
        alpha, _ = path.alpha_sigma(grid[-1])
        exact = world.flow(path, alpha * x0, end, float(grid[0]))
        errors.append(float((latent - exact).abs().max() / world.std_at(path, float(grid[0]))))
    assert errors[-1] < 2e-3
    assert slope((50, 100, 200), errors) > 0.9


def test_latents_of_data_are_standard_normal():
    """4 standard errors of the mean and spread of 4,000 latents of a mixture."""
    path, n = PATHS["vp_linear"], 4000
    latent = encode(three_modes().denoiser(path), fine(path, 40), Multistep(), data(n))
    assert (latent.mean(0).abs() < 4 / n**0.5 + 0.01).all()
    assert (latent.std(0) - 1).abs().max() < 4 / (2 * n) ** 0.5 + 0.01


def test_encoding_wants_a_solver_without_noise():
    path = PATHS["vp_linear"]
    for solver in (Ancestral(), DDIM(eta=0.5), Multistep(eta=1.0)):
        with pytest.raises(InputError, match="noise"):
            encode(Gaussian().denoiser(path), fine(path, 5), solver, data())


def test_encoding_starts_where_networks_know_the_level():
    """A grid into sigma = 0 is begun at t_first; no denoiser is asked below it."""
    path, asked = PATHS["vp_linear"], []

    @partial(FunctionDenoiser, path)
    def denoise(x, t, condition=None):
        asked.append(float(t.min()))
        return Gaussian().denoiser(path)(x, t)

    encode(denoise, grids.uniform_time(path, steps=5), Heun(), data())
    assert min(asked) == path.t_first


# --- editing ----------------------------------------------------------------------------------


def test_edit_forgets_as_much_of_the_guide_as_it_is_told():
    """On N(0, 1) data an exact ODE maps x_t = a g + s z to the sample (a g + s z) exactly."""
    path, world = PATHS["vp_linear"], Gaussian(0.0, 1.0)
    grid, guide = grids.uniform_log_snr(path, steps=80), torch.full((2000, 1), 2.0).double()
    noise = Noise(range(2000))
    for strength in (0.25, 0.5, 1.0):
        x = edit(
            world.denoiser(path), grid, UniPC(order=3), guide, Noise(range(2000)),
            strength=strength,
        )  # fmt: skip
        alpha, sigma = map(float, path.alpha_sigma(grid[80 - round(80 * strength)]))
        exact = alpha * guide + sigma * Noise(range(2000)).like(guide)
        assert (x - exact).abs().max() < 2e-3
        assert abs(float(x.mean()) - 2 * alpha) < 4 * sigma / 2000**0.5
    untouched = edit(world.denoiser(path), grid, UniPC(order=3), guide, noise, strength=0.0)
    assert torch.equal(untouched, guide)
    with pytest.raises(InputError, match="strength: expected 0 to 1"):
        edit(world.denoiser(path), grid, UniPC(order=3), guide, noise, strength=1.5)


# --- between latents --------------------------------------------------------------------------


def test_spherical_interpolation_is_the_great_arc():
    """Two orthogonal unit vectors: cos and sin of the part of the right angle."""
    a, b = torch.tensor([[1.0, 0, 0]]).double(), torch.tensor([[0, 0, 1.0]]).double()
    for share in (0.0, 0.25, 0.5, 1.0):
        angle = share * math.pi / 2
        expected = torch.tensor([[math.cos(angle), 0.0, math.sin(angle)]], dtype=torch.float64)
        assert (interpolate(a, b, share) - expected).abs().max() < 1e-15
    assert torch.equal(interpolate(a, b, 0.25, path="linear"), 0.75 * a + 0.25 * b)


def test_interpolated_noise_keeps_the_norm_of_noise():
    """Of 10,000 dimensions: 4 standard errors; the straight line would lose a factor sqrt 2."""
    a, b = (Noise([seed]).normal((100, 100), torch.float64) for seed in (1, 2))
    middle = interpolate(a, b, 0.5)
    assert abs(float(middle.std()) - 1) < 4 / 20_000**0.5
    assert float(interpolate(a, b, 0.5, path="linear").std()) < 0.75


def test_parallel_latents_are_interpolated_without_a_division_by_zero():
    a = torch.tensor([[1.0, 2.0]]).double()
    assert (interpolate(a, a, 0.3) - a).abs().max() < 1e-12
    assert torch.isfinite(interpolate(a, -a, 0.5)).all()


# --- watching ---------------------------------------------------------------------------------


def test_the_trajectory_is_seen_step_by_step():
    path = PATHS["edm"]
    grid = grids.karras(path, steps=5)
    seen = []
    noise = Noise([0])
    x = prior(path, grid, torch.zeros(1, 2, dtype=torch.float64), noise)
    end = sample(
        three_modes().denoiser(path), grid, DDIM(), x, noise,
        watch=lambda moment: seen.append((moment.done, moment.total, moment.x.clone())),
    )  # fmt: skip
    assert [(done, total) for done, total, _ in seen] == [(k, 5) for k in range(1, 6)]
    assert torch.equal(seen[-1][2], end)
    # Each state is the step before carried on alone.
    step = sample(three_modes().denoiser(path), grid[2:4], DDIM(), seen[1][2], noise)
    assert torch.equal(step, seen[2][2])


def test_the_prior_has_the_level_of_the_grid_it_starts():
    path, x = PATHS["edm"], torch.zeros(1, 100_000, dtype=torch.float64)
    grid = grids.karras(path, steps=5, sigma_max=10.0)
    assert abs(float(prior(path, grid, x, Noise([1])).std()) / 10 - 1) < 4 / 200_000**0.5


# --- grids ------------------------------------------------------------------------------------


def test_karras_levels_are_those_of_the_paper():
    """N = 4, rho = 7, 0.002 to 80, by hand from eq. 5."""
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(high + i / 3 * (low - high)) ** 7 for i in range(4)] + [0.0]
    got = grids.karras(PATHS["edm"], steps=4).tolist()
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_grids_start_at_pure_noise_and_end_clean(name):
    path = PATHS[name]
    for grid in (
        grids.uniform_time(path, steps=7),
        grids.uniform_log_snr(path, steps=7),
        grids.discrete(path, steps=7),
    ):
        assert len(grid) == 8
        assert float(grid[0]) == pytest.approx(path.t_max, rel=1e-9)
        assert float(grid[-1]) == path.t_min
    steps = path.log_snr(grids.uniform_log_snr(path, steps=7)[1:-1]).diff()
    assert (steps - steps[0]).abs().max() < 1e-6


def test_discrete_spacings_are_those_of_lin_et_al_table_2():
    """T = 1000, S = 10: their timesteps, counted from 1 as in the paper, plus the clean end."""
    path = schedules.beta_table()
    leading = [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    linspace = [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]
    trailing = [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]
    for spacing, nodes in (("leading", leading), ("linspace", linspace), ("trailing", trailing)):
        got = grids.discrete(path, steps=10, spacing=spacing) * 1000
        assert got.tolist() == pytest.approx([*nodes, 0], abs=1e-9)


def test_custom_grids_are_taken_as_given():
    path = PATHS["edm"]
    assert grids.custom(path, values=(5.0, 1.0)).tolist() == pytest.approx([5.0, 1.0, 0.0])
    alpha, sigma = PATHS["flow"].alpha_sigma(grids.custom(PATHS["flow"], values=(5.0, 1.0)))
    assert (sigma / alpha).tolist() == pytest.approx([5.0, 1.0, 0.0])
    levels = grids.custom(PATHS["vp_linear"], values=(-3.0, 4.0), unit="log_snr", clean=False)
    assert PATHS["vp_linear"].log_snr(levels).tolist() == pytest.approx([-3.0, 4.0])


NARROW = schedules.edm(sigma_min=0.2)


@pytest.mark.parametrize(
    "grid",
    [
        grids.karras(NARROW),
        grids.uniform_log_snr(NARROW, steps=40),
        grids.uniform_time(NARROW, steps=800),
    ],
    ids=["karras", "uniform_log_snr", "uniform_time"],
)
def test_grids_end_at_the_smallest_trained_level(grid):
    """Draws of N(0, .2^2) from a network that knows no level below .2.

    At .2 x has the variance .2^2 + .2^2 and the last step goes to x / 2: a standard deviation of
    .2 / sqrt 2 = .141.  Asked at .2 for an x of .002 it would halve what is left: .016.
    """
    assert float(grid[-2]) == pytest.approx(0.2, rel=1e-12)
    solver = DormandPrince(rtol=1e-8, atol=1e-8)
    world = Gaussian(0.0, 0.2)
    x = 80.0 * torch.tensor([[1.0]], dtype=torch.float64)
    reached = sample(world.denoiser(NARROW), grid, solver, x, Noise([0]))
    # The flow of a Gaussian scales x by the ratio of standard deviations.
    exact = math.hypot(0.2, 0.2) / 2 * 80.0 / math.hypot(80.0, 0.2)
    assert float(reached) == pytest.approx(exact, rel=1e-6)
    reached = sample(world.denoiser(NARROW), grid, Heun(), x, Noise([0]))
    assert float(reached) == pytest.approx(exact, rel=0.15)


def test_a_level_below_the_trained_ones_is_taken_where_it_is_named():
    assert float(grids.karras(NARROW, sigma_min=0.01)[-2]) == pytest.approx(0.01, rel=1e-9)
    assert float(grids.uniform_log_snr(NARROW, log_snr_max=9.0)[-2]) == pytest.approx(
        math.exp(-4.5), rel=1e-9
    )
    with pytest.raises(InputError, match="smallest trained time"):
        grids.discrete(NARROW, spacing="leading")


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (grids.uniform_log_snr, {"steps": 0}),
        (grids.uniform_log_snr, {"log_snr_max": -50.0}),
        (grids.uniform_time, {"steps": 0}),
        (grids.karras, {"steps": 1}),
        (grids.karras, {"sigma_min": 90.0}),
        (grids.discrete, {"steps": 2000}),
        (grids.custom, {"values": (1.0, 2.0)}),
        (grids.custom, {"values": (1.0, 0.0)}),
        (grids.custom, {"values": (3.0,), "unit": "time", "clean": True}),
        (grids.custom, {"values": (), "clean": True}),
    ],
)
def test_impossible_grids_are_refused(build, options):
    with pytest.raises(InputError, match="expected"):
        build(PATHS["vp_linear"], **options)


# --- gradients through a trajectory ---------------------------------------------------------------

GRADIENT_SOLVERS = [
    Ancestral(variance="large"),
    Multistep(eta=1.0),
    PredictorCorrector(snr=0.1),
    UniPC(order=3),
    DormandPrince(rtol=1e-3, atol=1e-3),
]


def end_and_gradient(solver, noise, gradients, steps=4):
    path = PATHS["vp_linear"]
    x, grid = data(3).requires_grad_(), grids.uniform_time(path, steps=steps)
    denoise = three_modes().denoiser(path)
    end = sample(denoise, grid, solver, x, noise, gradients=gradients)
    return end.detach(), torch.autograd.grad(end.square().sum(), x)[0]


@pytest.mark.parametrize("solver", GRADIENT_SOLVERS, ids=str)
def test_recomputed_steps_give_the_gradients_of_the_whole_graph(solver):
    """Autograd without recomputation is the answer: the same operations, so the same bits."""
    end, slope_of = end_and_gradient(solver, Noise(range(3)), True)
    again, recomputed = end_and_gradient(solver, Noise(range(3)), "recompute")
    assert torch.equal(end, again)
    assert slope_of.abs().min() > 0
    assert torch.equal(slope_of, recomputed)


def test_a_path_is_replayed_as_fresh_draws_are():
    """A Brownian path remembers where it was asked last; a step computed again asks out of turn."""
    _, slope_of = end_and_gradient(Ancestral(), Brownian(range(3)), True)
    assert torch.equal(end_and_gradient(Ancestral(), Brownian(range(3)), "recompute")[1], slope_of)


class _Kept:
    """Bytes that autograd holds for the way back, each storage once."""

    def __init__(self):
        self.storages = {}

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)
        self._hooks.__enter__()
        return self

    def _pack(self, x):
        self.storages[x.untyped_storage().data_ptr()] = (x, x.untyped_storage().nbytes())
        return x

    def __exit__(self, *raised):
        self._hooks.__exit__(*raised)

    @property
    def bytes(self):
        return sum(size for _, size in self.storages.values())


def hidden(path, width=4096):
    """A denoiser whose inside is a thousand times the size of its sample."""
    weight = torch.linspace(-1, 1, 2 * width, dtype=torch.float64).reshape(2, width)

    @partial(FunctionDenoiser, path)
    def denoise(x, t, condition=None):
        return Prediction((x @ weight).tanh() @ weight.T / width)

    return denoise


@pytest.mark.parametrize("steps", [5, 40])
def test_recomputed_steps_keep_the_ends_of_steps_and_nothing_inside(steps):
    """Of a whole graph the inside of every step is kept; else two samples a step at most."""
    path, kept = PATHS["vp_linear"], {}
    grid = grids.uniform_time(path, steps=steps)
    for gradients in (True, "recompute"):
        x = data(3).requires_grad_()
        with _Kept() as held:
            end = sample(hidden(path), grid, Ancestral(), x, Noise(range(3)), gradients=gradients)
        kept[gradients] = held.bytes
        assert torch.autograd.grad(end.sum(), x)[0].isfinite().all()
    assert kept[True] > steps * 3 * 4096 * 8
    assert kept["recompute"] <= 2 * steps * 3 * 2 * 8
