"""Scans of JPEG streams, against those that libjpeg writes and the markers of the standard."""

import io

import numpy as np
import pytest
from PIL import Image

from core.storage import jpeg_scans

NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def written(mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "progressive", "scans"),
    [("RGB", False, 1), ("L", False, 1), ("RGB", True, 10), ("L", True, 6)],
)
def test_libjpegs_own_scripts_are_counted(mode, progressive, scans):
    """jcparam.c, jpeg_simple_progression: ten scans of YCbCr, six of one component."""
    assert jpeg_scans.count(written(mode, progressive=progressive)) == scans


def test_a_thumbnail_and_what_follows_the_image_are_not_scans_of_it():
    small = written("L", progressive=True)
    whole = written(progressive=True, exif=b"Exif\0\0" + small, comment=b"\xff\xda\xff\xd9")
    assert small in whole
    assert jpeg_scans.count(whole + small) == 10


def test_restarts_fill_and_stuffed_values_belong_to_their_scan():
    entropy = b"\x12\xff\x00\xda\xff\xd0\x34\xff\x00"
    scan = b"\xff\xff\xda\x00\x02" + entropy
    assert jpeg_scans.count(b"\xff\xd8" + scan * 7 + b"\xff\xd9" + scan) == 7
    assert jpeg_scans.count(b"\xff\xd8" + scan + b"\xff") == 1
    assert jpeg_scans.count(b"") == 0


def test_the_bound_is_a_hundred():
    scan = b"\xff\xda\x00\x02"
    assert jpeg_scans.problem(scan * 100) == ""
    assert jpeg_scans.problem(scan * 1001) == "has 1,001 scans, expected at most 100"
