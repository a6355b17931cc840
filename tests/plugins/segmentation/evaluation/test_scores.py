"""Intervals redraw images, and a baseline stands beside the classifier."""

import math

import numpy as np
import pytest
import torch

from core.results.evaluation import read_evaluation
from core.results.metrics import multiplicities
from plugins.segmentation.evaluation.scores import DRAWS, Scored
from plugins.segmentation.io.classes import Classes
from plugins.segmentation.tasks.confusion import Confusion

CLASSES = Classes(("ground", "cell"), (0, 1))


def scored(n=6, **more):
    draw = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 100, (n, 2, 2), generator=draw)
    names = tuple(f"image {i}" for i in range(n))
    return Scored(names, tuple(map(Confusion, counts)), CLASSES, **more)


def test_the_interval_of_the_mean_iou_is_that_of_confusions_summed_over_redrawn_images():
    found = scored()
    often = multiplicities(found.names, draws=DRAWS)
    values = []
    for row in often:
        total = sum(int(k) * one.counts for k, one in zip(row, found.confusions, strict=True))
        values.append(Confusion(total).mean_iou)
    cell = found.figures()["miou"]
    assert cell.mean == pytest.approx(found.total.mean_iou, abs=1e-12)
    assert (cell.low, cell.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-12)
    assert found.figures()["accuracy"].mean == pytest.approx(found.total.accuracy, abs=1e-12)


def test_precisions_are_means_over_images_that_have_objects():
    nan = (math.nan, math.nan)
    found = scored(3, precisions=((0.5, 0.2), nan, (1.0, 0.4))).figures()
    assert (found["ap50"].mean, found["ap"].mean) == pytest.approx((0.75, 0.3))
    assert found["ap50"].n == 2
    assert "ap50" not in scored(2, precisions=(nan, nan)).figures()


def test_the_document_has_the_baseline_and_the_difference_to_it(tmp_path):
    one = scored(2)
    document = one.evaluation(tmp_path).document()
    back = read_evaluation(document, "metrics.json")
    counts = one.total.counts.double()
    most = counts.sum(1).max() / counts.sum()  # accuracy of the most frequent class
    means = back.means()
    assert means["most frequent class"]["accuracy"] == pytest.approx(float(most))
    assert means["most frequent class"]["miou"] == pytest.approx(float(most) / 2)
    assert back.differences["classifier"]["miou"].mean == pytest.approx(
        means["classifier"]["miou"] - means["most frequent class"]["miou"]
    )
    assert document["iou"] == dict(zip(CLASSES.names, one.total.iou.tolist(), strict=True))
