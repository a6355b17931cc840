"""JPEG coefficients: those that a file stores, and the nearest image that has them."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from skimage import data as photographs

from core.results.sheet import to_bytes
from plugins.image2image.operators import jpeg
from plugins.image2image.operators.luma import (
    luma,
    to_integers,
)
from plugins.image2image.tasks.jpeg import JPEG

sys.path.insert(0, str(Path(__file__).parents[1]))
from jpeg_coefficients import coefficients


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
    for quality in (5, 75):
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
    """CMYK, whose components are others; the decoded image is all that is known."""
    buffer = BytesIO()
    Image.fromarray(hard(40, 40)).convert("CMYK").save(buffer, "JPEG", quality=20)
    file = jpeg.understood(buffer.getvalue(), torch.zeros(3, 40, 40))
    assert file.luma.isnan().all()
    assert file.chroma.isnan().all()
    assert "cannot be used" in file.notes[0]
    image = torch.rand(1, 3, 48, 48) * 2 - 1
    told = file.tables[None], file.luma[None], file.chroma[None]
    assert torch.allclose(jpeg.project(image, *told), image, atol=1e-5)


def pixels(height, width, at=50):
    return photographs.coffee()[at : at + height, at : at + width].copy()


def picture(size=64, top=100, left=200):
    pixels = photographs.coffee()[top : top + size, left : left + size]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def batch_of(task, count=3):
    items = [task.degrade({"image": picture(top=60 * i)}, i) for i in range(count)]
    return stacked(items)


def stacked(items):
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_coefficients_are_scipys():
    x = noise((2, 16, 24))
    ours = jpeg.dct(x)
    theirs = dctn(x[1, 8:16, 16:24].double().numpy(), norm="ortho")
    assert np.abs(ours[1, 8:16, 16:24].numpy() - theirs).max() < 1e-5
    assert torch.allclose(jpeg.inverse_dct(ours), x, atol=1e-5)


@pytest.mark.parametrize("quality", [5, 10, 30, 75])
def test_a_file_says_which_multiples_its_picture_had(quality):
    """What Pillow writes of what it decoded has nearly the same coefficients."""
    image = picture()
    file = jpeg.encode(image, quality)
    levels = torch.from_numpy(to_bytes(image).copy()).permute(2, 0, 1)[None].double()
    y = torch.einsum("j,bjhw->bhw", jpeg.TO_YCC[0], levels)[:, None]
    steps = jpeg.tiled(file.tables[:1], 64, 64)
    apart = (jpeg.dct(y[0] - 128) - file.luma * steps).abs()
    assert (apart <= steps / 2 + 1).all()  # nearest, but for the level that the encoder rounds by
    assert (file.luma != 0).any()
    assert (file.chroma != 0).any()
    decoded = np.asarray(Image.open(BytesIO(_bytes(image, quality))))
    assert (to_bytes(file.decoded) == decoded).all()


def _bytes(image, quality):
    buffer = BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def test_the_projection_is_the_nearest_picture_with_these_coefficients():
    """A projection P onto a convex set: <x - P x, z - P x> <= 0 for every z of the set, in luma."""
    batch = batch_of(JPEG(quality=10), count=1)
    told = batch["tables"], batch["luma"], batch["chroma"]
    x = batch["image"] + 0.5 * noise((1, 3, 64, 64))
    found = luma(jpeg.project(x, *told)).double()
    assert (found - luma(x)).abs().max() > 0.1
    for seed in range(5):
        z = luma(jpeg.project(batch["image"] + noise((1, 3, 64, 64), seed + 1), *told)).double()
        assert ((luma(x).double() - found) * (z - found)).sum() <= 1e-3


def test_a_projected_picture_is_written_within_the_box():
    """Far from 0 and 255; rounding to levels moves a coefficient by about one."""
    image = 0.3 * picture()
    file = jpeg.encode(image, 10)
    told = file.tables[None], file.luma[None], file.chroma[None]
    steps = jpeg.tiled(file.tables[:1], 64, 64)

    def beyond(x):
        y = luma((to_integers(x[None]) / 127.5 - 1).double())[0] * 127.5 + 127.5
        return float(((jpeg.dct(y - 128) - file.luma * steps).abs() - steps / 2).max())

    disturbed = image + 0.15 * noise((3, 64, 64))
    assert beyond(jpeg.project(disturbed[None], *told)[0]) < 2
    assert beyond(disturbed) > 20


def test_qualities_are_drawn_as_stated():
    drawn = np.array([jpeg.quality(u) for u in np.random.default_rng(0).random(20_000)])
    assert (drawn.min(), drawn.max()) == (5, 30)
    falls = np.exp(-np.arange(5, 31) / 10)
    expected = falls / falls.sum()
    counts = np.bincount(drawn, minlength=31)[5:31] / len(drawn)
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected.max() / len(drawn))
