"""DICOM series: read as scans with their geometry, in Hounsfield units where they are CT."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from core.errors import InputError
from plugins.medical.io import dicom_pixels
from plugins.medical.io.claims import check_claim, reason
from plugins.medical.io.identity import pseudonym
from plugins.medical.io.scan import Scan

AIR, PADDING = -1000.0, -1500.0  # Hounsfield units; at or below the second no tissue and no air is
EVEN = 0.02  # of the spacing: what two gaps between slices may differ by
STRAIGHT = 0.25  # of a voxel's side: what a slice may lie off the line through all of them
SQUARE = 1e-3  # of a direction's length, or of the cosine between two
FAR, SMALL = 1e6, 1e-4  # millimetres: no position is farther, no pixel smaller
TILT = 0.5  # degrees that slices may lie askew to their own normal


@dataclass(frozen=True)
class Origin:
    """What a derived series keeps of the one that it is derived of.

    Args:
        study: its UID: viewers show the two side by side.
        frame_of_reference: UID of the space that positions are in; empty where there is none.
        series: its UID.
        sources: SOP class and instance UID of each slice, in order.
        header: a file of it, for fields that are asked for by name.
    """

    study: str
    frame_of_reference: str
    series: str
    sources: tuple[tuple[str, str], ...]
    header: Path


@dataclass(frozen=True, eq=False)
class _Frame:
    """One slice: where it is, and how its numbers are read."""

    path: Path
    number: int
    position: np.ndarray
    directions: np.ndarray  # along a row and along a column, of unit length
    spacing: tuple[float, float]  # between rows and between columns, in millimetres
    thickness: float  # in millimetres; 0 where it is not said
    slope: float
    intercept: float
    source: tuple[str, str]


@dataclass(frozen=True, eq=False)
class _File:
    """A file that claims to hold pictures: its header, and sizes that are whole numbers."""

    path: Path
    header: Any
    size: tuple[int, int]  # rows and columns
    frames: int
    samples: int  # numbers a pixel


def read(place: Path, *, series: int | None = None) -> Scan:
    """The scan of a file, or of a folder and the folders in it.

    Slices are sorted by where they lie along their normal, and their distance is taken from there.
    A folder's index (DICOMDIR) is not looked at.

    Args:
        place: a file or a folder.
        series: which of several, counted from 1 as a refusal lists them.

    Raises:
        InputError: nothing that can be read, several series, or slices that make no volume.
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
        raise InputError(f"{place}: no DICOM file with a picture in it")
    chosen = _chosen(place, found, series)
    first = chosen[0]
    _check_alike(chosen)
    frames, step = _ordered([frame for file in chosen for frame in _frames(file)])
    check_claim(first.path, (len(frames), *first.size), 8)
    for file in chosen:
        _check_length(file)
    said = first.header.get("Modality")
    modality = said if said in ("CT", "MR") else "other"
    voxels, notes = _voxels(frames, first.size, modality)
    row, column = frames[0].spacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = frames[0].directions[0] * column, frames[0].directions[1] * row
    affine[:3, 2], affine[:3, 3] = step, frames[0].position
    if len(frames) == 1:
        known = frames[0].thickness > 0
        thickness = "its thickness" if known else "1 mm, as it does not say its thickness,"
        notes = (*notes, f"a single slice: {thickness} is taken for the distance of slices")
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
    )


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def patient_of(path: Path) -> str:
    """Whose a file says it is; empty where it does not say or cannot be read."""
    with dicom_pixels.quiet():
        try:
            return _whose(_header(path))
        except InputError:
            return ""


def _whose(header: Any) -> str:
    said = (str(header.get(name) or "").strip() for name in ("PatientID", "PatientName"))
    return " ".join(dict.fromkeys(filter(None, said)))


# --- files and headers ---------------------------------------------------------------------------


def _files(place: Path) -> list[Path]:
    try:
        if place.is_file():
            with place.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return [place]
            raise InputError(
                f"{place}: no DICOM file, which has DICM after its first 128 bytes; export it again"
            )
        if not place.is_dir():
            raise InputError(f"{place}: no such file or folder")
        within = sorted(x for x in place.iterdir() if x.is_dir() and not x.is_symlink())
        paths = [path for folder in (place, *within) for path in sorted(folder.iterdir())]
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {reason(error)}") from error
    return [
        path
        for path in paths
        if path.is_file() and path.name != "DICOMDIR" and not path.is_symlink() and is_dicom(path)
    ]


def _header(path: Path) -> Any:
    import pydicom
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:  # pydicom would unpack all, however much
            raise InputError(
                f"{path.name}: deflated as a whole, which may unpack to any size and is not "
                "read; save it with another transfer syntax"
            )
        header = pydicom.dcmread(path, stop_before_pixels=True)
        # Elements are understood when first looked at: what is damaged is to be found here.
        for name in _LOOKED_AT:
            header.get(name)
        return header
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read as DICOM: {_unquoted(error)}") from error


