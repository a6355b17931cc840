"""Guidance against closed forms: mixtures' components, tilted densities, Gaussian rewards."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from core.denoiser import guidance
from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.process import schedules
from core.process.noise import Noise
from core.sampler.ancestral import DDIM
from core.sampler.grids import uniform_log_snr
from core.sampler.runge_kutta import Heun
from core.sampler.sample import sample
from core.testing.distributions import Gaussian, Mixture

pytestmark = pytest.mark.battery

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
}
MEANS = torch.tensor([[-1.0, 0.5], [0.8, -0.2], [0.3, 1.1]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
STD = 0.4
WORLD = Mixture(MEANS, STD, WEIGHTS)
CHOSEN = 1


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_parts(x, alpha, sigma):
    """Log of weight times density of every component of x_t, by torch.distributions."""
    spread = (alpha**2 * STD**2 + sigma**2).sqrt()[:, None, None].expand(-1, *MEANS.shape)
    parts = Independent(Normal(alpha[:, None, None] * MEANS, spread), 1)
    return WEIGHTS.log() + parts.log_prob(x[:, None])


def log_prob(path):
    """log p(component CHOSEN | x_t)."""

    def of(x, t, condition):
        return log_parts(x, *path.alpha_sigma(t)).log_softmax(1)[:, CHOSEN]

    return of


def at_levels(path, log_snr):
    t = path.time_of_log_snr(torch.tensor(log_snr, dtype=torch.float64))
    alpha, sigma = path.alpha_sigma(t)
    x = alpha[:, None] * normal(len(t), 2) + sigma[:, None] * normal(len(t), 2, seed=1)
    return x, t


IDENTITY = FunctionDenoiser(PATHS["edm"], lambda x, t, condition=None: Prediction(x))


def constant(*values):
    """A denoiser that says `values` whatever it is given, one for each sample."""
    x0 = torch.tensor(values, dtype=torch.float64)

    @partial(FunctionDenoiser, PATHS["edm"])
    def denoise(x, t, condition=None):
        return Prediction(x0[: len(x)])

    return denoise


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_classifier_at_scale_one_is_the_components_own_model(path):
    path = PATHS[path]
    x, t = at_levels(path, [6.0, 3.0, 0.0, -3.0, -6.0, -9.0])
    guided = guidance.classifier(WORLD.denoiser(path), log_prob(path))
    with torch.no_grad():
        found = guided(x, t).x0
    alpha, sigma = (value[:, None] for value in path.alpha_sigma(t))
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    own = MEANS[CHOSEN] + gain * (x - alpha * MEANS[CHOSEN])
    # (sigma^2 / alpha) of a gradient: at log-SNR -9 that is 90 of its rounding errors for vp.
    assert (found - own).abs().max() < 1e-10


def conditional(path):
    """The whole mixture without a condition, one component with it."""
    whole, part = WORLD.denoiser(path), WORLD.component(path, CHOSEN)
    return FunctionDenoiser(path, lambda x, t, c=None: (part if c else whole)(x, t))


GIVEN = {"class": torch.ones(1)}


def without(condition):
    return None


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_near_the_clean_end_guided_scores_are_those_of_the_tilted_density(weight):
    """Score of p(x) p(c|x)^w, the density written out by torch.distributions."""
    path = PATHS["edm"]
    x = normal(5, 2).requires_grad_()
    mixture = MixtureSameFamily(
        Categorical(WEIGHTS), Independent(Normal(MEANS, torch.full_like(MEANS, STD)), 1)
    )
    still = torch.ones(5, dtype=torch.float64)
    tilt = log_parts(x, still, 0 * still).log_softmax(1)[:, CHOSEN]
    (score,) = torch.autograd.grad((mixture.log_prob(x) + weight * tilt).sum(), x)
    x, sigma = x.detach(), 1e-4
    t = torch.full((5,), sigma, dtype=torch.float64)
    for guided in (
        guidance.classifier(WORLD.denoiser(path), log_prob(path), scale=weight),
        guidance.classifier_free(conditional(path), without, scale=weight),
    ):
        found = (guided(x, t, GIVEN).x0 - x) / sigma**2
        # The level itself changes scores by sigma^2 = 1e-8 of some hundred; rounding adds 1e-8.
        assert (found - score).abs().max() < 1e-4


@pytest.mark.parametrize("path", PATHS)
def test_classifier_free_guidance_at_scale_one_is_the_conditional_model(path):
    path = PATHS[path]
    x, t = at_levels(path, [6.0, 0.0, -6.0])
    model = conditional(path)
    guided = guidance.classifier_free(model, without, scale=1.0, rescale=0.7)
    assert (guided(x, t, GIVEN).x0 - model(x, t, GIVEN).x0).abs().max() < 1e-12
    unconditional = guidance.classifier_free(model, without, scale=0.0)
    assert (unconditional(x, t, GIVEN).x0 - model(x, t).x0).abs().max() < 1e-12


def test_the_interval_is_each_samples_own():
    path = PATHS["vp_linear"]
    x, t = at_levels(path, [5.0, 2.0, 0.0, -2.0, -5.0])
    model = conditional(path)
    guided = guidance.classifier_free(model, without, scale=3.0, log_snr_min=-3.0, log_snr_max=3.0)
    c, u, found = model(x, t, GIVEN).x0, model(x, t).x0, guided(x, t, GIVEN).x0
    assert torch.equal(found[[0, 4]], c[[0, 4]])
    assert (found[1:4] - (u + 3 * (c - u))[1:4]).abs().max() < 1e-12
    assert (u - c)[1:4].abs().min() > 1e-3  # there is something to guide


def test_the_interval_is_each_elements_own_where_times_differ_in_a_sample():
    t = torch.tensor([[0.1, 50.0]], dtype=torch.float64)
    guided = guidance.autoguidance(
        constant([1.0, 1.0]), constant([0.5, 0.5]), scale=2.0, log_snr_min=0.0
    )
    assert guided(torch.zeros_like(t), t).x0.tolist() == [[1.5, 1.0]]


@pytest.mark.parametrize(("log_snr", "calls"), [([5.0, 4.0], 1), ([5.0, 0.0], 2)])
def test_the_unconditional_model_is_asked_only_where_it_counts(log_snr, calls):
    path, asked = PATHS["flow"], []

    @partial(FunctionDenoiser, path)
    def model(x, t, condition=None):
        asked.append(condition)
        return Prediction(x)

    x, t = at_levels(path, log_snr)
    guided = guidance.classifier_free(model, without, log_snr_max=3.0)
    guided(x, t, GIVEN)
    assert asked == [GIVEN, None][:calls]


def test_rescaled_guidance_has_the_deviation_of_the_conditional_model():
    """Against numpy, whose deviation is over all axes of a sample but the first."""
    path = PATHS["edm"]
    c, u = normal(3, 4, 5), 0.5 * normal(3, 4, 5, seed=1)

    @partial(FunctionDenoiser, path)
    def model(x, t, condition=None):
        return Prediction(c if condition else u)

    t = torch.ones(3, dtype=torch.float64)
    plain = (u + 4 * (c - u)).numpy()
    ratio = np.array([c[i].numpy().std() / plain[i].std() for i in range(3)])[:, None, None]
    for phi in (1.0, 0.3):
        guided = guidance.classifier_free(model, without, scale=4.0, rescale=phi)
        expected = phi * plain * ratio + (1 - phi) * plain
        assert np.abs(guided(c, t, GIVEN).x0.numpy() - expected).max() < 1e-12


def test_autoguidance_leads_away_from_the_weaker_model():
    """Two Gaussians with one mean: x0 = m + (w' + scale (w - w')) (x - m) on edm."""
    path = PATHS["edm"]
    t, x = torch.tensor([0.5, 2.0], dtype=torch.float64), normal(2, 3)
    guided = guidance.autoguidance(
        Gaussian(0.2, 0.5).denoiser(path), Gaussian(0.2, 0.8).denoiser(path), scale=2.5
    )
    gain, weak = (s**2 / (s**2 + t[:, None] ** 2) for s in (0.5, 0.8))
    expected = 0.2 + (weak + 2.5 * (gain - weak)) * (x - 0.2)
    assert (guided(x, t).x0 - expected).abs().max() < 1e-12


@pytest.mark.parametrize("path", PATHS)
def test_a_linear_reward_on_a_gaussian_shifts_the_mean_by_its_variance(path):
    """p(x0) e^(s w x0) of N(m, v) has mean m + v s w, and so has its posterior given x_t."""
    path, world, slope = PATHS[path], Gaussian(0.3, 0.5), normal(2, seed=3)
    x, t = at_levels(path, [6.0, 0.0, -6.0])
    guided = guidance.reward(
        world.denoiser(path), lambda x0, condition: (x0 * slope).sum(1), scale=1.7
    )
    with torch.no_grad():
        found = guided(x, t).x0
    alpha, sigma = (value[:, None] for value in path.alpha_sigma(t))
    known = 1 / (1 / world.std**2 + alpha**2 / sigma**2)  # variance of x0 given x_t
    mean = known * (world.mean / world.std**2 + alpha * x / sigma**2)
    assert (found - (mean + known * 1.7 * slope)).abs().max() < 1e-10


@pytest.mark.slow
def test_a_reward_that_looks_at_nothing_changes_nothing():
    model = constant([0.1, 0.2], [0.3, 0.4])
    guided = guidance.reward(model, lambda x0, condition: x0.square().sum(1))
    x, t = normal(2, 2), torch.ones(2, dtype=torch.float64)
    assert torch.equal(guided(x, t).x0, model(x, t).x0)


def test_dynamic_thresholding_is_that_of_imagen():
    """Against numpy: s the larger of the floor and the quantile of each sample."""
    x0 = normal(4, 3, 7) * torch.tensor([0.1, 1.0, 3.0, 30.0]).double()[:, None, None]
    for quantile, floor in ((0.9, 1.0), (0.995, 0.5), (1.0, 2.0), (0.0, 1.0)):
        guided = guidance.dynamic_threshold(IDENTITY, quantile=quantile, floor=floor)
        found = guided(x0, torch.ones(4, dtype=torch.float64)).x0.numpy()
        for sample_, got in zip(x0.numpy(), found, strict=True):
            s = max(floor, np.quantile(np.abs(sample_), quantile))
            assert np.abs(got - np.clip(sample_, -s, s) / s * floor).max() < 1e-12


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e300, float("inf"), float("-inf")])
def test_thresholds_stay_finite_whatever_a_model_says(value):
    x = torch.full((1, 4), value, dtype=torch.float64)
    t = torch.ones(1, dtype=torch.float64)
    for build in (guidance.dynamic_threshold, guidance.clip):
        found = build(IDENTITY)(x, t).x0
        assert found.isfinite().all()
        assert found.abs().max() <= 1


def test_clipping_is_to_the_range_given():
    guided = guidance.clip(constant([-3.0, 0.2, 9.0]), low=0.0, high=2.0)
    assert guided(torch.zeros(1, 3).double(), torch.ones(1).double()).x0.tolist() == [[0, 0.2, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("solver", [DDIM(), Heun()], ids=str)
def test_guided_samples_can_be_differentiated(solver):
    """gradcheck compares with finite differences, through second derivatives of the denoiser."""
    path = PATHS["vp_linear"]
    grid = uniform_log_snr(path, steps=4, log_snr_max=4.0)
    classified = guidance.classifier(WORLD.denoiser(path), log_prob(path), scale=1.5)
    rewarded = guidance.reward(classified, lambda x0, condition: -x0.pow(4).sum(1))

    def run(x):
        return sample(rewarded, grid, solver, x, Noise([0, 1]), gradients=True)

    x = normal(2, 2)
    assert torch.autograd.gradcheck(run, (x.clone().requires_grad_(),), atol=1e-5)
    assert not sample(rewarded, grid, solver, x, Noise([0, 1])).requires_grad


def test_scale_one_samples_the_chosen_component_and_more_its_purest_part():
    """400 samples within 4 standard errors of its mean, and of its weight at scale 0."""
    path, n = PATHS["flow"], 400
    grid = uniform_log_snr(path, steps=20)
    x = Noise(range(n)).like(torch.zeros(n, 2, dtype=torch.float64))
    still, ends, purity = torch.ones(n, dtype=torch.float64), [], []
    for scale in (0.0, 1.0, 4.0):
        guided = guidance.classifier(WORLD.denoiser(path), log_prob(path), scale=scale)
        ends.append(sample(guided, grid, DDIM(), x, Noise(range(n))))
        shares = log_parts(ends[-1], still, 0 * still).softmax(1)[:, CHOSEN]
        purity.append(float(shares.mean()))
    assert abs(purity[0] - float(WEIGHTS[CHOSEN])) < 4 * (0.25 / n) ** 0.5
    assert (ends[1].mean(0) - MEANS[CHOSEN]).abs().max() < 4 * STD / n**0.5
    assert 1 - purity[2] < (1 - purity[1]) / 10


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (guidance.classifier_free, {"log_snr_min": 2.0, "log_snr_max": 1.0}),
        (guidance.classifier_free, {"rescale": 1.5}),
        (guidance.autoguidance, {"log_snr_min": 2.0, "log_snr_max": 2.0}),
        (guidance.clip, {"low": 1.0, "high": 1.0}),
        (guidance.dynamic_threshold, {"quantile": 1.5}),
        (guidance.dynamic_threshold, {"floor": 0.0}),
    ],
)
def test_options_out_of_range_are_refused(build, options):
    inputs = [constant([0.0])]
    if build is guidance.classifier_free:
        inputs.append(without)
    if build is guidance.autoguidance:
        inputs.append(constant([0.0]))
    with pytest.raises(InputError, match="expected"):
        build(*inputs, **options)
