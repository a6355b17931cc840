"""Objects of known place and size, counted and measured."""

import math

import numpy as np
import pytest

from plugins.segmentation.inference.objects import measured, objects_in

pytestmark = pytest.mark.slow  # scikit-image


def discs(*circles, size=(60, 80)):
    y, x = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, np.uint8)
    for cy, cx, r in circles:
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= r**2] = 1
    return labels


def test_touching_discs_are_one_component_and_two_basins_with_the_border_between():
    labels = discs((30, 25, 12), (30, 47, 12))
    assert objects_in(labels, "components").numbers.max() == 1
    numbers = objects_in(labels, "watershed").numbers
    assert numbers.max() == 2
    middle = (25 + 47) / 2  # equally far from both
    sides = np.where(np.arange(80) < middle, *numbers[30, [20, 52]])
    wrong = (numbers != sides) & (labels > 0)
    assert not wrong[:, np.abs(np.arange(80) - middle) > 1].any()
    assert np.array_equal(numbers > 0, labels > 0)


def test_an_object_at_the_border_is_not_divided_and_corners_connect():
    labels = discs((0, 40, 20))
    assert objects_in(labels, "watershed").numbers.max() == 1
    diagonal = np.eye(9, dtype=np.uint8)
    assert objects_in(diagonal, "components").numbers.max() == 1


@pytest.mark.parametrize(
    "placed",
    [
        ((2, 64, 8), (4, 37, 12), (2, 22, 15), (-4, 22, 11)),
        ((3, 26, 9), (5, 14, 10), (2, 63, 13), (4, 3, 11)),
        ((5, 49, 10), (1, 37, 12), (3, 0, 10), (1, 19, 15)),
    ],
)
def test_objects_that_the_border_cuts_are_divided_as_within_a_margin(placed):
    labels = discs(*placed)
    alone, within = (objects_in(x, "watershed").numbers.max() for x in (labels, np.pad(labels, 20)))
    assert alone == within


def test_objects_are_numbered_by_their_first_rows_and_small_ones_left_out():
    labels = discs((45, 10, 6), (20, 30, 8), (5, 60, 1))
    labels[20:40, 60:70] = 2
    labels[20:40, 70:75] = 1  # touches another class
    found = objects_in(labels, "components")
    assert [int(found.numbers[y, x]) for y, x in ((5, 60), (20, 30), (30, 65), (30, 72))] == [
        1, 2, 3, 4,
    ]  # fmt: skip
    assert found.classes == [1, 1, 2, 1, 1]
    fewer = objects_in(labels, "components", min_area=6)
    assert fewer.numbers.max() == 4
    assert fewer.numbers[5, 60] == 0
    assert objects_in(np.zeros((5, 5), np.uint8), "watershed").numbers.max() == 0


def test_measures_are_those_of_an_ellipse():
    y, x = np.mgrid[:80, :120]
    labels = (((y - 40) / 20) ** 2 + ((x - 50) / 40) ** 2 <= 1).astype(np.uint8)
    image = np.where(labels, 0.25, 1.0)
    (row,) = measured(objects_in(labels, "components"), image, ("ground", "cell"))
    assert row["area"] == pytest.approx(math.pi * 20 * 40, rel=5e-3)
    assert (row["centroid_x"], row["centroid_y"]) == (50, 40)
    assert [row[side] for side in ("left", "top", "right", "bottom")] == [10, 20, 91, 61]
    assert row["mean_intensity"] == 0.25
    assert row["eccentricity"] == pytest.approx(math.sqrt(1 - 0.25), abs=2e-3)
    assert row["class"] == "cell"
