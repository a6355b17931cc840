"""NIfTI files read as scans, and results written with the same affine.

Only single files are read (``.nii``, ``.nii.gz``): no file that a header names is opened, and
header extensions, which may hold whole DICOM headers, are dropped.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from core.errors import InputError
from core.storage import files
from plugins.medical.io.claims import check_claim, reason
from plugins.medical.io.scan import Scan

SUFFIXES = (".nii", ".nii.gz")
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's world space is RAS, a scan's LPS
HEAD = 540  # bytes of the longer of the two headers
MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # of each spatial unit code of xyzt_units
AIR = -500.0  # a scan with values below it is taken for CT


@dataclass(frozen=True)
class Origin:
    """Header fields that a result takes from its source.

    Args:
        kind: ``Nifti1Image`` or ``Nifti2Image``.
        codes: qform_code and sform_code.
        units: spatial unit: 1 metres, 2 or 0 millimetres, 3 micrometres.
    """

    kind: str
    codes: tuple[int, int]
    units: int


def read(path: Path, *, volume: int | None = None) -> Scan:
    """The scan of a file, in the order of its stored voxels.

    Args:
        path: of the file.
        volume: index of the volume of a 4-D file.

    Raises:
        InputError: it cannot be read, or its affine is not invertible.
    """
    import nibabel

    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path.name}: expected a single file .nii or .nii.gz")
    head = _head(path)
    kind = nibabel.Nifti2Image if head[4:8] in (b"n+2\0", b"ni2\0") else nibabel.Nifti1Image
    if head[4:8] == b"ni2\0" or head[344:348] == b"ni1\0":
        raise InputError(f"{path.name}: is a header of a .hdr and .img pair; save both as one .nii")
    try:
        header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=True)
        shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
        offset = int(header.get_data_offset())
    except Exception as error:
        raise InputError(
            f"{path.name}: the NIfTI header cannot be read: {reason(error)}"
        ) from error
    if dtype.names or dtype.kind not in "iuf":
        raise InputError(f"{path.name}: datatype is {dtype}; expected one real number per voxel")
    _check_volume(path, shape, volume)
    check_claim(path, shape[:3], 8)
    _check_length(path, offset + int(np.prod(shape, dtype=object)) * dtype.itemsize)
    try:
        image = kind.from_filename(os.fspath(path), mmap=False)
        inside: Any = image.dataobj
        chosen = (..., volume or 0, *[0] * len(shape[4:])) if len(shape) > 3 else ...
        values = inside[chosen]
        found = np.asarray(values, np.float32).reshape(shape[:3])
        affine = np.asarray(image.affine, np.float64)
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read: {reason(error)}") from error
    notes = _check_geometry(path, affine, header)
    if lost := int((~np.isfinite(found)).sum()):
        if lost == found.size:
            raise InputError(f"{path.name}: none of its voxels is finite")
        notes += (f"{lost} non-finite voxels were set to 0",)
        found = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)
    codes = (int(header["qform_code"]), int(header["sform_code"]))
    units = int(header["xyzt_units"]) & 7
    return Scan(
        np.ascontiguousarray(found.transpose(2, 1, 0)),
        RAS @ np.diag([*[MILLIMETRES.get(units, 1.0)] * 3, 1.0]) @ affine,
        "CT" if float(found.min()) < AIR else "other",
        notes=notes,
        origin=Origin(kind.__name__, codes, units if units in MILLIMETRES else 0),
        files=(path,),
    )


def _head(path: Path) -> bytes:
    """The first bytes, decompressed no further."""
    head = b""
    for piece in _unpacked(path, HEAD):
        head += piece
    return head[:HEAD]


def _unpacked(path: Path, wanted: int) -> Iterator[bytes]:
    """The first `wanted` bytes of a file in chunks, decompressed if it is gzip."""
    packed = path.name.lower().endswith(".gz")
    try:
        if not path.is_file():  # opening a pipe would block
            raise InputError(f"{path}: no such file")
        with path.open("rb") as file:
            if not packed:
                yield file.read(wanted)
                return
            unpack = zlib.decompressobj(31)
            while wanted > 0 and (data := file.read(1 << 16)):
                while data and wanted > 0:
                    if unpack.eof:  # gzip files may be joined, as bgzip's are
                        data = data.lstrip(b"\0")  # and padded
                        unpack = zlib.decompressobj(31)
                    piece = unpack.decompress(data, min(wanted, 1 << 22))
                    data = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
                    wanted -= len(piece)
                    yield piece
    except (OSError, zlib.error) as error:
        raise InputError(f"{path.name}: cannot be read or decompressed: {reason(error)}") from error


def _check_volume(path: Path, shape: tuple[int, ...], volume: int | None) -> None:
    sizes = " x ".join(map(str, shape))
    if len(shape) < 3 or any(size > 1 for size in shape[4:]):
        raise InputError(
            f"{path.name}: has shape {sizes}; expected three dimensions, or four for volumes"
        )
    count = shape[3] if len(shape) > 3 else 1
    if volume is None and count > 1:
        raise InputError(
            f"{path.name}: has shape {sizes}, {count} volumes; choose one with --volume, from 0 to "
            f"{count - 1}"
        )
    if volume is not None and not 0 <= volume < count:
        raise InputError(f"{path.name}: has no volume {volume}; expected 0 to {count - 1}")


def _check_length(path: Path, wanted: int) -> None:
    """Refuse a file with fewer bytes than its header claims, counted after decompression."""
    if path.name.lower().endswith(".gz"):
        held = sum(map(len, _unpacked(path, wanted)))
    else:
        held = path.stat().st_size
    if held < wanted:
        raise InputError(
            f"{path.name}: is truncated: its header claims {wanted:,} bytes, the file has "
            f"{held:,}; copy it again"
        )


def _check_geometry(path: Path, affine: np.ndarray, header: Any) -> tuple[str, ...]:
    if not np.isfinite(affine).all():
        raise InputError(f"{path.name}: its affine is not finite")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (sizes > 0).all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.1:
        raise InputError(
            f"{path.name}: its affine is singular (voxels of "
            f"{' x '.join(f'{size:g}' for size in sizes)} mm); expected three positive sizes and "
            "three linearly independent axes"
        )
    if not (header["qform_code"] or header["sform_code"]):
        return ("qform_code and sform_code are 0: only the voxel sizes are known",)
    return ()


def write(
    path: Path, voxels: Float32[np.ndarray, " d h w"], like: Scan, *, description: str
) -> None:
    """Write voxels with the affine of `like` and nothing else of its header.

    Args:
        path: a file ``.nii`` or ``.nii.gz``; an older one is replaced atomically.
        voxels: in the shape and order of `like`.
        like: the scan whose geometry they have.
        description: descrip, up to 79 letters.

    Raises:
        InputError: another suffix, a folder, or voxels of another shape or not finite.
        StorageError: the disk is full or not writable.
    """
    import nibabel

    if not path.name.lower().endswith(SUFFIXES) or path.is_dir():
        raise InputError(f"{path}: expected the name of a file that ends in .nii or .nii.gz")
    if voxels.shape != like.voxels.shape:
        raise InputError(f"expected voxels of shape {like.voxels.shape}, got {voxels.shape}")
    if not np.isfinite(voxels).all():
        raise InputError(f"{path}: not written: some voxels are not finite")
    origin = like.origin if isinstance(like.origin, Origin) else Origin("Nifti1Image", (1, 1), 2)
    units = origin.units or 2
    affine = np.diag([*[1 / MILLIMETRES[units]] * 3, 1.0]) @ RAS @ like.affine
    image = getattr(nibabel, origin.kind)(voxels.transpose(2, 1, 0), affine)
    image.set_data_dtype(np.float32)
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.header.set_xyzt_units(units)
    qform, sform = origin.codes
    image.set_qform(affine, code=qform or (0 if sform else 1))
    image.set_sform(affine, code=sform or (0 if qform else 1))
    end = ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"
    try:
        with files.replaced(path, suffix=end) as waiting:
            nibabel.save(image, os.fspath(waiting))
    except OSError as error:
        remains = "an older file is unchanged"
        raise files.not_written(path, error, needed=voxels.nbytes, remains=remains) from error
