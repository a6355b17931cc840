"""Reading and writing images, against Pillow, pypng, tifffile and hostile bytes."""

import io
import random
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
import torch
from PIL import Image, ImageOps

from core.errors import InputError
from core.images.pictures import Picture
from core.images.reading import read_picture
from core.images.writing import write_picture
from core.storage import memory

sys.path.insert(0, str(Path(__file__).parents[2]))
from pixels import RGB8, RGB16, RGBA16, SRGB, integers

RNG = np.random.default_rng(0)


def save_png16(path, values, **kwargs):
    high, wide, planes = values.shape
    writer = png.Writer(
        wide, high, greyscale=planes < 3, alpha=planes in (2, 4), bitdepth=16, **kwargs
    )
    with path.open("wb") as file:
        writer.write(file, values.reshape(high, -1).tolist())


def read_png16(path):
    width, height, rows, _ = png.Reader(filename=str(path)).read()
    return np.stack([np.asarray(row, np.uint16) for row in rows]).reshape(height, width, -1)


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *[("png", mode) for mode in ("L", "RGB", "RGBA")],
        *[("tiff", mode) for mode in ("L", "RGB", "RGBA")],
        *[("bmp", mode) for mode in ("L", "RGB")],  # BMP holds no alpha
        *[("webp", mode) for mode in ("RGB", "RGBA")],  # WebP holds no grey
    ],
)
def test_eight_bits_are_read_as_pillow_wrote_them(tmp_path, suffix, mode):
    path = tmp_path / f"a.{suffix}"
    values = RNG.integers(0, 256, (13, 17, len(mode)), dtype=np.uint8)
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(values.squeeze()).save(path, **options)
    picture = read_picture(path)
    assert picture.depth == 8
    assert picture.pixels.dtype == torch.float32
    np.testing.assert_array_equal(integers(picture), values)


def test_jpeg_is_read_as_pillow_decodes_it(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB8).save(path)
    np.testing.assert_array_equal(integers(read_picture(path)), np.asarray(Image.open(path)))


def test_sixteen_bit_colour_png_keeps_its_low_bits(tmp_path):
    path = tmp_path / "a.png"
    save_png16(path, RGB16)
    independent = read_png16(path)
    np.testing.assert_array_equal(independent, RGB16)
    np.testing.assert_array_equal(integers(read_picture(path)), independent)


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
@pytest.mark.parametrize("interlace", [False, True])
def test_every_kind_of_sixteen_bit_png_is_exact(tmp_path, planes, interlace):
    path = tmp_path / "a.png"
    save_png16(path, RGBA16[..., :planes], interlace=interlace)
    np.testing.assert_array_equal(read_png16(path), RGBA16[..., :planes])
    np.testing.assert_array_equal(integers(read_picture(path)), RGBA16[..., :planes])


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_every_kind_of_sixteen_bit_png_is_written_as_pypng_reads_it(tmp_path, planes):
    save_png16(tmp_path / "a.png", RGBA16[..., :planes])
    write_picture(tmp_path / "b.png", read_picture(tmp_path / "a.png"))
    np.testing.assert_array_equal(read_png16(tmp_path / "b.png"), RGBA16[..., :planes])


@pytest.mark.parametrize("planes", [1, 3])
def test_a_transparent_colour_becomes_alpha(tmp_path, planes):
    path = tmp_path / "a.png"
    values = RGB16[..., :planes]
    key = tuple(int(v) for v in values[2, 3])
    save_png16(path, values, transparent=key if planes == 3 else key[0])
    alpha = read_picture(path).alpha
    assert alpha is not None
    expected = np.ones((13, 17))
    expected[(values == values[2, 3]).all(-1)] = 0
    np.testing.assert_array_equal(alpha[0].numpy(), expected)


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize(
    "compression", [None, "adobe_deflate", "deflate", "lzw", "packbits", "lzma", "zstd"]
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_sixteen_bit_colour_tiff_is_exact(tmp_path, compression, planar, predictor):
    path = tmp_path / "a.tif"
    values = RGB16 if planar == "contig" else np.moveaxis(RGB16, -1, 0)
    tifffile.imwrite(
        path,
        values,
        photometric="rgb",
        planarconfig=planar,
        compression=compression,
        predictor=predictor and compression not in (None, "packbits"),  # libtiff knows none there
        iccprofile=SRGB,
    )
    if planar == "contig":
        with Image.open(path) as image:  # libtiff, another decoder, which gives the high bytes
            np.testing.assert_array_equal(np.asarray(image), RGB16 >> 8)
    picture = read_picture(path)
    assert (picture.depth, picture.icc) == (16, SRGB)
    np.testing.assert_array_equal(integers(picture), RGB16)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_tiff_knows_which_end_is_white(tmp_path, photometric):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB16[..., 0], photometric=photometric)
    expected = RGB16[..., :1].astype(int)
    np.testing.assert_array_equal(
        integers(read_picture(path)), expected if photometric == "minisblack" else 65535 - expected
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_orientation_is_applied_as_pillow_does_and_reset(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[274], exif[271] = orientation, "Maker"
    Image.fromarray(RGB8).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    picture = read_picture(path)
    np.testing.assert_array_equal(integers(picture), expected)
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + (picture.exif or b""))
    assert kept.get(274, 1) == 1
    assert kept[271] == "Maker"
    write_picture(tmp_path / "b.png", picture)
    np.testing.assert_array_equal(integers(read_picture(tmp_path / "b.png")), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_orientation_is_applied_at_sixteen_bits(tmp_path, suffix, orientation):
    path, flat = tmp_path / f"a.{suffix}", tmp_path / "flat.png"
    values = (RGB8.astype(np.uint16)) * 257
    if suffix == "tif":
        tifffile.imwrite(
            path, values, photometric="rgb", extratags=[(274, "H", 1, orientation, True)]
        )
    else:
        write_picture(path, Picture(torch.zeros(3, 1, 1), depth=16))
        save_png16(path, values)
        exif = Image.Exif()
        exif[274] = orientation
        chunks = list(png.Reader(bytes=path.read_bytes()).chunks())
        with path.open("wb") as file:
            png.write_chunks(file, [chunks[0], (b"eXIf", exif.tobytes()[6:]), *chunks[1:]])
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RGB8).save(flat, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(flat))).astype(int) * 257
    np.testing.assert_array_equal(integers(read_picture(path)), expected)


