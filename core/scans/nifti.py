"""NIfTI files read as scans, and results written with the same affine.

Single files are read (``.nii``, ``.nii.gz``), and pairs of one name (``.hdr`` and ``.img``): no
file that a header names is opened, and header extensions, which may hold whole DICOM headers, are
dropped.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from core.errors import InputError
from core.scans.claims import check_claim, reason
from core.scans.intensities import settled
from core.scans.scan import TILT, Modality, Scan, check_voxels
from core.storage import files

SUFFIXES = (".nii", ".nii.gz")  # of single files, which are written too
HEADER, VOXELS = ".hdr", ".img"  # of pairs
PAIRED = (b"ni1\0", b"ni2\0")  # magics of a pair's header
KINDS = {b"ni1\0": "Nifti1Pair", b"n+2\0": "Nifti2Image", b"ni2\0": "Nifti2Pair"}
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's world space is RAS, a scan's LPS
HEAD = 540  # bytes of the longer of the two headers
CHUNK = 1 << 22  # bytes that are decompressed at a time
MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # of each spatial unit code of xyzt_units


@dataclass(frozen=True, eq=False)
class Origin:
    """Header fields that a result takes from its source.

    Args:
        kind: ``Nifti1Image`` or ``Nifti2Image``.
        codes: qform_code and sform_code.
        units: spatial unit: 1 metres, 2 or 0 millimetres, 3 micrometres.
        affine: of the source, as of a scan.
        qform: from the source's (column, row, slice, 1) to RAS, in those units; None without one.
    """

    kind: str
    codes: tuple[int, int]
    units: int
    affine: Float64[np.ndarray, "4 4"]
    qform: Float64[np.ndarray, "4 4"] | None


@dataclass(frozen=True, eq=False)
class Header:
    """The header of a file that holds what it claims.

    Args:
        kind: nibabel's class of the file.
        fields: nibabel's header.
        shape: of the stored array.
        dtype: of the stored voxels.
        offset: of the voxels in the decompressed file, in bytes.
        affine: from (column, row, slice, 1) to millimetres, LPS.
        files: of the header and of the voxels; one where they are the same.
    """

    kind: Any
    fields: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    affine: Float64[np.ndarray, "4 4"]
    files: tuple[Path, ...]

    @property
    def volumes(self) -> int:
        """Number of volumes."""
        return self.shape[3] if len(self.shape) > 3 else 1

    @property
    def units(self) -> int:
        """Spatial unit code of xyzt_units, 0 where it is unknown."""
        code = int(self.fields["xyzt_units"]) & 7
        return code if code in MILLIMETRES else 0


def is_nifti(path: Path) -> bool:
    """Whether a file is named as NIfTI, or is the header of a pair."""
    if path.name.lower().endswith(SUFFIXES):
        return True
    if path.suffix.lower() != HEADER:
        return False
    try:
        return _magic(_head(path)) in PAIRED
    except InputError:
        return False


def header_of(path: Path) -> Header:
    """The header of a file, its size checked before memory is taken for its voxels.

    Raises:
        InputError: it cannot be read, is truncated, or its affine is singular or sheared.
    """
    import nibabel

    files = _files(path)
    magic = _magic(head := _head(files[0]))
    if (magic in PAIRED) != (len(files) == 2):
        single = "has the header of a pair; expected one of a single file, or a .hdr with its .img"
        analyze = "is no NIfTI header, as of Analyze, which states no orientation; save it as .nii"
        raise InputError(f"{files[0].name}: {single if magic in PAIRED else analyze}")
    kind = getattr(nibabel, KINDS.get(magic, "Nifti1Image"))
    try:
        fields = kind.header_class(head[: kind.header_class.sizeof_hdr], check=True)
        shape, dtype = tuple(map(int, fields.get_data_shape())), fields.get_data_dtype()
        offset = int(fields.get_data_offset())
        affine = _with_normal(
            np.asarray(fields.get_best_affine(), np.float64), flat=len(shape) == 2
        )
    except Exception as error:
        raise InputError(
            f"{path.name}: the NIfTI header cannot be read: {reason(error)}"
        ) from error
    if dtype.names or dtype.kind not in "iufc":
        raise InputError(f"{path.name}: datatype is {dtype}; expected one number per voxel")
    shape = (*shape, 1) if len(shape) == 2 else shape
    if len(shape) < 3 or any(size > 1 for size in shape[4:]):
        raise InputError(
            f"{path.name}: has shape {_by(shape)}; expected two or three dimensions, or four for "
            "volumes"
        )
    check_claim(path, shape[:3], 24 if dtype.kind == "c" else 8)
    _check_length(files[-1], offset + int(np.prod(shape, dtype=object)) * dtype.itemsize)
    _check_affine(path, affine)
    found = Header(kind, fields, shape, dtype, offset, affine, files)
    return replace(found, affine=RAS @ _scaled(MILLIMETRES.get(found.units, 1.0)) @ affine)


def read(path: Path, *, volume: int | None = None, modality: Modality | None = None) -> Scan:
    """The scan of a file, in the order of its stored voxels.

    Args:
        path: of the file.
        volume: index of the volume of a 4-D file.
        modality: of the scan; by default CT where values lie below -500, and other elsewhere.

    Raises:
        InputError: it cannot be read, or its affine is singular or sheared.
    """
    header = header_of(path)
    shape = header.shape
    _check_volume(path, header, volume)
    try:
        inside: Any = _image_of(path, header).dataobj
        chosen = (..., volume or 0, *[0] * len(shape[4:])) if len(shape) > 3 else ...
        values = np.asarray(inside[... if inside.ndim == 2 else chosen])
        values = np.abs(values) if np.iscomplexobj(values) else values
        found = values.astype(np.float32).reshape(shape[:3])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read: {reason(error)}") from error
    codes = (int(header.fields["qform_code"]), int(header.fields["sform_code"]))
    notes = (
        () if any(codes) else ("qform_code and sform_code are 0: only the voxel sizes are known",)
    )
    if header.dtype.kind == "c":
        notes += ("complex voxels: their magnitude is read",)
    found, modality, more = settled(path.name, found, modality)
    single = header.kind.__name__.replace("Pair", "Image")
    return Scan(
        np.ascontiguousarray(found.transpose(2, 1, 0)),
        header.affine,
        modality,
        notes=(*notes, *more),
        origin=Origin(single, codes, header.units, header.affine, _qform(header)),
        files=header.files,
    )


def chunks(header: Header) -> Iterator[Float64[np.ndarray, " n"]]:
    """The values of a file in the order of storage, some at a time, scaled.

    Raises:
        InputError: it cannot be decompressed.
    """
    slope, intercept = (float(header.fields[name]) for name in ("scl_slope", "scl_inter"))
    if not (np.isfinite([slope, intercept]).all() and slope):
        slope, intercept = 1.0, 0.0
    left, size = b"", header.dtype.itemsize
    skipped = header.offset
    wanted = header.offset + int(np.prod(header.shape, dtype=object)) * size
    for piece in _unpacked(header.files[-1], wanted):
        skip = min(skipped, len(piece))
        skipped -= skip
        left += piece[skip:]
        whole = len(left) // size * size
        values = np.frombuffer(left[:whole], header.dtype) * slope + intercept
        yield np.abs(values) if np.iscomplexobj(values) else values.astype(np.float64)
        left = left[whole:]


def _image_of(path: Path, header: Header) -> Any:
    """nibabel's image; a compressed one of a single volume with the sum of its bytes checked.

    nibabel stops before the sum (CRC-32), so that a bit lost in the file would be another value.
    """
    if header.volumes > 1 or not path.name.lower().endswith(".gz"):
        return header.kind.from_filename(os.fspath(header.files[0]), mmap=False)
    wanted = header.offset + int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
    return header.kind.from_bytes(b"".join(_unpacked(path, wanted, summed=True)))


def _qform(header: Header) -> np.ndarray | None:
    """The matrix of the quaternion, where its code states one."""
    try:
        found = header.fields.get_qform(coded=True)[0]
    except Exception:  # noqa: BLE001  (a damaged quaternion beside a good sform, which is used)
        return None
    return None if found is None else np.asarray(found, np.float64)


def _scaled(factor: float) -> np.ndarray:
    return np.diag([factor, factor, factor, 1.0])


def _files(path: Path) -> tuple[Path, ...]:
    """The file of the header, and that of the voxels where there are two."""
    if path.name.lower().endswith(SUFFIXES):
        return (path,)
    if path.suffix.lower() not in (HEADER, VOXELS):
        raise InputError(f"{path.name}: expected a .nii, a .nii.gz, or a .hdr with its .img")
    found = path.with_suffix(HEADER), path.with_suffix(VOXELS)
    if missing := [one for one in found if not one.is_file() or one.is_symlink()]:
        raise InputError(f"{path.name}: {missing[0].name} is missing beside it")
    return found


def _magic(head: bytes) -> bytes:
    """The magic of a header of either version."""
    return head[4:8] if head[4:7] in (b"n+2", b"ni2") else head[344:348]


def _with_normal(affine: np.ndarray, *, flat: bool) -> np.ndarray:
    """The affine of a slice, which may have no third column, with a normal of 1 mm for it."""
    if not flat or np.abs(affine[:3, 2]).max() > 0:
        return affine
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    filled = affine.copy()
    filled[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-12)
    return filled


def _head(path: Path) -> bytes:
    """The first bytes, decompressed no further."""
    head = b""
    for piece in _unpacked(path, HEAD):
        head += piece
    return head[:HEAD]


def _unpacked(path: Path, wanted: int, *, summed: bool = False) -> Iterator[bytes]:
    """The first `wanted` bytes of a file in chunks, decompressed if it is gzip.

    With `summed` the sum of gzip's bytes is checked, where no more follow.
    """
    packed = path.name.lower().endswith(".gz")
    try:
        if not path.is_file():  # opening a pipe would block
            raise InputError(f"{path}: no such file")
        with path.open("rb") as file:
            if not packed:
                while wanted > 0 and (data := file.read(min(wanted, CHUNK))):
                    wanted -= len(data)
                    yield data
                return
            unpack, data = zlib.decompressobj(31), b""
            while wanted > 0 and (data := file.read(1 << 16)):
                while data and wanted > 0:
                    if unpack.eof:  # gzip files may be joined, as bgzip's are
                        data = data.lstrip(b"\0")  # and padded
                        unpack = zlib.decompressobj(31)
                    piece = unpack.decompress(data, min(wanted, CHUNK))
                    data = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
                    wanted -= len(piece)
                    yield piece
            while summed and not unpack.eof and (data := data or file.read(1 << 16)):
                if unpack.decompress(data, 1):
                    break
                data = unpack.unconsumed_tail
    except (OSError, zlib.error) as error:
        raise InputError(f"{path.name}: cannot be read or decompressed: {reason(error)}") from error


def _check_volume(path: Path, header: Header, volume: int | None) -> None:
    count = header.volumes
    if volume is None and count > 1:
        raise InputError(
            f"{path.name}: has shape {_by(header.shape)}, {count} volumes; choose one with "
            f"--volume, from 0 to {count - 1}"
        )
    if volume is not None and not 0 <= volume < count:
        raise InputError(f"{path.name}: has no volume {volume}; expected 0 to {count - 1}")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_length(path: Path, wanted: int) -> None:
    """Refuse a file with fewer bytes than its header claims.

    The last four bytes of gzip state the length.  Where they state another one, such as of members
    that are joined, bytes are counted.
    """
    if not path.name.lower().endswith(".gz"):
        held = path.stat().st_size
    elif _stated_length(path) == wanted % 2**32:
        return
    else:
        held = sum(map(len, _unpacked(path, wanted)))
    if held < wanted:
        raise InputError(
            f"{path.name}: is truncated: its header claims {wanted:,} bytes, the file has "
            f"{held:,}; copy it again"
        )


def _stated_length(path: Path) -> int:
    """ISIZE of a gzip file: the length of what its last member holds, modulo 2^32 (RFC 1952)."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def _check_affine(path: Path, affine: np.ndarray) -> None:
    """Refuse voxels without a size, or whose axes are not at right angles."""
    if not np.isfinite(affine).all():
        raise InputError(f"{path.name}: its affine is not finite")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (sizes > 0).all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.1:
        raise InputError(
            f"{path.name}: its affine is singular (voxels of "
            f"{' x '.join(f'{size:g}' for size in sizes)} mm); expected three positive sizes and "
            "three linearly independent axes"
        )
    axes = affine[:3, :3] / sizes
    askew = float(np.degrees(np.arcsin(np.abs(axes.T @ axes - np.eye(3)).max().clip(0, 1))))
    if askew > TILT:
        raise InputError(
            f"{path.name}: its voxels are sheared by {askew:.1f} degrees, as by a gantry tilt or "
            "an affine registration; resample the volume first, or set sform_code to 0 to use its "
            "qform"
        )


