"""Classical reconstruction against closed forms, direct solutions and scikit-image."""

import numpy as np
import pytest
import torch

from core.inverse.measurement import Measurement
from core.inverse.operators import Mask, Matrix
from plugins.medical.operators.ellipses import rasterised, shepp_logan
from plugins.medical.tasks import classical


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_least_squares_reach_the_solution_and_stop_at_the_noise():
    matrix = normal(30, 16, seed=1)
    x = normal(2, 1, 4, 4, seed=2)
    operator = Matrix(matrix, (1, 4, 4))
    y = operator.forward(x)
    for iterations in (40, 4000):  # and stays there
        exact = classical.least_squares(
            Measurement(operator, y), torch.zeros_like(x), iterations=iterations
        )
        assert (exact - x).abs().max() < 1e-5
    noisy = y + 0.1 * normal(*y.shape, seed=3)
    found = classical.least_squares(Measurement(operator, noisy, 0.1), torch.zeros_like(x))
    left = (noisy - operator.forward(found)).square().mean(1).sqrt()
    assert bool((left <= 0.1).all())
    alone = classical.least_squares(Measurement(operator, noisy[1:], 0.1), torch.zeros_like(x[1:]))
    assert torch.equal(alone, found[1:])


def test_the_gradient_and_the_divergence_are_adjoint():
    x, q = normal(2, 2, 5, 7, seed=1), normal(2, 2, 2, 5, 7, seed=2)
    left = (classical.gradient(x) * q).sum()
    right = -(x * classical.divergence(q)).sum()
    assert float(left - right) == pytest.approx(0, abs=1e-12)


def test_the_operator_norm_is_the_largest_singular_value():
    matrix = normal(9, 12, seed=4)
    found = classical.operator_norm(
        Matrix(matrix, (1, 3, 4)), torch.zeros(2, 1, 3, 4).double(), rounds=200
    )
    assert found.tolist() == pytest.approx([float(torch.linalg.matrix_norm(matrix, 2))] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.05, 0.4])
def test_total_variation_of_one_step_is_the_closed_form(weight):
    """A step of height h between halves of n pixels each in a row: each moves by weight / n."""
    n, h = 8, 1.0
    row = torch.cat([torch.zeros(n), torch.full((n,), h)]).double().expand(1, 1, 1, -1)
    measurement = Measurement(Mask(torch.ones(1)), row, 1.0)
    found = classical.total_variation(
        measurement, torch.zeros_like(row), weight=weight, iterations=4000
    )
    exact = torch.where(row > 0, h - weight / n, weight / n)
    assert (found - exact).abs().max() < 1e-3


@pytest.mark.slow
def test_total_variation_is_scikit_images_where_all_is_measured():
    """Chambolle's method on |x - y|^2 / (2 weight) + TV(x), there with another discretised edge."""
    from skimage.restoration import denoise_tv_chambolle

    truth = rasterised(shepp_logan(48.0), 48, 48, 1.0).double()
    noisy = truth + 0.1 * normal(48, 48, seed=5)
    peer = denoise_tv_chambolle(noisy.numpy(), weight=0.15, eps=1e-9, max_num_iter=4000)
    measurement = Measurement(Mask(torch.ones(1)), noisy[None, None], 1.0)
    found = classical.total_variation(measurement, noisy[None, None], weight=0.15, iterations=4000)
    assert np.abs(found[0, 0].numpy() - peer).max() < 5e-3


def test_sparse_wavelets_of_a_whole_measurement_are_a_soft_threshold():
    import pywt

    y = normal(1, 1, 16, 16, seed=6)
    measurement = Measurement(Mask(torch.ones(1)), y, 1.0)
    found = classical.sparse_wavelets(
        measurement, torch.zeros_like(y), weight=0.3, iterations=300, wavelet="haar"
    )
    parts = pywt.wavedec2(y[0, 0].numpy(), "haar", mode="periodization", level=4)
    parts[1:] = [tuple(pywt.threshold(x, 0.3, "soft") for x in level) for level in parts[1:]]
    exact = pywt.waverec2(parts, "haar", mode="periodization")
    assert np.abs(found[0, 0].numpy() - exact).max() < 1e-6