def test_only_the_orientation_changes_in_the_exif_bytes(tmp_path):
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Maker"
    exif.get_ifd(0x8769)[37500] = b"a maker's note \x00\x01"
    before = exif.tobytes()
    Image.fromarray(RGB8).save(tmp_path / "a.jpg", exif=before)
    after = read_picture(tmp_path / "a.jpg").exif
    assert after is not None
    differing = [(a, b) for a, b in zip(before[6:], after, strict=True) if a != b]
    assert differing == [(6, 1)]


def test_palettes_and_bits_become_colour_and_grey(tmp_path):
    palette = Image.fromarray(RGB8).quantize(7)
    palette.save(tmp_path / "p.png")
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(integers(read_picture(tmp_path / "p.png")), expected)
    palette.save(tmp_path / "t.png", transparency=3)
    alpha = read_picture(tmp_path / "t.png").alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha[0].numpy() == 0, np.asarray(palette) == 3)
    Image.fromarray(RGB8[..., 0] > 99).save(tmp_path / "b.png")
    np.testing.assert_array_equal(
        integers(read_picture(tmp_path / "b.png"))[..., 0], (RGB8[..., 0] > 99) * 255
    )


def test_cmyk_is_converted_and_said(tmp_path):
    Image.fromarray(RGB8).convert("CMYK").save(tmp_path / "a.tif")
    picture = read_picture(tmp_path / "a.tif")
    assert "CMYK" in picture.notes[0]
    np.testing.assert_array_equal(integers(picture), RGB8)


# --- refusing --------------------------------------------------------------------------------


def test_what_is_not_a_picture_is_refused_in_one_sentence(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.png")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "empty" in refusal(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("hello")
    assert "not an image" in refusal(tmp_path / "text.png")
    Image.fromarray(RGB8).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "gif.png")
    assert "PNG, TIFF" in refusal(tmp_path / "gif.png")
    Image.fromarray(RGB8).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "eps.jpg")
    assert "not an image" in refusal(tmp_path / "eps.jpg")
    tifffile.imwrite(tmp_path / "f.tif", RGB8[..., 0].astype(np.float32))
    assert "8 or 16 bits" in refusal(tmp_path / "f.tif")
    pages = [Image.fromarray(RGB8), Image.fromarray(255 - RGB8)]
    for name in ("m.tif", "m.png", "m.webp"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert "holds 2 images" in refusal(tmp_path / name)


def test_content_decides_and_not_the_name(tmp_path):
    Image.fromarray(RGB8).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert read_picture(tmp_path / "a.jpg").format == "PNG"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "16.png", "16.tif"])
def test_a_picture_cut_off_anywhere_is_refused(tmp_path, suffix):
    whole, path = tmp_path / f"a.{suffix}", tmp_path / f"cut.{suffix}"
    deep = "16" in suffix
    big = np.tile(RGB16 if deep else RGB8, (5, 5, 1))
    write_picture(whole, Picture(torch.from_numpy(big.astype(np.float32)).movedim(-1, 0)
             / (2 ** (8 + 8 * deep) - 1) * 2 - 1, depth=8 + 8 * deep))  # fmt: skip
    content = whole.read_bytes()
    for part in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(content[: int(part * len(content))])
        refusal(path)


def header_only_png(side, depth=8):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, depth, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [30_000, 20_000, 16_500])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_picture_that_claims_too_much_is_refused_from_its_header(tmp_path, side, depth):
    path = tmp_path / "bomb.png"
    path.write_bytes(header_only_png(side, depth))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    assert "million pixels" in refusal(path)
    assert time.perf_counter() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_the_limit_does_not_hang_on_pillows_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(header_only_png(16_500))
    assert "million pixels" in refusal(tmp_path / "bomb.png")


