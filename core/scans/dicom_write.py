"""Results as derived DICOM series with the geometry of their source.

StudyInstanceUID, FrameOfReferenceUID and the UIDs of the source's slices stay, since viewers need
them to overlay the two series; DeidentificationMethod says so.  With `new_uids` they become keyed
hashes.  Nothing else of the source's header is written but attributes that are named; the patient
is a keyed hash.
"""

import os
import re
import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from core.errors import InputError
from core.scans.dicom import Origin
from core.scans.dicom_file import load
from core.scans.dicom_pixels import quiet
from core.scans.identity import new_uid
from core.scans.packages import require
from core.scans.scan import Scan, check_voxels
from core.storage import files

if TYPE_CHECKING:
    from pydicom import Dataset

WARNING = "Not for diagnosis"
METHOD = "polymode: attributes on an allow list only"  # DeidentificationMethod: at most 64 letters
RETAINED, REPLACED = "UIDs of the source retained", "UIDs replaced by keyed hashes"
# PS3.3 C.7.3.1.1.2: of people; other values could be any text.
POSITIONS = ("HFP", "HFS", "HFDR", "HFDL", "FFDR", "FFDL", "FFP", "FFS")
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
OTHER = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture


# Attributes that describe the result's own pixels and cannot be copied from the source.
OWN = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "SpecificCharacterSet", "Modality", "ImageType"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "SeriesDescription"),
    *("DerivationDescription", "SourceImageSequence", "InstanceNumber", "ImagePositionPatient"),
    *("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelData"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "NumberOfFrames"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("PixelPaddingRangeLimit", "ModalityLUTSequence", "PlanarConfiguration"),
    *("SmallestImagePixelValue", "LargestImagePixelValue", "FloatPixelData"),
    *("DoubleFloatPixelData", "GantryDetectorTilt", "PatientPosition"),
)


class Segment(NamedTuple):
    """A segment of a DICOM Segmentation.

    Args:
        label: SegmentLabel, up to 64 letters.
        code: of the segmented property in the scheme 99POLYMODE, up to 16 letters.
        meaning: of the code, up to 64 letters.
    """

    label: str
    code: str
    meaning: str


def check_keep(keep: Sequence[str]) -> None:
    """Refuse names of attributes that cannot be copied; call it before long work.

    Raises:
        InputError: not a DICOM keyword, or an attribute that the result sets itself.
    """
    from pydicom.datadict import tag_for_keyword

    for name in keep:
        if tag_for_keyword(name) is None:
            raise InputError(f"keep: {name!r} is not a DICOM keyword; expected one as PatientName")
        if name in OWN:
            raise InputError(f"keep: {name} is set by the result itself; leave it out")


def write(
    folder: Path,
    voxels: Float32[np.ndarray, " d h w"],
    like: Scan,
    *,
    description: str,
    keep: Sequence[str] = (),
    new_uids: bool = False,
) -> None:
    """Write a series of one file per slice, whole or not at all.

    SeriesInstanceUID and SOPInstanceUID are new, StudyInstanceUID and FrameOfReferenceUID those of
    the source, so that viewers overlay the two.  Values are stored as 16-bit integers with
    RescaleSlope and RescaleIntercept.

    Args:
        folder: a new or empty one.
        voxels: in the shape, order and units of `like`.
        like: the scan whose geometry they have and whose series they are derived from.
        description: SeriesDescription, up to 40 letters.
        keep: keywords of further attributes to copy from the source, as ``PatientName``, where it
            has them; PatientIdentityRemoved is then NO.
        new_uids: replace the UIDs of the source by keyed hashes, the same for all its results.

    Raises:
        InputError: a folder that is not empty, voxels of another shape or not finite, or not a
            keyword.
        StorageError: the disk is full or not writable.
    """
    check_keep(keep)
    check_voxels(folder, voxels, like)
    folder = folder.absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: is not an empty folder; give a new one")
        files.create_folder(folder.parent)
        waiting = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        waiting.mkdir()
        try:
            _write(waiting, voxels, like, description, keep, new_uids)
            waiting.rename(folder)
        except BaseException:
            shutil.rmtree(waiting, ignore_errors=True)
            raise
        files.sync(folder.parent)
    except OSError as error:
        needed = 2 * voxels.size + 4096 * len(voxels)
        remains = "nothing of it was written"
        raise files.not_written(folder, error, needed=needed, remains=remains) from error


