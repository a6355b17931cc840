"""Losses, weights and training times against definitions, closed forms and quadrature."""

import math

import pytest
import torch
from torch import nn

from core.denoiser import parameterization as p
from core.errors import InputError
from core.objective import times, weighting
from core.objective.denoising import Denoising
from core.objective.hybrid import Hybrid
from core.parts.registry import Spec
from core.process import schedules
from core.process.gaussian import over
from core.process.noise import Noise
from core.testing.distributions import Gaussian

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "beta_table": schedules.beta_table(),
    "edm": schedules.edm(),
    "sub_vp": schedules.sub_vp(),
    "ve": schedules.ve(),
    "flow": schedules.flow(),
}
ROWS = {
    "eps": p.eps(),
    "x0": p.x0(),
    "v": p.v(),
    "score": p.score(),
    "flow": p.flow(),
    "edm": p.edm(),
}


class Oracle(nn.Module):
    """A network that says exactly what a parameterization asks, for a known x0, plus an offset."""

    def __init__(self, path, row, x0, t, eps, offset=0.0):
        super().__init__()
        alpha, sigma = path.alpha_sigma(t)
        found = row.coefficients(alpha, sigma)
        self.answer = over(found.a, x0) * x0 + over(found.b, x0) * eps + offset

    def forward(self, x, level, condition=None):
        return self.answer


def world(path, n=16):
    g = torch.Generator().manual_seed(1)
    x0 = torch.randn(n, 2, 3, dtype=torch.float64, generator=g)
    eps = torch.randn(n, 2, 3, dtype=torch.float64, generator=g)
    share = torch.linspace(0.02, 0.98, n, dtype=torch.float64)
    return x0, path.t_first + share * (path.t_max - path.t_first), eps


def objective(path, row, norm="l2", weight=None):
    return Denoising(
        PATHS[path], ROWS[row], weight or weighting.simple(), times.uniform(), norm=norm
    )


# --- the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("path", PATHS)
def test_the_loss_is_the_eps_error_whatever_the_network_says(path, row, norm):
    """An answer off by a constant: eps_hat - eps = -(alpha / sigma) (x0_hat - x0), by hand."""
    x0, t, eps = world(PATHS[path])
    network = Oracle(PATHS[path], ROWS[row], x0, t, eps, offset=0.1)
    x = PATHS[path].diffuse(x0, t, eps)
    guess = p.NetworkDenoiser(network, PATHS[path], ROWS[row])(x, t).x0
    alpha, sigma = (over(value, x0) for value in PATHS[path].alpha_sigma(t))
    eps_hat = (x - alpha * guess) / sigma
    error = (eps_hat - eps).abs() if norm == "l1" else (eps_hat - eps) ** 2
    found = objective(path, row, norm).loss(network, x0, t, eps)
    assert (found / error.flatten(1).mean(1) - 1).abs().max() < 1e-6


def test_the_v_weight_of_a_v_network_is_the_v_error_in_both_norms():
    x0, t, eps = world(PATHS["vp_cosine"])
    network = Oracle(PATHS["vp_cosine"], ROWS["v"], x0, t, eps, offset=0.25)
    for norm, expected in (("l2", 0.0625), ("l1", 0.25)):
        found = objective("vp_cosine", "v", norm, weighting.v()).loss(network, x0, t, eps)
        assert (found - expected).abs().max() < 1e-9


@pytest.mark.parametrize("row", ["eps", "x0", "v", "flow"])
@pytest.mark.parametrize("path", ["flow", "vp_cosine", "edm"])
def test_rectified_flow_weights_make_the_plain_error_of_the_velocity(path, row):
    """Liu et al. 2022, eq. 1: |(eps_hat - x0_hat) - (eps - x0)|^2, both taken from the denoiser."""
    x0, t, eps = world(PATHS[path])
    network = Oracle(PATHS[path], ROWS[row], x0, t, eps, offset=0.1)
    x = PATHS[path].diffuse(x0, t, eps)
    skip, out = (over(c, x0) for c in ROWS[row].coefficients(*PATHS[path].alpha_sigma(t))[:2])
    alpha, sigma = (over(value, x0) for value in PATHS[path].alpha_sigma(t))
    x0_hat = skip * x + out * network.answer
    plain = ((x - alpha * x0_hat) / sigma - x0_hat - (eps - x0)) ** 2
    found = objective(path, row, weight=weighting.rectified_flow()).loss(network, x0, t, eps)
    assert (found / plain.flatten(1).mean(1) - 1).abs().max() < 1e-6
    if row == "flow":  # the network's own error
        assert (found - 0.01).abs().max() < 1e-9


