"""Solvers against exact answers: orders, variances, and each other where theory says they agree."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import InputError
from core.process import schedules
from core.process.noise import Noise
from core.sampler import grids, solvers
from core.sampler.sample import prior, sample
from core.testing.orders import check_solver, to_noisy_level, variance_after
from core.testing.worlds import Gaussian, Mixture

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "beta_table": schedules.beta_table(),
    "edm": schedules.edm(),
}
SOLVERS = [
    solvers.Ancestral(),
    solvers.Ancestral(variance="large"),
    solvers.DDIM(),
    solvers.DDIM(eta=0.5),
    solvers.DDIM(eta=1.0),
    solvers.Heun(),
    solvers.DPMpp2M(),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_each_solver_has_its_order_on_every_process(solver, path):
    check_solver(solver, PATHS[path])


# One wrong number in each rule; every one must be noticed by the test above.
FAULTS = [
    ("DDIM", "direction = math.sqrt(max(e.sigma_u**2 - s**2, 0.0)) / e.sigma_t",
     "direction = e.sigma_u / e.sigma_t * 1.001"),
    ("DDIM", "s = self.eta * e.sigma_u * math.sqrt(max(1 - kept**2, 0.0))",
     "s = self.eta * e.sigma_u * math.sqrt(max(1 - kept, 0.0))"),
    ("DDIM", "e.alpha_u - direction * e.alpha_t, s)", "e.alpha_u - direction, s)"),
    ("Ancestral", "rows.append(_Affine(e.t, a, b, math.sqrt(max(chosen, 0.0))))",
     "rows.append(_Affine(e.t, a, b, max(chosen, 0.0)))"),
    ("Ancestral", "large = forward * e.sigma_t**2 if", "large = forward * e.sigma_t if"),
    ("Ancestral", "a, b, small = map(float, process.posterior_coefficients(t, u))",
     "a, b, small = map(float, process.posterior_coefficients(t, u)); b = b * 1.01"),
    ("Heun", "(slope + there) / 2", "(slope + 2 * there) / 3"),
    ("Heun", "(ahead - estimate(e.alpha_u * ahead, e.u)) / row.s_u",
     "(ahead - estimate(e.alpha_u * ahead, e.t)) / row.s_u"),
    ("DPMpp2M", "gain * e.h / (2 * last_h)", "gain * last_h / (2 * e.h) * 1.2"),
    ("DPMpp2M", "gain * e.h / (2 * last_h)", "gain * e.h / last_h"),
    ("DPMpp2M", "gain = e.alpha_u * -math.expm1(-e.h)", "gain = e.alpha_u * -math.expm1(-2 * e.h)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "right", "wrong"), FAULTS)
def test_a_planted_wrong_coefficient_is_noticed(name, right, wrong):
    text = Path(solvers.__file__).read_text()
    start = text.index(f"class {name}:")
    end = re.compile(r"^(class|@dataclass)", re.M).search(text, start + 1)
    body = text[start : end.start() if end else None]
    assert body.count(right) == 1, "the fault no longer fits the code; plant it anew"
    broken = {"__name__": "broken_solvers"}
    exec(text[:start] + body.replace(right, wrong), broken)
    with pytest.raises(AssertionError):
        check_all(broken[name])


def check_all(kind):
    """The order of every variant on every process, and DDPM's variance where it is stated."""
    variants = {
        "DDIM": [{"eta": 1.0}, {}],
        "Ancestral": [{"variance": "large"}, {}],
    }
    for options in variants.get(kind.__name__, [{}]):
        for path in PATHS.values():
            if options == {"eta": 1.0}:
                assert_ddpm_variance(kind(**options), path)
            check_solver(kind(**options), path)


def assert_ddpm_variance(solver, path):
    """beta-tilde of Ho et al. 2020, eq. 7, from alpha^2 alone."""
    grid = to_noisy_level(path, 10)
    alpha, sigma = path.alpha_sigma(grid)
    snr = alpha**2 / sigma**2
    expected = sigma[1:] * (1 - snr[:-1] / snr[1:]).sqrt()
    found = torch.tensor([row.noise for row in solver.plan(path, grid)], dtype=torch.float64)
    assert (found / expected - 1).abs().max() < 1e-9


@pytest.mark.parametrize("solver", [solvers.Ancestral(), solvers.DDIM(eta=1.0)], ids=str)
def test_ancestral_and_ddim_with_eta_one_have_ddpm_variances(solver):
    for path in PATHS.values():
        assert_ddpm_variance(solver, path)


@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.Heun(), solvers.DPMpp2M()], ids=str)
def test_the_same_levels_give_the_same_trajectory_on_every_process(solver):
    """x / alpha at equal log-SNR depends on no schedule (Kingma et al. 2021, section 5)."""
    levels = torch.linspace(-6, 6, 12, dtype=torch.float64)
    start, ends = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator()), []
    world = Mixture(
        torch.tensor([[-1.0, 0, 1], [1.0, 1, 0]], dtype=torch.float64),
        0.3,
        torch.tensor([0.3, 0.7], dtype=torch.float64),
    )
    for path in PATHS.values():
        grid = path.time_of_log_snr(levels.clone())
        alpha, _ = path.alpha_sigma(grid)
        x = alpha[0] * 20 * start
        ends.append(
            sample(world.denoiser(path), path, grid, solver, x, Noise(range(5))) / alpha[-1]
        )
    for end in ends[1:]:
        assert (end - ends[0]).abs().max() < 1e-9


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
# Not uniform_time on edm: even steps of sigma from 80 resolve nothing near the data.
@pytest.mark.parametrize(
    ("name", "path"),
    [
        (name, path)
        for name in ("uniform_time", "uniform_log_snr", "karras")
        for path in PATHS
        if (name, path) != ("uniform_time", "edm")
    ],
)
def test_samples_of_a_gaussian_have_its_mean_and_spread(solver, name, path):
    """Full grids, into the clean end: the exact variance is near the data's at 200 steps."""
    grid = getattr(grids, name)(PATHS[path], steps=200)
    mean, variance = variance_after(solver, PATHS[path], Gaussian(0.3, 0.5), grid)
    assert mean == pytest.approx(0.3, abs=1e-9)
    # DDPM's variances are of order 1 with a constant near 8 at log-SNR spans of 20.
    assert variance**0.5 == pytest.approx(0.5, rel=0.06)


