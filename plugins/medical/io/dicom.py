"""DICOM series read as scans with their geometry, CT in Hounsfield units."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from core.errors import InputError
from core.storage import files
from plugins.medical.io import dicom_pixels
from plugins.medical.io.claims import check_claim, reason
from plugins.medical.io.identity import pseudonym
from plugins.medical.io.scan import Scan

AIR, PADDING = -1000.0, -1500.0  # Hounsfield units; at or below the second there is no tissue
EVEN = 0.02  # of the slice spacing: largest difference between two gaps
STRAIGHT = 0.25  # of a voxel's side: largest distance of a slice from the line through all
SQUARE = 1e-3  # tolerance of a direction cosine's length, and of the product of two
FAR, SMALL = 1e6, 1e-4  # millimetres: largest position, smallest pixel
TILT = 0.5  # degrees: largest angle between the slices' step and their normal


@dataclass(frozen=True)
class Origin:
    """Attributes of a source series that a derived series refers to.

    Args:
        study: StudyInstanceUID.
        frame_of_reference: FrameOfReferenceUID; empty where there is none.
        series: SeriesInstanceUID.
        sources: SOPClassUID and SOPInstanceUID of each slice, in order.
        header: a file of the series, for attributes to copy by name.
    """

    study: str
    frame_of_reference: str
    series: str
    sources: tuple[tuple[str, str], ...]
    header: Path


@dataclass(frozen=True, eq=False)
class _Frame:
    """One slice: its geometry, and the rescaling of its stored values."""

    path: Path
    number: int
    position: np.ndarray
    directions: np.ndarray  # direction cosines of a row and of a column
    spacing: tuple[float, float]  # between rows and between columns, in millimetres
    thickness: float  # SliceThickness in millimetres; 0 where it is missing
    slope: float
    intercept: float
    source: tuple[str, str]


@dataclass(frozen=True, eq=False)
class _File:
    """An image file: its header, and its sizes as integers."""

    path: Path
    header: Any
    size: tuple[int, int]  # rows and columns
    frames: int
    samples: int  # SamplesPerPixel


def read(place: Path, *, series: int | None = None) -> Scan:
    """The scan of a file, or of a folder and its subfolders.

    Slices are sorted by ImagePositionPatient along their normal, which also gives their spacing.
    DICOMDIR is ignored.

    Args:
        place: a file or a folder.
        series: number of the series, if there are several: from 1, as the error lists them.

    Raises:
        InputError: no readable image, several series, or slices that do not form a volume.
    """
    with dicom_pixels.quiet():
        return _read(place, series)


def _read(place: Path, series: int | None) -> Scan:
    found: dict[str, list[_File]] = {}
    for path in _files(place):
        file = _file(path)
        if file is not None:
            uid = str(file.header.get("SeriesInstanceUID", ""))
            found.setdefault(uid, []).append(file)
    if not found:
        raise InputError(f"{place}: contains no DICOM image")
    chosen = _chosen(place, found, series)
    first = chosen[0]
    _check_alike(chosen)
    frames, step = _ordered([frame for file in chosen for frame in _frames(file)])
    check_claim(first.path, (len(frames), *first.size), 8)
    for file in chosen:
        _check_length(file)
    stated = first.header.get("Modality")
    modality = stated if stated in ("CT", "MR") else "other"
    voxels, notes = _voxels(frames, first.size, modality)
    row, column = frames[0].spacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = frames[0].directions[0] * column, frames[0].directions[1] * row
    affine[:3, 2], affine[:3, 3] = step, frames[0].position
    if len(frames) == 1:
        known = frames[0].thickness > 0
        spacing = "SliceThickness" if known else "1 mm, since SliceThickness is missing"
        notes = (*notes, f"a single slice: its spacing was set to {spacing}")
    return Scan(
        voxels,
        affine,
        modality,
        pseudonym(_whose(first.header)),
        notes,
        Origin(
            str(first.header.get("StudyInstanceUID", "")),
            str(first.header.get("FrameOfReferenceUID", "")),
            str(first.header.get("SeriesInstanceUID", "")),
            tuple(frame.source for frame in frames),
            first.path,
        ),
        tuple(dict.fromkeys(frame.path for frame in frames)),
    )


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's preamble and prefix."""
    try:
        with files.open_regular(path) as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def patient_of(path: Path) -> str:
    """PatientID and PatientName of a file; empty where they are missing or cannot be read."""
    with dicom_pixels.quiet():
        try:
            return _whose(_header(path))
        except InputError:
            return ""


