"""The smoothest image of a JPEG file: it makes the same file, and is nearer to what it was."""

import sys
from pathlib import Path

import pytest
import torch

from core.results.metrics import psnr
from plugins.image2image.operators import jpeg, jpeg_decoding
from plugins.image2image.operators.jpeg_decoding import smoothest

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import picture


def variation(x):
    across, down = x.diff(dim=-1)[:, :-1], x.diff(dim=-2)[..., :-1]
    return (across.square() + down.square()).sum(0).sqrt().sum()


def test_it_has_the_stored_coefficients_less_variation_and_less_error():
    truth = picture(128, top=60, left=100)
    for quality in (20, 50, 75):
        file = jpeg.encode(truth, quality)
        found = smoothest(file)
        levels = torch.einsum("ij,jhw->ihw", jpeg.TO_YCC.float(), (found + 1) * 127.5)
        luma = jpeg.dct(levels[:1] - 128) / jpeg.tiled(file.tables[:1], 128, 128)
        assert (luma - file.luma).abs().max() < 0.5 + 1e-3  # half a quantisation step
        assert variation(found) < 0.97 * variation(file.decoded)
        assert psnr(found[None], truth[None]) > psnr(file.decoded[None], truth[None]) + 0.05


@pytest.mark.slow
def test_bands_are_parts_of_the_whole(monkeypatch):
    file = jpeg.encode(picture(224, top=60, left=100), 30)
    whole = smoothest(file)
    monkeypatch.setattr(jpeg_decoding, "BAND", 64)
    # What comes from further than four blocks of 16 is far below a level, 2 / 255.
    torch.testing.assert_close(smoothest(file), whole, atol=1e-3, rtol=0)


def test_a_file_whose_coefficients_are_unknown_is_as_decoded():
    decoded = picture(32)
    file = jpeg.understood(b"no file", decoded)
    assert torch.equal(smoothest(file), decoded)
