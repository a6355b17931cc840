"""Restorations of a user's files: what is known stays, whatever the size and the format."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from plugins.image2image import jpeg

sys.path.insert(0, str(Path(__file__).parent))
from jpeg_coefficients import coefficients

# --- what JPEG files say -----------------------------------------------------------------------


def hard(width, height):
    """Text in pure black on pure white, where a decoder cuts values off, beside a photograph."""
    page = np.clip(photographs.page()[20:, 10:].astype(int) * 3 - 250, 0, 255).astype(np.uint8)
    whole = photographs.coffee()[150:, 60:].copy()
    whole[:, : width // 2] = page[: whole.shape[0], : width // 2, None][: whole.shape[0]][
        [i % 150 for i in range(whole.shape[0])]
    ]
    return whole[:height, :width]


def as_jpeg(pixels, **options):
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def understood(data):
    decoded = np.asarray(Image.open(BytesIO(data)))
    decoded = np.dstack([decoded] * 3) if decoded.ndim == 2 else decoded
    return jpeg.understood(data, torch.from_numpy(decoded / 127.5 - 1).permute(2, 0, 1).float())


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize(("width", "height"), [(17, 33), (61, 47), (64, 48)])
def test_coefficients_are_those_that_the_file_stores(sampling, width, height):
    """Read by an entropy decoder of our own; blocks that the edge cuts are not said."""
    for quality in (5, 30, 75):
        data = as_jpeg(hard(width, height), quality=quality, subsampling=sampling)
        file, (stored, tables) = understood(data), coefficients(data)
        assert np.array_equal(file.tables.numpy(), np.stack(tables))
        n = 16 if sampling == "4:2:0" else 8
        for ours, theirs, block in zip((*file.luma, *file.chroma), stored, (8, n, n), strict=True):
            high, wide = height // block * 8, width // block * 8
            assert ours[high:].isnan().all()
            assert ours[:, wide:].isnan().all()
            said, theirs = ours[:high, :wide].numpy(), theirs[:high, :wide]
            known = ~np.isnan(said)
            assert known.mean() > 0.9
            assert np.array_equal(said[known], theirs[known])
        assert (file.decoded.shape[1] % 16, file.decoded.shape[2] % 16) == (0, 0)
        assert file.notes == ()


def test_a_progressive_file_says_what_its_baseline_does():
    pixels = hard(45, 50)
    one, other = (understood(as_jpeg(pixels, quality=20, progressive=p)) for p in (False, True))
    assert torch.equal(one.luma.nan_to_num(99), other.luma.nan_to_num(99))
    assert torch.equal(one.chroma.nan_to_num(99), other.chroma.nan_to_num(99))


def test_grey_and_other_samplings_say_luma_alone():
    pixels = hard(40, 40)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    for data, notes in (
        (as_jpeg(grey, quality=20), 0),
        (as_jpeg(pixels, quality=20, subsampling="4:2:2"), 1),
    ):
        file, (stored, _) = understood(data), coefficients(data)
        known = ~file.luma[0, :40, :40].isnan().numpy()
        assert known.mean() > 0.9
        assert np.array_equal(file.luma[0, :40, :40].numpy()[known], stored[0][:40, :40][known])
        assert file.chroma.isnan().all()
        assert len(file.notes) == notes


def test_a_file_without_luma_holds_nothing():
    """CMYK, whose components are others; the decoded picture is all that is known."""
    buffer = BytesIO()
    Image.fromarray(hard(40, 40)).convert("CMYK").save(buffer, "JPEG", quality=20)
    file = jpeg.understood(buffer.getvalue(), torch.zeros(3, 40, 40))
    assert file.luma.isnan().all()
    assert file.chroma.isnan().all()
    assert "cannot be used" in file.notes[0]
    image = torch.rand(1, 3, 48, 48) * 2 - 1
    told = file.tables[None], file.luma[None], file.chroma[None]
    assert torch.allclose(jpeg.project(image, *told), image, atol=1e-5)
