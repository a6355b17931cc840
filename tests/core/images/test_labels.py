"""Numbers that image files store, whatever the format and the colours."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from core.errors import InputError
from core.images.labels import read_labels

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, (7, 9))


def test_numbers_of_every_kind_of_file(tmp_path):
    grey = (LABELS * 60).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).save(tmp_path / "grey.bmp")
    indexed = Image.fromarray(LABELS.astype(np.uint8))
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    indexed.save(tmp_path / "palette.png")
    Image.fromarray((LABELS * 300).astype(np.uint16)).save(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "deep.tif", (LABELS * 300).astype(np.uint16))
    Image.fromarray(LABELS > 1).save(tmp_path / "bits.png")
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "three.png")
    expected = {
        "grey.png": LABELS * 60, "grey.bmp": LABELS * 60, "palette.png": LABELS,
        "deep.png": LABELS * 300, "deep.tif": LABELS * 300, "bits.png": LABELS > 1,
        "three.png": LABELS * 60,
    }  # fmt: skip
    for name, values in expected.items():
        found = read_labels(tmp_path / name)
        assert found.dtype == np.int64
        assert np.array_equal(found, values), name


def test_colours_are_numbers_and_orientation_is_applied(tmp_path):
    colours = np.array([[0, 0, 0], [255, 0, 1], [3, 2, 1], [0, 128, 0]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colours[LABELS]).save(tmp_path / "colours.png", exif=exif)
    packed = np.array([0, 255 << 16 | 1, 3 << 16 | 2 << 8 | 1, 128 << 8])
    assert np.array_equal(read_labels(tmp_path / "colours.png"), np.rot90(packed[LABELS], -1))
    Image.fromarray(LABELS.astype(np.uint8)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_labels(tmp_path / "turned.png"), np.rot90(LABELS, -1))


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="not an image"):
        read_labels(tmp_path / "a.png")
    deep = RNG.integers(0, 65536, (5, 4, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb")
    with pytest.raises(InputError, match="labels in colours of 16 bits"):
        read_labels(tmp_path / "deep.tif")
