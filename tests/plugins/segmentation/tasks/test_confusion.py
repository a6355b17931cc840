"""Confusion and its scores, against scikit-learn's."""

import math

import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from plugins.segmentation.tasks.confusion import Confusion


def test_confusion_and_scores_are_scikit_learns():
    draw = torch.Generator().manual_seed(0)
    truth, found = (torch.randint(4, (2, 30, 20), generator=draw).to(torch.uint8) for _ in range(2))
    truth[:, :3] = 255
    total = Confusion.of(truth[0], found[0], 4) + Confusion.of(truth[1], found[1], 4)
    known = truth != 255
    a, b = truth[known].numpy(), found[known].numpy()
    assert total.counts.tolist() == confusion_matrix(a, b).tolist()
    assert total.iou.tolist() == pytest.approx(jaccard_score(a, b, average=None).tolist())
    assert total.mean_iou == pytest.approx(jaccard_score(a, b, average="macro"))
    assert total.accuracy == pytest.approx(float((a == b).mean()))


def test_a_class_that_is_neither_there_nor_found_does_not_count():
    truth = torch.tensor([[0, 0, 1, 1]], dtype=torch.uint8)
    found = torch.tensor([[0, 1, 1, 1]], dtype=torch.uint8)
    one = Confusion.of(truth, found, 3)
    assert math.isnan(one.iou[2])
    assert one.mean_iou == pytest.approx((1 / 2 + 2 / 3) / 2)
    # Found and not there: it counts, as 0.
    other = Confusion.of(truth, torch.tensor([[0, 2, 1, 1]], dtype=torch.uint8), 3)
    assert other.mean_iou == pytest.approx((1 / 2 + 1 + 0) / 3)
