"""EXIF entries of results, read by Pillow: no thumbnail, the result's size, no place if asked."""

import io
import json
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from core.images import exif
from core.images.reading import read_picture
from core.images.writing import write_picture

sys.path.insert(0, str(Path(__file__).parents[2]))
from pixels import RGB8

SOI = b"\xff\xd8\xff"
PLACE = struct.pack("<6I", 48, 1, 51, 1, 29, 1)


def directory(entries, base, following=0):
    """A directory of TIFF, little-endian, at `base`."""
    head, heap, at = struct.pack("<H", len(entries)), b"", base + 6 + 12 * len(entries)
    for tag, kind, count, value in sorted(entries):
        head += struct.pack("<HHI", tag, kind, count)
        if len(value) <= 4:
            head += value.ljust(4, b"\0")
        else:
            head += struct.pack("<I", at + len(heap))
            heap += value
    return head + struct.pack("<I", following) + heap


def camera(note=b"a maker's note, as it is"):
    """Entries as cameras write them: a thumbnail, a place and a maker's note."""
    buffer = io.BytesIO()
    Image.fromarray(RGB8).save(buffer, "JPEG")
    thumbnail, long = buffer.getvalue(), lambda value: struct.pack("<I", value)

    def built(private, place, second, picture):
        first = [
            (271, 2, 6, b"Maker\0"),
            (0x8769, 4, 1, long(private)),
            (0x8825, 4, 1, long(place)),
        ]
        inner = [(0xA002, 3, 1, struct.pack("<H", 17)), (0xA003, 3, 1, struct.pack("<H", 13)),
                 (0x927C, 7, len(note), note)]  # fmt: skip
        parts = [directory(first, 8, second), directory(inner, private)]
        parts.append(directory([(1, 2, 2, b"N\0"), (2, 5, 3, PLACE)], place))
        small = [(0x0201, 4, 1, long(picture)), (0x0202, 4, 1, long(len(thumbnail)))]
        return [*parts, directory(small, second), thumbnail]

    places = [8]
    for part in built(0, 0, 0, 0):
        places.append(places[-1] + len(part))
    return b"II*\0" + long(8) + b"".join(built(*places[1:5]))


def saved(path, entries, size=(26, 34), strip=None):
    Image.fromarray(RGB8).save(path.with_name("in.jpg"), exif=b"Exif\0\0" + entries)
    picture = read_picture(path.with_name("in.jpg"))
    assert picture.notes == ()
    write_picture(path, replace(picture, pixels=torch.zeros(3, *size)), strip=strip)
    with Image.open(path) as image:
        found = image.getexif()
        for folder in (0x8769, 0x8825):
            found.get_ifd(folder)  # read while the file is open
        return found, image.info.get("exif", b"")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_thumbnail_of_the_input_does_not_stay_and_sizes_are_the_results(tmp_path, suffix):
    assert camera().count(SOI) == 1
    found, raw = saved(tmp_path / f"out.{suffix}", camera())
    assert SOI not in raw
    private = found.get_ifd(0x8769)
    assert (private[0xA002], private[0xA003]) == (34, 26)
    assert (found[271], private[0x927C]) == ("Maker", b"a maker's note, as it is")
    assert found.get_ifd(0x8825)[2] == (48, 51, 29)


def test_entries_that_are_kept_keep_their_bytes_and_their_offsets():
    whole = camera()
    kept = exif.of_file(whole)
    at = whole.index(b"a maker's note")
    assert kept[at : at + 24] == b"a maker's note, as it is"
    assert len(kept) < len(whole) - 400


def test_a_preview_in_a_makers_note_does_not_stay():
    assert SOI not in exif.of_file(camera(note=b"note" + SOI + b"a preview of the input"))


def test_what_is_stripped_leaves_no_bytes(tmp_path):
    found, raw = saved(tmp_path / "out.jpg", camera(), strip="gps")
    assert (found[271], dict(found.get_ifd(0x8825))) == ("Maker", {})
    assert PLACE not in raw
    assert b"maker's note" not in raw
    found, raw = saved(tmp_path / "out.jpg", camera(), strip="all")
    assert not raw


def test_damaged_entries_are_refused_or_changed_in_bounded_time(tmp_path):
    whole = bytearray(camera())
    draw = np.random.default_rng(0)
    for _ in range(300):
        hurt = bytearray(whole)
        for at in draw.integers(0, 200, 4):
            hurt[at] = draw.integers(256)
        try:
            exif.of_result(exif.of_file(bytes(hurt)), (9, 9), without_place=True)
        except Exception:  # noqa: BLE001  (reading discards them with a note)
            continue


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_description_states_no_shape_of_the_input(tmp_path, depth):
    values = RGB8.astype(depth)
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="rgb", metadata={"author": "me"})
    before = tifffile.TiffFile(tmp_path / "in.tif").pages[0].description
    assert json.loads(before)["shape"] == [13, 17, 3]
    picture = read_picture(tmp_path / "in.tif")
    write_picture(tmp_path / "out.tif", replace(picture, pixels=torch.zeros(3, 26, 34)))
    after = tifffile.TiffFile(tmp_path / "out.tif").pages[0]
    assert json.loads(after.description) == {"author": "me"}
    assert tifffile.imread(tmp_path / "out.tif").shape == (26, 34, 3)
    assert exif.description("ImageJ=1.53\nimages=9") is None
    assert exif.description("A walk") == "A walk"
