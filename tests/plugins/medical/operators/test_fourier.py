"""Masked Fourier measurements against closed forms, NumPy and the adjoint identity."""

import math

import numpy as np
import pytest
import torch

from core.errors import InputError
from plugins.medical import kspace
from plugins.medical.kspace import Fourier, fourier, sampling_mask, sensitivities
from plugins.medical.phantoms import fourier_transform, rasterised, shepp_logan

KINDS = ("random", "equispaced", "density", "poisson", "radial")


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
    assert torch.allclose(kspace.inverse_fourier(fourier(x)), x)


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("acceleration", [4.0, 8.0])
def test_masks_measure_what_they_say(kind, acceleration):
    mask = sampling_mask(kind, 64, 80, acceleration=acceleration, centre=0.08, seed=3)
    assert 0.9 * acceleration < 1 / float(mask.double().mean()) < 1.1 * acceleration
    assert mask[32 - 2 : 32 + 2, 40 - 3 : 40 + 3].all()
    again = sampling_mask(kind, 64, 80, acceleration=acceleration, centre=0.08, seed=3)
    other = sampling_mask(kind, 64, 80, acceleration=acceleration, centre=0.08, seed=4)
    assert torch.equal(mask, again)
    assert not torch.equal(mask, other)
    if kind in ("random", "equispaced"):
        assert (mask == mask[:1]).all()  # whole columns


def test_equispaced_columns_are_evenly_apart():
    columns = sampling_mask("equispaced", 1, 128, acceleration=4.0, centre=0.08, seed=1)[0]
    at = np.flatnonzero(columns.numpy())
    outside = at[(at < 59) | (at > 68)]
    gaps = np.diff(outside)
    gaps = gaps[gaps < 10]  # but across the middle
    assert gaps.max() - gaps.min() <= 1


def test_points_of_a_poisson_disc_keep_their_distance():
    """None outside the middle has another within the least distance; free points do."""

    def nearest(kind):
        mask = sampling_mask(kind, 64, 64, acceleration=8.0, centre=0.05, seed=0).numpy()
        mask[30:35, 30:35] = False
        at = np.argwhere(mask)
        apart = np.hypot(*(at[:, None] - at).transpose(2, 0, 1)) + 1e9 * np.eye(len(at))
        radius = np.hypot(*((at - 32) / 32).T)
        return apart.min(1)[(radius > 0.8)].min()

    assert nearest("poisson") >= 2
    assert nearest("density") < 2


def coils_of(size, count=6):
    """Smooth maps of loops around the picture, their squares adding up to 1."""
    line = torch.linspace(-1, 1, size)
    maps = []
    for turn in np.arange(count) * 2 * math.pi / count:
        x, y = line - 1.5 * math.cos(turn), line[:, None] - 1.5 * math.sin(turn)
        maps.append(
            torch.polar(
                1 / (x**2 + y**2),
                turn + 0.8 * (line * math.cos(turn) - line[:, None] * math.sin(turn)),
            )
        )
    maps = torch.stack(maps)
    maps = maps / maps.abs().square().sum(0).sqrt()
    return maps * torch.exp(-1j * maps[:1].angle())


def test_sensitivities_come_back_from_the_middle_of_k_space():
    truth = coils_of(64)
    image = rasterised(shepp_logan(256.0), 64, 64, 4.0).float()
    k = fourier(truth * image)
    found = sensitivities(k[:, 20:44, 20:44], 64, 64)
    inside = image > 0.05
    apart = (found - truth).abs().square().sum(0).sqrt()
    assert float(apart[inside].mean()) < 0.02
    assert float(apart[inside].max()) < 0.2
    assert (found.abs().sum(0)[:4, :4] == 0).all()  # in a corner nothing is seen


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="a picture of 1 channels"):
        Fourier().forward(torch.zeros(1, 1, 16, 16))
    whole = Fourier().given(frequencies=torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(InputError, match="a mask of 8x8 for a picture of 16x16"):
        whole.forward(torch.zeros(1, 2, 16, 16))
    maps = torch.ones(2, 8, 8, dtype=torch.complex64)
    with pytest.raises(InputError, match="sensitivities of 8x8 for a picture of 16x16"):
        Fourier().given(sensitivities=maps).forward(torch.zeros(1, 2, 16, 16))
    with pytest.raises(InputError, match="acceleration: expected at least 1, got 0"):
        Fourier(acceleration=0.0)
    with pytest.raises(InputError, match="more than the 4 that an acceleration of 4 leaves"):
        sampling_mask("random", 16, 16, acceleration=4.0, centre=0.5)
    with pytest.raises(InputError, match="more than the 64 that an acceleration of 4 leaves"):
        sampling_mask("density", 16, 16, acceleration=4.0, centre=0.6)
    with pytest.raises(InputError, match="measure at least 12 each way"):
        sensitivities(torch.zeros(2, 8, 8, dtype=torch.complex64), 16, 16)