def _whose(header: Any) -> str:
    identity = (str(header.get(name) or "").strip() for name in ("PatientID", "PatientName"))
    return " ".join(dict.fromkeys(filter(None, identity)))


# --- files and headers ---------------------------------------------------------------------------


def _files(place: Path) -> list[Path]:
    try:
        if place.is_file():
            with place.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return [place]
            raise InputError(
                f"{place}: not a DICOM file: the prefix DICM is missing after the preamble of 128 "
                "bytes; export it again"
            )
        if not place.is_dir():
            raise InputError(f"{place}: no such file or folder")
        return [path for path in files_below(place) if is_dicom(path)]
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {reason(error)}") from error


def files_below(folder: Path) -> tuple[Path, ...]:
    """The files in a folder and its subfolders in which `read` looks for images; no links."""
    within = sorted(x for x in folder.iterdir() if x.is_dir() and not x.is_symlink())
    paths = [path for place in (folder, *within) for path in sorted(place.iterdir())]
    return tuple(
        path
        for path in paths
        if path.is_file() and path.name != "DICOMDIR" and not path.is_symlink()
    )


def _header(path: Path) -> Any:
    import pydicom
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:  # pydicom would unpack all, however much
            raise InputError(
                f"{path.name}: transfer syntax Deflated Explicit VR Little Endian is not read, "
                "since its decompressed size is unbounded; save it with another one"
            )
        header = pydicom.dcmread(path, stop_before_pixels=True)
        # pydicom parses an element at its first access: damaged ones are found here.
        for name in _LOOKED_AT:
            header.get(name)
        return header
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read as DICOM: {_unquoted(error)}") from error


def _file(path: Path) -> _File | None:
    """The file if it holds an image; None for reports, structure sets and the like."""
    header = _header(path)
    if "Rows" not in header or "Columns" not in header:
        return None

    def whole(name: str, otherwise: int | None = None) -> int:
        value = header.get(name)
        value = otherwise if value is None else value
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{path.name}: {name} is not a positive integer")
        return int(value)

    size = whole("Rows"), whole("Columns")
    return _File(path, header, size, whole("NumberOfFrames", 1), whole("SamplesPerPixel", 1))


def _unquoted(error: BaseException) -> str:
    """The reason without quoted values: a patient's name may stand where a number should."""
    return re.sub(r"(['\"]).*\1", "...", reason(error))


_LOOKED_AT = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "Modality"),
    *("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"),
    *("PatientID", "PatientName", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept", "GantryDetectorTilt"),
    *("PhotometricInterpretation", "PixelPaddingValue", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "ModalityLUTSequence", "SOPClassUID"),
)


def _chosen(place: Path, found: dict[str, list[_File]], series: int | None) -> list[_File]:
    listed = [found[uid] for uid in sorted(found)]
    if series is None and len(listed) > 1:
        kinds = "; ".join(
            f"{number}: {_kind(one[0].header)}, {len(one)} files of "
            f"{one[0].size[1]}x{one[0].size[0]}"
            for number, one in enumerate(listed, start=1)
        )
        raise InputError(f"{place}: {len(listed)} series ({kinds}); choose one with --series")
    if series is not None and not 1 <= series <= len(listed):
        raise InputError(f"series: expected 1 to {len(listed)}, got {series}")
    return listed[(series or 1) - 1]


def _kind(header: Any) -> str:
    """Modality; ``?`` where it is not a code, since it may be any text."""
    modality = str(header.get("Modality") or "")
    return modality if re.fullmatch("[A-Z]{2,3}|RT[A-Z]{4,6}", modality) else "?"


def _frames(file: _File) -> Iterator[_Frame]:
    """The slices of a file: one, or the frames of an enhanced multi-frame object."""
    path, header, count = file.path, file.header, file.frames
    try:
        own = list(header.get("PerFrameFunctionalGroupsSequence") or [])
        shared = next(iter(header.get("SharedFunctionalGroupsSequence") or [{}]))
        if count > 1 and len(own) != count:
            raise InputError(
                f"{path.name}: {count} frames without PerFrameFunctionalGroupsSequence for each; "
                "expected an enhanced multi-frame object, or one file per slice"
            )
        for number in range(count):
            groups = (own[number] if number < len(own) else {}, shared)
            yield _frame(path, number, header, groups)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: its geometry cannot be read: {_unquoted(error)}") from error