def write_map(
    path: Path,
    voxels: Float32[np.ndarray, " d h w"],
    like: Scan,
    *,
    description: str,
    new_uids: bool = False,
) -> None:
    """Write float32 values as one DICOM Parametric Map (PS3.3 A.75), with their unit.

    The frames have the patient, study, frame of reference and geometry of the source and refer to
    its slices.  The unit is HU for CT, and none for other modalities.

    Args:
        path: of the file, replaced whole or not at all.
        voxels: in the shape, order and units of `like`.
        like: the scan whose geometry they have.
        description: SeriesDescription, up to 40 letters.
        new_uids: as of `write`.

    Raises:
        InputError: voxels of another shape or not finite.
        StorageError: the disk is full or not writable.
    """
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    check_voxels(path, voxels, like)
    slices = _sources(like, description, new_uids)
    unit = ("[hnsf'U]", "Hounsfield unit") if like.modality == "CT" else ("1", "no units")
    low, high = float(voxels.min()), float(voxels.max())
    with quiet():
        made = ParametricMap(
            slices, voxels, generate_uid(), 1, generate_uid(), 1,
            **_EQUIPMENT, contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                RealWorldValueMapping(
                    "deviation", description, Code(unit[0], "UCUM", unit[1]), (low, high), 1.0, 0.0
                )
            ],
            window_center=(low + high) / 2, window_width=max(high - low, 1.0),
            content_description=description, content_label="DEVIATION", **_planes(slices),
        )  # fmt: skip
        made.Laterality = ""  # of type 2C: unknown
    _save(path, made, description)


def write_mask(
    path: Path,
    labels: UInt8[np.ndarray, " d h w"],
    like: Scan,
    *,
    description: str,
    content: str,
    segments: Sequence[Segment],
    new_uids: bool = False,
) -> None:
    """Write labels as one DICOM Segmentation (PS3.3 A.51) of binary segments.

    The frames have the patient, study, frame of reference and geometry of the source and refer to
    its slices; empty ones are written too.

    Args:
        path: of the file, replaced whole or not at all.
        labels: number of each voxel's segment, from 1; 0 outside; in the shape and order of `like`.
        like: the scan whose geometry they have.
        description: SeriesDescription, up to 40 letters.
        content: ContentLabel, up to 16 capital letters.
        segments: the segments 1, 2, ...
        new_uids: as of `write`.

    Raises:
        InputError: a mask of another shape, or highdicom is not installed.
        StorageError: the disk is full or not writable.
    """
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    if labels.shape != like.voxels.shape:
        raise InputError(f"expected a mask of shape {like.voxels.shape}, got {labels.shape}")
    require(path.name, "highdicom")
    slices = _sources(like, description, new_uids)
    with quiet():
        algorithm = AlgorithmIdentificationSequence(
            "polymode", codes.DCM.ArtificialIntelligence, "1"
        )
        described = [
            SegmentDescription(
                number, one.label[:64], codes.SCT.SpatialAndRelationalConcept,
                Code(one.code, "99POLYMODE", one.meaning[:64]), "AUTOMATIC", algorithm,
            )
            for number, one in enumerate(segments, start=1)
        ]  # fmt: skip
        made = Segmentation(
            slices, labels, "BINARY", described,
            generate_uid(), 1, generate_uid(), 1, **_EQUIPMENT,
            content_description=description, content_label=content,
            omit_empty_frames=False, **_planes(slices),
        )  # fmt: skip
    _save(path, made, description)


_EQUIPMENT = {
    "manufacturer": "polymode", "manufacturer_model_name": "polymode", "software_versions": "1",
    "device_serial_number": "0",
}  # fmt: skip


