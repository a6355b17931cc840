"""Where DICOM slices lie: their positions and directions, and whether they form a volume."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from core.errors import InputError
from core.scans.dicom_file import File, unquoted
from core.scans.scan import TILT

EVEN = 0.02  # of the slice spacing: largest difference of a gap from the mean
ROUNDED = 0.25  # of the slice spacing: most that is taken for rounding; a missing slice is more
STRAIGHT = 0.25  # of a voxel's side: largest distance of a slice from the line through all
SQUARE = 1e-3  # tolerance of a direction cosine's length, and of the product of two
FAR, SMALL = 1e6, 1e-4  # millimetres: largest position, smallest pixel


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: its geometry, and the rescaling of its stored values."""

    path: Path
    number: int
    position: Float64[np.ndarray, "3"]
    decimals: Float64[np.ndarray, "3"]  # millimetres: 0.1 where one decimal is written
    directions: Float64[np.ndarray, "2 3"]  # direction cosines of a row and of a column
    spacing: tuple[float, float]  # between rows and between columns, in millimetres
    thickness: float  # SliceThickness in millimetres; 0 where it is missing
    slope: float
    intercept: float
    source: tuple[str, str]


def frames_of(file: File) -> Iterator[Frame]:
    """The slices of a file: one, or the frames of an enhanced multi-frame object.

    Raises:
        InputError: an attribute is missing, or holds no finite numbers.
    """
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
        raise InputError(f"{path.name}: its geometry cannot be read: {unquoted(error)}") from error


def _frame(path: Path, number: int, header: Any, groups: Sequence[Any]) -> Frame:
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
    written = value_of("PlanePositionSequence", "ImagePositionPatient")
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
    thickness = float(value_of("PixelMeasuresSequence", "SliceThickness") or 0)
    source = (str(header.get("SOPClassUID", "")), str(header.get("SOPInstanceUID", "")))
    return Frame(
        path, number, position, np.array([_last_decimal(value) for value in written]),
        directions / lengths[:, None], (float(spacing[0]), float(spacing[1])), thickness,
        slope, intercept, source,
    )  # fmt: skip


def _last_decimal(value: Any) -> float:
    """0.1 of a number that is written with one decimal, 1 of a whole one."""
    exponent = Decimal(str(value)).as_tuple().exponent
    return 10.0 ** min(0, exponent) if isinstance(exponent, int) else 1.0


# --- a volume of slices --------------------------------------------------------------------------


def ordered(frames: Sequence[Frame]) -> tuple[list[Frame], Float64[np.ndarray, "3"]]:
    """Slices in the order of their positions along the normal, and the step between two.

    Positions decide; GantryDetectorTilt does not: exporters keep it in volumes that they resampled.

    Raises:
        InputError: slices of several orientations or spacings, missing, doubled or sheared.
    """
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
    sorted_ = sorted(frames, key=lambda frame: float(normal @ frame.position))
    if len(sorted_) == 1:
        return sorted_, normal * (first.thickness if 0 < first.thickness < 1e3 else 1.0)
    _check_gaps(sorted_, normal)
    step = (sorted_[-1].position - sorted_[0].position) / (len(sorted_) - 1)
    cosine = float(normal @ step) / float(np.linalg.norm(step))
    askew = float(np.degrees(np.arccos(min(1.0, cosine))))
    if askew > TILT:
        raise InputError(
            f"{sorted_[0].path.name}: slices are sheared as by a gantry tilt of {askew:.1f} "
            "degrees; resample the volume first"
        )
    _check_straight(sorted_, step)
    return sorted_, step


def _check_gaps(frames: Sequence[Frame], normal: np.ndarray) -> None:
    """Refuse slices that are missing or doubled.

    The mean gap is exact where scanners round positions: written with one decimal, slices 0.625 mm
    apart have gaps of 0.6 and 0.7 mm, each wrong by at most one unit of the last decimal.
    """
    at = np.array([normal @ frame.position for frame in frames])
    gaps = np.diff(at)
    usual, mean = float(np.median(gaps)), float(gaps.mean())
    if gaps.min() <= max(1e-4, EVEN * usual):
        twice = int(gaps.argmin())
        raise InputError(
            f"{frames[twice].path.name} and {frames[twice + 1].path.name} have the same "
            "ImagePositionPatient; remove one, or choose a series with one image per position"
        )
    rounding = min(float(np.abs(normal) @ _decimals(frames)), ROUNDED * mean)
    if np.abs(gaps - mean).max() > EVEN * mean + rounding:
        odd = int(np.abs(gaps - usual).argmax())
        raise InputError(
            f"{frames[odd].path.name} and {frames[odd + 1].path.name} are {gaps[odd]:.4g} mm "
            f"apart, the others {usual:.4g} mm: slices are missing, or belong to another series"
        )


def _decimals(frames: Sequence[Frame]) -> Float64[np.ndarray, "3"]:
    """The last decimal of each coordinate, in millimetres; most numbers end in fewer."""
    return np.min([frame.decimals for frame in frames], axis=0)


def _check_straight(frames: Sequence[Frame], step: np.ndarray) -> None:
    """Refuse slices that are not on one line at equal steps."""
    line = frames[0].position + np.arange(len(frames))[:, None] * step
    off = np.linalg.norm(np.array([frame.position for frame in frames]) - line, axis=1)
    side = min(*frames[0].spacing, float(np.linalg.norm(step)))
    rounding = min(float(np.linalg.norm(_decimals(frames))), ROUNDED * side)
    if off.max() > STRAIGHT * side + rounding:
        raise InputError(
            f"{frames[int(off.argmax())].path.name}: is {off.max():.3g} mm off the line through "
            "the other slices; resample the volume first"
        )