def _file(path: Path) -> _File | None:
    """The file if it claims to hold pictures: reports, structures and the like do not."""
    header = _header(path)
    if "Rows" not in header or "Columns" not in header:
        return None

    def whole(name: str, otherwise: int | None = None) -> int:
        said = header.get(name)
        said = otherwise if said is None else said
        if not isinstance(said, int) or said < 1:
            raise InputError(f"{path.name}: {name} is not one whole number above 0")
        return int(said)

    size = whole("Rows"), whole("Columns")
    return _File(path, header, size, whole("NumberOfFrames", 1), whole("SamplesPerPixel", 1))


def _unquoted(error: BaseException) -> str:
    """Why, without what the file says: a name may stand where a number should."""
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
        said = "; ".join(
            f"{number}: {_kind(one[0].header)}, {len(one)} files of "
            f"{one[0].size[1]}x{one[0].size[0]}"
            for number, one in enumerate(listed, start=1)
        )
        raise InputError(f"{place}: {len(listed)} series ({said}); choose one by its number")
    if series is not None and not 1 <= series <= len(listed):
        raise InputError(f"series: expected 1 to {len(listed)}, got {series}")
    return listed[(series or 1) - 1]


def _kind(header: Any) -> str:
    """A modality's two letters or so; ``?`` for what is none, as it may be anything."""
    said = str(header.get("Modality") or "")
    return said if re.fullmatch("[A-Z]{2,3}|RT[A-Z]{4,6}", said) else "?"


def _frames(file: _File) -> Iterator[_Frame]:
    """The slices of a file: one, or those of a multi-frame object with a place for each."""
    path, header, count = file.path, file.header, file.frames
    try:
        own = list(header.get("PerFrameFunctionalGroupsSequence") or [])
        shared = next(iter(header.get("SharedFunctionalGroupsSequence") or [{}]))
        if count > 1 and len(own) != count:
            raise InputError(
                f"{path.name}: {count} frames without a position for each; expected an enhanced "
                "multi-frame object, or one file for each slice"
            )
        for number in range(count):
            groups = (own[number] if number < len(own) else {}, shared)
            yield _frame(path, number, header, groups)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: its geometry cannot be read: {_unquoted(error)}") from error


