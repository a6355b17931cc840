"""Coil sensitivities against those that k-space was made with."""

import math

import numpy as np
import pytest
import torch

from core.errors import InputError
from plugins.medical.operators.coils import espirit, middle
from plugins.medical.operators.ellipses import rasterised, shepp_logan
from plugins.medical.operators.fourier import (
    fourier,
)


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
    found = espirit(k[:, 20:44, 20:44], 64, 64)
    inside = image > 0.05
    apart = (found - truth).abs().square().sum(0).sqrt()
    assert float(apart[inside].mean()) < 0.02
    assert float(apart[inside].max()) < 0.2
    assert (found.abs().sum(0)[:4, :4] == 0).all()  # in a corner nothing is seen


def test_a_small_calibration_region_is_refused():
    with pytest.raises(InputError, match="at least 12x12 frequencies"):
        espirit(torch.zeros(2, 8, 8, dtype=torch.complex64), 16, 16)


def test_the_middle_is_what_is_wholly_measured():
    mask = torch.zeros(32, 40, dtype=torch.bool)
    mask[:, 17:23] = True
    assert middle(mask) == (16, 3)
    mask[3] = False
    assert middle(mask) == (12, 3)
