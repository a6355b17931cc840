"""Luma against Pillow's, and colours with a luma given."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plugins.image2image.operators.luma import (
    levels_luma,
    levels_with_luma,
    luma,
    with_luma,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import noise, picture


def test_luma_is_pillows():
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ours = levels_luma(torch.from_numpy(levels).permute(2, 0, 1)[None].int())
    assert (ours[0, 0].numpy() == np.asarray(Image.fromarray(levels).convert("L"))).all()


@pytest.mark.parametrize("strength", [0.1, 1.0, 5.0])
def test_a_written_colour_has_the_luma_given_for_every_level(strength):
    """Read back by Pillow from a PNG."""
    grey = torch.arange(256).repeat(64).reshape(1, 1, 128, 128).int()
    wild = strength * noise((1, 3, 128, 128))
    levels = levels_with_luma(with_luma(wild, grey / 127.5 - 1), grey)
    buffer = BytesIO()
    Image.fromarray(levels[0].byte().permute(1, 2, 0).numpy()).save(buffer, "PNG")
    read = np.asarray(Image.open(buffer).convert("L"))
    assert (read == grey[0, 0].numpy()).all()


def test_colours_within_range_are_kept_and_others_fade():
    image = picture()[None]
    grey = luma(image)
    assert torch.allclose(with_luma(image, grey), image, atol=1e-5)
    faded = with_luma(grey + 9 * (image - grey), grey)
    assert faded.abs().max() <= 1 + 1e-5
    assert torch.allclose(luma(faded), grey, atol=1e-5)
