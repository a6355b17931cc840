"""Classical fillings: harmonic and of little total variation."""

import sys
from pathlib import Path

import torch

from plugins.image2image.tasks.classical import harmonic, total_variation

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import picture


def test_a_smooth_filling_is_linear_between_two_sides():
    """Laplace's equation between two lines of different brightness has that one solution."""
    image = torch.zeros(1, 1, 20, 33)
    image[..., 0], image[..., -1] = -1.0, 1.0
    hole = torch.ones(1, 1, 20, 33, dtype=torch.bool)
    hole[..., 0] = hole[..., -1] = False
    found = harmonic(image, hole)
    assert (found - torch.linspace(-1, 1, 33)).abs().max() < 0.05


def test_a_smooth_filling_keeps_what_is_known_and_its_range():
    image, hole = picture()[None], torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    hole[..., 20:50, 10:40] = True
    found = harmonic(image, hole)
    assert found.masked_fill(hole, 0).equal(image.masked_fill(hole, 0))
    assert found.min() >= image.min()
    assert found.max() <= image.max()
    constant = harmonic(torch.full((1, 3, 64, 64), 0.3), hole)
    assert torch.allclose(constant, torch.full_like(constant, 0.3), atol=1e-6)


def test_a_filling_of_little_total_variation_goes_on_with_an_edge():
    step = torch.ones(1, 3, 48, 48)
    step[..., :24] = -1
    hole = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
    hole[..., 18:30, 18:30] = True
    found = total_variation(step, hole)
    assert found.masked_fill(hole, 0).equal(step.masked_fill(hole, 0))
    # The straight edge has the least variation of all fillings; a harmonic one blurs it.
    assert (found - step).square().mean() < 0.5 * (harmonic(step, hole) - step).square().mean()
