"""Bicubic reduction and enlargement against Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from core.errors import InputError
from plugins.image2image.operators.bicubic import Bicubic


def picture(size=96):
    pixels = photographs.coffee()[100 : 100 + size, 200 : 200 + size]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_reduction_and_enlargement_are_pillows_bicubic(factor):
    """Pillow in 32-bit float, an implementation of its own; both renormalise at the border."""
    image, operator = picture(), Bicubic(factor=factor)
    small = operator.forward(image)
    large = operator.up(small)
    for channel in range(3):
        plane = Image.fromarray(image[0, channel].numpy(), mode="F")
        side = 96 // factor
        reduced = plane.resize((side, side), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(reduced) - small[0, channel].numpy()).max() < 1e-5
        again = reduced.resize((96, 96), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(again) - large[0, channel].numpy()).max() < 1e-5


def test_a_picture_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="97x96 pixels has no 4-fold reduction"):
        Bicubic(factor=4).forward(torch.zeros(1, 3, 96, 97))
