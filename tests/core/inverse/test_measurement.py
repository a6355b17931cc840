"""DDS against conjugate gradients worked out by hand, and weighted measurements by the identity."""

from functools import partial

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.inverse.measurement import Measurement, dot
from core.inverse.operators import Matrix, Weighted
from core.inverse.posterior import dds
from core.process.schedules import edm, vp_linear
from core.sampler.ancestral import DDIM

N = 5


def normal(*shape, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=draw)


A = normal(3, N, seed=1)


def estimated(method, noise, path):
    """x0 after the method, of a denoiser that says the same whatever it is asked."""
    x0, y = normal(2, N, seed=2), normal(2, 3, seed=3)
    measurement = Measurement(Matrix(A, (N,)), y, noise)
    guided = method(
        measurement, FunctionDenoiser(path, lambda x, t, condition=None: Prediction(x0)), DDIM()
    )
    return x0, y, guided.denoise(normal(2, N, seed=4), torch.full((2,), 0.5).double()).x0


@pytest.mark.parametrize("path", [edm(), vp_linear()])
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_one_step_of_dds_is_the_exact_line_search(path, noise):
    x0, y, found = estimated(partial(dds, iterations=1), noise, path)
    slope = (y - x0 @ A.T) @ A
    bend = (slope @ A.T).square().sum(1) + noise**2 * slope.square().sum(1)
    exact = x0 + (slope.square().sum(1) / bend)[:, None] * slope
    assert (found - exact).abs().max() < 1e-12


@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_as_many_steps_of_dds_as_rows_reach_the_minimiser(gain):
    noise = 0.4
    x0, y, found = estimated(partial(dds, iterations=3, noise_gain=gain), noise, edm())
    system = A.T @ A + (gain * noise) ** 2 * torch.eye(N).double()
    exact = torch.linalg.solve(system, (y @ A + (gain * noise) ** 2 * x0).T).T
    assert (found - exact).abs().max() < 1e-9


def test_weighted_measurements_keep_the_adjoint():
    deviation = torch.tensor([0.1, 2.0, 5.0], dtype=torch.float64)
    weighted = Weighted(Matrix(A, (N,)), 1 / deviation)
    x, y = normal(4, N, seed=5), normal(4, 3, seed=6)
    apart = dot(weighted.forward(x), y) - dot(x, weighted.adjoint(y))
    assert apart.abs().max() < 1e-12
