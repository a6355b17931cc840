"""From files of any kind and words to a scan on a plane."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float32

from core.errors import InputError
from plugins.medical.io import dicom, nifti, scan
from plugins.medical.io.scan import Plane, Scan, as_stored


def read(place: Path, *, series: int | None = None, volume: int | None = None) -> Scan:
    """The scan in a file or a folder of slices.

    Args:
        place: a NIfTI file, a DICOM file, or a folder of those.
        series: which DICOM series, as `dicom.read` counts them.
        volume: which volume of a NIfTI file.

    Raises:
        InputError: none that can be read, or several.
    """
    if place.name.lower().endswith(nifti.SUFFIXES):
        if series is not None:
            raise InputError("series: names one of DICOM; leave it out for NIfTI")
        return nifti.read(place, volume=volume)
    if volume is not None:
        raise InputError("volume: names one of NIfTI; leave it out for DICOM")
    return dicom.read(place, series=series)


@dataclass(frozen=True, eq=False)
class Subject:
    """A scan to be measured, and how results go back to where it lies.

    Args:
        scan: its slices along the plane, as they are looked at.
        stored: as it lay in its file, reduced where that was wanted.
        plane: of the slices.
    """

    scan: Scan
    stored: Scan
    plane: Plane

    def back(self, voxels: Float32[np.ndarray, " d h w"]) -> Float32[np.ndarray, " a b c"]:
        """Voxels of `scan` in the order of `stored`."""
        return as_stored(voxels, self.stored, self.plane)


def prepared(
    place: Path, series: int | None, volume: int | None, plane: str, reduce: int
) -> Subject:
    """A scan with its slices along a plane, reduced if wanted; its notes are said.

    Raises:
        InputError: no such plane, or a scan that cannot be read.
    """
    if plane not in scan.PLANES:
        raise InputError(f"plane: expected one of {', '.join(scan.PLANES)}, got {plane!r}")
    wanted = cast(Plane, plane)
    found = read(place, series=series, volume=volume)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if wanted != "acquired":  # its rows and columns may be other axes than the file's
        found = scan.canonical(found, wanted) if reduce > 1 else found
    stored = scan.reduced(found, reduce)
    return Subject(scan.canonical(stored, wanted), stored, wanted)