def _planes(slices: "Sequence[Dataset]") -> dict[str, Any]:
    """Where the frames of a multi-frame object lie, as highdicom takes it."""
    from highdicom.content import (
        PixelMeasuresSequence,
        PlaneOrientationSequence,
        PlanePositionSequence,
    )

    first = slices[0]
    return {
        "pixel_measures": PixelMeasuresSequence(
            first.PixelSpacing, first.SliceThickness, first.SpacingBetweenSlices
        ),
        "plane_orientation": PlaneOrientationSequence("PATIENT", first.ImageOrientationPatient),
        "plane_positions": [
            PlanePositionSequence("PATIENT", one.ImagePositionPatient) for one in slices
        ],
    }


def _save(path: Path, made: "Dataset", description: str) -> None:
    made.SeriesDescription = f"{description[:40]}. {WARNING}"[:64]
    with files.replaced(path) as file:
        made.save_as(file, enforce_file_format=True)


def _sources(like: Scan, description: str, new_uids: bool) -> "list[Dataset]":
    """The headers of the source's slices, as the frames of an object derived from them need."""
    like = _with_new_uids(like) if new_uids else like
    series = _series(like, description, new_uids)
    return [_source(series, like, number) for number in range(len(like.voxels))]


def _source(series: "Dataset", like: Scan, number: int) -> "Dataset":
    """The header of a slice of the source, as the frames of a map refer to it."""
    data = deepcopy(_slice(series, like, number))  # slices of a series are views of it
    for reference in data.get("SourceImageSequence", ()):
        data.SOPClassUID = reference.ReferencedSOPClassUID
        data.SOPInstanceUID = reference.ReferencedSOPInstanceUID
    return data


def _with_new_uids(like: Scan) -> Scan:
    """The scan as one of a series whose UIDs are keyed hashes."""
    if not isinstance(like.origin, Origin):
        return like
    origin = like.origin

    def mapped(uid: str) -> str:
        return new_uid(uid) if _is_uid(uid) else ""

    return replace(
        like,
        origin=replace(
            origin,
            study=mapped(origin.study),
            frame_of_reference=mapped(origin.frame_of_reference),
            sources=tuple((kind, mapped(instance)) for kind, instance in origin.sources),
        ),
    )


def _write(
    folder: Path,
    voxels: np.ndarray,
    like: Scan,
    description: str,
    keep: Sequence[str],
    new_uids: bool,
) -> None:
    slope, intercept = _rescale(voxels, whole=like.modality == "CT")
    like = _with_new_uids(like) if new_uids else like
    series = _series(like, description, new_uids)
    copied = kept(like, keep)
    with quiet():  # values are copied unchanged, also where they violate the standard
        for name, value in copied.items():
            setattr(series, name, value)
    if copied:
        series.PatientIdentityRemoved = "NO"
        del series.DeidentificationMethod
    series.RescaleSlope, series.RescaleIntercept = _decimal(slope), _decimal(intercept)
    for number, slice_ in enumerate(voxels):
        stored = np.rint((slice_.astype(np.float64) - intercept) / slope).clip(0, 65535)
        data = _slice(series, like, number)
        data.PixelData = stored.astype("<u2").tobytes()
        path = folder / f"slice-{number + 1:04d}.dcm"
        with quiet():
            data.save_as(path, enforce_file_format=True)
        files.sync(path)
    files.sync(folder)


