"""Results as DICOM series that are derived of another: the same places, another series.

Fields of the source's header are written only if they are on the list here or asked for by name.
"""

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from core.errors import InputError
from plugins.medical.dicom import Origin
from plugins.medical.scan import Scan

WARNING = "Not for diagnosis"
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
OTHER = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture


def write(
    folder: Path,
    voxels: Float32[np.ndarray, " d h w"],
    like: Scan,
    *,
    description: str,
    keep: Sequence[str] = (),
) -> None:
    """Write a series of one file for each slice, whole or not at all.

    Its UIDs are new, its study and frame of reference those of the source, so that viewers lay the
    two on each other.  Values are 16-bit steps of the range that they fill.

    Args:
        folder: a new or empty one.
        voxels: as many as `like` has, in its order and units.
        like: where they lie, and of which series they are derived.
        description: of what they are, up to 40 letters.
        keep: names of further fields of the source's header to write, as ``PatientName``.

    Raises:
        InputError: a folder that holds something, voxels of another size, or no such field.
    """
    if voxels.shape != like.voxels.shape:
        raise InputError(f"{voxels.shape} voxels for a scan of {like.voxels.shape}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: holds something already; name a new folder")
    waiting = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    waiting.mkdir(parents=True)
    try:
        _write(waiting, voxels, like, description, keep)
        if folder.exists():
            folder.rmdir()
        waiting.rename(folder)
    except BaseException:
        shutil.rmtree(waiting, ignore_errors=True)
        raise


def _write(
    folder: Path, voxels: np.ndarray, like: Scan, description: str, keep: Sequence[str]
) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    origin = like.origin if isinstance(like.origin, Origin) else None
    study = (origin.study if origin else "") or generate_uid()
    frame = (origin.frame_of_reference if origin else "") or generate_uid()
    series, made = generate_uid(), datetime.now(UTC)
    slope, intercept = _rescale(voxels, whole=like.modality == "CT")
    further = _kept(origin, keep)
    column, row, step = (like.affine[:3, axis] for axis in range(3))
    sizes = [float(np.linalg.norm(way)) for way in (column, row, step)]
    directions = [*(column / sizes[0]), *(row / sizes[1])]
    for number, slice_ in enumerate(voxels):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = UID(CLASSES.get(like.modality, OTHER))
        meta.MediaStorageSOPInstanceUID = generate_uid()
        data = Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = (
            meta.MediaStorageSOPClassUID,
            meta.MediaStorageSOPInstanceUID,
        )
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (
            study,
            series,
            frame,
        )
        data.Modality = like.modality if like.modality in CLASSES else "OT"
        data.PatientID = data.PatientName = like.patient
        data.PatientIdentityRemoved = "YES"
        data.DeidentificationMethod = "polymode: fields on a list only"
        data.PatientBirthDate = data.PatientSex = data.ReferringPhysicianName = ""
        data.StudyDate = data.StudyTime = data.AccessionNumber = data.StudyID = ""
        data.InstanceCreationDate, data.InstanceCreationTime = (
            made.strftime("%Y%m%d"),
            made.strftime("%H%M%S"),
        )
        data.Manufacturer, data.ManufacturerModelName = "polymode", "polymode"
        data.SeriesNumber, data.InstanceNumber = 1, number + 1
        data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        data.SeriesDescription = f"{description[:40]}. {WARNING}"[:64]
        data.DerivationDescription = f"{description}. {WARNING}."
        data.ImagePositionPatient = [_decimal(x) for x in like.affine[:3, 3] + number * step]
        data.ImageOrientationPatient = [_decimal(x) for x in directions]
        data.PixelSpacing = [_decimal(sizes[1]), _decimal(sizes[0])]
        data.SliceThickness = data.SpacingBetweenSlices = _decimal(sizes[2])
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows, data.Columns = slice_.shape
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 0
        data.RescaleSlope, data.RescaleIntercept = _decimal(slope), _decimal(intercept)
        data.RescaleType = "HU" if like.modality == "CT" else "US"
        if origin:
            source = Dataset()
            source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = origin.sources[number]
            data.SourceImageSequence = [source]
        for name, value in further.items():
            setattr(data, name, value)
        stored = np.rint((slice_.astype(np.float64) - intercept) / slope).clip(0, 65535)
        data.PixelData = stored.astype("<u2").tobytes()
        data.save_as(folder / f"slice-{number + 1:04d}.dcm", enforce_file_format=True)


def _kept(origin: Origin | None, keep: Sequence[str]) -> dict[str, object]:
    """Fields of the source's header by name."""
    import pydicom
    from pydicom.datadict import tag_for_keyword

    for name in keep:
        if tag_for_keyword(name) is None:
            raise InputError(f"keep: no DICOM field is called {name!r}; names are as PatientName")
    if not keep or origin is None:
        return {}
    header = pydicom.dcmread(origin.header, stop_before_pixels=True)
    return {name: header.get(name) for name in keep if header.get(name) is not None}


def _rescale(voxels: np.ndarray, *, whole: bool) -> tuple[float, float]:
    """Slope and intercept of 16-bit numbers: steps of 1 where they reach far enough."""
    low, high = float(voxels.min()), float(voxels.max())
    if whole and high - np.floor(low) <= 65535:
        return 1.0, float(np.floor(low))
    slope = float(_decimal(max(high - low, 1e-6) / 65534))
    return (max(slope, 1e-12), float(_decimal(low)))


def _decimal(value: float) -> str:
    """A number in the 16 letters that a DICOM decimal has."""
    for digits in range(16, 4, -1):
        said = f"{value:.{digits}g}"
        if len(said) <= 16:
            return said
    return f"{value:.5g}"[:16]
