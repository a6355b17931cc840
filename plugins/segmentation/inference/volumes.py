"""Scans segmented slice by slice, and their masks in the geometry of the source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from core.results.sheet import to_bytes
from core.scans import dicom_write, nifti
from plugins.segmentation.data.scans import Windowed, read_scan, slice_pixels, slices_of
from plugins.segmentation.inference.classifier import Fitted
from plugins.segmentation.inference.suggest import least_certain
from plugins.segmentation.io.classes import Classes
from plugins.segmentation.io.masks import fractions, write_areas, write_overlay

ABOUT = "segmentation by polymode"


class Volume(NamedTuple):
    """A segmented scan, its slices along the plane of the classifier.

    Args:
        scan: as it was read.
        labels: class indices.
        uncertainty: in nats.
        classes: of the labels.
        least: the greatest uncertainty of a slice, as `suggest` ranks it.
    """

    scan: Windowed
    labels: UInt8[np.ndarray, " d h w"]
    uncertainty: Float32[np.ndarray, " d h w"]
    classes: Classes
    least: float


def segmented(classifier: Fitted, place: Path) -> Volume:
    """The segmentation of a scan, one slice after another.

    Raises:
        InputError: it cannot be read.
    """
    scan = read_scan(place, classifier.scans)
    shape = scan.pixels.shape
    labels, uncertainty = np.empty(shape, np.uint8), np.empty(shape, np.float32)
    least = 0.0
    for one in slices_of(place, classifier.scans):
        found = classifier(slice_pixels(one))
        labels[one.number] = found.labels.numpy()
        uncertainty[one.number] = found.uncertainty.numpy()
        least = max(least, least_certain(found.uncertainty))
    return Volume(scan, labels, uncertainty, classifier.classes, least)


def write_scan(
    found: Volume, target: Path, beside: Sequence[Path], also_nifti: bool
) -> Mapping[str, Any]:
    """Write a scan's mask and what goes with it.

    Args:
        found: the segmentation.
        target: of the mask, ``.nii.gz`` or ``.dcm``.
        beside: of the overlay, the uncertainty and the areas; of DICOM also of a NIfTI mask.
        also_nifti: whether the last is written.

    Raises:
        InputError: a package that is not installed.
        StorageError: the disk is full or not writable.
    """
    overlay, uncertainty, areas = beside[:3]
    subject, classes = found.scan.subject, found.classes
    like = subject.stored
    write_areas(areas, found.labels, classes, millilitres=float(np.prod(like.spacing)) / 1000)
    most = int((found.labels > 0).sum((1, 2)).argmax())
    shown = np.repeat(found.scan.pixels[most][None], 3, 0)
    write_overlay(overlay, to_bytes(torch.from_numpy(shown)), found.labels[most], classes)
    values = subject.back(found.uncertainty)
    nifti.write(uncertainty, values, like, description=f"{ABOUT}: uncertainty in nats")
    indices = subject.back(found.labels)
    about = f"{ABOUT}: {', '.join(classes.names)}"
    numbers = np.array(classes.values)[indices].astype(np.float32)
    if target.suffix.lower() == ".dcm":
        segments = [
            dicom_write.Segment(name, f"CLASS-{value}", name)
            for name, value in zip(classes.names[1:], classes.values[1:], strict=True)
        ]
        dicom_write.write_mask(
            target, indices, like, description=ABOUT, content="SEGMENTATION", segments=segments
        )
        if also_nifti:
            nifti.write(beside[3], numbers, like, description=about, labels=True)
    else:
        nifti.write(target, numbers, like, description=about, labels=True)
    return {
        "areas": fractions(found.labels, classes),
        "uncertainty": round(found.least, 6),
        "slices": len(found.labels),
    }
