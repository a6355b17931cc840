"""Intensities of scans whose headers state no modality: NIfTI, MetaImage and NRRD."""

import numpy as np
from jaxtyping import Float32

from core.errors import InputError
from core.scans.scan import Modality

AIR = -500.0  # a scan with values below it is taken for CT
EMPTY = -1000.0  # Hounsfield units of air


def settled(
    name: str, voxels: Float32[np.ndarray, " *shape"], modality: Modality | None
) -> tuple[Float32[np.ndarray, " *shape"], Modality, tuple[str, ...]]:
    """Finite voxels, their modality, and notes.

    Voxels that are not finite lie outside the field of view: they become air in CT, 0 otherwise.

    Args:
        name: of the file.
        voxels: as stored.
        modality: as declared; by default CT where values lie below -500, and other elsewhere.

    Raises:
        InputError: none of the voxels is finite, or none of a CT's is below 0.
    """
    finite = np.isfinite(voxels)
    if not finite.any():
        raise InputError(f"{name}: none of its voxels is finite")
    least = float(voxels.min(where=finite, initial=np.inf))
    notes: tuple[str, ...] = ()
    if modality == "CT" and least >= 0:
        raise InputError(
            f"{name}: no value of this CT is below 0: expected Hounsfield units, air at -1000 and "
            "water at 0; subtract an offset of 1000 or 1024 if it was stored with one"
        )
    modality = modality or ("CT" if least < AIR else "other")
    if lost := int((~finite).sum()):
        outside, what = (EMPTY, "air") if modality == "CT" else (0.0, "0")
        notes += (f"{lost} non-finite voxels were set to {what}",)
        voxels = np.where(finite, voxels, np.float32(outside))
    return voxels, modality, notes
