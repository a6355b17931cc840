"""A scan: voxels and their geometry in the patient.

Voxel [k, i, j] of slice k, row i, column j has its centre at ``affine @ (j, i, k, 1)``, in
millimetres: x to the patient's left, y to posterior, z to superior (DICOM's axes, LPS).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from core.errors import InputError
from core.scans.request import Plane

Modality = Literal["CT", "MR", "other"]
PLANES = get_args(Plane)
GRID = 0.1  # voxels: how far apart two grids may lie that are the same
TILT = 0.5  # degrees: largest angle by which two axes of voxels differ from a right one

# Axis (x, y, z) and sign of slices, rows and columns in the display convention of each plane.
_WAYS = {
    "axial": ((2, 1), (1, 1), (0, 1)),  # up the body; rows to the back, columns to the left
    "coronal": ((1, 1), (2, -1), (0, 1)),  # to the back; rows downwards, columns to the left
    "sagittal": ((0, 1), (2, -1), (1, 1)),  # to the left; rows downwards, columns to the back
}


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume of one patient.

    Args:
        voxels: of CT in Hounsfield units; of MR in arbitrary units.
        affine: from (column, row, slice, 1) to millimetres, LPS.
        modality: CT, MR or other.
        patient: a pseudonym.
        notes: sentences for the user, such as that padding was replaced.
        origin: what the writer of the same format keeps of the source; None if made here.
        files: that it was read from, in the order of its slices.
    """

    voxels: Float32[np.ndarray, " d h w"]
    affine: Float64[np.ndarray, "4 4"]
    modality: Modality = "other"
    patient: str = "anonymous"
    notes: tuple[str, ...] = ()
    origin: Any = field(default=None, repr=False)
    files: tuple[Path, ...] = field(default=(), repr=False)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between slices, rows and columns, in millimetres."""
        columns, rows, slices = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns


def check_voxels(path: Path, voxels: Shaped[np.ndarray, " d h w"], like: Scan) -> None:
    """Refuse voxels that cannot be written with the geometry of `like`.

    Raises:
        InputError: another shape, or values that are not finite.
    """
    if voxels.shape != like.voxels.shape:
        raise InputError(f"expected voxels of shape {like.voxels.shape}, got {voxels.shape}")
    if not np.isfinite(voxels).all():
        raise InputError(f"{path}: not written: some voxels are not finite")


def canonical(scan: Scan, plane: Plane = "acquired") -> Scan:
    """The scan with its slices along a plane, in display orientation, without interpolation.

    Axes are permuted and flipped only: of an oblique scan the nearest plane is taken.

    Args:
        scan: any.
        plane: ``acquired`` keeps the slices; rows and columns may be exchanged or flipped.
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
    """Shape and spacing (mm) of `canonical`'s result: slices, rows, columns."""
    (a, b, c), _ = _turns(scan.affine, plane)
    shape, spacing = scan.voxels.shape, scan.spacing
    return (shape[a], shape[b], shape[c]), (spacing[a], spacing[b], spacing[c])


def as_stored(result: Shaped[np.ndarray, " d h w"], like: Scan, plane: Plane) -> np.ndarray:
    """Voxels of `canonical(like, plane)` in the order of `like` itself.

    Raises:
        InputError: another shape.
    """
    order, signs = _turns(like.affine, plane)
    if result.shape != tuple(like.voxels.shape[axis] for axis in order):
        raise InputError(f"voxels of shape {result.shape} do not fit a scan of {like.voxels.shape}")
    flipped = tuple(axis for axis, sign in enumerate(signs) if sign < 0)
    return np.ascontiguousarray(np.flip(result, flipped).transpose(np.argsort(order)))


def on_grid(other: Scan, like: Scan) -> np.ndarray:
    """The voxels of a scan with the same voxels in the patient, in the order of `like`.

    A label map may have been saved with its axes exchanged or flipped, as other programs do.

    Args:
        other: of the same grid.
        like: the scan.

    Raises:
        InputError: a voxel of one lies more than a tenth of a voxel from the other's.
    """
    step = np.linalg.inv(other.affine) @ like.affine  # indices (column, row, slice) of each
    turn = np.rint(step)
    d, h, w = like.voxels.shape
    corners = np.array([(x, y, z, 1) for x in (0, w - 1) for y in (0, h - 1) for z in (0, d - 1)]).T
    turned = (turn @ corners)[:3]
    plain = np.abs(turn[:3, :3])
    whole = (plain.sum(0) == 1).all() and (plain.sum(1) == 1).all()
    held = np.array(other.voxels.shape[::-1])
    inside = turned.min() == 0 and (turned.max(1) == held - 1).all()
    if not (whole and inside and np.abs(step @ corners - turn @ corners).max() < GRID):
        sizes = (" x ".join(map(str, one.voxels.shape)) for one in (other, like))
        raise InputError(
            "expected the voxels of its scan: has {}, the scan {} (slices, rows, columns), or lies "
            "elsewhere in the patient; resample it to the scan's grid".format(*sizes)
        )
    axes = [2 - int(np.argmax(plain[:, 2 - axis])) for axis in range(3)]  # of `other`, as d h w
    found = other.voxels.transpose(axes)
    flipped = tuple(i for i, axis in enumerate(axes) if turn[2 - axis, 2 - i] < 0)
    return np.ascontiguousarray(np.flip(found, flipped))


def _turns(affine: np.ndarray, plane: Plane) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The stored axes that become slices, rows and columns, and the sign of each."""
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
    """Unit vectors along slices, rows and columns."""
    ways = affine[:3, 2::-1].T
    return ways / np.linalg.norm(ways, axis=1, keepdims=True)


def _nearest(share: np.ndarray) -> list[int]:
    """For each stored axis the nearest axis of the patient, each once."""
    best = max(
        ((a, b, c) for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3),
        key=lambda way: sum(share[axis, way[axis]] for axis in range(3)),
    )
    return list(best)


def _step(shape: tuple[int, ...], order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """The matrix from new indices (column, row, slice, 1) to old ones."""
    made = np.zeros((4, 4))
    made[3, 3] = 1
    for after, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        made[2 - axis, 2 - after] = sign
        if sign < 0:
            made[2 - axis, 3] = shape[axis] - 1
    return made


def plane_of(scan: Scan) -> Plane:
    """The plane of a scan's slices, or the nearest one."""
    return ("sagittal", "coronal", "axial")[_nearest(np.abs(_ways(scan.affine)))[0]]


def reduced(scan: Scan, factor: int) -> Scan:
    """Means over factor x factor pixels of each slice; remaining rows and columns are cropped.

    Raises:
        InputError: slices smaller than the factor.
    """
    if factor == 1:
        return scan
    d, h, w = scan.voxels.shape
    if min(h, w) < factor:
        raise InputError(f"reduce: expected at most the {w}x{h} pixels of a slice, got {factor}")
    h, w = h // factor, w // factor
    whole = scan.voxels[:, : h * factor, : w * factor].reshape(d, h, factor, w, factor)
    step = np.diag([float(factor), float(factor), 1.0, 1.0])
    step[:2, 3] = (factor - 1) / 2
    return replace(scan, voxels=whole.mean((2, 4)), affine=scan.affine @ step)
