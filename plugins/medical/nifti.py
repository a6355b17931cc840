"""NIfTI files: read as scans, and results written beside them with the same geometry.

Only single files are read (``.nii``, ``.nii.gz``), by the class of their format: nothing that a
header names is opened, and header extensions, which may hold whole DICOM headers, are dropped.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from core.errors import InputError
from plugins.medical.claims import check_claim, reason
from plugins.medical.scan import Scan

SUFFIXES = (".nii", ".nii.gz")
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # the file's world is RAS, a scan's LPS
HEAD = 540  # bytes of the longer of the two headers
AIR = -500.0  # values below it are Hounsfield units: nothing else goes there


@dataclass(frozen=True)
class Origin:
    """What a result is written like.

    Args:
        kind: ``Nifti1Image`` or ``Nifti2Image``.
        codes: of qform and sform.
        units: of space.
    """

    kind: str
    codes: tuple[int, int]
    units: int


def read(path: Path, *, volume: int | None = None) -> Scan:
    """The scan of a file, in the order that its voxels are stored in.

    Args:
        path: of the file.
        volume: which of several, counted from 0.

    Raises:
        InputError: it cannot be read, or says nothing of where its voxels are.
    """
    import nibabel

    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path.name}: expected a single file .nii or .nii.gz")
    head = _head(path)
    kind = nibabel.Nifti2Image if head[4:8] in (b"n+2\0", b"ni2\0") else nibabel.Nifti1Image
    try:
        header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=True)
        shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
        offset = int(header.get_data_offset())
    except Exception as error:
        raise InputError(
            f"{path.name}: no NIfTI header that can be read: {reason(error)}"
        ) from error
    if dtype.names or dtype.kind not in "iuf":
        raise InputError(f"{path.name}: holds {dtype}; expected one real number for each voxel")
    if len(shape) < 3 or (shape[3:] and int(np.prod(shape[3:])) > 1 and volume is None):
        raise InputError(
            f"{path.name}: {' x '.join(map(str, shape))} voxels; expected three dimensions"
            + (f"; choose one volume, from 0 to {shape[3] - 1}" if len(shape) > 3 else "")
        )
    if volume is not None and not (len(shape) == 4 and 0 <= volume < shape[3]):
        raise InputError(f"{path.name}: has no volume {volume}; its size is {shape}")
    check_claim(path, shape[:3], 8)
    _check_length(path, offset + int(np.prod(shape, dtype=object)) * dtype.itemsize)
    try:
        image = kind.from_filename(os.fspath(path))
        inside: Any = image.dataobj
        values = inside[..., volume or 0] if len(shape) > 3 else inside[...]
        found = np.asarray(values, np.float32).reshape(shape[:3])
        affine = np.asarray(image.affine, np.float64)
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read: {reason(error)}") from error
    notes = _check_geometry(path, affine, header)
    if not np.isfinite(found).all():
        lost = int((~np.isfinite(found)).sum())
        notes += (f"{lost} voxels are no numbers; they are taken as 0",)
        found = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)
    codes = (int(header["qform_code"]), int(header["sform_code"]))
    return Scan(
        np.ascontiguousarray(found.transpose(2, 1, 0)),
        RAS @ affine,
        "CT" if float(found.min()) < AIR else "other",
        notes=notes,
        origin=Origin(kind.__name__, codes, int(header["xyzt_units"]) & 7),
    )


def _head(path: Path) -> bytes:
    """The first bytes, unpacked: no more is unpacked than is asked for."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            if path.name.lower().endswith(".gz"):
                return zlib.decompressobj(31).decompress(head + file.read(1 << 16), HEAD)
            return head
    except (OSError, zlib.error) as error:
        raise InputError(f"{path.name}: cannot be read: {reason(error)}") from error


def _check_length(path: Path, wanted: int) -> None:
    """Refuse a file with fewer bytes than its header claims; a packed one is unpacked to count."""
    if not path.name.lower().endswith(".gz"):
        held = path.stat().st_size
    else:
        unpack, held = zlib.decompressobj(31), 0
        try:
            with path.open("rb") as file:
                while held < wanted and (packed := file.read(1 << 18)):
                    while packed and held < wanted:
                        held += len(unpack.decompress(packed, 1 << 22))
                        packed = unpack.unconsumed_tail
        except (OSError, zlib.error) as error:
            raise InputError(f"{path.name}: cannot be unpacked: {reason(error)}") from error
    if held < wanted:
        raise InputError(
            f"{path.name}: its header claims {wanted:,} bytes and the file ends after {held:,}; "
            "it is cut off, copy it again"
        )


def _check_geometry(path: Path, affine: np.ndarray, header: Any) -> tuple[str, ...]:
    if not np.isfinite(affine).all():
        raise InputError(f"{path.name}: its affine has entries that are no numbers")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (sizes > 0).all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.1:
        raise InputError(
            f"{path.name}: voxels of {' x '.join(f'{size:g}' for size in sizes)} mm, or axes that "
            "lie in one plane; expected three sizes above 0 and three directions"
        )
    if not (header["qform_code"] or header["sform_code"]):
        return ("its header says only how large voxels are, not where they lie",)
    return ()


def write(
    path: Path, voxels: Float32[np.ndarray, " d h w"], like: Scan, *, description: str
) -> None:
    """Write voxels in the order of `like`, with its affine and nothing else of its header.

    Args:
        path: a file ``.nii`` or ``.nii.gz``; an older one is replaced when the new one is whole.
        voxels: as many as `like` has.
        like: where they lie.
        description: of what they are, up to 79 letters.

    Raises:
        InputError: another suffix, or voxels of another size.
    """
    import nibabel

    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: expected a name that ends in .nii or .nii.gz")
    if voxels.shape != like.voxels.shape:
        raise InputError(f"{voxels.shape} voxels for a scan of {like.voxels.shape}")
    origin = like.origin if isinstance(like.origin, Origin) else Origin("Nifti1Image", (1, 1), 2)
    image = getattr(nibabel, origin.kind)(voxels.transpose(2, 1, 0), RAS @ like.affine)
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.header.set_xyzt_units(origin.units or 2)
    qform, sform = origin.codes
    image.set_qform(RAS @ like.affine, code=qform or (0 if sform else 1))
    image.set_sform(RAS @ like.affine, code=sform or (0 if qform else 1))
    end = ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"
    waiting = path.with_name(f".{path.name}.{os.getpid()}{end}")
    try:
        nibabel.save(image, os.fspath(waiting))
        os.replace(waiting, path)
    finally:
        waiting.unlink(missing_ok=True)