def test_a_perfect_network_has_no_loss_and_a_mask_hides_errors():
    path = "vp_cosine"
    x0, t, eps = world(PATHS[path])
    perfect = Oracle(PATHS[path], ROWS["v"], x0, t, eps)
    assert objective(path, "v").loss(perfect, x0, t, eps).max() < 1e-12
    offset = torch.zeros_like(x0)
    offset[:, 0] = 5.0
    wrong = Oracle(PATHS[path], ROWS["v"], x0, t, eps, offset)
    mask = (offset == 0).double()
    assert objective(path, "v").loss(wrong, x0, t, eps, mask=mask).max() < 1e-12
    whole = objective(path, "v").loss(wrong, x0, t, eps)
    half = objective(path, "v").loss(wrong, x0, t, eps, mask=1 - mask)
    assert (half / whole - 2).abs().max() < 1e-9  # a mean over the masked elements only


def test_edm_weights_times_and_network_make_the_loss_of_edm():
    """Karras et al. 2022, eq. 8: lambda = 1/c_out^2 makes it |F - (y - c_skip (y + n))/c_out|^2."""
    path, d = PATHS["edm"], 0.5
    x0, _, eps = world(path)
    drawn = times.log_normal()(path, weighting.edm(), Noise(range(len(x0))))
    sigma = drawn.t[:, None, None]
    f = torch.sin(x0) + eps.cos()  # whatever the network says

    class Said(nn.Module):
        def forward(self, x, level, condition=None):
            scale = 1 / (sigma**2 + d**2).sqrt()
            assert (x - scale * (x0 + sigma * eps)).abs().max() < 1e-12  # c_in
            return f

    noisy = x0 + sigma * eps
    denoised = d**2 / (sigma**2 + d**2) * noisy + sigma * d / (sigma**2 + d**2).sqrt() * f
    of_paper = (sigma**2 + d**2) / (sigma * d) ** 2 * (denoised - x0) ** 2
    ours = Denoising(path, p.edm(), weighting.edm(), times.log_normal())
    found = ours.loss(Said(), x0, drawn.t, eps)
    assert (found / of_paper.flatten(1).mean(1) - 1).abs().max() < 1e-9
    assert torch.equal(drawn.weight, torch.ones_like(drawn.weight))
    level = drawn.t.log()  # the paper's P_mean and P_std
    z = Noise(range(len(x0))).normal((), torch.float64)
    assert (level - (-1.2 + 1.2 * z)).abs().max() < 1e-12


def test_likelihood_weights_make_denoising_score_matching():
    """Song et al. 2021: g^2 / 2 |s - grad log q(x_t | x0)|^2, a score network's own error."""
    for name in ("vp_linear", "sub_vp", "ve"):
        path = PATHS[name]
        x0, t, eps = world(path)
        network = Oracle(path, ROWS["score"], x0, t, eps, offset=0.3)
        found = objective(name, "score", weight=weighting.likelihood()).loss(network, x0, t, eps)
        assert (found / (path.drift_diffusion(t)[1] / 2 * 0.09) - 1).abs().max() < 1e-9


