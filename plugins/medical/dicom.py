"""DICOM series: read as scans with their geometry, in Hounsfield units where they are CT."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from core.errors import InputError
from plugins.medical.claims import check_claim, reason
from plugins.medical.identity import pseudonym
from plugins.medical.scan import Scan

AIR, PADDING = -1000.0, -1500.0  # Hounsfield units; at or below the second no tissue and no air is
EVEN = 0.02  # of the spacing: what two gaps between slices may differ by
SQUARE = 1e-3  # of a direction's length, or of the cosine between two
TILT = 0.5  # degrees that slices may lie askew to their own normal

# Which package decodes what pydicom and Pillow do not.
DECODERS = {
    "JPEG-LS": "pylibjpeg and pylibjpeg-libjpeg",
    "JPEG Lossless": "pylibjpeg and pylibjpeg-libjpeg",
    "JPEG Extended": "pylibjpeg and pylibjpeg-libjpeg",
    "JPEG 2000": "pylibjpeg and pylibjpeg-openjpeg",
    "High-Throughput JPEG 2000": "pylibjpeg and pylibjpeg-openjpeg",
}


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
    found: dict[str, list[tuple[Path, Any]]] = {}
    for path in _files(place):
        header = _header(path)
        if "Rows" in header and "Columns" in header:
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    if not found:
        raise InputError(f"{place}: no DICOM file with a picture in it")
    chosen = _chosen(place, found, series)
    first = chosen[0][1]
    frames = [frame for path, header in chosen for frame in _frames(path, header)]
    _check_alike(chosen)
    frames, step = _ordered(frames)
    rows, columns = int(first.Rows), int(first.Columns)
    check_claim(chosen[0][0], (len(frames), rows, columns), 8)
    modality = first.get("Modality")
    modality = modality if modality in ("CT", "MR") else "other"
    voxels, notes = _voxels(frames, (rows, columns), modality)
    row, column = frames[0].spacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = frames[0].directions[0] * column, frames[0].directions[1] * row
    affine[:3, 2], affine[:3, 3] = step, frames[0].position
    if len(frames) == 1:
        notes = (*notes, "a single slice: its thickness is taken for the distance of slices")
    return Scan(
        voxels,
        affine,
        modality,
        pseudonym(_whose(first)),
        notes,
        Origin(
            str(first.get("StudyInstanceUID", "")),
            str(first.get("FrameOfReferenceUID", "")),
            str(first.get("SeriesInstanceUID", "")),
            tuple(frame.source for frame in frames),
            chosen[0][0],
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
    try:
        return _whose(_header(path))
    except InputError:
        return ""


def _whose(header: Any) -> str:
    said = (str(header.get(name) or "").strip() for name in ("PatientID", "PatientName"))
    return " ".join(dict.fromkeys(filter(None, said)))


# --- files and headers ---------------------------------------------------------------------------


def _files(place: Path) -> list[Path]:
    if place.is_file():
        if not is_dicom(place):
            raise InputError(f"{place.name}: no DICOM file")
        return [place]
    if not place.is_dir():
        raise InputError(f"{place}: no such file or folder")
    inside = [place, *(x for x in sorted(place.iterdir()) if x.is_dir() and not x.is_symlink())]
    return [
        path
        for folder in inside
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "DICOMDIR" and not path.is_symlink() and is_dicom(path)
    ]


def _header(path: Path) -> Any:
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            # Elements are understood when first looked at: what is damaged is to be found here.
            for name in _LOOKED_AT:
                header.get(name)
            return header
        except Exception as error:
            raise InputError(f"{path.name}: cannot be read as DICOM: {reason(error)}") from error


_LOOKED_AT = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "Modality"),
    *("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"),
    *("PatientID", "PatientName", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept", "GantryDetectorTilt"),
    *("PhotometricInterpretation", "PixelPaddingValue", "SharedFunctionalGroupsSequence"),
    "PerFrameFunctionalGroupsSequence",
)


def _chosen(
    place: Path, found: dict[str, list[tuple[Path, Any]]], series: int | None
) -> list[tuple[Path, Any]]:
    listed = [found[uid] for uid in sorted(found)]
    if series is None and len(listed) > 1:
        said = "; ".join(
            f"{number}: {one[0][1].get('Modality', '?')}, {len(one)} files of "
            f"{one[0][1].Columns}x{one[0][1].Rows}"
            for number, one in enumerate(listed, start=1)
        )
        raise InputError(f"{place}: {len(listed)} series ({said}); choose one by its number")
    if series is not None and not 1 <= series <= len(listed):
        raise InputError(f"series: expected 1 to {len(listed)}, got {series}")
    return listed[(series or 1) - 1]


def _frames(path: Path, header: Any) -> Iterator[_Frame]:
    """The slices of a file: one, or those of a multi-frame object with a place for each."""
    try:
        count = int(header.get("NumberOfFrames") or 1)
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
        raise InputError(f"{path.name}: its geometry cannot be read: {reason(error)}") from error


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
        if values.shape != (count,) or not np.isfinite(values).all():
            raise InputError(f"{path.name}: says nothing, or no {count} numbers, of {means}")
        return values

    position = numbers("PlanePositionSequence", "ImagePositionPatient", 3, "where its slice lies")
    ways = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6, "how its slice lies")
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2, "the size of its pixels")
    if not (spacing > 0).all():
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


def _check_alike(chosen: Sequence[tuple[Path, Any]]) -> None:
    """Refuse a series whose files differ in size, and pictures in colours."""
    path, first = chosen[0]
    for other, header in chosen:
        if (header.Rows, header.Columns) != (first.Rows, first.Columns):
            raise InputError(
                f"{other.name}: {header.Columns}x{header.Rows} pixels, {path.name} of the same "
                f"series has {first.Columns}x{first.Rows}"
            )
        if int(header.get("SamplesPerPixel") or 1) != 1:
            raise InputError(f"{other.name}: a picture in colours; expected one number a pixel")


def _ordered(frames: list[_Frame]) -> tuple[list[_Frame], np.ndarray]:
    """Slices by where they lie along the normal, and the step from one to the next."""
    first = frames[0]
    for frame in frames:
        if abs(frame.directions - first.directions).max() > 10 * SQUARE:
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
    return frames, step


def _voxels(
    frames: Sequence[_Frame], size: tuple[int, int], modality: str
) -> tuple[Float32[np.ndarray, " d h w"], tuple[str, ...]]:
    """The values of all slices, and what was done to them."""
    found = np.empty((len(frames), *size), np.float32)
    notes: list[str] = []
    held: tuple[Path, _Pixels] | None = None
    padded = 0
    for place, frame in enumerate(frames):
        if held is None or held[0] != frame.path:
            held = (frame.path, _pixels(frame.path, size))
        pixels = held[1]
        stored = pixels.stored[frame.number]
        values = stored.astype(np.float32) * frame.slope + frame.intercept
        if pixels.inverted and modality != "CT":
            values = values.max() + values.min() - values
            notes.append("white and black were exchanged (MONOCHROME1)")
        if modality == "CT":
            outside = (values <= PADDING) | ((stored == pixels.padding) & (values < AIR))
            values[outside] = AIR
            padded += int(outside.sum())
        found[place] = values
    if padded:
        notes.append(f"{padded} voxels outside the scanner's circle were set to air")
    return found, tuple(dict.fromkeys(notes))


@dataclass(frozen=True, eq=False)
class _Pixels:
    """A file's stored numbers (frames, rows, columns), and what they mean."""

    stored: np.ndarray
    inverted: bool
    padding: float | None


