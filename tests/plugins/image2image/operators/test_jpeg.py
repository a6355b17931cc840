"""JPEG coefficients: those that a file stores, and the nearest image that has them."""

import sys
import tempfile
from io import BytesIO
from pathlib import Path

import jpeglib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn

from core.results.sheet import to_bytes
from plugins.image2image.operators import jpeg
from plugins.image2image.operators.coefficients import read
from plugins.image2image.operators.luma import (
    luma,
    to_integers,
)
from plugins.image2image.tasks.jpeg import JPEG

sys.path.insert(0, str(Path(__file__).parents[1]))
from jpeg_coefficients import coefficients
from made_images import as_jpeg, batch_of, hard, noise, picture


def understood(data):
    decoded = np.asarray(Image.open(BytesIO(data)))
    decoded = np.dstack([decoded] * 3) if decoded.ndim == 2 else decoded
    return jpeg.understood(data, torch.from_numpy(decoded / 127.5 - 1).permute(2, 0, 1).float())


def as_sampled(pixels, factors, quality):
    """A file with other sampling factors (vertical, horizontal) than Pillow writes."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        image = jpeglib.from_spatial(pixels)
        image.samp_factor = np.array([factors, (1, 1), (1, 1)])
        image.write_spatial(file.name, qt=quality)
        return Path(file.name).read_bytes()


SAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:4:0": (2, 1), "4:2:0": (2, 2), "4:1:1": (1, 4)}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("width", "height"), [(17, 33), (61, 47), (64, 48)])
@pytest.mark.parametrize("quality", [5, 96])
def test_coefficients_are_those_that_the_file_stores(sampling, width, height, quality):
    """Read by an entropy decoder written from the standard; blocks that the edge cuts too."""
    down, across = SAMPLINGS[sampling]
    data = as_sampled(hard(width, height), (down, across), quality)
    file, (stored, tables) = understood(data), coefficients(data)
    assert np.array_equal(file.tables.numpy(), np.stack(tables))
    scales = (1, 1), (down, across), (down, across)
    parts = (*file.luma, *file.chroma)
    for ours, theirs, (y, x) in zip(parts, stored, scales, strict=True):
        high, wide = -(-height // (8 * y)) * 8, -(-width // (8 * x)) * 8
        assert np.array_equal(ours[:high, :wide].numpy(), theirs[:high, :wide])
        assert ours[high:].isnan().all()
        assert ours[:, wide:].isnan().all()
    assert (file.decoded.shape[1] % 16, file.decoded.shape[2] % 16) == (0, 0)
    assert file.notes == ()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_projected_picture_has_the_coefficients_in_every_sampling(sampling):
    """Another image gets all of them at once; the one that the file was made of has them."""
    pixels = (hard(64, 64) * 0.5 + 60).astype(np.uint8)
    file = understood(as_sampled(pixels, SAMPLINGS[sampling], 20))
    held = file.tables[None], file.luma[None], file.chroma[None]
    other = torch.rand(1, 3, *file.decoded.shape[1:], generator=torch.Generator().manual_seed(0))
    once = jpeg.project(other.double(), *(one.double() for one in held))
    assert (once - other).abs().max() > 0.1
    again = jpeg.project(once, *(one.double() for one in held))
    assert (again - once).abs().max() < 1e-9  # a projection moves nothing twice
    original = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1).float()[None]
    assert (jpeg.project(original, *held) - original).abs().max() < 0.03  # levels are whole


def test_a_progressive_file_says_what_its_baseline_does():
    pixels = hard(45, 50)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        options = {"quality": 20, "subsampling": subsampling}
        one, other = (understood(as_jpeg(pixels, progressive=p, **options)) for p in (False, True))
        assert torch.equal(one.luma.nan_to_num(99), other.luma.nan_to_num(99))
        assert torch.equal(one.chroma.nan_to_num(99), other.chroma.nan_to_num(99))


def test_grey_says_luma_alone():
    grey = np.asarray(Image.fromarray(hard(40, 40)).convert("L"))
    data = as_jpeg(grey, quality=20)
    file, (stored, _) = understood(data), coefficients(data)
    assert np.array_equal(file.luma[0, :40, :40].numpy(), stored[0][:40, :40])
    assert file.chroma.isnan().all()
    assert file.notes == ()


def test_a_file_that_breaks_its_reader_holds_nothing():
    """51 markers, of which jpeglib has room for 50; and a process that memory ends."""
    data = as_jpeg(hard(40, 40), quality=20)
    comment = b"\xff\xfe\x00\x04ab"
    marked = data[:2] + 5000 * comment + data[2:]
    file = understood(marked)  # read or refused, and this process lives
    assert file.notes or torch.equal(file.luma.nan_to_num(), understood(data).luma.nan_to_num())
    wide = as_jpeg(np.zeros((9000, 9000, 3), np.uint8), quality=20)  # of more pixels than stated
    with pytest.raises(ValueError, match="does not read"):
        read(wide, 64)


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