WEIGHTS = {
    "simple": weighting.simple(),
    "v": weighting.v(),
    "truncated_snr": weighting.truncated_snr(),
    "min_snr": weighting.min_snr(),
    "p2": weighting.p2(),
    "edm": weighting.edm(),
    "likelihood": weighting.likelihood(),
    "sigmoid": weighting.sigmoid(),
    "rectified_flow": weighting.rectified_flow(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_losses_are_finite_at_pure_noise(weight, row, dtype):
    zero = schedules.beta_table(zero_terminal_snr=True)
    for path in (
        schedules.flow(),
        zero,
        schedules.zero_terminal_snr(process=Spec("core/vp_cosine")),
    ):
        x0, _, eps = (value.to(dtype) for value in world(path, 4))
        t = torch.tensor([1.0, 1 - 1e-12, 1 - 1e-6, 0.9], dtype=torch.float64) * path.t_max
        network = Oracle(path, ROWS[row], x0.double(), t, eps.double(), 0.1).to(dtype)
        network.answer = network.answer.to(dtype)
        ours = Denoising(path, ROWS[row], WEIGHTS[weight], times.uniform())
        found = ours.loss(network, x0, t, eps)
        assert found.dtype == dtype
        assert bool((found.isfinite() & (found >= 0)).all())


def test_the_v_loss_at_pure_noise_is_the_v_error():
    path = schedules.zero_terminal_snr()
    x0, _, eps = world(path, 4)
    t = torch.ones(4, dtype=torch.float64)
    network = Oracle(path, p.v(), x0, t, eps, 0.5)
    found = Denoising(path, p.v(), weighting.v(), times.uniform()).loss(network, x0, t, eps)
    assert (found - 0.25).abs().max() < 1e-9


# --- weights ------------------------------------------------------------------------------------


def test_weightings_are_those_of_their_papers_in_eps_units():
    """Each stated on another error; eps error = SNR x0 error, v error = (1 + 1/SNR) eps error."""
    path = PATHS["vp_linear"]
    log_snr = torch.linspace(-8, 8, 33, dtype=torch.float64)
    t = path.time_of_log_snr(log_snr)
    snr = path.log_snr(t).exp()

    def of(weight):
        return weight(path, t)

    def same(a, b):
        return torch.allclose(a, b, rtol=1e-9)

    assert torch.equal(of(weighting.simple()), torch.ones_like(snr))
    assert same(of(weighting.v()) * snr, snr + 1)
    assert same(of(weighting.min_snr(gamma=5.0)) * snr, snr.clamp(max=5))
    assert same(of(weighting.truncated_snr()) * snr, snr.clamp(min=1))
    s = (1 / snr) ** 0.5  # Karras et al. 2022: (s^2 + d^2) / (s d)^2 on the x0 error
    assert same(of(weighting.edm()) * snr, (s**2 + 0.25) / (s * 0.5) ** 2)
    assert same(of(weighting.p2(k=2.0, gamma=0.5)), 1 / (2 + snr) ** 0.5)
    beta = 0.1 + 19.9 * t  # -d log-SNR / dt = beta (1 + SNR) for a variance-preserving process
    assert same(of(weighting.likelihood()), beta * (1 + snr) / 2)
    assert same(of(weighting.sigmoid(bias=1.0)), beta * (1 + snr) / 2 / (1 + snr / math.e))


@pytest.mark.parametrize("name", ["vp_cosine", "beta_table", "edm", "sub_vp", "flow"])
def test_the_likelihood_weight_integrates_to_half_the_fall_of_log_snr(name):
    path = PATHS[name]
    # Midpoints of cells even in log-SNR: relative error of the rule (1/200)^2.
    levels = torch.linspace(6, -3, 1801, dtype=torch.float64)
    nodes = path.time_of_log_snr(levels)
    middle = (nodes[1:] + nodes[:-1]) / 2
    total = (weighting.likelihood()(path, middle) * nodes.diff()).sum()
    assert float(total) == pytest.approx(4.5, rel=1e-3)


def test_weights_that_make_no_sense_are_refused():
    for build in (
        lambda: weighting.p2(k=0.0),
        lambda: weighting.p2(gamma=-1.0),
        lambda: weighting.min_snr(gamma=0.0),
        lambda: weighting.edm(data_std=0.0),
        lambda: times.log_normal(std=0.0),
        lambda: times.logit_normal(std=-1.0),
        lambda: times.LossAware(bins=0),
        lambda: times.LossAware(uniform=0.0),
    ):
        with pytest.raises(InputError, match="expected"):
            build()


# --- times --------------------------------------------------------------------------------------


def draws(build, n, path=PATHS["vp_linear"], weight=None):
    return build(path, weight or weighting.simple(), Noise(range(n)))


def test_times_have_their_distributions():
    path, n = PATHS["vp_linear"], 4000
    u = draws(times.uniform(), n).t
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / n) ** 0.5
    strata = (draws(times.stratified(), n).t - path.t_first) / (path.t_max - path.t_first)
    assert torch.equal((strata * n).floor().clamp(max=n - 1), torch.arange(n).double())
    level = -path.log_snr(draws(times.log_normal(mean=-1.2, std=0.4), n).t) / 2
    assert abs(float(level.mean()) + 1.2) < 4 * 0.4 / n**0.5
    assert abs(float(level.std()) / 0.4 - 1) < 4 / (2 * n) ** 0.5
    flow = draws(times.logit_normal(mean=0.5, std=0.8), n, PATHS["flow"]).t
    logit = torch.logit((flow - 1e-5) / (1 - 1e-5))
    assert abs(float(logit.mean()) - 0.5) < 4 * 0.8 / n**0.5
    assert abs(float(logit.std()) / 0.8 - 1) < 4 / (2 * n) ** 0.5


def test_one_draw_shifts_equally_spaced_times():
    path = PATHS["vp_linear"]
    t = draws(times.stratified(draws="one"), 8).t
    share = ((t - path.t_first) / (path.t_max - path.t_first)).sort().values
    assert (share.diff() - 1 / 8).abs().max() < 1e-12
    first = float(Noise([0]).uniform())
    assert float((t[0] - path.t_first) / (path.t_max - path.t_first)) == pytest.approx(first)


def test_stratified_times_have_less_variance():
    path = PATHS["vp_cosine"]

    def means(draw):
        each = [
            draw(path, weighting.simple(), Noise.of(k, each=range(16))).t.square().mean()
            for k in range(200)
        ]
        return torch.stack(each).var()

    assert means(times.stratified()) < means(times.uniform()) / 20
    # One shift moves the mean of t^2 over 16 times by 1/16 end to end: 1/(12 16^2), to a uniform
    # draw's (1/5 - 1/9)/16; 200 draws know a variance to 4 sqrt(2/200) = 40%.
    expected = 1 / (12 * 16**2)
    assert float(means(times.stratified(draws="one"))) == pytest.approx(expected, rel=0.4)


def test_importance_for_the_likelihood_is_uniform_in_log_snr():
    """Kolmogorov-Smirnov at the level 1e-6: sup |F_n - u| < 2.7 / sqrt(n)."""
    path, n = PATHS["vp_linear"], 4000
    found = draws(times.importance(stratified=False), n, weight=weighting.likelihood())
    ends = path.log_snr(torch.tensor([path.t_first, path.t_max], dtype=torch.float64))
    share = ((path.log_snr(found.t) - ends[0]) / (ends[1] - ends[0])).sort().values
    rank = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert (share - rank).abs().max() < 2.7 / n**0.5
    # The ratio undoes the weight: their product is the same for every draw, up to a table's cell.
    constant = found.weight * weighting.likelihood()(path, found.t)
    half = float(ends[0] - ends[1]) / 2 / (path.t_max - path.t_first)
    assert (constant / half - 1).abs().max() < 0.01


def loss_moments(path, world_, weight):
    """Mean, and mean squares under uniform and importance times, of the exact denoiser's loss.

    eps_hat - eps is normal of variance e = alpha^2 s^2 / (alpha^2 s^2 + sigma^2): its square has
    mean e and mean square 3 e^2.  By the trapezoidal rule, even in log-SNR.
    """
    ends = path.log_snr(torch.tensor([path.t_first, path.t_max], dtype=torch.float64))
    t = path.time_of_log_snr(torch.linspace(*ends.tolist(), 200_001, dtype=torch.float64))
    t = t.clamp(path.t_first, path.t_max)
    alpha, sigma = path.alpha_sigma(t)
    e = alpha**2 * world_.std**2 / (alpha**2 * world_.std**2 + sigma**2)
    w, span = weight(path, t), path.t_max - path.t_first

    def mean(values):
        return float(torch.trapezoid(values, t)) / span

    return mean(w * e), 3 * mean((w * e) ** 2), 3 * mean(w) * mean(w * e**2)


@pytest.mark.slow
def test_importance_keeps_the_mean_loss_and_lowers_its_variance_as_computed():
    path, gaussian, n = PATHS["vp_linear"], Gaussian(0.0, 0.5), 20_000
    weight, row = weighting.likelihood(), p.eps()
    mean, square, square_importance = loss_moments(path, gaussian, weight)
    denoise = gaussian.denoiser(path)

    def losses(build):
        drawn = build(path, weight, Noise.of("importance", each=range(n)))
        noise = Noise.of("data", each=range(n))
        x0 = gaussian.std * noise.normal((1,), torch.float64)
        eps = noise.normal((1,), torch.float64)

        class Exact(nn.Module):
            def forward(self, x, level, condition=None):
                alpha, sigma = path.alpha_sigma(drawn.t)
                return row.from_x0(denoise(x, drawn.t).x0, x, alpha, sigma)

        ours = Denoising(path, row, weight, build)
        return drawn.weight * ours.loss(Exact(), x0, drawn.t, eps)

    found = losses(times.importance(stratified=False))
    variance = square_importance - mean**2
    assert abs(float(found.mean()) - mean) < 4 * (variance / n) ** 0.5
    # The squares' spread is that of a fourth power of normals: kurtosis some 12, 4 s.e. = 12%.
    assert float(found.var()) == pytest.approx(variance, rel=0.12)
    plain = losses(times.uniform())
    assert abs(float(plain.mean()) - mean) < 4 * ((square - mean**2) / n) ** 0.5
    assert (square - mean**2) / variance > 100


def test_loss_aware_times_follow_the_losses_seen_and_keep_the_mean():
    """Four bins of loss 1, 2, 3, 4: chances in proportion, after a warm-up of uniform draws."""
    path, n = PATHS["flow"], 20_000
    aware = times.LossAware(bins=4, history=3, uniform=0.1)
    middle = path.t_first + (torch.arange(4).double() + 0.5) / 4 * (1 - path.t_first)
    values = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    aware.update(path, middle, 99 * values)  # forgotten after three more
    # The first bin's losses are all alike, the others' root mean square is that of one large one.
    for others in (3**0.5, 0.0, 0.0):
        assert (aware.probabilities() == 0.25).all() == bool(aware.tensors()["seen"].min() < 3)
        aware.update(path, middle, values * torch.tensor([1.0, *[others] * 3], dtype=torch.float64))
    expected = 0.9 * values / 10 + 0.1 / 4
    assert (aware.probabilities() - expected).abs().max() < 1e-12
    drawn = aware(path, weighting.simple(), Noise.of("aware", each=range(n)))
    bins = ((drawn.t - path.t_first) / (1 - path.t_first) * 4).long()
    count = torch.bincount(bins, minlength=4) / n
    assert ((count - expected).abs() < 4 * (expected * (1 - expected) / n) ** 0.5).all()
    assert (drawn.weight - 0.25 / expected[bins]).abs().max() < 1e-12
    loss = drawn.weight * values[bins]
    assert abs(float(loss.mean()) - 2.5) < 4 * float(loss.std()) / n**0.5


@pytest.mark.slow
def test_loss_aware_times_lower_the_variance_as_their_probabilities_say():
    """sum (w_k L_k)^2 / p_k is least at p in proportion to L: its share of the uniform one."""
    path, n = PATHS["flow"], 20_000
    aware = times.LossAware(bins=10, history=2, uniform=0.001)
    middle = path.t_first + (torch.arange(10).double() + 0.5) / 10 * (1 - path.t_first)
    values = 10.0 ** -torch.arange(10).double().div(3)
    for _ in range(2):
        aware.update(path, middle, values)

    def variance(build):
        drawn = build(path, weighting.simple(), Noise.of("variance", each=range(n)))
        bins = ((drawn.t - path.t_first) / (1 - path.t_first) * 10).long().clamp(max=9)
        return float((drawn.weight * values[bins]).var())

    p_k = aware.probabilities()
    exact = float((values**2 / 100 / p_k).sum() - values.mean() ** 2)
    assert variance(aware) == pytest.approx(exact, rel=0.2)  # rare bins weigh much
    assert variance(times.uniform()) > 100 * exact


# --- the hybrid loss ----------------------------------------------------------------------------


class Shares(nn.Module):
    """The exact mean of a Gaussian world, and one learned share of the variance for each time."""

    def __init__(self, path, row, gaussian, nodes):
        super().__init__()
        self.path, self.row, self.gaussian, self.nodes = path, row, gaussian, nodes
        self.v = nn.Parameter(torch.zeros(len(nodes), dtype=torch.float64))
        self.off = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, level, condition=None):
        alpha, sigma = self.path.alpha_sigma(self.nodes)
        scale = over(self.row.coefficients(alpha, sigma).input, x)
        noisy = x / scale
        x0 = self.gaussian.denoiser(self.path)(noisy, self.nodes).x0
        mean = self.row.from_x0(x0, noisy, alpha, sigma) + self.off
        return torch.cat([mean, self.v[:, None, None].expand_as(mean)], dim=1)


