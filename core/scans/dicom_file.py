"""DICOM files and their headers, with the preamble of 128 bytes or without it.

Archives and old scanners write bare data sets; PS3.10 7.1 asks for a preamble and the prefix DICM.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError
from core.scans.claims import reason
from core.storage import files

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".dcm", ".ima")  # that name a file as DICOM; most archives write none
START = 132  # bytes of preamble and prefix
# Groups that a data set begins with: of its meta information, and of its identification.
FIRST_GROUPS = (0x0002, 0x0008)
LONGEST = 256  # bytes of a first element: group length, character set or image type


@dataclass(frozen=True, eq=False)
class File:
    """An image file: its header, and its sizes as integers."""

    path: Path
    header: Any
    size: tuple[int, int]  # rows and columns
    frames: int
    samples: int  # SamplesPerPixel


def file_of(path: Path, header: "Dataset | None" = None) -> File | None:
    """The file if it holds an image; None for reports, structure sets and the like.

    Args:
        path: of the file.
        header: as of `header_of`, where it has been read.

    Raises:
        InputError: it cannot be read, or its sizes are no positive integers.
    """
    header = header_of(path) if header is None else header
    if "Rows" not in header or "Columns" not in header:
        return None

    def whole(name: str, otherwise: int | None = None) -> int:
        value = header.get(name)
        value = otherwise if value is None else value
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{path.name}: {name} is not a positive integer")
        return int(value)

    size = whole("Rows"), whole("Columns")
    return File(path, header, size, whole("NumberOfFrames", 1), whole("SamplesPerPixel", 1))


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's prefix, or begins as a data set without it."""
    try:
        with files.open_regular(path) as file:
            head = file.read(START)
    except OSError:
        return False
    return head[128:] == b"DICM" or _is_bare(head)


def has_prefix(path: Path) -> bool:
    """Whether a file has DICOM's preamble and prefix."""
    with path.open("rb") as file:
        return file.read(START)[128:] == b"DICM"


def _is_bare(head: bytes) -> bool:
    """Whether bytes are a first element: tag, then a type and a length, or a length alone."""
    if len(head) < 16 or int.from_bytes(head[:2], "little") not in FIRST_GROUPS:
        return False
    explicit = re.fullmatch(rb"UL|OB|CS|UI|DA|TM|SH|LO", head[4:6]) is not None
    length = head[6:8] if explicit else head[4:8]
    return int.from_bytes(head[2:4], "little") < 0x0100 and (
        int.from_bytes(length, "little") <= LONGEST
    )


def header_of(path: Path) -> "Dataset":
    """The attributes of a file that scans are read by, with its transfer syntax.

    Raises:
        InputError: it cannot be read, or is deflated.
    """
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        if _meta(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise InputError(  # pydicom would unpack all, however much
                f"{path.name}: transfer syntax Deflated Explicit VR Little Endian is not read, "
                "since its decompressed size is unbounded; save it with another one"
            )
        header = load(path, pixels=False, names=_LOOKED_AT)
        # pydicom parses an element at its first access: damaged ones are found here.
        for name in _LOOKED_AT:
            header.get(name)
        return header
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read as DICOM: {unquoted(error)}") from error


def load(path: Path, *, pixels: bool, names: Sequence[str] | None = None) -> "Dataset":
    """A data set as pydicom reads it; the transfer syntax of a bare one is found by its bytes.

    Args:
        path: of the file.
        pixels: whether PixelData is read.
        names: attributes to read, by keyword; None for all.
    """
    import pydicom
    from pydicom.uid import (
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
    )

    data = pydicom.dcmread(
        path,
        stop_before_pixels=not pixels,
        force=not has_prefix(path),
        specific_tags=None if names is None else list(names),
    )
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        if pixels and "PixelData" in data and data["PixelData"].is_undefined_length:
            raise InputError(
                f"{path.name}: PixelData is compressed, and the file's meta information with its "
                "transfer syntax is missing; export it again"
            )
    return data


def _meta(path: Path) -> Any:
    """The file meta information; empty of a data set that begins without it."""
    from pydicom.filereader import read_dataset, read_file_meta_info

    if has_prefix(path):
        return read_file_meta_info(path)
    with path.open("rb") as file:
        return read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2)


def unquoted(error: BaseException) -> str:
    """The reason without quoted values: a patient's name may stand where a number should."""
    return re.sub(r"(['\"]).*\1", "...", reason(error))


def whose(header: Any) -> str:
    """PatientID and PatientName; empty where they are missing."""
    identity = (str(header.get(name) or "").strip() for name in ("PatientID", "PatientName"))
    return " ".join(dict.fromkeys(filter(None, identity)))


def modality_of(header: Any) -> str:
    """Modality; ``?`` where it is not a code, since it may be any text."""
    modality = str(header.get("Modality") or "")
    return modality if re.fullmatch("[A-Z]{2,3}|RT[A-Z]{4,6}", modality) else "?"


_LOOKED_AT = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "Modality"),
    *("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"),
    *("PatientID", "PatientName", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept", "GantryDetectorTilt"),
    *("PhotometricInterpretation", "PixelPaddingValue", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "ModalityLUTSequence", "SOPClassUID", "ImageType"),
    "PatientPosition",
)
