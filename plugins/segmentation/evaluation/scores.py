"""Scores of a classifier on a folder of labelled images."""

from pathlib import Path

from core.request import Machine
from plugins.segmentation.data.labelled import pairs_of, read_labelled, rgb
from plugins.segmentation.evaluation.confusion import Confusion
from plugins.segmentation.inference.classifier import load
from plugins.segmentation.io.classes import Classes
from plugins.segmentation.request import Labels


def evaluate_folder(
    images: Path,
    classifier: Path,
    labels: Labels,
    machine: Machine,
    *,
    prior: Path | None = None,
) -> tuple[Confusion, Classes]:
    """The confusion of a classifier, summed over the labelled images of a folder.

    Raises:
        InputError: as `load`, `pairs_of` and `read_labelled`.
    """
    built = load(classifier, machine, prior=prior)
    labelled = read_labelled(
        pairs_of(images, labels.masks),
        classes=built.classes,
        ignore=labels.ignore,
        instances=labels.instances,
        sparse=labels.sparse,
    )
    total: Confusion | None = None
    for file, truth in zip(labelled.files, labelled.masks, strict=True):
        one = Confusion.of(truth, built(rgb(file)).labels, len(built.classes))
        total = one if total is None else total + one
    assert total is not None, "pairs_of finds at least one"
    return total, built.classes