@pytest.mark.parametrize(
    ("name", "row"), [("vp_cosine", "v"), ("vp_linear", "eps"), ("edm", "edm")]
)
def test_the_share_that_hybrid_learns_is_the_analytic_variance(name, row):
    """Var(x_u | x_t) = small + b^2 Var(x0 | x_t) on Gaussian data, by Bayes' rule.

    The bound is quadratic in the x0 error, whose mean square over `n` elements is within
    4 sqrt(2/n) of Var(x0 | x_t): 0.9% of the variance learned.
    """
    path, gaussian, n = PATHS[name], Gaussian(0.2, 0.5), 400_000
    steps = 50
    size = (path.t_max - path.t_first) / steps
    nodes = path.t_first + size * torch.tensor([2.0, 10.0, 25.0, 45.0], dtype=torch.float64)
    g = torch.Generator().manual_seed(3)
    x0 = gaussian.mean + gaussian.std * torch.randn(4, 1, n, dtype=torch.float64, generator=g)
    eps = torch.randn(x0.shape, dtype=torch.float64, generator=g)
    network = Shares(path, ROWS[row], gaussian, nodes)
    ours = Hybrid(path, ROWS[row], weighting.simple(), times.uniform(), steps=steps)
    error, _, found = ours.simple.error(network, x0, nodes, eps, None)
    x0_error = (over(found.out, error) * error).detach()
    optimizer = torch.optim.LBFGS([network.v], max_iter=40, line_search_fn="strong_wolfe")
    squares = x0_error.square().mean(2, keepdim=True).sqrt()  # the bound knows its square alone

    def closure():
        optimizer.zero_grad()
        loss = ours.bits(squares, ((network.v + 1) / 2)[:, None, None], nodes).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    (alpha_t, sigma_t), (alpha_u, sigma_u) = (path.alpha_sigma(s) for s in (nodes, nodes - size))
    of_x0 = 1 / (1 / gaussian.std**2 + alpha_t**2 / sigma_t**2)
    _, b, small = path.posterior_coefficients(nodes, nodes - size)
    large = sigma_t**2 - (alpha_t / alpha_u) ** 2 * sigma_u**2
    learned = small * (large / small) ** ((network.v.detach() + 1) / 2)
    assert (learned / (small + b**2 * of_x0) - 1).abs().max() < 4 * (2 / n) ** 0.5


