"""Masked Fourier measurements against closed forms, NumPy and the adjoint identity."""

import math

import numpy as np
import pytest
import torch

from core.errors import InputError
from plugins.medical.operators.ellipses import fourier_transform, rasterised, shepp_logan
from plugins.medical.operators.fourier import Fourier, fourier, inverse_fourier


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("coils", [1, 3])
def test_the_adjoint_is_one(coils, dtype, least):
    many = torch.complex64 if dtype == torch.float32 else torch.complex128
    seen = draw(coils, 18, 25, dtype=many) if coils > 1 else None
    operator = Fourier().given(sensitivities=seen)
    x = draw(2, 2, 18, 25, dtype=dtype)
    y = operator.forward(x)
    assert y.shape == (2, coils, 18, 25)
    w = draw(*y.shape, dtype=many, seed=1)
    left, right = float((y.conj() * w).real.sum()), float((x * operator.adjoint(w)).sum())
    assert abs(left - right) <= least * float(y.norm() * w.norm())


def test_the_transform_is_numpys_with_the_origin_in_the_middle():
    x = draw(5, 6, dtype=torch.complex128)
    shifted = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x.numpy()), norm="ortho"))
    assert np.abs(fourier(x).numpy() - shifted).max() < 1e-12
    assert torch.allclose(inverse_fourier(fourier(x)), x)


def test_k_space_is_the_closed_form_and_nearer_with_finer_pixels():
    """Of ellipses, in the middle of k-space; pixels that are means blur what is farther out.

    The closed form's origin is the middle of the picture, the transform's a pixel's middle: half a
    pixel to the right of it and below.
    """
    phantom, apart = shepp_logan(256.0), []
    for size in (64, 128, 256):
        pixel = 256 / size
        image = rasterised(phantom, size, size, pixel)[None]
        found = Fourier(acceleration=1.0, centre=1.0).forward(
            torch.stack([image, torch.zeros_like(image)], 1)
        )[0, 0] * (size * pixel**2)  # fmt: skip
        k = (torch.arange(size, dtype=torch.float64) - size // 2) / (size * pixel)
        right, down = k.expand(size, size), k[:, None].expand(size, size)
        exact = fourier_transform(phantom, torch.stack([right, -down], -1))
        exact = exact * torch.polar(torch.ones_like(right), math.pi * pixel * (right + down))
        middle = (slice(size // 2 - 16, size // 2 + 16),) * 2
        apart.append(float((found - exact)[middle].norm() / exact[middle].norm()))
    assert apart[2] < 0.005
    assert apart[0] > 3 * apart[1] > 9 * apart[2]


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="2 channels, real and imaginary part, got 1"):
        Fourier().forward(torch.zeros(1, 1, 16, 16))
    whole = Fourier().given(frequencies=torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(InputError, match="expected a mask of 16x16, as the image, got 8x8"):
        whole.forward(torch.zeros(1, 2, 16, 16))
    maps = torch.ones(2, 8, 8, dtype=torch.complex64)
    with pytest.raises(InputError, match="expected 16x16, as the image, got 8x8"):
        Fourier().given(sensitivities=maps).forward(torch.zeros(1, 2, 16, 16))
    with pytest.raises(InputError, match="acceleration: expected at least 1, got 0"):
        Fourier(acceleration=0.0)
