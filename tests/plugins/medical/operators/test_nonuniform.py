"""Trajectories: the sum itself, the adjoint, and Cartesian ones, which are the masked transform."""

import math
from importlib.util import find_spec

import pytest
import torch

from core.errors import InputError
from core.inverse.measurement import Measurement
from plugins.medical.operators import nonuniform
from plugins.medical.operators.ellipses import rasterised, shepp_logan
from plugins.medical.operators.fourier import Fourier, to_real
from plugins.medical.operators.nonuniform import NonUniform, radial, spiral
from plugins.medical.tasks import classical

needs_library = pytest.mark.skipif(find_spec(nonuniform.LIBRARY) is None, reason="no mri-nufft")


def draw(*shape, seed=0, dtype=torch.complex128):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@needs_library
@pytest.mark.parametrize(("height", "width"), [(12, 16), (11, 15)])
def test_samples_are_the_sum_itself(height, width):
    trajectory = spiral(3, 20)
    coils = draw(2, height, width, seed=1)
    operator = NonUniform(trajectory, height, width, coils)
    x = draw(2, 2, height, width, dtype=torch.float64, seed=2)
    down = torch.arange(height) - height // 2
    across = torch.arange(width) - width // 2
    turns = trajectory[:, :1, None] * down[:, None] + trajectory[:, 1:, None] * across
    waves = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
    images = torch.complex(x[:, 0], x[:, 1])[:, None] * coils
    exact = torch.einsum("nhw,bchw->bcn", waves, images) / math.sqrt(height * width)
    assert (operator.forward(x) - exact).abs().max() < 1e-5  # FINUFFT's tolerance is 1e-6


@needs_library
@pytest.mark.parametrize("trajectory", [radial(13, 24), spiral(5, 60)], ids=["radial", "spiral"])
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_adjoint_is_one(trajectory, dtype, least):
    kind = torch.complex64 if dtype == torch.float32 else torch.complex128
    operator = NonUniform(trajectory, 24, 33, draw(3, 24, 33, seed=1, dtype=kind))
    x = draw(2, 2, 24, 33, dtype=dtype)
    y = operator.forward(x)
    assert y.dtype == kind
    w = draw(*y.shape, dtype=kind, seed=3)
    left = float((y.conj() * w).real.double().sum())
    right = float((x * operator.adjoint(w)).double().sum())
    assert abs(left - right) <= least * abs(left)


@needs_library
@pytest.mark.parametrize(("height", "width"), [(16, 12), (15, 11)])
def test_a_cartesian_trajectory_is_the_masked_transform(height, width):
    operator = Fourier(mask="random", acceleration=2.0, centre=0.2)
    mask = operator.measured(height, width)
    at = mask.nonzero().double()
    k = torch.stack([(at[:, 0] - height // 2) / height, (at[:, 1] - width // 2) / width], -1)
    x = draw(2, 2, height, width, dtype=torch.float64)
    ours = NonUniform(k, height, width).forward(x)
    assert (ours - operator.forward(x)[..., mask]).abs().max() < 1e-5


@needs_library
@pytest.mark.parametrize("trajectory", [radial(60, 64), spiral(16, 400)], ids=["radial", "spiral"])
def test_gridding_is_near_the_picture_and_least_squares_nearer(trajectory):
    image = rasterised(shepp_logan(64.0), 64, 64, 1.0).float()
    x = to_real(torch.complex(image, 0 * image)[None])
    operator = NonUniform(trajectory, 64, 64)
    y = operator.forward(x)
    gridded = operator.gridded(y)
    plain = operator.adjoint(y)
    plain = plain * (plain * x).sum() / plain.square().sum()
    away = [float((one - x).norm() / x.norm()) for one in (plain, gridded)]
    assert away[1] < 0.6 * away[0]
    found = classical.least_squares(Measurement(operator, y, 1e-4), gridded, iterations=30)
    assert float((found - x).norm() / x.norm()) < 0.8 * away[1]


@needs_library
def test_gradients_are_the_adjoint():
    operator = NonUniform(radial(3, 8), 4, 5)
    x = draw(1, 2, 4, 5, dtype=torch.float64).requires_grad_()
    y = draw(1, 1, 24, seed=1)
    (slope,) = torch.autograd.grad((operator.forward(x) - y).abs().square().sum() / 2, x)
    exact = operator.adjoint(operator.forward(x) - y)
    assert torch.allclose(slope, exact.detach(), atol=1e-6)


@needs_library
def test_frequencies_in_other_units_are_refused():
    with pytest.raises(InputError, match=r"from -0\.5 to 0\.5, in cycles per pixel, got -16"):
        NonUniform(32 * radial(4, 32).clamp(max=15 / 32), 32, 32)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(nonuniform.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"polymode\[medical-noncartesian\]"):
        NonUniform(radial(3, 8), 4, 5)
