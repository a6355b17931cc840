"""A scan: slices of numbers and where each of them lies in the patient.

Voxel [k, i, j] of slice k, row i, column j has its centre at ``affine @ (j, i, k, 1)``, in
millimetres: x to the patient's left, y to the back, z to the head (DICOM's axes, LPS).
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64

from core.errors import InputError

Modality = Literal["CT", "MR", "other"]
Plane = Literal["acquired", "axial", "coronal", "sagittal"]
PLANES = get_args(Plane)

# Which way slices, rows and columns run where a plane is looked at: along x, y, z, as signs.
_WAYS = {
    "axial": ((2, 1), (1, 1), (0, 1)),  # up the body; rows to the back, columns to the left
    "coronal": ((1, 1), (2, -1), (0, 1)),  # to the back; rows downwards, columns to the left
    "sagittal": ((0, 1), (2, -1), (1, 1)),  # to the left; rows downwards, columns to the back
}


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume of one patient.

    Args:
        voxels: of CT in Hounsfield units; of MR in units of its own.
        affine: from (column, row, slice, 1) to millimetres, LPS.
        modality: what the numbers are.
        patient: a name for people that says nothing of whose scan it is.
        notes: sentences for the user, such as that padding was replaced.
        origin: what the file's own writer needs to write a result beside it; None if made here.
    """

    voxels: Float32[np.ndarray, " d h w"]
    affine: Float64[np.ndarray, "4 4"]
    modality: Modality = "other"
    patient: str = "anonymous"
    notes: tuple[str, ...] = ()
    origin: Any = field(default=None, repr=False)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Between slices, rows and columns, in millimetres."""
        columns, rows, slices = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns


def canonical(scan: Scan, plane: Plane = "acquired") -> Scan:
    """The scan with its slices along a plane, as it is looked at; no voxel is changed or mixed.

    Axes are exchanged and turned round only: of an oblique scan the nearest plane is taken.

    Args:
        scan: any.
        plane: ``acquired`` keeps the slices; rows and columns may be exchanged or turned.
    """
    order, signs = _turns(scan.affine, plane)
    voxels = scan.voxels.transpose(order)
    flipped = tuple(axis for axis, sign in enumerate(signs) if sign < 0)
    return replace(
        scan,
        voxels=np.ascontiguousarray(np.flip(voxels, flipped)),
        affine=scan.affine @ _step(scan.voxels.shape, order, signs),
    )


def like_canonical(
    scan: Scan, plane: Plane = "acquired"
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """How many slices, rows and columns `canonical` gives, and their spacings in millimetres."""
    (a, b, c), _ = _turns(scan.affine, plane)
    shape, spacing = scan.voxels.shape, scan.spacing
    return (shape[a], shape[b], shape[c]), (spacing[a], spacing[b], spacing[c])


def as_stored(result: Float32[np.ndarray, " d h w"], like: Scan, plane: Plane) -> np.ndarray:
    """Voxels of `canonical(like, plane)` in the order of `like` itself.

    Raises:
        InputError: they are of another size.
    """
    order, signs = _turns(like.affine, plane)
    if result.shape != tuple(like.voxels.shape[axis] for axis in order):
        raise InputError(f"{result.shape} voxels do not lie as those of {like.voxels.shape}")
    flipped = tuple(axis for axis, sign in enumerate(signs) if sign < 0)
    return np.ascontiguousarray(np.flip(result, flipped).transpose(np.argsort(order)))


def _turns(affine: np.ndarray, plane: Plane) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of the stored axes become slices, rows and columns, and which are turned round."""
    ways = _ways(affine)
    nearest = _nearest(np.abs(ways))
    if plane == "acquired":
        plane = ("sagittal", "coronal", "axial")[nearest[0]]
    order, signs = [], []
    for direction, sign in _WAYS[plane]:
        axis = nearest.index(direction)
        order.append(axis)
        signs.append(1 if ways[axis, direction] * sign > 0 else -1)
    if plane == ("sagittal", "coronal", "axial")[nearest[0]]:
        signs[0] = 1  # the slices stay in their order
    return tuple(order), tuple(signs)


def _ways(affine: np.ndarray) -> np.ndarray:
    """The directions of slices, rows and columns, of unit length."""
    ways = affine[:3, 2::-1].T
    return ways / np.linalg.norm(ways, axis=1, keepdims=True)


def _nearest(share: np.ndarray) -> list[int]:
    """For each stored axis the direction that it runs along, each once."""
    best = max(
        ((a, b, c) for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3),
        key=lambda way: sum(share[axis, way[axis]] for axis in range(3)),
    )
    return list(best)


def _step(shape: tuple[int, ...], order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """From indices (column, row, slice, 1) afterwards to those before."""
    made = np.zeros((4, 4))
    made[3, 3] = 1
    for after, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        made[2 - axis, 2 - after] = sign
        if sign < 0:
            made[2 - axis, 3] = shape[axis] - 1
    return made


def plane_of(scan: Scan) -> Plane:
    """The plane that a scan's slices lie in, or the nearest one."""
    return ("sagittal", "coronal", "axial")[_nearest(np.abs(_ways(scan.affine)))[0]]


def reduced(scan: Scan, factor: int) -> Scan:
    """Means over factor x factor pixels of each slice; rows and columns beyond them are cut off.

    Raises:
        InputError: slices smaller than that.
    """
    if factor == 1:
        return scan
    d, h, w = scan.voxels.shape
    if min(h, w) < factor:
        raise InputError(f"reduce: {factor} is more than the {w}x{h} pixels of a slice")
    h, w = h // factor, w // factor
    whole = scan.voxels[:, : h * factor, : w * factor].reshape(d, h, factor, w, factor)
    step = np.diag([float(factor), float(factor), 1.0, 1.0])
    step[:2, 3] = (factor - 1) / 2
    return replace(scan, voxels=whole.mean((2, 4)), affine=scan.affine @ step)
