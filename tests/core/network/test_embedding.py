"""Embeddings of noise levels and places."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from core.network.embedding import LevelEmbedding, fine_detail, positions, sinusoidal
from core.network.unet import UNet

sys.path.insert(0, str(Path(__file__).parent))
from made_networks import TINY, drawn


def test_sinusoids_are_those_of_the_formula():
    found = sinusoidal(torch.tensor([3.0]), 4)[0]
    cosines, sines = [math.cos(3.0), math.cos(0.03)], [math.sin(3.0), math.sin(0.03)]
    assert found.tolist() == pytest.approx(cosines + sines)
    turned = sinusoidal(torch.tensor([3.0]), 4, sine_first=True)[0]
    assert turned.tolist() == pytest.approx(sines + cosines)
    ddpm = sinusoidal(torch.tensor([3.0]), 4, shift=1)[0]
    assert ddpm.tolist() == pytest.approx([math.cos(3.0), math.cos(3e-4), math.sin(3.0), 3e-4])
    assert sinusoidal(torch.tensor([3.0]), 5).shape == (1, 5)


def test_fourier_features_stay_as_drawn_and_tell_levels_apart():
    layer = LevelEmbedding(64, 32, kind="fourier")
    assert "frequencies" in layer.state_dict()
    assert "frequencies" not in dict(layer.named_parameters())
    # Waves of deviation 16 in c_noise: E cos(2 pi f d) = exp(-(2 pi 16 d)^2 / 2), nothing at 0.1.
    layer.linear1 = torch.nn.Identity()
    layer.linear2 = torch.nn.Identity()
    with torch.no_grad():
        layer.frequencies.copy_(16 * drawn(32))
    angles = 2 * math.pi * torch.tensor([0.0, 0.1])[:, None] * layer.frequencies
    found = layer(torch.tensor([0.0, 20.0]))
    assert torch.allclose(found, F.silu(torch.cat([angles.cos(), angles.sin()], 1)), atol=1e-4)


def test_fine_detail_is_made_large():
    x = torch.tensor([[[0.0, 1 / 256]]])
    found = fine_detail(x, (7,))
    assert found.shape == (1, 3, 2)
    assert found[0, 1].tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert found[0, 2].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    network = UNet(1, 1, {"image": 2}, **TINY, input_octaves=(7, 8))
    assert network.conv_in.weight.shape[1] == 1 * 5 + 2


def test_positions_differ_and_do_not_depend_on_the_size_of_the_grid():
    found = positions((3, 4), 32, torch.device("cpu")).reshape(3, 4, 32)
    assert len(found.flatten(0, 1).unique(dim=0)) == 12
    assert torch.equal(found, positions((5, 9), 32, torch.device("cpu")).reshape(5, 9, 32)[:3, :4])
