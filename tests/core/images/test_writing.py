"""Image files written whole and read by others: pixels, profiles, EXIF, refusals."""

import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
import torch
from PIL import Image, PngImagePlugin

from core.errors import InputError
from core.images.pictures import Picture
from core.images.reading import read_picture
from core.images.writing import check_writable, write_picture

sys.path.insert(0, str(Path(__file__).parents[2]))
from pixels import RGB8, RGB16, RGBA16, SRGB, integers

RNG = np.random.default_rng(0)


def picture_of(values, **kwargs):
    top = np.iinfo(values.dtype).max
    planes = torch.from_numpy(np.moveaxis(values, -1, 0).astype(np.float32)) / top
    colours = 1 if len(planes) < 3 else 3
    alpha = planes[colours:] if len(planes) > colours else None
    depth = 16 if top > 255 else 8
    return Picture(planes[:colours] * 2 - 1, alpha, depth=depth, **kwargs)


@pytest.mark.parametrize(
    ("suffix", "planes"),
    [
        *[(suffix, planes) for suffix in ("png", "tif", "webp") for planes in (1, 2, 3, 4)],
        *[("bmp", planes) for planes in (1, 3)],  # BMP holds no alpha
    ],
)
def test_eight_bits_come_back_exactly_and_pillow_agrees(tmp_path, suffix, planes):
    values = RNG.integers(0, 256, (9, 11, planes), dtype=np.uint8)
    if planes in (2, 4):
        values[:4, :, -1] = 0  # colours under full transparency count too
    write_picture(tmp_path / f"a.{suffix}", picture_of(values))
    with Image.open(tmp_path / f"a.{suffix}") as image:
        independent = np.asarray(image)
    if suffix == "webp" and planes < 3:
        values = values[..., [0, 0, 0, 1][: planes + 2]]
    np.testing.assert_array_equal(independent.reshape(values.shape), values)
    np.testing.assert_array_equal(integers(read_picture(tmp_path / f"a.{suffix}")), values)


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_come_back_exactly_and_others_agree(tmp_path, suffix, planes):
    path, values = tmp_path / f"a.{suffix}", RGBA16[..., :planes]
    write_picture(path, picture_of(values))
    if suffix == "tif" and planes == 2:
        values = values[..., [0, 0, 0, 1]]
    if suffix == "tif":
        independent = tifffile.imread(path)
    else:
        _, _, rows, _ = png.Reader(filename=str(path)).read()
        independent = np.stack([np.asarray(row, np.uint16) for row in rows])
    np.testing.assert_array_equal(independent.reshape(values.shape), values)
    np.testing.assert_array_equal(integers(read_picture(path)), values)


def test_every_level_survives_float32(tmp_path):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    write_picture(tmp_path / "a.png", picture_of(every))
    np.testing.assert_array_equal(integers(read_picture(tmp_path / "a.png")), every)


def test_values_are_rounded_and_clamped(tmp_path):
    pixels = torch.tensor([-9.0, 9.0, (100.4 / 255) * 2 - 1, (100.6 / 255) * 2 - 1]).view(1, 2, 2)
    write_picture(tmp_path / "a.png", Picture(pixels))
    assert np.asarray(Image.open(tmp_path / "a.png")).ravel().tolist() == [0, 255, 100, 101]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_profile_exif_and_resolution_reach_the_file(tmp_path, suffix):
    exif = Image.Exif()
    exif[271] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    Image.fromarray(RGB8).save(tmp_path / "a.jpg", exif=exif, icc_profile=SRGB, dpi=(300, 300))
    path = tmp_path / f"b.{suffix}"
    write_picture(path, read_picture(tmp_path / "a.jpg"))
    with Image.open(path) as image:
        assert image.info["icc_profile"] == SRGB
        found = image.getexif()
        assert (found[271], found.get_ifd(0x8769)[0x9003]) == ("Maker", "2020:01:02 03:04:05")
        if suffix != "webp":
            assert tuple(map(round, map(float, image.info["dpi"]))) == (300, 300)


def test_profile_exif_text_and_resolution_reach_a_sixteen_bit_png(tmp_path):
    exif = Image.Exif()
    exif[271] = "Maker"
    text = (("Title", "A café"), ("Author", "名前"))
    kept = {"icc": SRGB, "exif": exif.tobytes()[6:], "dpi": (300.0, 300.0), "text": text}
    path = tmp_path / "a.png"
    write_picture(path, picture_of(RGB16, **kept))
    with Image.open(path) as image:
        image.load()
        assert image.info["icc_profile"] == SRGB
        assert image.getexif()[271] == "Maker"
        assert tuple(map(round, image.info["dpi"])) == (300, 300)
        assert (image.text["Title"], image.text["Author"]) == ("A café", "名前")
    again = read_picture(path)
    assert (again.icc, again.exif, again.text) == (SRGB, kept["exif"], text)


