"""Scores of a classifier on a folder of labelled images, with intervals over images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from core.request import Machine
from core.results.evaluation import Evaluation, Row
from core.results.metrics import INTERVAL, Interval, interval, multiplicities
from core.task import Figure
from plugins.segmentation.data.labelled import (
    is_image,
    objects_of,
    pairs_of,
    read_labelled,
    rgb,
)
from plugins.segmentation.evaluation.instances import mean_average_precision
from plugins.segmentation.inference.classifier import load
from plugins.segmentation.inference.objects import objects_in
from plugins.segmentation.io.annotations.drawing import Drawing
from plugins.segmentation.io.classes import Classes
from plugins.segmentation.request import Dividing, Labels
from plugins.segmentation.tasks.confusion import Confusion, figures_of

CONFIDENCE, DRAWS = 0.95, 4000
MODEL, REFERENCE = "classifier", "most frequent class"
AP50, AP = "ap50", "ap"


@dataclass(frozen=True)
class Scored:
    """Scores of a classifier on images.

    Args:
        names: of the images; slices have their scan's, and are redrawn with it.
        confusions: of each image.
        classes: of the classifier.
        precisions: average precision of each image's objects at an overlap of 0.5, and its mean
            over 0.5 to 0.95; None where objects are not scored.
    """

    names: tuple[str, ...]
    confusions: tuple[Confusion, ...]
    classes: Classes
    precisions: tuple[tuple[float, float], ...] | None = None

    @property
    def total(self) -> Confusion:
        """The sum over images."""
        return sum(self.confusions[1:], self.confusions[0])

    def figures(self) -> dict[str, Interval]:
        """Mean IoU and accuracy of the summed confusion, and mean precisions of objects."""
        found = pooled(torch.stack([one.counts for one in self.confusions]), self.names)
        for place, figure in enumerate((AP50, AP)):
            known = {
                name: one[place]
                for name, one in zip(self.names, self.precisions or (), strict=False)
                if not np.isnan(one[place])
            }
            if known:
                found[figure] = interval(
                    list(known.values()), list(known), confidence=CONFIDENCE, draws=DRAWS
                )
        return found

    def evaluation(self, images: Path) -> Evaluation:
        """The scores beside those of the most frequent class at every pixel."""
        counts = torch.stack([one.counts for one in self.confusions])
        constant = torch.zeros_like(counts)
        constant[:, :, int(counts.sum((0, 2)).argmax())] = counts.sum(2)
        own = self.figures()
        described = {
            "miou": Figure("Mean IoU", "", "higher"),
            "accuracy": Figure("Accuracy", "", "higher"),
            AP50: Figure("AP at IoU 0.5", "", "higher"),
            AP: Figure("AP at IoU 0.5 to 0.95", "", "higher"),
        }
        iou = dict(zip(self.classes.names, self.total.iou.tolist(), strict=True))
        return Evaluation(
            task="segmentation/segment",
            dataset={"name": "segmentation/folder", "root": str(images)},
            split="test",
            n=len(self.names),
            sources=self.names,
            draws=1,
            confidence=CONFIDENCE,
            interval=INTERVAL.format(draws=DRAWS),
            figures={name: one for name, one in described.items() if name in own},
            reference=REFERENCE,
            methods={
                REFERENCE: Row("baseline", pooled(constant, self.names)),
                MODEL: Row("model", own),
            },
            differences={MODEL: pooled(counts, self.names, less=constant)},
            further={
                "iou": {name: None if np.isnan(v) else v for name, v in iou.items()},
                "confusion": self.total.counts.tolist(),
            },
        )


def pooled(
    counts: Tensor, names: tuple[str, ...], less: Tensor | None = None
) -> dict[str, Interval]:
    """Mean IoU and accuracy of summed confusions (n, classes, classes), redrawn over images.

    Args:
        counts: of each image.
        names: of the images.
        less: confusions whose figures are subtracted, on the same draws.
    """
    # The first row is the images as they are.
    often = np.vstack([np.ones(len(names)), multiplicities(names, draws=DRAWS)])
    weights = torch.from_numpy(often)
    values = figures_of(counts, weights)
    if less is not None:
        other = figures_of(less, weights)
        values = {name: value - other[name] for name, value in values.items()}
    ends = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.float64)
    found = {}
    for name, value in values.items():
        low, high = value[1:].nanquantile(ends).tolist()
        found[name] = Interval(float(value[0]), low, high, len(names))
    return found


def evaluate_folder(
    images: Path,
    classifier: Path,
    labels: Labels,
    machine: Machine,
    *,
    prior: Path | None = None,
    dividing: Dividing | None = None,
) -> Scored:
    """Scores of a classifier on the labelled images of a folder.

    Args:
        images: the folder.
        classifier: its folder.
        labels: how masks are read.
        machine: where its features run.
        prior: the checkpoint of its features, where it has moved.
        dividing: how its masks are divided into objects, which are scored.

    Raises:
        InputError: as `load`, `pairs_of` and `read_labelled`; or objects are scored against masks
            of classes.
    """
    dividing = dividing or Dividing()
    built = load(classifier, machine, prior=prior)
    pairs = pairs_of(images, labels.masks, scans=True)
    scored = dividing.objects != "none"
    if scored and not labels.instances and not isinstance(pairs[0].mask, Drawing):
        raise InputError(
            f"--objects: {pairs[0].mask} and the others are read as masks of classes; give "
            "--instances if every object has a number of its own in them, or annotations as --masks"
        )
    if scored and (scan := next((one for one in pairs if not is_image(one.image)), None)):
        raise InputError(f"--objects: {scan.image} is a scan; objects are of images alone")
    labelled = read_labelled(
        pairs,
        classes=built.classes,
        ignore=labels.ignore,
        instances=labels.instances,
        sparse=labels.sparse,
        scans=built.scans,
    )
    confusions, precisions = [], []
    for number, (image, truth) in enumerate(zip(labelled.files, labelled.masks, strict=True)):
        found = built(rgb(image)).labels
        confusions.append(Confusion.of(truth, found, len(built.classes)))
        if scored:
            divided = objects_in(
                found.numpy(), dividing.objects, min_area=dividing.min_area, apart=dividing.apart
            )
            precisions.append(mean_average_precision(objects_of(pairs[number]), divided.numbers))
    return Scored(
        labelled.names, tuple(confusions), built.classes, tuple(precisions) if scored else None
    )
