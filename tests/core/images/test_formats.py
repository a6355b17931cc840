"""Kinds of files: raw files of cameras, HEIC, AVIF and LZW; names of results."""

import importlib.util
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from core.errors import InputError
from core.images import formats
from core.images.heif import kind_of
from core.images.reading import read_picture

sys.path.insert(0, str(Path(__file__).parents[2]))
from pixels import RGB8, RGB16, SRGB, integers, pixels


@pytest.mark.parametrize("name", ["a.dng", "a.NEF", "a.tif"])
def test_a_raw_file_is_not_read_as_its_preview(tmp_path, name):
    with tifffile.TiffWriter(tmp_path / name) as file:
        file.write(RGB8, photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        file.write(np.zeros((130, 170), np.uint16), subfiletype=0, metadata=None)
    with pytest.raises(InputError, match=r"camera's raw file; develop it .* is a preview"):
        read_picture(tmp_path / name)


def test_a_reduced_image_alone_is_refused_and_a_pyramid_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB8, photometric="rgb", subfiletype=1, metadata=None)
    with pytest.raises(InputError, match="marked as a reduced copy"):
        read_picture(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(RGB8, photometric="rgb", subifds=1, metadata=None)
        file.write(RGB8[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(integers(read_picture(tmp_path / "b.tif")), RGB8)


@pytest.mark.parametrize("options", [{}, {"predictor": 2}, {"predictor": 2, "tile": (16, 16)}])
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_with_lzw_are_exact(tmp_path, options, order):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, RGB16, photometric="rgb", compression="lzw", byteorder=order, metadata=None, **options
    )
    np.testing.assert_array_equal(integers(read_picture(path)), RGB16)


def test_avif_is_read_upright_with_its_profile_and_ten_bits(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    shown = pixels(40, 30)
    options = {"quality": 100, "subsampling": "4:4:4", "exif": exif, "icc_profile": SRGB}
    Image.fromarray(shown).save(tmp_path / "a.avif", **options)
    found = read_picture(tmp_path / "a.avif")
    assert (found.format, found.depth, found.icc) == ("AVIF", 8, SRGB)
    assert np.abs(integers(found) - np.rot90(shown, -1)).mean() < 1  # lossy at most by colours
    deep = pixels(40, 30).astype(np.uint16) * 4 + 1
    data = imagecodecs.avif_encode(deep, level=100, bitspersample=10)
    (tmp_path / "b.avif").write_bytes(data)
    found = read_picture(tmp_path / "b.avif")
    assert found.depth == 16
    levels = (found.pixels.double().numpy().transpose(1, 2, 0) + 1) / 2 * 1023
    np.testing.assert_array_equal(np.rint(levels).astype(int), deep)


def test_avif_that_is_too_large_or_damaged_is_refused_in_a_sentence(tmp_path, monkeypatch):
    Image.fromarray(pixels(40, 30)).save(tmp_path / "a.avif")
    whole = (tmp_path / "a.avif").read_bytes()
    (tmp_path / "b.avif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="its decoder does not read it"):
        read_picture(tmp_path / "b.avif")
    from core.images import reading

    monkeypatch.setattr(reading, "MAX_PIXELS", 1000)
    with pytest.raises(InputError, match="cut it into smaller images"):
        read_picture(tmp_path / "a.avif")


def test_heic_without_its_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    find = importlib.util.find_spec
    absent = lambda name, *more: None if name == "pillow_heif" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(InputError, match=r"HEIC needs pillow-heif.*polymode\[heic\]"):
        read_picture(tmp_path / "a.heic")


def test_heic_is_read_upright_with_alpha_and_profile(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Maker"
    shown = pixels(40, 30)
    file = heif.from_pillow(Image.fromarray(shown))
    file[0].info["exif"] = exif.tobytes()
    file.save(str(tmp_path / "a.heic"), quality=-1, chroma=444, icc_profile=SRGB)
    found = read_picture(tmp_path / "a.heic")
    assert (found.format, found.icc, found.orientation) == ("HEIC", SRGB, 1)
    assert np.abs(integers(found) - np.rot90(shown, -1)).mean() < 2
    assert found.exif is not None
    clear = np.dstack([shown, np.tile(np.arange(30, dtype=np.uint8), (40, 1))])
    heif.from_pillow(Image.fromarray(clear)).save(str(tmp_path / "b.heic"), quality=-1)
    np.testing.assert_array_equal(
        integers(read_picture(tmp_path / "b.heic"))[..., 3], clear[..., 3]
    )


def test_kinds_are_told_by_brands():
    assert kind_of(b"\0\0\0\x18ftypmif1\0\0\0\0avifmif1") == "AVIF"
    assert kind_of(b"\0\0\0\x18ftypmif1\0\0\0\0heicmif1") == "HEIC"
    assert kind_of(b"\0\0\0\x18ftypcrx \0\0\0\0crx isom") is None
    assert kind_of(b"\x89PNG\r\n\x1a\n") is None


def test_names_of_results():
    name = formats.output_name
    assert name("a.jpg", {}) == "a.jpg"
    assert name("a.heic", {}) == "a.heic.png"
    assert name("a.jpg", {}, lossless=True) == "a.jpg.png"
    assert name("a.jpg", {"file_name": "{stem}_x4"}) == "a_x4.jpg"
    assert name("a.heic", {"format": "jpeg"}) == "a.jpg"
    assert name("a.JPEG", {"format": "jpeg", "file_name": "x {name}"}) == "x a.JPEG.JPEG"
    for template in ("{stem", "{0}", "{stem!r}", "a/{stem}", "..", "", ".{stem}", "{stem}\n"):
        with pytest.raises(InputError, match="name: "):
            formats.check_template(template)
    with pytest.raises(InputError, match="quality: png has none"):
        formats.check_options({"quality": 80, "format": "png"})
