"""Phases of complex pictures."""

import sys
from pathlib import Path

import numpy as np
import torch

from plugins.medical.operators.fourier import (
    fourier,
)
from plugins.medical.operators.phase import low_phase, smooth_phase, turned

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_phantoms import phantom


def test_the_low_phase_takes_a_smooth_phase_out():
    magnitude = (phantom(128)["image"][0] + 1) / 2
    random = np.random.default_rng(0)
    phased = turned(magnitude.to(torch.complex64), smooth_phase(random, 128, 128)[None])
    left = turned(phased, -low_phase(fourier(phased)))
    assert float(left.imag.norm() / left.norm()) < 0.2
    assert float(phased.imag.norm() / phased.norm()) > 0.3
    assert torch.allclose(left.abs(), phased.abs(), atol=1e-6)
