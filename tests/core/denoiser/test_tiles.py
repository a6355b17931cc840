"""Tiles blended at every step: known answers of pointwise denoisers, and seams measured."""

import sys
from pathlib import Path

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.denoiser.tiles import seam_ratio
from core.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[1]))

from functools import partial
from itertools import pairwise

from core.denoiser.tiles import starts, tiled
from core.process.schedules import vp_cosine


@partial(FunctionDenoiser, vp_cosine())
def pointwise(x, t, condition=None):
    return Prediction(x.tanh() + condition["image"])


def test_tiles_of_a_pointwise_denoiser_change_nothing():
    x = torch.randn(1, 3, 150, 97, generator=torch.Generator())
    condition, t = {"image": x.flip(-1)}, torch.zeros(1)
    whole = pointwise(x, t, condition).x0
    for tile, overlap in ((64, 16), (40, 0), (97, 30), (500, 64)):
        found = tiled(pointwise, tile=tile, overlap=overlap)(x, t, condition).x0
        assert (found - whole).abs().max() < 1e-5


def test_tiles_cover_an_axis_and_overlap():
    for length in (64, 65, 100, 128, 1000):
        begins = starts(length, 64, 16)
        covered = sorted({i for b in begins for i in range(b, min(b + 64, length))})
        assert covered == list(range(length))
        assert all(b - a <= 48 for a, b in pairwise(begins))
    with pytest.raises(InputError, match="overlap"):
        tiled(pointwise, tile=64, overlap=64)


def test_a_seam_is_seen_for_what_it_is():
    """Slopes of 1 with slopes of 3 where the tiles of 8 that share 2 begin and end."""
    step = torch.ones(19)
    step[[5, 7, 11, 13]] = 3  # before pixels 6, 8, 12, 14
    along = torch.cat([torch.zeros(1), step.cumsum(0)])
    assert seam_ratio(along.expand(1, 3, 5, 20), 8, 2) == pytest.approx(3)
    assert seam_ratio(along[:, None].expand(1, 3, 20, 20), 8, 2) == pytest.approx(3)
    assert seam_ratio(along.expand(1, 3, 20, 20) + along[:, None], 8, 2) == pytest.approx(3)
    step[1::2] = 3  # every even line is steep: of those none stands out
    along = torch.cat([torch.zeros(1), step.cumsum(0)])
    assert seam_ratio(along.expand(1, 3, 5, 20), 8, 2, every=2) < 1.01
    with pytest.raises(InputError, match="no seam"):
        seam_ratio(torch.zeros(1, 3, 8, 8), 8, 2)
