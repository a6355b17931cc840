"""Average precision of objects, by hand."""

import math

import numpy as np
import pytest

from plugins.segmentation.evaluation.instances import (
    average_precision,
    mean_average_precision,
    overlaps,
)


def row(*runs):
    """One row of pixels: (number, length) after another."""
    return np.repeat([number for number, _ in runs], [length for _, length in runs])[None]


def test_overlaps_and_precision_are_those_counted_by_hand():
    truth = row((0, 2), (7, 10), (3, 10), (0, 8))
    found = row((0, 2), (1, 8), (0, 2), (2, 4), (0, 6), (9, 8))
    # Rows 3 and 7, columns 1, 2 and 9: 7 and 1 share 8 of 10; 3 and 2 share 4 of 10.
    assert overlaps(truth, found).tolist() == [[0, 0.4, 0], [0.8, 0, 0]]
    assert average_precision(truth, found) == 1 / (1 + 2 + 1)
    ap50, ap = mean_average_precision(truth, found)
    assert ap50 == 0.25
    assert ap == pytest.approx(0.25 * 6 / 10)  # 0.5 to 0.75; 0.8 is not more than 0.8


def test_half_an_overlap_is_no_match_and_splitting_is_an_error():
    truth = row((1, 10), (0, 5))
    assert average_precision(truth, row((1, 5), (0, 10))) == 0
    assert average_precision(truth, row((1, 5), (2, 5), (0, 5))) == 0
    assert average_precision(truth, row((4, 6), (5, 4), (0, 5))) == 0.5
    assert average_precision(truth, truth * 300) == 1


def test_without_objects_there_is_no_score_and_with_one_side_alone_it_is_zero():
    nothing, one = row((0, 5)), row((0, 2), (1, 3))
    assert math.isnan(average_precision(nothing, nothing))
    assert average_precision(one, nothing) == average_precision(nothing, one) == 0