def test_hybrid_is_the_simple_loss_and_a_kl_divergence_between_normals():
    """Each term with torch.distributions; bits are nats / log 2; steps L_t weighs 0.001."""
    path, row, steps = PATHS["vp_cosine"], ROWS["v"], 20
    x0, _, eps = world(path, 3)
    size = (path.t_max - path.t_first) / steps
    t = path.t_first + size * torch.tensor([1.0, 8.0, 20.0], dtype=torch.float64)
    answer = Oracle(path, row, x0, t, eps, 0.3).answer
    v = torch.linspace(-1, 1, x0.numel(), dtype=torch.float64).reshape(x0.shape)

    class Both(nn.Module):
        def forward(self, x, level, condition=None):
            return torch.cat([answer, v], dim=1)

    ours = Hybrid(path, row, weighting.simple(), times.uniform(), steps=steps, vlb_weight=0.01)
    x = path.diffuse(x0, t, eps)
    guess = p.NetworkDenoiser(Both(), path, row)(x, t).x0
    a, b, small = (over(value, x0) for value in path.posterior_coefficients(t, t - size))
    (alpha_t, sigma_t), (alpha_u, sigma_u) = (
        tuple(over(value, x0) for value in path.alpha_sigma(s)) for s in (t, t - size)
    )
    large = sigma_t**2 - (alpha_t / alpha_u * sigma_u) ** 2
    log_variance = (v + 1) / 2 * large.log() + (1 - v) / 2 * small.log()  # eq. 15
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(
        normal(a * x + b * x0, small.sqrt().expand_as(x0)),
        normal(a * x + b * guess, (log_variance / 2).exp()),
    )
    bits = kl.flatten(1).mean(1) / math.log(2)
    simple = ours.simple.loss(Oracle(path, row, x0, t, eps, 0.3), x0, t, eps)
    found = ours.loss(Both(), x0, t, eps)
    assert (found / (simple + 0.01 * steps * bits) - 1).abs().max() < 1e-9