def _frame(path: Path, number: int, header: Any, groups: Sequence[Any]) -> _Frame:
    def told(sequence: str, name: str, otherwise: Any = None) -> Any:
        for group in groups:
            items = group.get(sequence)
            if items and items[0].get(name) is not None:
                return items[0].get(name)
        value = header.get(name)
        return otherwise if value is None else value

    def numbers(sequence: str, name: str, count: int, means: str) -> np.ndarray:
        said = told(sequence, name)
        values = np.array([] if said is None else [float(x) for x in said])
        if values.shape != (count,) or not (np.abs(values) < FAR).all():
            raise InputError(f"{path.name}: says nothing, or no {count} numbers, of {means}")
        return values

    position = numbers("PlanePositionSequence", "ImagePositionPatient", 3, "where its slice lies")
    ways = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6, "how its slice lies")
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2, "the size of its pixels")
    if not (spacing > SMALL).all():
        raise InputError(f"{path.name}: pixels of {spacing[0]:g} x {spacing[1]:g} mm")
    directions = ways.reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if abs(lengths - 1).max() > SQUARE or abs(directions[0] @ directions[1]) > SQUARE:
        raise InputError(f"{path.name}: its rows and columns are not at right angles")
    values = "PixelValueTransformationSequence"
    slope, intercept = (
        float(told(values, name, otherwise))
        for name, otherwise in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if not (np.isfinite([slope, intercept]).all() and slope):
        raise InputError(f"{path.name}: a rescale slope of {slope:g} and intercept {intercept:g}")
    if abs(float(header.get("GantryDetectorTilt") or 0)) > TILT:
        raise InputError(
            f"{path.name}: a gantry tilted by {float(header.GantryDetectorTilt):g} degrees; its "
            "slices make no upright volume, resample them first"
        )
    thickness = float(told("PixelMeasuresSequence", "SliceThickness") or 0)
    source = (str(header.get("SOPClassUID", "")), str(header.get("SOPInstanceUID", "")))
    return _Frame(
        path, number, position, directions / lengths[:, None],
        (float(spacing[0]), float(spacing[1])), thickness, slope, intercept, source,
    )  # fmt: skip


# --- a volume of slices --------------------------------------------------------------------------


def _check_alike(chosen: Sequence[_File]) -> None:
    """Refuse a series whose files differ in size, and numbers that are no measurements."""
    first = chosen[0]
    for other in chosen:
        name, header = other.path.name, other.header
        if other.size != first.size:
            raise InputError(
                f"{name}: {other.size[1]}x{other.size[0]} pixels, {first.path.name} of the same "
                f"series has {first.size[1]}x{first.size[0]}"
            )
        colours = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
        if other.samples != 1 or not colours.startswith("MONOCHROME"):
            raise InputError(f"{name}: a picture in colours; expected one number a pixel")
        if header.get("ModalityLUTSequence"):
            raise InputError(
                f"{name}: its values are looked up in a table (ModalityLUTSequence), which is not "
                "read; export it with a rescale slope and intercept"
            )


def _check_length(file: _File) -> None:
    """Refuse a file that is shorter than the pixels it claims, before memory is taken for them."""
    try:
        packed = file.header.file_meta.TransferSyntaxUID.is_encapsulated
        bits = int(file.header.get("BitsAllocated") or 0)
        held = file.path.stat().st_size
    except Exception as error:
        raise InputError(f"{file.path.name}: cannot be read: {_unquoted(error)}") from error
    wanted = file.frames * file.size[0] * file.size[1] * bits // 8
    if not packed and held < wanted:
        raise InputError(
            f"{file.path.name}: {held:,} bytes, its header says {wanted:,} of pixels alone; it is "
            "cut off, copy it again"
        )


def _ordered(frames: list[_Frame]) -> tuple[list[_Frame], np.ndarray]:
    """Slices by where they lie along the normal, and the step from one to the next."""
    first = frames[0]
    for frame in frames:
        if abs(frame.directions - first.directions).max() > SQUARE:
            raise InputError(
                f"{frame.path.name}: lies in another direction than {first.path.name} of the same "
                "series; separate the two"
            )
        if np.abs(np.subtract(frame.spacing, first.spacing)).max() > 1e-3 * first.spacing[0]:
            raise InputError(
                f"{frame.path.name}: pixels of {frame.spacing[0]:g} mm, {first.path.name} of the "
                f"same series has {first.spacing[0]:g} mm"
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
            f"{frames[twice].path.name} and {frames[twice + 1].path.name} lie at the same place; "
            "remove one, or choose a series with one picture of each slice"
        )
    if np.abs(gaps - usual).max() > EVEN * usual:
        odd = int(np.abs(gaps - usual).argmax())
        raise InputError(
            f"{frames[odd].path.name} and {frames[odd + 1].path.name} are {gaps[odd]:.4g} mm "
            f"apart, the others {usual:.4g} mm: slices are missing, or of two scans"
        )
    step = (frames[-1].position - frames[0].position) / (len(frames) - 1)
    cosine = float(normal @ step) / float(np.linalg.norm(step))
    askew = float(np.degrees(np.arccos(min(1.0, cosine))))
    if askew > TILT:
        raise InputError(
            f"{frames[0].path.name}: slices are shifted against each other as of a gantry tilted "
            f"by {askew:.1f} degrees; they make no upright volume, resample them first"
        )
    _check_straight(frames, step)
    return frames, step


def _check_straight(frames: Sequence[_Frame], step: np.ndarray) -> None:
    """Refuse slices that do not lie on one line at equal steps: one affine says where all are."""
    line = frames[0].position + np.arange(len(frames))[:, None] * step
    off = np.linalg.norm(np.array([frame.position for frame in frames]) - line, axis=1)
    side = min(*frames[0].spacing, float(np.linalg.norm(step)))
    if off.max() > STRAIGHT * side:
        raise InputError(
            f"{frames[int(off.argmax())].path.name}: lies {off.max():.3g} mm off the line through "
            "the other slices; they make no upright volume, resample them first"
        )


def _voxels(
    frames: Sequence[_Frame], size: tuple[int, int], modality: str
) -> tuple[Float32[np.ndarray, " d h w"], tuple[str, ...]]:
    """The values of all slices, and what was done to them."""
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
            raise InputError(f"{frame.path.name}: its rescale slope makes numbers without end")
        if modality == "CT":
            outside = (values <= PADDING) | ((stored == held[1].padding) & (values < AIR))
            values[outside] = AIR
            padded += int(outside.sum())
        else:  # Hounsfield units are what they are, however they are shown
            inverted.add(held[1].inverted)
        found[place] = values
    if len(inverted) > 1:
        raise InputError(
            f"{frames[0].path.parent}: white is high in some slices and low in others "
            "(MONOCHROME1); separate the two"
        )
    notes: list[str] = []
    if True in inverted:  # one range for all slices, or equal tissue would differ between them
        np.subtract(found.max() + found.min(), found, out=found)
        notes.append("white and black were exchanged (MONOCHROME1)")
    if padded:
        notes.append(f"{padded} voxels outside the scanner's circle were set to air")
    return found, tuple(notes)
