"""Processes, rows and denoisers are values: they pickle, print in one line, take any form of t."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from core.denoiser.parameterization import FunctionDenoiser, NetworkDenoiser, v
from core.parts.config import configure
from core.parts.registry import Spec, installed
from core.process import schedules
from core.testing.distributions import Gaussian

PROCESSES = [name for name, _ in installed().names("process")]
ROWS = [name for name, _ in installed().names("parameterization")]


class Scaled(nn.Module):
    """x times a weight, moved by the level of each sample."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, level, condition=None):
        return self.weight * x + level[:, None] / 500


def copied(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_was_pickled_has_the_same_values(name):
    process = configure("process", Spec(name))()
    other = copied(process)
    t = torch.linspace(process.t_first, process.t_max, 101, dtype=torch.float64)
    assert (other.t_min, other.t_max, other.t_first) == (
        process.t_min, process.t_max, process.t_first,
    )  # fmt: skip
    for mine, theirs in zip(process.alpha_sigma(t), other.alpha_sigma(t), strict=True):
        assert torch.equal(mine, theirs)
    log_snr = torch.linspace(-12, 12, 101, dtype=torch.float64)
    assert torch.equal(process.time_of_log_snr(log_snr), other.time_of_log_snr(log_snr))


@pytest.mark.parametrize("name", ROWS)
def test_a_denoiser_that_was_pickled_has_the_same_estimates(name):
    row = configure("parameterization", Spec(name))()
    denoise = NetworkDenoiser(Scaled(), schedules.vp_cosine(), row)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    assert torch.equal(copied(denoise)(x, t).x0, denoise(x, t).x0)


@pytest.mark.parametrize("level", ["log_snr", "noise_level", "time", "index"])
def test_a_level_that_was_pickled_is_the_same(level):
    row, alpha = v(level=level), torch.linspace(0.05, 0.95, 50, dtype=torch.float64)
    values = (1 - alpha, alpha, (1 - alpha**2).sqrt())
    assert torch.equal(copied(row).level(*values), row.level(*values))


def test_values_print_in_one_line_that_names_their_options():
    process = schedules.vp_linear(beta_max=15.0)
    assert repr(process) == "GaussianPath(VPLinear(beta_min=0.1, beta_max=15.0), t from 0 to 1)"
    denoise = NetworkDenoiser(nn.Linear(3, 3), process, v(level="time"))
    assert repr(denoise) == (
        "NetworkDenoiser(Linear, 12 parameters, v(level=time) on "
        "VPLinear(beta_min=0.1, beta_max=15.0))"
    )
    for name in PROCESSES:
        text = repr(configure("process", Spec(name))())
        assert "\n" not in text
        assert "tensor(" not in text


@pytest.mark.parametrize(
    "denoise",
    [
        NetworkDenoiser(Scaled(), schedules.vp_cosine(), v()),
        FunctionDenoiser(schedules.edm(), Gaussian().denoiser(schedules.edm())),
    ],
    ids=["network", "function"],
)
def test_one_time_serves_all_samples(denoise):
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = denoise(x, torch.full((4,), 0.4, dtype=torch.float64)).x0
    for t in (0.4, np.float64(0.4), torch.tensor(0.4, dtype=torch.float64)):
        assert torch.equal(denoise(x, t).x0, expected)


def test_numbers_are_times_of_a_process():
    """Of `edm` sigma(t) = t and alpha = 1, so x_t = x0 + t eps and log-SNR = -2 log t."""
    process, x0 = schedules.edm(), torch.ones(2, 3, dtype=torch.float64)
    assert [float(value) for value in process.alpha_sigma(0.5)] == [1, 0.5]
    assert float(process.log_snr(0.5)) == pytest.approx(2 * np.log(2), abs=1e-15)
    assert float(process.time_of_log_snr(2 * np.log(2))) == pytest.approx(0.5, abs=1e-15)
    assert torch.equal(process.diffuse(x0, 0.5, 4 * x0), 3 * x0)
    assert float(process.drift_diffusion(0.5)[1]) == 1  # g^2 = 2 t
    a, b, variance = (float(value) for value in process.posterior_coefficients(0.5, 0.25))
    assert (a, b, variance) == (0.25, 0.75, 0.25**2 * 0.75)  # (u/t)^2, 1 - (u/t)^2, u^2 b