def write(
    path: Path,
    voxels: Float32[np.ndarray, " d h w"],
    like: Scan,
    *,
    description: str,
    labels: bool = False,
) -> None:
    """Write voxels with the affine of `like` and nothing else of its header.

    Args:
        path: a file ``.nii`` or ``.nii.gz``; an older one is replaced atomically.
        voxels: in the shape and order of `like`.
        like: the scan whose geometry they have.
        description: descrip, up to 79 letters.
        labels: whether they are whole numbers of labels, which are stored as such with the intent
            of labels; values as floats otherwise.

    Raises:
        InputError: another suffix, a folder, or voxels of another shape or not finite.
        StorageError: the disk is full or not writable.
    """
    import nibabel

    if not path.name.lower().endswith(SUFFIXES) or path.is_dir():
        raise InputError(f"{path}: expected the name of a file that ends in .nii or .nii.gz")
    check_voxels(path, voxels, like)
    stored = np.min_scalar_type(int(voxels.max())) if labels else np.dtype(np.float32)
    image = _image(voxels.astype(stored, copy=False), like)
    image.set_data_dtype(stored)
    if labels:
        image.header.set_intent("label")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    end = ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"
    try:
        with files.replaced(path, suffix=end) as waiting:
            nibabel.save(image, os.fspath(waiting))
    except OSError as error:
        remains = "an older file is unchanged"
        raise files.not_written(path, error, needed=voxels.nbytes, remains=remains) from error


def _image(voxels: np.ndarray, like: Scan) -> Any:
    """nibabel's image, with the qform and the sform of the source, each under its own code."""
    import nibabel

    source = like.origin if isinstance(like.origin, Origin) else None
    units = (source.units if source else 0) or 2
    affine = _scaled(1 / MILLIMETRES[units]) @ RAS @ like.affine
    kind = getattr(nibabel, source.kind if source else "Nifti1Image")
    image = kind(voxels.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units(units)
    if source is None:
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
        return image
    if source.codes == (0, 0):
        unknown = kind(voxels.transpose(2, 1, 0), None, header=image.header)
        unknown.set_qform(None, code=0)
        unknown.set_sform(None, code=0)
        if np.allclose(unknown.header.get_best_affine(), affine, rtol=1e-5, atol=1e-4):
            return unknown
        image.set_qform(None, code=0)  # turned: without a code its axes would be taken for others
        image.set_sform(affine, code=2)
        return image
    qform, sform = source.codes
    qform = qform if source.qform is not None else 0
    moved = np.linalg.inv(source.affine) @ like.affine  # from voxels of `like` to the source's
    image.set_qform(affine if source.qform is None else source.qform @ moved, code=qform)
    image.set_sform(affine if sform else None, code=sform)
    return image
