"""Masks written: numbers with a palette, overlays, maps of uncertainty, tables of areas."""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import InputError
from core.images.pictures import reason
from core.storage import files
from plugins.segmentation.io.classes import IGNORE, Classes

UNLABELLED = (128, 128, 128)  # colour in a mask's palette
STRENGTH = 0.45  # of a class's colour in an overlay
STRIP = 256  # rows of an overlay at once


def write_mask(path: Path, labels: np.ndarray, classes: Classes) -> None:
    """A PNG with a palette, whose numbers are those of the masks that were learned from.

    Numbers above 255 do not fit a palette: the classes are then numbered from 0.  Pixels without a
    class are 255.

    Args:
        path: of the file.
        labels: class indices (h, w); `IGNORE` where there is none.
        classes: their numbers and colours.

    Raises:
        InputError: it cannot be written.
    """
    fits = all(value < 256 for value in classes.values)
    values = classes.values if fits else tuple(range(len(classes)))
    table, palette = np.zeros(256, np.uint8), np.zeros((256, 3), np.uint8)
    for index, value in enumerate(values):
        table[index] = value
        palette[value] = classes.colour(index)
    if (labels == IGNORE).any():
        table[IGNORE] = IGNORE
        palette[IGNORE] = UNLABELLED
    image = Image.fromarray(table[labels])
    image.putpalette(palette.tobytes())
    _save(path, image)


def write_overlay(path: Path, pixels: np.ndarray, labels: np.ndarray, classes: Classes) -> None:
    """The image (h, w, 3) uint8 with each class but the first in its colour, outlined.

    Raises:
        InputError: it cannot be written.
    """
    colours = np.array([classes.colour(i) for i in range(len(classes))], np.float32)
    found = np.empty_like(pixels)
    for top in range(0, len(pixels), STRIP):
        own = labels[top : top + STRIP + 1]  # and the next row, for the edge below
        rows = min(STRIP, len(pixels) - top)
        shown = pixels[top : top + rows].astype(np.float32)
        inside = own[:rows] > 0
        shown[inside] += STRENGTH * (colours[own[:rows][inside]] - shown[inside])
        edge = np.zeros(own.shape, bool)
        edge[:-1] |= own[:-1] != own[1:]
        edge[:, :-1] |= own[:, :-1] != own[:, 1:]
        edge = edge[:rows]
        beyond = np.maximum(own, np.pad(own, ((0, 1), (0, 1)))[1:, 1:])[:rows]
        shown[edge] = colours[beyond[edge]]
        found[top : top + rows] = np.rint(shown)
    _save(path, Image.fromarray(found))


def write_uncertainty(path: Path, uncertainty: np.ndarray, most: float) -> None:
    """A grey PNG: black for 0, white for `most` nats and more.

    Raises:
        InputError: it cannot be written.
    """
    grey = np.rint(np.clip(uncertainty / most, 0, 1) * 255).astype(np.uint8)
    _save(path, Image.fromarray(grey))


def coloured(labels: np.ndarray, classes: Classes) -> np.ndarray:
    """Class indices (h, w) in the colours of the classes, uint8 (h, w, 3)."""
    table = np.full((256, 3), UNLABELLED, np.uint8)
    table[: len(classes)] = [classes.colour(index) for index in range(len(classes))]
    return table[labels]


def write_areas(
    path: Path, labels: np.ndarray, classes: Classes, *, millilitres: float | None = None
) -> None:
    """A CSV table: pixels and fraction of each class; of scans also its volume.

    Args:
        path: of the file.
        labels: class indices, of an image or of a scan.
        classes: their names and numbers.
        millilitres: of a voxel.

    Raises:
        InputError: it cannot be written.
    """
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    scan = millilitres is not None
    rows.writerow(["class", "value", "pixels", "fraction", *(["millilitres"] if scan else [])])
    for index, (name, value) in enumerate(zip(classes.names, classes.values, strict=True)):
        count = int(counts[index])
        more = [f"{count * millilitres:.6g}"] if millilitres is not None else []
        rows.writerow([name, value, count, f"{count / labels.size:.6f}", *more])
    try:
        files.write_text(path, text.getvalue())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error


def fractions(labels: np.ndarray, classes: Classes) -> dict[str, float]:
    """The fraction of each class, by its name."""
    counts = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
    return {name: round(float(n), 6) for name, n in zip(classes.names, counts, strict=True)}


def _save(path: Path, image: Image.Image) -> None:
    try:
        with files.replaced(path) as waiting, waiting.open("xb") as file:
            image.save(file, "PNG")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error
