"""A linear layer before upsampling equals the same layer on the upsampled tensor."""

import sys
from pathlib import Path

import pytest
import torch

from plugins.segmentation.heads.projection import projected, sampled

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_maps import eager, noise_maps


@pytest.mark.parametrize("rows", [range(21), range(1), range(5, 18), range(20, 21)])
def test_projection_and_upsampling_commute(rows):
    maps = noise_maps(batch=2)
    weight = torch.randn(7, 14, generator=torch.Generator().manual_seed(1))
    whole = torch.einsum("ok,bkyx->boyx", weight, eager(maps))
    found = projected(maps, weight)
    assert len(found.values) == 3  # two maps have one grid
    torch.testing.assert_close(
        found.rows(rows), whole[:, :, rows.start : rows.stop], atol=1e-5, rtol=0
    )


def test_pixels_have_the_features_of_the_upsampled_tensor():
    maps = noise_maps(batch=2)
    draw = torch.Generator().manual_seed(2)
    y, x = (torch.randint(n, (200,), generator=draw) for n in maps.size)
    y[:2], x[:2] = torch.tensor([0, 20]), torch.tensor([36, 0])
    for image in (0, 1):
        whole = eager(maps)[image][:, y, x].mT
        torch.testing.assert_close(sampled(maps, image, y, x), whole, atol=1e-5, rtol=0)
