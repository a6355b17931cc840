"""Which images to label next: those whose least certain pixels are the least certain."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from core.errors import InputError
from core.images.pictures import reason
from core.storage import files
from plugins.segmentation.data.labelled import rgb
from plugins.segmentation.data.scans import Slice
from plugins.segmentation.inference.classifier import Fitted

PART = 10  # one pixel in so many: the least certain


class Suggestion(NamedTuple):
    """An image and how uncertain a classifier is of it.

    Args:
        name: of the image in its folder, without the suffix.
        uncertainty: `least_certain` of it, in nats.
    """

    name: str
    uncertainty: float


def least_certain(uncertainty: Float[Tensor, "h w"]) -> float:
    """The mean over the tenth of the pixels that are least certain.

    Over all pixels a large certain background would hide a small object that the classifier has
    never seen.
    """
    return float(uncertainty.flatten().topk(max(1, uncertainty.numel() // PART)).values.mean())


def scored(classifier: Fitted, images: Sequence[tuple[str, Path | Slice]]) -> Iterator[Suggestion]:
    """The images or slices by name, one after another, in the order given.

    Raises:
        InputError: an image that cannot be read.
    """
    for name, path in images:
        yield Suggestion(name, least_certain(classifier(rgb(path)).uncertainty))


def ranked(found: Sequence[Suggestion]) -> list[Suggestion]:
    """The most uncertain image first; even ones by name."""
    return sorted(found, key=lambda one: (-one.uncertainty, one.name))


def write_suggestions(path: Path, found: Sequence[Suggestion]) -> None:
    """A CSV table: rank, image and uncertainty.

    Raises:
        InputError: it cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["rank", "image", "uncertainty"])
    rows.writerows([i, one.name, f"{one.uncertainty:.6f}"] for i, one in enumerate(found, 1))
    try:
        files.write_text(path, text.getvalue())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error
