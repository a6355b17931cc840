"""The predictor that segments image files and scans."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from core.errors import InputError
from core.images.formats import READ, UNREAD
from core.request import Machine
from core.results.sheet import to_bytes
from plugins.segmentation.data.labelled import is_image, rgb
from plugins.segmentation.data.scans import FILES, SLICES, files_of, stem_of
from plugins.segmentation.inference.classifier import load
from plugins.segmentation.inference.objects import measured, objects_in
from plugins.segmentation.inference.suggest import least_certain
from plugins.segmentation.inference.volumes import segmented, write_scan
from plugins.segmentation.io.masks import (
    fractions,
    write_areas,
    write_mask,
    write_overlay,
    write_uncertainty,
)
from plugins.segmentation.io.objects import write_objects
from plugins.segmentation.request import Objects


class Segment:
    """Masks of image files by a fitted classifier: a PNG with a palette, and what goes with it.

    Beside the mask: ``NAME-overlay.png``, the image with its classes in colour;
    ``NAME-uncertainty.png``, where the members of the ensemble disagree, white for all they can;
    ``NAME-areas.csv``, pixels of each class.  With `objects` also ``NAME-instances.png``, the
    number of each pixel's object in 16 bits, and ``NAME-objects.csv``, a row for each: area,
    centroid, bounding box (right and bottom excluded), mean intensity (the channels' mean, 0 to 1)
    and eccentricity.  Any size, in tiles.

    A scan is segmented slice by slice, as the classifier was fitted: NIfTI, MetaImage and NRRD give
    ``NAME.nii.gz``, the files of a DICOM series ``NAME.dcm``, a DICOM Segmentation; both lie in the
    source's geometry.  Beside them are the overlay of the slice with most of the classes but the
    first, ``NAME-uncertainty.nii.gz`` in nats, and the table of areas, with millilitres.

    Args:
        prior: the checkpoint of the classifier's features, where it has moved.
        objects: connected components of each class but the first, or a watershed of their distance
            to the background, which divides those that touch.
        min_area: pixels of an object at least; smaller ones are left out.
        apart: pixels between the middles of two objects at least; for the watershed.
        nifti: DICOM: a mask as ``NAME-mask.nii.gz`` too.
    """

    suffixes: ClassVar[tuple[str, ...]] = (*READ, *FILES)
    folders: ClassVar[tuple[str, ...]] = SLICES
    unread: ClassVar[Mapping[str, str]] = {
        suffix: why for suffix, why in UNREAD.items() if suffix not in FILES
    }

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        prior: Path | None = None,
        objects: Objects = "none",
        min_area: Annotated[int, Ge(0)] = 0,
        apart: Annotated[int, Ge(1)] = 5,
        nifti: bool = False,
    ) -> None:
        self.classifier = load(checkpoint, machine, prior=prior)
        self._objects: Objects = objects
        self._min_area, self._apart = min_area, apart
        self._nifti = nifti

    @staticmethod
    def result_name(name: str) -> str:
        """An image's name as PNG, a scan's as NIfTI, a DICOM series' as one DICOM file."""
        if (stem := stem_of(Path(name), named=True)) is not None:
            return f"{stem}.nii.gz"
        if is_image(Path(name)):
            return name if name.lower().endswith(".png") else f"{name}.png"
        return f"{Path(name).stem if name.lower().endswith(SLICES) else name}.dcm"

    @staticmethod
    def reads(source: Path) -> tuple[Path, ...]:
        """Every file that is read for `source`: the slices of a series, both files of a pair."""
        return files_of(source)

    @staticmethod
    def beside(name: str) -> tuple[str, ...]:
        """Names of what is written beside a mask."""
        end = next((e for e in (".nii.gz", ".dcm", ".png") if name.endswith(e)), "")
        stem = name[: len(name) - len(end)]
        if end != ".png":
            masks = ("mask.nii.gz",) if end == ".dcm" else ()
            endings = ("overlay.png", "uncertainty.nii.gz", "areas.csv", *masks)
            return tuple(f"{stem}-{ending}" for ending in endings)
        endings = ("overlay.png", "uncertainty.png", "areas.csv", "instances.png", "objects.csv")
        return tuple(f"{stem}-{ending}" for ending in endings)

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Write the mask of one image file or scan.

        Returns:
            ``areas``, the fraction of each class, and ``uncertainty``, the mean in nats of the
            tenth of the pixels that are least certain; ``objects``, how many, if they are counted.

        Raises:
            InputError: `source` cannot be read, or `target` cannot be written.
        """
        if source.is_dir() or not is_image(source):
            if self._objects != "none":
                raise InputError(f"objects: {source} is a scan; objects are of images alone")
            beside = [target.with_name(name) for name in self.beside(target.name)]
            return write_scan(segmented(self.classifier, source), target, beside, self._nifti)
        image = rgb(source)
        found = self.classifier(image)
        labels, classes = found.labels.numpy(), self.classifier.classes
        overlay, uncertainty, areas, numbers, table = (
            target.with_name(name) for name in self.beside(target.name)
        )
        write_overlay(overlay, to_bytes(image), labels, classes)
        write_uncertainty(uncertainty, found.uncertainty.numpy(), math.log(len(classes)))
        write_areas(areas, labels, classes)
        counted = {}
        if self._objects != "none":
            divided = objects_in(labels, self._objects, min_area=self._min_area, apart=self._apart)
            brightness = image.mean(0).add_(1).div_(2).numpy()
            rows = measured(divided, brightness, classes.names)
            write_objects(numbers, table, divided.numbers, rows)
            counted = {"objects": len(rows)}
        write_mask(target, labels, classes)
        return {
            "areas": fractions(labels, classes),
            "uncertainty": round(least_certain(found.uncertainty), 6),
            **counted,
        }
