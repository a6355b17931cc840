"""From files of any kind and words to a scan on a plane."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from core.errors import InputError
from core.scans import dicom, itk, nifti, scan
from core.scans.packages import require
from core.scans.request import CODES, Modality, Plane, ScanOptions
from core.scans.scan import Scan, as_stored


def read(
    place: Path,
    *,
    series: int | None = None,
    volume: int | None = None,
    modality: Modality | None = None,
) -> Scan:
    """The scan in a file or a folder of DICOM files.

    Args:
        place: a NIfTI file (of a pair either), a .mha or .nrrd, a DICOM file, or a folder of those.
        series: which DICOM series, as `dicom.read` counts them.
        volume: which volume of a NIfTI file.
        modality: of a NIfTI, MetaImage or NRRD file.

    Raises:
        InputError: none that can be read, or several, or a package that is not installed.
    """
    if place.name.lower().endswith((*nifti.SUFFIXES, nifti.HEADER, nifti.VOXELS)):
        if series is not None:
            raise InputError("series: applies to DICOM only; leave it out for NIfTI")
        require(place.name, "nibabel")
        return nifti.read(place, volume=volume, modality=modality and CODES[modality])
    if place.name.lower().endswith(itk.SUFFIXES):
        if series is not None or volume is not None:
            raise InputError("series, volume: apply to DICOM and NIfTI only; leave them out")
        return itk.read(place, modality=modality and CODES[modality])
    if volume is not None:
        raise InputError("volume: applies to NIfTI only; leave it out for DICOM")
    if modality is not None:
        raise InputError(
            "modality: applies to NIfTI, .mha and .nrrd; a DICOM header states its own"
        )
    require(place.name, "pydicom")
    return dicom.read(place, series=series)


@dataclass(frozen=True, eq=False)
class Subject:
    """A scan to measure, and how results are put into the geometry of its file.

    Args:
        scan: its slices along the plane, in display orientation.
        stored: in the orientation of its file, reduced.
        plane: of the slices.
    """

    scan: Scan
    stored: Scan
    plane: Plane

    def back(self, voxels: Shaped[np.ndarray, " d h w"]) -> Shaped[np.ndarray, " a b c"]:
        """Voxels of `scan`, or their labels, in the order of `stored`."""
        return as_stored(voxels, self.stored, self.plane)


def prepared(place: Path, options: ScanOptions) -> Subject:
    """A scan with its slices along a plane, reduced; `stored` has the notes of reading it.

    Raises:
        InputError: a scan that cannot be read.
    """
    plane, reduce = options.plane, options.reduce
    found = read(place, series=options.series, volume=options.volume, modality=options.modality)
    if plane != "acquired":  # its rows and columns may be other axes than the file's
        found = scan.canonical(found, plane) if reduce > 1 else found
    stored = scan.reduced(found, reduce)
    return Subject(scan.canonical(stored, plane), stored, plane)
