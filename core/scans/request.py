"""Options of reading a scan: no numpy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from core.request import Count

Modality = Literal["ct", "mri"]
Plane = Literal["acquired", "axial", "coronal", "sagittal"]
CODES: dict[Modality, Literal["CT", "MR"]] = {"ct": "CT", "mri": "MR"}  # as DICOM writes them


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """Slices of a scan.

    Args:
        reduce: downsample the slices first, by means over `reduce` x `reduce`.
        plane: plane of the slices.
        series: DICOM: number of the series, if there are several.
        volume: NIfTI: index of the volume of a 4-D file, from 0.
        modality: NIfTI: modality, which no header states; by default CT where values lie below
            -500, and unknown otherwise.
    """

    reduce: Count = 1
    plane: Plane = "acquired"
    series: Count | None = None
    volume: Annotated[int, Ge(0)] | None = None
    modality: Modality | None = None