def test_the_bound_moves_no_mean_and_the_error_of_eps_no_variance():
    path, gaussian = PATHS["vp_cosine"], Gaussian(0.2, 0.5)
    nodes = path.t_first + (path.t_max - path.t_first) * torch.tensor([0.2, 0.8]).double()
    x0, _, eps = world(path, 2)
    gradients = []
    for weight in (1e-12, 100.0):
        network = Shares(path, ROWS["v"], gaussian, nodes)
        ours = Hybrid(
            path, ROWS["v"], weighting.simple(), times.uniform(), steps=10, vlb_weight=weight
        )
        ours.loss(network, x0, nodes, eps).sum().backward()
        gradients.append((network.off.grad, network.v.grad.clone()))
    assert float(gradients[0][0]) == pytest.approx(float(gradients[1][0]), rel=1e-12)
    assert (gradients[1][1] / gradients[0][1] / 1e14 - 1).abs().max() < 1e-9


def test_hybrid_draws_the_times_of_its_chain():
    path = PATHS["flow"]
    ours = Hybrid(path, ROWS["v"], weighting.simple(), times.uniform(), steps=8)
    t = ours.draw(torch.zeros(4000, 1), Noise(range(4000))).t
    nodes = path.t_first + torch.arange(1, 9).double() / 8 * (path.t_max - path.t_first)
    apart = (t[:, None] - nodes).abs()
    assert apart.min(1).values.max() < 1e-12
    count = torch.bincount(apart.argmin(1), minlength=8) / 4000
    assert (count - 1 / 8).abs().max() < 4 * (1 / 8 * 7 / 8 / 4000) ** 0.5


def test_hybrid_asks_for_a_network_that_says_variances():
    x0, t, eps = world(PATHS["vp_cosine"])
    network = Oracle(PATHS["vp_cosine"], ROWS["v"], x0, t, eps)
    with pytest.raises(InputError, match="expected a network with two outputs"):
        Hybrid(PATHS["vp_cosine"], ROWS["v"], weighting.simple(), times.uniform()).loss(
            network, x0, t, eps
        )
    for options in ({"steps": 1}, {"vlb_weight": 0.0}):
        with pytest.raises(InputError, match="expected steps"):
            Hybrid(PATHS["vp_cosine"], ROWS["v"], weighting.simple(), times.uniform(), **options)