def test_sixteen_bit_tiff_keeps_the_profile_and_says_what_it_drops(tmp_path):
    exif = Image.Exif()
    exif[271] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    with pytest.warns(UserWarning, match="EXIF and GPS"):
        write_picture(tmp_path / "a.tif", picture_of(RGB16, icc=SRGB, exif=exif.tobytes()[6:]))
    page = tifffile.TiffFile(tmp_path / "a.tif").pages[0]
    assert page.tags[34675].value == SRGB
    assert page.tags[271].value == "Maker"


def test_jpeg_is_written_with_full_chroma(tmp_path):
    write_picture(tmp_path / "a.jpg", picture_of(RGB8))
    with Image.open(tmp_path / "a.jpg") as image:
        from PIL import JpegImagePlugin

        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
        Image.fromarray(RGB8).save(tmp_path / "b.jpg", quality=95, subsampling=0)
        assert image.quantization == Image.open(tmp_path / "b.jpg").quantization


def test_an_old_orientation_does_not_come_back_through_text(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    profile = exif.tobytes()
    raw = f"\nexif\n{len(profile):8}\n{profile.hex()}\n"
    extra = PngImagePlugin.PngInfo()
    extra.add_text("Raw profile type exif", raw, zip=True)
    Image.fromarray(RGB8).save(tmp_path / "a.png", pnginfo=extra)
    once = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(integers(once), np.rot90(RGB8, -1))
    assert once.text == ()  # other programs read the orientation there
    write_picture(tmp_path / "b.png", once)
    np.testing.assert_array_equal(integers(read_picture(tmp_path / "b.png")), np.rot90(RGB8, -1))


def test_what_a_format_cannot_hold_is_refused_before_and_at_writing(tmp_path):
    cases = [
        (
            "a.jpg",
            RGBA16,
            "JPEG cannot hold transparency or 16 bits per channel; write PNG or TIFF",
        ),
        ("a.webp", RGB16, "WEBP cannot hold 16 bits per channel; write PNG or TIFF instead"),
        ("a.bmp", RGBA16.astype(np.uint8), "write PNG or TIFF or WEBP"),
        ("a.xyz", RGB8, "no format has the suffix '.xyz'"),
        ("none/a.png", RGB8, "no folder"),
    ]
    for name, values, said in cases:
        picture = picture_of(values)
        with pytest.raises(InputError, match=said):
            check_writable(tmp_path / name, alpha=picture.alpha is not None, depth=picture.depth)
        with pytest.raises(InputError, match=said):
            write_picture(tmp_path / name, picture)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "side", "others"),
    [(".webp", 16383, "PNG or TIFF or JPEG or BMP"), (".jpg", 65500, "PNG or TIFF or BMP")],
)
def test_sides_that_a_format_cannot_hold_are_refused_before_and_at_writing(
    tmp_path, suffix, side, others
):
    """The longest side that Pillow writes is written, and one pixel more is not."""
    Image.new("L", (side, 1)).save(tmp_path / f"pillow{suffix}")
    with pytest.raises((OSError, ValueError)):
        Image.new("L", (side + 1, 1)).save(tmp_path / f"more{suffix}")
    assert check_writable(tmp_path / f"a{suffix}", size=(1, side))
    for size in ((1, side + 1), (side + 1, 1)):
        with pytest.raises(InputError, match=f"side of {side + 1} pixels; write {others} instead"):
            check_writable(tmp_path / f"a{suffix}", size=size)
    with pytest.raises(InputError, match=f"side of {side + 1} pixels"):
        write_picture(tmp_path / f"a{suffix}", Picture(torch.zeros(1, 1, side + 1)))


def test_names_that_cannot_be_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="name too long"):
        check_writable(tmp_path / f"{'x' * 300}.png")
    with pytest.raises(InputError, match="a folder; give the path of a file"):
        check_writable(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_picture(path, picture_of(RGB8))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_picture(path, picture_of(255 - RGB8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    monkeypatch.undo()
    with pytest.raises(InputError, match="NaN or infinite"):
        write_picture(path, replace(picture_of(RGB8), pixels=torch.full((3, 2, 2), torch.nan)))
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_refused():
    with pytest.raises(InputError, match="cannot be written to"):
        check_writable(Path("/proc/a.png"))  # which refuses root as well


def test_bmp_says_what_it_leaves_out(tmp_path):
    with pytest.warns(UserWarning, match="BMP holds no colour profile"):
        write_picture(tmp_path / "a.bmp", picture_of(RGB8, icc=SRGB))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_picture(tmp_path / "a.bmp", picture_of(RGB8))