def _series(like: Scan, description: str, new_uids: bool) -> "Dataset":
    """The attributes that all slices of the series share."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    origin = like.origin if isinstance(like.origin, Origin) else None
    made = datetime.now(UTC)
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: names that are kept may be in any script
    data.SOPClassUID = CLASSES.get(like.modality, OTHER)
    data.StudyInstanceUID = _uid(origin.study if origin else "")
    data.FrameOfReferenceUID = _uid(origin.frame_of_reference if origin else "")
    data.SeriesInstanceUID = generate_uid()
    data.Modality = like.modality if like.modality in CLASSES else "OT"
    data.PatientID = data.PatientName = like.patient
    data.PatientIdentityRemoved = "YES"
    uids = [REPLACED if new_uids else RETAINED] if origin else []
    data.DeidentificationMethod = [METHOD, *uids]
    data.PatientBirthDate = data.PatientSex = data.ReferringPhysicianName = ""
    data.StudyDate = data.StudyTime = data.AccessionNumber = data.StudyID = ""
    data.InstanceCreationDate = made.strftime("%Y%m%d")
    data.InstanceCreationTime = made.strftime("%H%M%S")
    data.Manufacturer = data.ManufacturerModelName = "polymode"
    data.SeriesNumber, data.PositionReferenceIndicator = 1, ""
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if like.modality == "CT" else "OTHER"]
    data.SeriesDescription = f"{description[:40]}. {WARNING}"[:64]
    data.DerivationDescription = f"{description}. {WARNING}."
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = 0
    data.RescaleType = "HU" if like.modality == "CT" else "US"
    data.Laterality = ""  # of type 2C, as those below: empty where it is unknown
    if like.modality in CLASSES:
        known = origin is not None and origin.patient_position in POSITIONS
        data.PatientPosition = origin.patient_position if origin and known else ""
    else:
        data.PatientOrientation = ""
    if like.modality == "CT":  # of type 2: present and empty
        data.KVP = data.AcquisitionNumber = None
    elif like.modality == "MR":
        data.ScanningSequence, data.SequenceVariant = "RM", "NONE"
        data.ScanOptions = data.MRAcquisitionType = ""
        data.RepetitionTime = data.EchoTime = data.EchoTrainLength = None
    else:
        data.ConversionType = "WSD"
    return data


def _slice(series: "Dataset", like: Scan, number: int) -> "Dataset":
    """The header of one slice, without PixelData."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    column, row, step = (like.affine[:3, axis] for axis in range(3))
    sizes = [float(np.linalg.norm(way)) for way in (column, row, step)]
    data, data.file_meta = Dataset(series), FileMetaDataset()
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.file_meta.MediaStorageSOPClassUID = UID(data.SOPClassUID)
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.InstanceNumber = number + 1
    data.ImagePositionPatient = [_decimal(x) for x in like.affine[:3, 3] + number * step]
    data.ImageOrientationPatient = [_decimal(x) for x in (*(column / sizes[0]), *(row / sizes[1]))]
    data.PixelSpacing = [_decimal(sizes[1]), _decimal(sizes[0])]
    data.SliceThickness = data.SpacingBetweenSlices = _decimal(sizes[2])
    data.Rows, data.Columns = like.voxels.shape[1:]
    if isinstance(like.origin, Origin):
        kind, instance = like.origin.sources[number]
        if _is_uid(kind) and _is_uid(instance):
            source = Dataset()
            source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = kind, instance
            data.SourceImageSequence = [source]
    return data


def _uid(value: str) -> str:
    """The UID itself if valid, else a new one: other text could hold a name."""
    from pydicom.uid import generate_uid

    return value if _is_uid(value) else generate_uid()


def _is_uid(value: str) -> bool:
    return (
        len(value) <= 64 and re.fullmatch(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+", value) is not None
    )


def kept(like: Scan, keep: Sequence[str]) -> dict[str, object]:
    """Attributes of the source's header by keyword, without those that it lacks."""
    if not keep or not isinstance(like.origin, Origin):
        return {}
    with quiet():
        header = load(like.origin.header, pixels=False)
        found = {name: header.get(name) for name in keep}
    return {name: value for name, value in found.items() if value is not None}


def _rescale(voxels: np.ndarray, *, whole: bool) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept of 16-bit values: a slope of 1 if the range allows it."""
    low, high = float(voxels.min()), float(voxels.max())
    if whole and high - np.floor(low) <= 65535:
        return 1.0, float(np.floor(low))
    slope = float(_decimal(max(high - low, 1e-6) / 65534))
    return (max(slope, 1e-12), float(_decimal(low)))


def _decimal(value: float) -> str:
    """A number as a Decimal String (DS) of at most 16 characters."""
    for digits in range(16, 4, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.5g}"[:16]
