"""Pixels of shapes are those of the programs that drew them."""

import math

import numpy as np
import pytest

from plugins.segmentation.io.annotations import areas

SIZE = (18, 20)
# Polygons in an image of 20 x 18, and pycocotools 2.0.11's `frPyObjects` of each.
KNOWN = [
    ([3.2, 2.1, 14.7, 5.5, 9.1, 16.3], "h11b01N3M2N2O2M1ON3M2N2N2Ng2"),
    ([0, 0, 20, 0, 20, 8, 0, 8], "08:00000000000000000000000000000000000000"),
    ([-4, 3, 12.5, -3, 24, 9.9, 6, 21], "1:82N1N3Na4O_K100O2O2M2N2OK"),
    ([2, 2, 17, 15, 17, 2, 2, 15], "V1<7O1N2N2N2N2Nc00]O2N2N2N2N2N1d1"),
    ([5.5, 5.5, 10.5, 5.5, 10.5, 10.5, 5.5, 10.5], "b35=0000000l4"),
    (
        [1.3, 1.9, 18.8, 2.2, 4.4, 7.7, 16.1, 14.9, 2.5, 17.9],
        "d01a0>B1O00EO42LO31M020M13OM21ON22NN31MO40LO51KO6OK0<000R1",
    ),
]
PIXELS = (73, 160, 301, 96, 25, 139)  # pycocotools' `area`


def whole(area, size=SIZE):
    values = np.zeros(size, int)
    area.paint(values, 1)
    return values == 1


@pytest.mark.parametrize(("known", "pixels"), list(zip(KNOWN, PIXELS, strict=True)))
def test_polygons_and_compressed_runs_are_pycocotools(known, pixels):
    points, text = known
    runs = areas.runs(areas.decompressed(text), math.prod(SIZE)).reshape(SIZE[::-1]).T
    assert runs.sum() == pixels
    assert np.array_equal(whole(areas.polygon(areas.points_of(points), SIZE)), runs)


def test_a_polygon_on_whole_pixels_covers_those():
    inside = whole(areas.polygon(areas.points_of([3, 4, 9, 4, 9, 11, 3, 11]), SIZE))
    assert inside[4:11, 3:9].all()
    assert inside.sum() == 7 * 6


@pytest.mark.parametrize("points", [[-9, -9, -3, -9, -3, -3], [50, 50, 60, 50, 60, 60],
                                    [5, 5, 5, 5, 5, 5]])  # fmt: skip
def test_polygons_outside_or_without_area_have_no_pixel(points):
    assert not whole(areas.polygon(areas.points_of(points), SIZE)).any()


def test_a_polygon_far_beyond_the_image_covers_it_in_no_more_memory():
    points = areas.points_of([-1e6, -1e6, 1e6, -1e6, 1e6, 1e6, -1e6, 1e6])
    assert whole(areas.polygon(points, SIZE)).all()


def test_a_circle_has_its_area_and_an_ellipse_turns():
    size = (200, 220)
    circle = whole(areas.ellipse((100.0, 90.0), (60.0, 60.0), 0.0, size), size)
    assert circle.sum() == pytest.approx(math.pi * 60**2, rel=2e-3)  # of a boundary of 377 pixels
    upright = whole(areas.ellipse((100.0, 90.0), (20.0, 60.0), 0.0, size), size)
    turned = whole(areas.ellipse((100.0, 90.0), (60.0, 20.0), 90.0, size), size)
    assert (upright != turned).sum() < 10  # rounding
    across = whole(areas.ellipse((100.0, 90.0), (60.0, 20.0), 30.0, size), size)
    assert across[90 + 25, 100 + 43]  # clockwise, as y points down
    assert not across[90 - 25, 100 + 43]


@pytest.mark.parametrize(
    ("counts", "why"),
    [([3, -1, 2], "not whole"), ([True, 3], "not whole"), ([2.0, 2], "not whole"),
     ([3, 2], "of 5 pixels in all, expected 4"), ([10**20], "expected 4")],
)  # fmt: skip
def test_run_lengths_that_do_not_fit_are_refused(counts, why):
    with pytest.raises(ValueError, match=why):
        areas.runs(counts, 4)


@pytest.mark.parametrize("text", ["h1\x00", "o" * 30, "o"])
def test_hostile_compressed_runs_are_refused(text):
    with pytest.raises(ValueError, match="a compressed run"):
        areas.decompressed(text)


@pytest.mark.parametrize("value", [float("nan"), 1e300, "x", None, True])
def test_coordinates_are_numbers_of_pixels(value):
    with pytest.raises(ValueError, match=r"expected|could not convert"):
        areas.number(value)
