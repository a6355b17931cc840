"""The predictor that segments image files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from core.images.formats import READ, UNREAD
from core.request import Machine
from core.results.sheet import to_bytes
from plugins.segmentation.data.labelled import rgb
from plugins.segmentation.inference.classifier import load
from plugins.segmentation.io.masks import (
    write_areas,
    write_mask,
    write_overlay,
    write_uncertainty,
)


class Segment:
    """Masks of image files by a fitted classifier: a PNG with a palette, and what goes with it.

    Beside the mask: ``NAME-overlay.png``, the image with its classes in colour;
    ``NAME-uncertainty.png``, where the members of the ensemble disagree, white for all they can;
    ``NAME-areas.csv``, pixels of each class.  Any size, in tiles.

    Args:
        prior: the checkpoint of the classifier's features, where it has moved.
    """

    suffixes: ClassVar[tuple[str, ...]] = tuple(READ)
    unread: ClassVar[Mapping[str, str]] = UNREAD

    def __init__(self, machine: Machine, checkpoint: Path, *, prior: Path | None = None) -> None:
        self.classifier = load(checkpoint, machine, prior=prior)

    @staticmethod
    def result_name(name: str) -> str:
        """The image's name, as PNG."""
        return name if name.lower().endswith(".png") else f"{name}.png"

    @staticmethod
    def beside(name: str) -> tuple[str, ...]:
        """Names of what is written beside a mask."""
        stem = name[: -len(".png")]
        return (f"{stem}-overlay.png", f"{stem}-uncertainty.png", f"{stem}-areas.csv")

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Write the mask of one image file.

        Returns:
            ``areas``, the fraction of each class, and ``uncertainty``, the mean in nats of the
            tenth of the pixels that are least certain.

        Raises:
            InputError: `source` cannot be read, or `target` cannot be written.
        """
        image = rgb(source)
        found = self.classifier(image)
        labels, classes = found.labels.numpy(), self.classifier.classes
        overlay, uncertainty, areas = (target.with_name(n) for n in self.beside(target.name))
        write_overlay(overlay, to_bytes(image), labels, classes)
        write_uncertainty(uncertainty, found.uncertainty.numpy(), math.log(len(classes)))
        write_areas(areas, labels, classes)
        write_mask(target, labels, classes)
        counts = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
        worst = found.uncertainty.flatten().topk(max(1, labels.size // 10)).values.mean()
        return {
            "areas": {n: round(float(c), 6) for n, c in zip(classes.names, counts, strict=True)},
            "uncertainty": round(float(worst), 6),
        }
