"""Regions of an image from options."""

import numpy as np
import torch
from PIL import Image
from skimage import data as photographs

from core.process.schedules import vp_linear
from core.testing.distributions import Gaussian

PROCESS, WORLD = vp_linear(), Gaussian(0.3, 0.5)


def picture(*shape, seed=0, dtype=torch.float64):
    return WORLD.draw(shape, torch.Generator().manual_seed(seed)).to(dtype)


def test_regions_add_up_where_the_picture_is_and_become_opaque(tmp_path):
    from plugins.image2image.inference.region import Region

    given = np.dstack([photographs.coffee()[:10, :12], np.full((10, 12), 199, np.uint8)])
    given[8, 9, 3] = 0
    Image.fromarray(given).save(tmp_path / "in.png")
    region = Region(box=("1,2,3,4",), transparent=True, extend=("left=5", "top=6"))
    picture, fill = region.of(tmp_path / "in.png", needed=True)
    expected = np.ones((16, 17), bool)
    expected[6:, 5:] = False
    expected[6 + 2 : 6 + 6, 5 + 1 : 5 + 4] = True
    expected[6 + 8, 5 + 9] = True
    assert fill is not None
    assert picture.alpha is not None
    assert np.array_equal(fill.numpy(), expected)
    assert torch.equal(picture.alpha[0], torch.where(fill, 1.0, torch.tensor(199 / 255)))
