"""Parameterizations against the definitions of their papers."""

import pytest
import torch
from torch import nn

from core.denoiser import parameterization as p
from core.parts.registry import Spec
from core.process import schedules
from core.process.gaussian import over

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "beta_table": schedules.beta_table(),
    "edm": schedules.edm(),
    "sub_vp": schedules.sub_vp(),
    "ve": schedules.ve(),
    "flow": schedules.flow(),
    "zero": schedules.zero_terminal_snr(),
    "shifted": schedules.shifted(process=Spec("core/flow"), factor=3.0),
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
    """A network that says exactly what a parameterization asks, for a known x0."""

    def __init__(self, path, row, x0, t, eps, offset=0.0):
        super().__init__()
        alpha, sigma = (over(value, x0) for value in path.alpha_sigma(t))
        skip, out = row.coefficients(alpha, sigma)[:2]
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
    expected = {
        "eps": eps,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "score": (alpha * x0 - path.diffuse(x0, t, eps)) / sigma**2,
        "flow": eps - x0,
    }
    if row in expected:
        size = (1 / sigma**2).max() if row == "score" else 1.0
        assert (answer - expected[row]).abs().max() < 1e-6 * size
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
    found = p.NetworkDenoiser(network, path, ROWS[row])(path.diffuse(x0, t, eps), t).x0
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
        skip, out, scale = row.coefficients(alpha, sigma)[:3]
        x = alpha * x0 + sigma * eps
        for unit in (scale * x, (x0 - skip * x) / out):
            assert abs(float(unit.var()) - 1) < 4 * (2 / n) ** 0.5


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", PATHS)
def test_x0_comes_back_from_any_row_and_any_row_from_any_other(name, row):
    """The round trip, and F of one row from F of another, both by way of x0 alone.

    Where F says the noise, x0 is a difference of terms 1/alpha large: 1e-12 of that.
    """
    path, mine = PATHS[name], ROWS[row]
    x0, t, eps = world(path)
    alpha, sigma = path.alpha_sigma(t)
    x = path.diffuse(x0, t, eps)
    size = 4 * (1 + over(sigma / alpha, x0))
    back = mine.to_x0(mine.from_x0(x0, x, alpha, sigma), x, alpha, sigma)
    assert ((back - x0).abs() / size).max() < 1e-12
    for other in ROWS.values():
        wanted = over(1.0 * other.target(alpha, sigma)[0], x0) * x0
        wanted = wanted + over(other.target(alpha, sigma)[1], x0) * eps
        found = other.from_x0(back, x, alpha, sigma)
        gain = over(other.coefficients(alpha, sigma).out.abs(), x0)  # F's error is x0's over out
        assert ((found - wanted).abs() * gain / size).max() < 1e-12


def test_eps_at_pure_noise_says_zero_and_other_rows_say_x0():
    path = schedules.flow()
    x0, _, eps = world(path)
    t = torch.ones(len(x0), dtype=torch.float64)
    x = path.diffuse(x0, t, eps)
    for name in ("eps", "score"):
        network = Oracle(PATHS["edm"], ROWS["x0"], 7.0 * eps, t, eps)  # answers anything
        assert p.NetworkDenoiser(network, path, ROWS[name])(x, t).x0.abs().max() == 0
    for name in ("x0", "v", "flow", "edm"):
        network = Oracle(path, ROWS[name], x0, t, eps)
        assert (p.NetworkDenoiser(network, path, ROWS[name])(x, t).x0 - x0).abs().max() < 1e-12


def test_a_network_with_twice_the_channels_says_a_share_of_the_variance():
    """Nichol and Dhariwal 2021, eq. 15: v in [-1, 1] becomes (v + 1) / 2."""
    path = PATHS["vp_cosine"]
    x0, t, eps = world(path)
    mean = Oracle(path, ROWS["v"], x0, t, eps).answer
    v = torch.linspace(-1, 1, x0.numel(), dtype=torch.float64).reshape(x0.shape)

    class Both(nn.Module):
        def forward(self, x, level, condition=None):
            return torch.cat([mean, v], dim=1)

    said = p.NetworkDenoiser(Both(), path, ROWS["v"])(path.diffuse(x0, t, eps), t)
    assert (said.x0 - x0).abs().max() < 1e-9
    assert torch.equal(said.variance_fraction, (v + 1) / 2)


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