def with_scans(path, count):
    """A grey progressive JPEG whose second scan is repeated, to so many in all."""
    file = io.BytesIO()
    Image.new("L", (64, 64), 128).save(file, "JPEG", progressive=True)
    stream = file.getvalue()
    starts = [m.start() for m in re.finditer(b"\xff\xda", stream)]
    tables = stream.find(b"\xff\xc4", starts[1])
    scan = stream[starts[1] : tables if starts[1] < tables < starts[2] else starts[2]]
    path.write_bytes(stream[: starts[2]] + scan * (count - 6) + stream[starts[2] :])


def test_a_jpeg_of_many_scans_is_refused_and_of_few_is_read(tmp_path):
    """Each of them costs the decoder the whole image, and the file a dozen bytes."""
    with_scans(tmp_path / "few.jpg", 100)
    assert read_picture(tmp_path / "few.jpg").pixels.shape == (1, 64, 64)
    with_scans(tmp_path / "many.jpg", 101)
    assert "has 101 scans, expected at most 100" in refusal(tmp_path / "many.jpg")


def test_more_than_the_free_memory_is_refused_before_decoding(tmp_path, monkeypatch):
    Image.fromarray(RGB8).save(tmp_path / "a.png")
    needed = 13 * 17 * 23
    monkeypatch.setattr(memory, "free", lambda: needed)
    assert read_picture(tmp_path / "a.png").depth == 8
    monkeypatch.setattr(memory, "free", lambda: needed - 1)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(memory.NotEnough, match=r"has 17 x 13 pixels, 0.0 GiB in memory"):
        read_picture(tmp_path / "a.png")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16"])
def test_reading_takes_no_more_memory_than_is_asked_for(tmp_path, mode):
    """The most that a process of its own held, above what it held before."""
    kind = np.uint16 if mode == "I;16" else np.uint8
    image = Image.fromarray(np.zeros((3000, 3000), kind))
    (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "a.png")
    script = (
        "import resource, sys; from pathlib import Path; from core.storage import memory\n"
        "from core.images.reading import read_picture\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "asked = []; memory.check = lambda needed, *rest, **free: asked.append(needed)\n"
        "before = used(); read_picture(Path(sys.argv[1])); print(used() - before, *asked)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, asked = map(int, done.stdout.split())
    assert taken < 1.1 * asked + (20 << 20)


@pytest.mark.slow
def test_data_that_swells_past_its_header_takes_no_memory(tmp_path):
    """A header of 4 x 4 with 400 MB of zeros behind it."""
    path, swollen = tmp_path / "a.png", zlib.compressobj(9)
    body = b"".join(swollen.compress(bytes(1 << 20)) for _ in range(400)) + swollen.flush()
    save_png16(path, RGB16[:4, :4])
    chunks = list(png.Reader(bytes=path.read_bytes()).chunks())
    with path.open("wb") as file:
        png.write_chunks(file, [chunks[0], (b"IDAT", body), chunks[-1]])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(integers(read_picture(path)), np.zeros((4, 4, 3)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("compression", ["adobe_deflate", "lzw", "zstd"])
def test_a_tile_that_is_larger_than_its_image_takes_no_memory(tmp_path, compression):
    """An image of 32 x 32 whose tile claims 60,000 x 60,000: Pillow refuses it too."""
    path = tmp_path / "a.tif"
    values = np.zeros((32, 32, 3), np.uint16)
    tifffile.imwrite(path, values, photometric="rgb", tile=(32, 32), compression=compression)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("TileWidth", "TileLength"):
            tiff.pages[0].tags[name].overwrite(60_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def hostile_seeds(folder):
    tifffile.imwrite(folder / "lzw.tif", RGB16, photometric="rgb", compression="lzw")
    tifffile.imwrite(folder / "16.tif", RGB16, photometric="rgb", compression="adobe_deflate")
    save_png16(folder / "16.png", RGBA16)
    exif = Image.Exif()
    exif[274] = 6
    for name in ("8.png", "8.jpg", "8.tif", "8.webp"):
        Image.fromarray(RGB8).save(folder / name, exif=exif, icc_profile=SRGB[:400])
    return sorted(folder.iterdir())


def test_mutated_files_give_a_picture_or_an_input_error(tmp_path):
    seeds, draw = hostile_seeds(tmp_path), random.Random(7)
    outcomes = {"read": 0, "refused": 0}
    for i in range(300):
        content = bytearray(seeds[i % len(seeds)].read_bytes())
        for _ in range(draw.choice([1, 2, 8, 40])):
            # Half of the blows fall on the header, where they do most.
            at = draw.randrange(min(len(content), draw.choice([64, len(content)])))
            content[at] = draw.randrange(256)
        path = tmp_path / f"mutated{i}"
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            assert read_picture(path).pixels.isfinite().all()
            outcomes["read"] += 1
        except InputError:
            refusal(path)
            outcomes["refused"] += 1
        assert time.perf_counter() - start < 5
    assert min(outcomes.values()) > 30, outcomes  # the seeds are neither all dead nor all unharmed
