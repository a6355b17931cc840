"""The filter bank, on polynomials and against SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from core.errors import InputError
from core.request import Machine
from plugins.segmentation.features.filters import Filters

NAMES = ("gauss", "gradient", "laplacian", "hessian 1", "hessian 2", "structure 1", "structure 2")


def at(image, scale):
    """The filters of one scale of a grey image, by name."""
    found = Filters(Machine(), scales=(scale,))(image.expand(1, 3, -1, -1))
    maps = found.values[0]
    assert maps.shape[1] == 24
    return {name: maps[0, 3 + 3 * i] for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("scale", [0.7, 1.6, 5.0])
def test_derivatives_of_polynomials_are_exact_in_the_middle(scale):
    y, x = torch.meshgrid(torch.arange(96.0) - 48, torch.arange(96.0) - 48, indexing="ij")
    inner = (slice(44, 52), slice(44, 52))
    plane = at(0.03 * y - 0.04 * x, scale)
    assert plane["gradient"][inner].sub(0.05 * scale).abs().max() < 1e-5
    assert plane["hessian 1"][inner].abs().max() < 1e-4
    # One direction alone: the structure tensor has the squared slope, and 0 across it.
    assert plane["structure 1"][inner].sub((0.05 * scale) ** 2).abs().max() < 1e-5
    assert plane["structure 2"][inner].abs().max() < 1e-5
    bowl = at(0.001 * (2 * y**2 + 2 * y * x - x**2), scale)
    # The Hessian [[4, 2], [2, -2]] has the eigenvalues 1 +- sqrt(13).
    for name, value in (("hessian 1", 1 + math.sqrt(13)), ("hessian 2", 1 - math.sqrt(13))):
        assert bowl[name][inner].sub(0.001 * value * scale**2).abs().max() < 1e-4
    assert bowl["laplacian"][inner].sub(0.002 * scale**2).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(40, 31), (3, 5)])
def test_gaussians_are_scipys_at_the_edges_too(shape):
    image = torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).float()
    found = at(image, 3.5)["gauss"]
    expected = ndimage.gaussian_filter(image.double().numpy(), 3.5, mode="reflect", truncate=4.0)
    assert np.abs(found.numpy() - expected).max() < 1e-5


def test_channels_and_scales():
    features = Filters(Machine())
    maps = features(torch.zeros(2, 3, 9, 7))
    assert [v.shape for v in maps.values] == [(2, 129, 9, 7)]
    assert tuple(features.channels) == (129,)
    assert features.digest() != Filters(Machine(), scales=(1.0,)).digest()
    for scales in ((), (0.0,), (65.0,)):
        with pytest.raises(InputError, match="scales: expected"):
            Filters(Machine(), scales=scales)