def _pixels(path: Path, size: tuple[int, int]) -> _Pixels:
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(path)
            syntax = data.file_meta.TransferSyntaxUID
            frames = int(data.get("NumberOfFrames") or 1)
            bits = int(data.get("BitsAllocated") or 0)
            compressed = syntax.is_compressed and syntax.is_encapsulated
            inverted = data.get("PhotometricInterpretation") == "MONOCHROME1"
            padding = data.get("PixelPaddingValue")
            padding = None if padding is None else float(padding)
            available = not compressed or get_decoder(syntax).is_available
        except Exception as error:
            raise InputError(f"{path.name}: cannot be read: {reason(error)}") from error
        check_claim(path, (frames, *size), 8)
        if not available:
            known = [mend for kind, mend in DECODERS.items() if syntax.name.startswith(kind)]
            raise InputError(
                f"{path.name}: compressed as {syntax.name}, which nothing here decodes; install "
                f"{known[0] if known else 'python-gdcm'}"
            )
        if not isinstance(data.get("PixelData"), bytes):
            raise InputError(f"{path.name}: holds no pixels; it is cut off, copy it again")
        wanted = frames * size[0] * size[1] * bits // 8
        if not compressed and len(data.PixelData) < wanted:
            raise InputError(
                f"{path.name}: {len(data.PixelData):,} bytes of pixels, its header says "
                f"{wanted:,}; it is cut off, copy it again"
            )
        try:
            values = np.asarray(data.pixel_array)
        except Exception as error:
            raise InputError(f"{path.name}: its pixels cannot be read: {reason(error)}") from error
    if values.size != frames * size[0] * size[1]:
        raise InputError(f"{path.name}: holds {values.shape} numbers for {frames} x {size}")
    return _Pixels(values.reshape(frames, *size), inverted, padding)
