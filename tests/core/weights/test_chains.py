"""Chains of published networks: one step from the same eps is the original's.

The references were made by guided-diffusion's own code; see tests/core/weights/reference/README.md.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.denoiser import parameterization as rows
from core.denoiser.parameterization import NetworkDenoiser
from core.errors import InputError
from core.process.gaussian import over
from core.process.schedules import beta_table, cosine_table, custom_table

HERE = Path(__file__).parent / "reference"
sys.path.insert(0, str(HERE))
from recipe import numbers  # noqa: E402

STORED = np.load(HERE / "chains.npz")
ABOUT = json.loads(str(STORED["about"]))


def process_of(schedule, steps):
    """As guided-diffusion names them: linear betas shrink as the chain grows."""
    if schedule == "cosine":
        return cosine_table(steps=steps)
    return beta_table(steps=steps, beta_start=0.1 / steps, beta_end=20 / steps)


class Says(torch.nn.Module):
    """A network with one answer, which keeps what it was told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, level, condition=None):
        self.heard = level
        return self.answer


@pytest.mark.parametrize("says", ["eps", "x0"])
@pytest.mark.parametrize("name", ABOUT["chains"])
def test_one_step_is_the_original_s(name, says):
    """Mean and log-variance; float32 coefficients in the original: 1e-6 of the largest value."""
    schedule, steps = ABOUT["chains"][name]
    process = process_of(schedule, steps)
    shape = tuple(ABOUT["x"])
    x, said, v = (torch.from_numpy(numbers(key, shape)).double() for key in ("x", "eps", "v"))
    index = torch.tensor([i % steps for i in ABOUT["indices"]], dtype=torch.float64)
    network = Says(torch.cat([said, v], dim=1))
    row = getattr(rows, says)(level="index", chain=steps)
    t, u = (index + 1) / steps, index / steps
    found = NetworkDenoiser(network, process, row)(x, t)
    assert (network.heard - index).abs().max() < 1e-9
    a, b, variance = process.posterior_coefficients(t, u)
    mean = over(a, x) * x + over(b, x) * found.x0
    stored = torch.from_numpy(STORED[f"{name}/{says}/mean"]).double()
    for ours, theirs in zip(mean, stored, strict=True):
        assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()
    kept = (process.alpha_sigma(t)[0] / process.alpha_sigma(u)[0]) ** 2
    large, small = (1 - kept).log(), variance.log()
    share = found.variance_fraction
    log_variance = over(small, x) + share * over(large - small, x)
    stored = torch.from_numpy(STORED[f"{name}/{says}/log_variance"]).double()
    later = index > 0  # the original's first step has no variance of its own
    assert (log_variance - stored)[later].abs().max() < 1e-5


def test_the_cosine_table_ends_at_the_cut():
    """The last of a thousand betas would be 1: pi^2 / 4e6 of alpha^2 is left before it."""
    alpha, sigma = cosine_table().alpha_sigma(torch.tensor([0.999, 1.0], dtype=torch.float64))
    f = [math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0.0, 0.999)]
    assert alpha[0] ** 2 == pytest.approx(f[1] / f[0], rel=1e-9)
    assert alpha[1] ** 2 == pytest.approx(f[1] / f[0] * 0.001, rel=1e-9)
    assert (alpha**2 + sigma**2 - 1).abs().max() < 1e-14


def test_the_sigmoid_table_is_that_of_its_formula():
    """beta_n = start + (end - start) / (1 + exp(-s)), s from -6 to 6."""
    process = beta_table(steps=5, beta_start=1e-3, beta_end=0.3, shape="sigmoid")
    kept = 1.0
    for n, s in enumerate((-6, -3, 0, 3, 6), start=1):
        kept *= 1 - (1e-3 + (0.3 - 1e-3) / (1 + math.exp(-s)))
        alpha = process.alpha_sigma(torch.tensor(n / 5, dtype=torch.float64))[0]
        assert float(alpha) ** 2 == pytest.approx(kept, rel=1e-12)


def test_a_custom_table_is_the_product_of_what_it_keeps():
    process = custom_table(betas=(0.1, 0.5, 0.25))
    alpha, _ = process.alpha_sigma(torch.tensor([1, 2, 3], dtype=torch.float64) / 3)
    assert (alpha**2).tolist() == pytest.approx([0.9, 0.45, 0.3375], rel=1e-14)


@pytest.mark.parametrize("build", [cosine_table, custom_table])
def test_a_table_made_to_end_in_noise_keeps_its_first_alpha(build):
    plain, zero = build(), build(zero_terminal_snr=True)
    steps = 1000 if build is cosine_table else 10
    t = torch.tensor([1 / steps, 1.0], dtype=torch.float64)
    (first, _), (before, _) = zero.alpha_sigma(t)[0], plain.alpha_sigma(t)[0]
    assert first == pytest.approx(float(before), rel=1e-12)
    assert zero.alpha_sigma(t)[0][1] == 0


def test_an_index_counts_from_the_first_node_in_its_unit():
    t = torch.tensor([0.0, 0.5 / 4000, 1 / 4000, 2001 / 4000, 1.0], dtype=torch.float64)
    row = rows.v(level="index", chain=4000, unit=0.25)
    assert row.level(t, t, t).tolist() == pytest.approx([0, 0, 0, 500, 999.75])


@pytest.mark.parametrize(
    ("build", "options", "words"),
    [
        (rows.eps, {"chain": 10}, "only the level 'index'"),
        (rows.x0, {"level": "time", "unit": 1.0}, "only the level 'index'"),
        (rows.v, {"level": "index", "chain": 1}, "chain >= 2"),
        (rows.eps, {"level": "index", "unit": 0.0}, "unit > 0"),
        (cosine_table, {"steps": 1}, "steps >= 2"),
        (cosine_table, {"beta_max": 1.0}, "beta_max"),
        (custom_table, {"betas": (0.1,)}, "at least two"),
        (custom_table, {"betas": (0.1, 1.5)}, "1.5"),
    ],
)
def test_what_does_not_fit_is_refused(build, options, words):
    with pytest.raises(InputError, match=words):
        build(**options)
