"""The task of a plain network: the class of each pixel, from images with dense labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.results.sheet import to_bytes
from core.task import Batch, Example, Figure, Method, Panel, Scores
from plugins.segmentation.io.classes import IGNORE, Classes
from plugins.segmentation.io.masks import coloured
from plugins.segmentation.tasks.confusion import Confusion, figures_of

BASELINE = "first class everywhere"


@dataclass(frozen=True, kw_only=True)
class Masks:
    """The class of each pixel of an image.

    A batch holds ``image`` (b, 3, h, w) in [-1, 1] and ``labels`` (b, h, w), the index of each
    pixel's class, 255 where there is none.  The variable is 1 in the channel of the class and -1 in
    the others, the condition is the image.  Trained by the objective `segmentation/brier`, the
    network estimates 2 p - 1 of the classes' probabilities, and one step from noise is that.

    Args:
        classes: names of the classes 0, 1, ...
    """

    classes: tuple[str, ...] = ("background", "object")

    reference: ClassVar[str] = BASELINE
    conditions: ClassVar[Mapping[str, int]] = {"image": 3}
    reads: ClassVar[Mapping[str, str]] = {"image": "3 h w", "labels": "h w"}
    figures: ClassVar[Mapping[str, Figure]] = {
        "miou": Figure("mean IoU of an image", "", "higher"),
        "accuracy": Figure("accuracy", "", "higher"),
    }

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes) or not 2 <= len(self.classes) < IGNORE:
            raise InputError(
                f"classes: expected two or more different names, got {', '.join(self.classes)}"
            )

    @property
    def channels(self) -> int:
        """One for each class."""
        return len(self.classes)

    def prepare(self, batch: Batch) -> Example:
        """The classes as +-1, the image, and where there are labels.

        Raises:
            InputError: a label that no class has.
        """
        labels = batch["labels"].long()
        known = labels != IGNORE
        if bool((known & ((labels < 0) | (labels >= self.channels))).any()):
            raise InputError(
                f"labels: {int(labels[known].max())} is beyond the {self.channels} classes of the "
                "task; name as many in task.classes as the dataset has"
            )
        one_hot = F.one_hot(labels.where(known, 0), self.channels).movedim(-1, 1).float()
        mask = known[:, None].float().expand_as(one_hot)
        return Example(2 * one_hot - 1, {"image": batch["image"]}, mask)

    def finish(self, x0: Float[Tensor, " b k h w"], batch: Batch) -> Float[Tensor, " b h w"]:
        """The likeliest class of each pixel."""
        return x0.argmax(1).float()

    def score(self, results: Float[Tensor, " b draws h w"], batch: Batch) -> Scores:
        """Mean intersection over union of the classes there or found, and accuracy, by image."""
        truth = batch["labels"]
        return {
            BASELINE: Method("baseline", self._figures(truth, torch.zeros_like(results[:, 0]))),
            "network": Method("model", self._figures(truth, results[:, 0])),
        }

    def _figures(self, truth: Tensor, found: Tensor) -> dict[str, Tensor]:
        each = [
            Confusion.of(a.byte(), b.byte(), self.channels).counts
            for a, b in zip(truth, found, strict=True)
        ]
        return dict(figures_of(torch.stack(each), torch.eye(len(each))))

    def show(
        self, results: Float[Tensor, " b draws h w"], batch: Batch, titles: list[str]
    ) -> list[Panel]:
        """Image, labels and prediction in the colours of the classes."""
        classes = Classes(self.classes, tuple(range(self.channels)))
        return [
            Panel(
                title,
                {
                    "image": to_bytes(image),
                    "labels": coloured(labels.byte().numpy(), classes),
                    "network": coloured(found[0].byte().numpy(), classes),
                },
            )
            for title, image, labels, found in zip(
                titles, batch["image"], batch["labels"], results, strict=True
            )
        ]