def _frame(path: Path, number: int, header: Any, groups: Sequence[Any]) -> _Frame:
    def value_of(sequence: str, name: str, otherwise: Any = None) -> Any:
        for group in groups:
            items = group.get(sequence)
            if items and items[0].get(name) is not None:
                return items[0].get(name)
        value = header.get(name)
        return otherwise if value is None else value

    def numbers(sequence: str, name: str, count: int) -> np.ndarray:
        said = value_of(sequence, name)
        values = np.array([] if said is None else [float(x) for x in said])
        if values.shape != (count,) or not (np.abs(values) < FAR).all():
            raise InputError(f"{path.name}: {name} is missing or not {count} finite numbers")
        return values

    position = numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    ways = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if not (spacing > SMALL).all():
        raise InputError(
            f"{path.name}: PixelSpacing is {spacing[0]:g} x {spacing[1]:g} mm; expected positive "
            "sizes"
        )
    directions = ways.reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if abs(lengths - 1).max() > SQUARE or abs(directions[0] @ directions[1]) > SQUARE:
        raise InputError(f"{path.name}: ImageOrientationPatient is not two orthogonal unit vectors")
    values = "PixelValueTransformationSequence"
    slope, intercept = (
        float(value_of(values, name, otherwise))
        for name, otherwise in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if not (np.isfinite([slope, intercept]).all() and slope):
        raise InputError(
            f"{path.name}: RescaleSlope is {slope:g} and RescaleIntercept {intercept:g}; expected "
            "finite numbers and a slope that is not 0"
        )
    if abs(float(header.get("GantryDetectorTilt") or 0)) > TILT:
        raise InputError(
            f"{path.name}: GantryDetectorTilt is {float(header.GantryDetectorTilt):g} degrees; the "
            "volume is sheared, resample it first"
        )
    thickness = float(value_of("PixelMeasuresSequence", "SliceThickness") or 0)
    source = (str(header.get("SOPClassUID", "")), str(header.get("SOPInstanceUID", "")))
    return _Frame(
        path, number, position, directions / lengths[:, None],
        (float(spacing[0]), float(spacing[1])), thickness, slope, intercept, source,
    )  # fmt: skip


# --- a volume of slices --------------------------------------------------------------------------


def _check_alike(chosen: Sequence[_File]) -> None:
    """Refuse a series whose files differ in size, colour images and look-up tables."""
    first = chosen[0]
    for other in chosen:
        name, header = other.path.name, other.header
        if other.size != first.size:
            raise InputError(
                f"{name}: has {other.size[1]}x{other.size[0]} pixels, {first.path.name} of the "
                f"same series has {first.size[1]}x{first.size[0]}"
            )
        colours = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
        if other.samples != 1 or not colours.startswith("MONOCHROME"):
            raise InputError(f"{name}: is a colour image; expected MONOCHROME1 or 2")
        if header.get("ModalityLUTSequence"):
            raise InputError(
                f"{name}: ModalityLUTSequence is not supported; export it with RescaleSlope and "
                "RescaleIntercept"
            )


def _check_length(file: _File) -> None:
    """Refuse a file that is shorter than its PixelData, before memory is allocated."""
    try:
        packed = file.header.file_meta.TransferSyntaxUID.is_encapsulated
        bits = int(file.header.get("BitsAllocated") or 0)
        held = file.path.stat().st_size
    except Exception as error:
        raise InputError(f"{file.path.name}: cannot be read: {_unquoted(error)}") from error
    wanted = file.frames * file.size[0] * file.size[1] * bits // 8
    if not packed and held < wanted:
        raise InputError(
            f"{file.path.name}: is truncated: it has {held:,} bytes, PixelData alone needs "
            f"{wanted:,}; copy it again"
        )


def _ordered(frames: list[_Frame]) -> tuple[list[_Frame], np.ndarray]:
    """Slices in the order of their positions along the normal, and the step between two."""
    first = frames[0]
    for frame in frames:
        if abs(frame.directions - first.directions).max() > SQUARE:
            raise InputError(
                f"{frame.path.name}: ImageOrientationPatient differs from {first.path.name} of "
                "the same series; separate the two"
            )
        if np.abs(np.subtract(frame.spacing, first.spacing)).max() > 1e-3 * first.spacing[0]:
            raise InputError(
                f"{frame.path.name}: PixelSpacing is {frame.spacing[0]:g} mm, {first.path.name} "
                f"of the same series has {first.spacing[0]:g} mm; separate the two"
            )
    normal = np.cross(*first.directions)
    frames = sorted(frames, key=lambda frame: float(normal @ frame.position))
    if len(frames) == 1:
        return frames, normal * (first.thickness if 0 < first.thickness < 1e3 else 1.0)
    at = np.array([normal @ frame.position for frame in frames])
    gaps = np.diff(at)
    usual = float(np.median(gaps))
    if gaps.min() <= max(1e-4, EVEN * usual):
        twice = int(gaps.argmin())
        raise InputError(
            f"{frames[twice].path.name} and {frames[twice + 1].path.name} have the same "
            "ImagePositionPatient; remove one, or choose a series with one image per position"
        )
    if np.abs(gaps - usual).max() > EVEN * usual:
        odd = int(np.abs(gaps - usual).argmax())
        raise InputError(
            f"{frames[odd].path.name} and {frames[odd + 1].path.name} are {gaps[odd]:.4g} mm "
            f"apart, the others {usual:.4g} mm: slices are missing, or belong to another series"
        )
    step = (frames[-1].position - frames[0].position) / (len(frames) - 1)
    cosine = float(normal @ step) / float(np.linalg.norm(step))
    askew = float(np.degrees(np.arccos(min(1.0, cosine))))
    if askew > TILT:
        raise InputError(
            f"{frames[0].path.name}: slices are sheared as by a gantry tilt of {askew:.1f} "
            "degrees; resample the volume first"
        )
    _check_straight(frames, step)
    return frames, step


def _check_straight(frames: Sequence[_Frame], step: np.ndarray) -> None:
    """Refuse slices that are not on one line at equal steps."""
    line = frames[0].position + np.arange(len(frames))[:, None] * step
    off = np.linalg.norm(np.array([frame.position for frame in frames]) - line, axis=1)
    side = min(*frames[0].spacing, float(np.linalg.norm(step)))
    if off.max() > STRAIGHT * side:
        raise InputError(
            f"{frames[int(off.argmax())].path.name}: is {off.max():.3g} mm off the line through "
            "the other slices; resample the volume first"
        )


def _voxels(
    frames: Sequence[_Frame], size: tuple[int, int], modality: str
) -> tuple[Float32[np.ndarray, " d h w"], tuple[str, ...]]:
    """The values of all slices, and notes on changes made to them."""
    found = np.empty((len(frames), *size), np.float32)
    held: tuple[Path, dicom_pixels.Pixels] | None = None
    padded, inverted = 0, set()
    for place, frame in enumerate(frames):
        if held is None or held[0] != frame.path:
            held = (frame.path, dicom_pixels.read(frame.path, size))
        stored = held[1].stored[frame.number]
        with np.errstate(over="ignore", invalid="ignore"):
            values = stored.astype(np.float32) * frame.slope + frame.intercept
        if not np.isfinite(values).all():
            raise InputError(
                f"{frame.path.name}: RescaleSlope or RescaleIntercept give values that are not "
                "finite"
            )
        if modality == "CT":
            outside = (values <= PADDING) | ((stored == held[1].padding) & (values < AIR))
            values[outside] = AIR
            padded += int(outside.sum())
        else:  # Hounsfield units do not depend on the photometric interpretation
            inverted.add(held[1].inverted)
        found[place] = values
    if len(inverted) > 1:
        raise InputError(
            f"{frames[0].path.parent}: mixes MONOCHROME1 and MONOCHROME2 slices; separate the two"
        )
    notes: list[str] = []
    if True in inverted:  # one range for all slices, so that a tissue has one intensity
        np.subtract(found.max() + found.min(), found, out=found)
        notes.append("intensities were inverted (MONOCHROME1)")
    if padded:
        notes.append(f"{padded} padding voxels outside the field of view were set to air")
    return found, tuple(notes)
