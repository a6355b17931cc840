"""DICOM series read as scans with their geometry, CT in Hounsfield units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from core.errors import InputError
from core.scans import dicom_pixels
from core.scans.claims import check_claim, reason
from core.scans.dicom_file import (
    SUFFIXES,
    File,
    file_of,
    is_dicom,
    modality_of,
    unquoted,
    whose,
)
from core.scans.dicom_geometry import Frame, frames_of, ordered
from core.scans.identity import pseudonym
from core.scans.intensities import EMPTY
from core.scans.scan import TILT, Modality, Scan
from core.storage.folders import files_in

PADDING = -1500.0  # Hounsfield units; at or below it there is no tissue


@dataclass(frozen=True)
class Origin:
    """Attributes of a source series that a derived series refers to.

    Args:
        study: StudyInstanceUID.
        frame_of_reference: FrameOfReferenceUID; empty where there is none.
        series: SeriesInstanceUID.
        sources: SOPClassUID and SOPInstanceUID of each slice, in order.
        header: a file of the series, for attributes to copy by name.
        patient_position: PatientPosition, such as HFS; empty where it is unknown.
        modality: Modality as the header states it, such as PT; ``?`` where it is no code.
    """

    study: str
    frame_of_reference: str
    series: str
    sources: tuple[tuple[str, str], ...]
    header: Path
    patient_position: str = ""
    modality: str = "?"


@dataclass(frozen=True, eq=False)
class Series:
    """The images of a series, which form a volume as far as their headers tell.

    Args:
        files: of the series.
        frames: its slices, in the order of their positions.
        step: from one slice to the next, in millimetres.
        modality: CT, MR or other.
    """

    files: tuple[File, ...]
    frames: tuple[Frame, ...]
    step: Float64[np.ndarray, "3"]
    modality: Modality

    @property
    def header(self) -> Any:
        """The attributes that all files have in common, of the first."""
        return self.files[0].header


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
        found: dict[str, list[File]] = {}
        paths, others = _files(place)
        for path in paths:
            file = file_of(path)
            if file is not None:
                uid = str(file.header.get("SeriesInstanceUID", ""))
                found.setdefault(uid, []).append(file)
        if not found:
            raise InputError(f"{place}: contains no DICOM image")
        scan = _scan(_examined(_chosen(place, found, series)))
    if others:
        files = "1 file whose name ends" if others == 1 else f"{others} files whose names end"
        note = f"{files} as DICOM's {'is' if others == 1 else 'are'} not DICOM: not read"
        scan = replace(scan, notes=(*scan.notes, note))
    return scan


def read_series(paths: Sequence[Path]) -> Scan:
    """The scan of the files of one series.

    Raises:
        InputError: slices that do not form a volume, or pixels that cannot be decoded.
    """
    with dicom_pixels.quiet():
        return _scan(_examined([file for file in map(file_of, paths) if file is not None]))


def examined(headers: Mapping[Path, Any]) -> Series:
    """A series checked by the headers of its files, by path, without its pixels.

    Raises:
        InputError: slices that do not form a volume, or more of them than the memory holds.
    """
    with dicom_pixels.quiet():
        files = [file_of(path, header) for path, header in headers.items()]
        return _examined([file for file in files if file is not None])


def _examined(chosen: Sequence[File]) -> Series:
    first = chosen[0]
    _check_alike(chosen)
    frames, step = ordered([frame for file in chosen for frame in frames_of(file)])
    check_claim(first.path, (len(frames), *first.size), 8)
    for file in chosen:
        _check_length(file)
    stated = first.header.get("Modality")
    modality = stated if stated in ("CT", "MR") else "other"
    return Series(tuple(chosen), tuple(frames), step, modality)


def _scan(series: Series) -> Scan:
    frames, header = series.frames, series.header
    voxels, notes = _voxels(frames, series.files[0].size, series.modality)
    row, column = frames[0].spacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = frames[0].directions[0] * column, frames[0].directions[1] * row
    affine[:3, 2], affine[:3, 3] = series.step, frames[0].position
    if len(frames) == 1:
        known = frames[0].thickness > 0
        spacing = "SliceThickness" if known else "1 mm, since SliceThickness is missing"
        notes = (*notes, f"a single slice: its spacing was set to {spacing}")
    elif abs(tilt := _stated_tilt(header)) > TILT:
        notes = (*notes, f"GantryDetectorTilt is {tilt:g} degrees, but the slices are not sheared")
    return Scan(
        voxels,
        affine,
        series.modality,
        pseudonym(whose(header)),
        notes,
        Origin(
            str(header.get("StudyInstanceUID", "")),
            str(header.get("FrameOfReferenceUID", "")),
            str(header.get("SeriesInstanceUID", "")),
            tuple(frame.source for frame in frames),
            series.files[0].path,
            str(header.get("PatientPosition") or ""),
            modality_of(header),
        ),
        tuple(dict.fromkeys(frame.path for frame in frames)),
    )


def _stated_tilt(header: Any) -> float:
    """GantryDetectorTilt in degrees; 0 where it is missing or no number."""
    try:
        return float(header.get("GantryDetectorTilt") or 0)
    except (TypeError, ValueError):
        return 0.0


# --- files ---------------------------------------------------------------------------------------


def _files(place: Path) -> tuple[list[Path], int]:
    """DICOM files, and the number of others whose names end as those of DICOM files."""
    try:
        if place.is_file():
            if is_dicom(place):
                return [place], 0
            raise InputError(
                f"{place}: not a DICOM file: it has neither a preamble of 128 bytes and the prefix "
                "DICM, nor begins with a data set; export it again"
            )
        if not place.is_dir():
            raise InputError(f"{place}: no such file or folder")
        paths = files_below(place)
        found = [path for path in paths if is_dicom(path)]
        named = {path for path in paths if path.suffix.lower() in SUFFIXES}
        return found, len(named.difference(found))
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {reason(error)}") from error


def files_below(folder: Path) -> tuple[Path, ...]:
    """The files in a folder and its subfolders in which `read` looks for images; no links."""
    found = files_in(folder, contents="scans").files
    return tuple(path for path in found if path.name != "DICOMDIR")


def _chosen(place: Path, found: dict[str, list[File]], series: int | None) -> list[File]:
    listed = [found[uid] for uid in sorted(found)]
    if series is None and len(listed) > 1:
        kinds = "; ".join(
            f"{number}: {modality_of(one[0].header)}, {len(one)} files of "
            f"{one[0].size[1]}x{one[0].size[0]}"
            for number, one in enumerate(listed, start=1)
        )
        raise InputError(f"{place}: {len(listed)} series ({kinds}); choose one with --series")
    if series is not None and not 1 <= series <= len(listed):
        raise InputError(f"series: expected 1 to {len(listed)}, got {series}")
    return listed[(series or 1) - 1]


# --- a volume of slices --------------------------------------------------------------------------


def _check_alike(chosen: Sequence[File]) -> None:
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


def _check_length(file: File) -> None:
    """Refuse a file that is shorter than its PixelData, before memory is allocated."""
    try:
        packed = file.header.file_meta.TransferSyntaxUID.is_encapsulated
        bits = int(file.header.get("BitsAllocated") or 0)
        held = file.path.stat().st_size
    except Exception as error:
        raise InputError(f"{file.path.name}: cannot be read: {unquoted(error)}") from error
    wanted = file.frames * file.size[0] * file.size[1] * bits // 8
    if not packed and held < wanted:
        raise InputError(
            f"{file.path.name}: is truncated: it has {held:,} bytes, PixelData alone needs "
            f"{wanted:,}; copy it again"
        )


def _voxels(
    frames: Sequence[Frame], size: tuple[int, int], modality: str
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
            outside = (values <= PADDING) | ((stored == held[1].padding) & (values < EMPTY))
            values[outside] = EMPTY
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
