"""Average precision of objects against true ones.

Source: Caicedo et al. 2019 (Data Science Bowl 2018), doi:10.1038/s41592-019-0612-7, and Stringer et
al. 2021 (Cellpose), doi:10.1038/s41592-020-01018-x.
"""

import numpy as np
from jaxtyping import Float, Int

THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))


def overlaps(
    truth: Int[np.ndarray, "h w"], found: Int[np.ndarray, "h w"]
) -> Float[np.ndarray, "true found"]:
    """Intersection over union of each true object and each found one; 0 is no object."""
    (true, i), (other, j) = (np.unique(x, return_inverse=True) for x in (truth, found))
    joint = np.zeros((len(true), len(other)))
    np.add.at(joint, (i.ravel(), j.ravel()), 1)
    union = joint.sum(1, keepdims=True) + joint.sum(0, keepdims=True) - joint
    return (joint / union)[np.ix_(true != 0, other != 0)]


def average_precision(
    truth: Int[np.ndarray, "h w"], found: Int[np.ndarray, "h w"], threshold: float = 0.5
) -> float:
    """TP / (TP + FP + FN): a match is a pair that overlaps by more than the threshold.

    Above a half no object has two matches.  NaN where there is no object, neither true nor found.

    Args:
        truth: number of each pixel's true object, 0 outside.
        found: number of each pixel's found object.
        threshold: intersection over union, at least 0.5.
    """
    return _precision(overlaps(truth, found), threshold)


def mean_average_precision(
    truth: Int[np.ndarray, "h w"], found: Int[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Average precision at 0.5, and its mean over 0.5, 0.55, ..., 0.95."""
    iou = overlaps(truth, found)
    values = [_precision(iou, threshold) for threshold in THRESHOLDS]
    return values[0], float(np.mean(values))


def _precision(iou: Float[np.ndarray, "true found"], threshold: float) -> float:
    hits = int((iou > threshold).sum())
    every = sum(iou.shape) - hits
    return hits / every if every else float("nan")