def test_monte_carlo_ancestral_spread_is_the_one_computed_without_draws():
    path, world, n = PATHS["vp_linear"], Gaussian(0.3, 0.5), 20_000
    grid, solver = to_noisy_level(path, 12), solvers.Ancestral()
    x = torch.zeros(1, n, dtype=torch.float64)
    noise = Noise([1])
    start = world.mean_at(path, 1.0) + world.std_at(path, 1.0) * noise.like(x)
    reached = sample(world.denoiser(path), path, grid, solver, start, noise)
    _, variance = variance_after(solver, path, world, grid)
    assert abs(float(reached.var()) / variance - 1) < 4 * (2 / n) ** 0.5


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_sample_does_not_depend_on_its_batch(solver):
    path, world = PATHS["vp_cosine"], Gaussian()
    grid = grids.uniform_log_snr(path, steps=6)

    def draw(seeds):
        noise = Noise(seeds)
        x = prior(path, torch.zeros(len(seeds), 2, dtype=torch.float64), noise)
        return sample(world.denoiser(path), path, grid, solver, x, noise)

    together = draw([1, 2, 3])
    assert torch.equal(draw([2])[0], together[1])
    assert torch.equal(draw([3, 1]), together[[2, 0]])


def test_a_mixture_is_sampled_in_its_proportions():
    """An ODE solver on 2,000 starts: shares within 4 standard errors, spread within 5 %."""
    path = PATHS["vp_linear"]
    world = Mixture(
        torch.tensor([[-2.0], [2.0]], dtype=torch.float64),
        0.2,
        torch.tensor([0.25, 0.75], dtype=torch.float64),
    )
    noise = Noise(range(2000))
    x = prior(path, torch.zeros(2000, 1, dtype=torch.float64), noise)
    grid = grids.uniform_log_snr(path, steps=60)
    reached = sample(world.denoiser(path), path, grid, solvers.DPMpp2M(), x, noise)[:, 0]
    assert abs(float((reached > 0).double().mean()) - 0.75) < 4 * (0.75 * 0.25 / 2000) ** 0.5
    assert float(reached[reached > 0].std()) == pytest.approx(0.2, rel=0.05)


def test_mixture_denoiser_is_the_gradient_of_its_log_density():
    """Tweedie: E[x0 | x] = (x + sigma^2 grad log p_t(x)) / alpha, the density written out here."""
    path = PATHS["vp_linear"]
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.2]], dtype=torch.float64)
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator(), requires_grad=True)
    t = torch.full((6,), 0.4, dtype=torch.float64)
    alpha, sigma = (value[0] for value in path.alpha_sigma(t))
    parts = torch.distributions.Independent(
        torch.distributions.Normal(alpha * means, (alpha**2 * 0.09 + sigma**2).sqrt()), 1
    )
    log_p = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(weights), parts
    ).log_prob(x)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    estimate = Mixture(means, 0.3, weights).denoiser(path)(x, t).x0
    assert ((x + sigma**2 * score) / alpha - estimate).abs().max() < 1e-12


def test_a_grid_that_rises_is_refused():
    path = PATHS["vp_linear"]
    with pytest.raises(InputError, match="falls strictly"):
        solvers.DDIM().plan(path, torch.tensor([0.5, 0.7, 0.0], dtype=torch.float64))


def test_eta_out_of_range_is_refused():
    with pytest.raises(InputError, match="eta: expected 0 to 1"):
        replace(solvers.DDIM(), eta=1.5)


def test_karras_levels_are_those_of_the_paper():
    """N = 4, rho = 7, 0.002 to 80, by hand from eq. 5."""
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(high + i / 3 * (low - high)) ** 7 for i in range(4)] + [0.0]
    got = grids.karras(PATHS["edm"], steps=4).tolist()
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_grids_start_at_pure_noise_and_end_clean(path):
    for grid in (
        grids.uniform_time(PATHS[path], steps=7),
        grids.uniform_log_snr(PATHS[path], steps=7),
        grids.karras(PATHS[path], steps=7, sigma_max=1e9),
    ):
        assert len(grid) == 8
        assert float(grid[0]) == pytest.approx(PATHS[path].t_max, rel=1e-9)
        assert float(grid[-1]) == PATHS[path].t_min
    steps = PATHS[path].log_snr(grids.uniform_log_snr(PATHS[path], steps=7)[:-1]).diff()
    assert (steps - steps[0]).abs().max() < 1e-6


@pytest.mark.parametrize("options", [{"steps": 0}, {"log_snr_max": -50.0}])
def test_impossible_grids_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        grids.uniform_log_snr(PATHS["vp_linear"], **options)
