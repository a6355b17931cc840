"""Confusion of classes over pixels, and the scores that follow from it.

Source: Everingham et al. 2010 (PASCAL VOC), section 4.2; the conventions below.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from plugins.segmentation.io.classes import IGNORE


@dataclass(frozen=True)
class Confusion:
    """Pixels by true and found class, summed over images; pixels without a label do not count.

    Args:
        counts: row: true class, column: found class.
    """

    counts: Int64[Tensor, " classes classes"]

    @classmethod
    def of(
        cls, truth: UInt8[Tensor, "h w"], found: UInt8[Tensor, "h w"], classes: int
    ) -> "Confusion":
        """Of one image."""
        known = truth != IGNORE
        at = truth[known].long() * classes + found[known].long()
        return cls(torch.bincount(at, minlength=classes**2).view(classes, classes))

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.counts + other.counts)

    @property
    def iou(self) -> Float[Tensor, " classes"]:
        """Intersection over union of each class; NaN of one that is neither there nor found."""
        both = self.counts.diagonal().double()
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()
        return torch.where(union > 0, both / union.clamp(min=1), torch.nan)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that are there or found; others do not count.

        Counting an absent class as 0, as ddpm-segmentation does, or as 1, as kornia does, lowers
        or raises the mean by what is not in the images.
        """
        return float(self.iou.nanmean())

    @property
    def accuracy(self) -> float:
        """Fraction of the pixels whose class is found."""
        return int(self.counts.diagonal().sum()) / max(1, int(self.counts.sum()))


def figures_of(
    counts: Int64[Tensor, " n classes classes"], weights: Float[Tensor, " draws n"]
) -> dict[str, Float[Tensor, " draws"]]:
    """``miou`` and ``accuracy`` of sums of confusions, for each row of weights.

    Args:
        counts: of each image.
        weights: how often each image counts.
    """
    counts, weights = counts.double(), weights.double()
    both = weights @ counts.diagonal(dim1=1, dim2=2)
    union = weights @ (counts.sum(1) + counts.sum(2)) - both
    iou = torch.where(union > 0, both / union.clamp(min=1), torch.nan)
    every = weights @ counts.sum((1, 2))
    return {"miou": iou.nanmean(1), "accuracy": both.sum(1) / every.clamp(min=1)}
