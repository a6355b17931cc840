"""Parameterizations and losses against definitions."""

import pytest
import torch
from torch import nn

from core.denoiser import parameterization as p
from core.objective import times, weighting
from core.objective.denoising import Denoising
from core.process import schedules
from core.process.gaussian import over
from core.process.noise import Noise

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "beta_table": schedules.beta_table(),
    "edm": schedules.edm(),
}
ROWS = {"eps": p.eps(), "x0": p.x0(), "v": p.v(), "edm": p.edm()}


class Oracle(nn.Module):
    """A network that says exactly what a parameterization asks, for a known x0."""

    def __init__(self, path, row, x0, t, eps, offset=0.0):
        super().__init__()
        alpha, sigma = (over(value, x0) for value in path.alpha_sigma(t))
        skip, out, _ = row.coefficients(alpha, sigma)
        self.answer = (x0 - skip * path.diffuse(x0, t, eps)) / out + offset

    def forward(self, x, level, condition=None):
        return self.answer


def world(path, n=16):
    g = torch.Generator().manual_seed(1)
    x0 = torch.randn(n, 2, 3, dtype=torch.float64, generator=g)
    eps = torch.randn(n, 2, 3, dtype=torch.float64, generator=g)
    share = torch.linspace(0.02, 0.98, n, dtype=torch.float64)
    return x0, path.t_first + share * (path.t_max - path.t_first), eps


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", PATHS)
def test_what_each_row_asks_for_is_what_its_paper_says(name, row):
    path = PATHS[name]
    x0, t, eps = world(path)
    alpha, sigma = (over(value, x0) for value in path.alpha_sigma(t))
    answer = Oracle(path, ROWS[row], x0, t, eps).answer
    expected = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}
    if row in expected:
        assert (answer - expected[row]).abs().max() < 1e-6
    else:  # Karras et al. 2022, table 1, on y = x / alpha at level s
        s, d = sigma / alpha, 0.5
        y = x0 + s * eps
        whole = (s**2 + d**2).sqrt()
        assert (answer - (x0 - d**2 / whole**2 * y) / (s * d / whole)).abs().max() < 1e-6


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", PATHS)
def test_the_denoiser_of_an_oracle_returns_x0(name, row):
    path = PATHS[name]
    x0, t, eps = world(path)
    network = Oracle(path, ROWS[row], x0, t, eps)
    found = p.from_network(network, path, ROWS[row])(path.diffuse(x0, t, eps), t).x0
    assert (found - x0).abs().max() < 1e-6


def test_edm_feeds_and_asks_unit_variance():
    """Data of std 0.5: inputs and targets have variance 1 at every level (40,000 draws, 4 s.e.)."""
    path, row = PATHS["vp_linear"], p.edm(data_std=0.5)
    g = torch.Generator().manual_seed(0)
    n = 40_000
    x0 = 0.5 * torch.randn(n, dtype=torch.float64, generator=g)
    eps = torch.randn(n, dtype=torch.float64, generator=g)
    for time in (0.05, 0.4, 0.9):
        t = torch.full((1,), time, dtype=torch.float64)
        alpha, sigma = path.alpha_sigma(t)
        skip, out, scale = row.coefficients(alpha, sigma)
        x = alpha * x0 + sigma * eps
        for unit in (scale * x, (x0 - skip * x) / out):
            assert abs(float(unit.var()) - 1) < 4 * (2 / n) ** 0.5


def objective(path, row, norm="l2", weight=None):
    return Denoising(PATHS[path], ROWS[row], weight or weighting.simple(), times.uniform(), norm)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("path", PATHS)
def test_the_loss_is_the_eps_error_whatever_the_network_says(path, row, norm):
    """An answer off by a constant: eps_hat - eps = -(alpha / sigma) (x0_hat - x0), by hand."""
    x0, t, eps = world(PATHS[path])
    network = Oracle(PATHS[path], ROWS[row], x0, t, eps, offset=0.1)
    x = PATHS[path].diffuse(x0, t, eps)
    guess = p.from_network(network, PATHS[path], ROWS[row])(x, t).x0
    alpha, sigma = (over(value, x0) for value in PATHS[path].alpha_sigma(t))
    eps_hat = (x - alpha * guess) / sigma
    error = (eps_hat - eps).abs() if norm == "l1" else (eps_hat - eps) ** 2
    found = objective(path, row, norm).loss(network, x0, t, eps)
    assert (found / error.flatten(1).mean(1) - 1).abs().max() < 1e-6


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


def test_weightings_are_those_of_their_papers_in_eps_units():
    """Each stated on another error; eps error = SNR x0 error, v error = (1 + 1/SNR) eps error."""
    log_snr = torch.linspace(-8, 8, 33, dtype=torch.float64)
    snr = log_snr.exp()
    assert torch.equal(weighting.simple()(log_snr), torch.ones_like(snr))
    assert torch.allclose(weighting.v()(log_snr) * snr, snr + 1)
    assert torch.allclose(weighting.min_snr(gamma=5.0)(log_snr) * snr, snr.clamp(max=5))
    s = (-log_snr / 2).exp()  # Karras et al. 2022: (s^2 + d^2) / (s d)^2 on the x0 error
    assert torch.allclose(weighting.edm()(log_snr) * snr, (s**2 + 0.25) / (s * 0.5) ** 2)


def test_times_have_their_distributions():
    path, n = PATHS["vp_linear"], 4000
    noise = Noise(range(n))
    u = times.uniform()(path, noise)
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / n) ** 0.5
    drawn = times.stratified()(path, Noise(range(n)))
    strata = (drawn - path.t_first) / (path.t_max - path.t_first)
    assert torch.equal((strata * n).floor().clamp(max=n - 1), torch.arange(n).double())
    level = -path.log_snr(times.log_normal(mean=-1.2, std=0.4)(path, Noise(range(n)))) / 2
    assert abs(float(level.mean()) + 1.2) < 4 * 0.4 / n**0.5
    assert abs(float(level.std()) / 0.4 - 1) < 4 / (2 * n) ** 0.5


def test_stratified_times_have_less_variance():
    path = PATHS["vp_cosine"]

    def means(draw):
        each = [draw(path, Noise.of(k, each=range(16))).square().mean() for k in range(200)]
        return torch.stack(each).var()

    assert means(times.stratified()) < means(times.uniform()) / 20


def test_the_scaled_noise_level_spreads_the_embedding():
    """SR3's level in [0, 1] unscaled spans one direction; scaled by 1000 it spans many."""
    from core.network.embedding import sinusoidal

    path = schedules.beta_table(steps=2000, beta_start=1e-6, beta_end=1e-2)
    t = torch.linspace(0, 1, 500, dtype=torch.float64)[1:]
    alpha, sigma = path.alpha_sigma(t)

    def rank(level):
        e = sinusoidal(level.float(), 64).double()
        eigen = torch.linalg.svdvals(e - e.mean(0)) ** 2
        return float(eigen.sum() ** 2 / (eigen**2).sum())

    assert rank(alpha) < 1.5
    for name in ("noise_level", "log_snr"):
        assert rank(p.eps(level=name).level(t, alpha, sigma)) > 8
