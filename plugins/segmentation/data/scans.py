"""Slices of scans as images, and label volumes on the grids of their scans."""

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from core.errors import InputError
from core.scans import dicom, itk, nifti
from core.scans.reading import Subject, prepared
from core.scans.request import ScanOptions
from core.scans.scan import on_grid
from core.storage.folders import files_in
from plugins.segmentation.request import Scans

FILES = (*nifti.SUFFIXES, nifti.HEADER, *itk.SUFFIXES)
"""Suffixes of files that are a scan each."""
SLICES = (".dcm", ".ima")
"""Suffixes of files of which a folder is one scan."""


class Slice(NamedTuple):
    """A slice of a scan.

    Args:
        scan: its file, or the folder of its DICOM series.
        number: from 0, along the plane.
        reading: how the scan is read.
    """

    scan: Path
    number: int
    reading: Scans

    def __str__(self) -> str:
        return f"{self.scan}, slice {self.number + 1}"


class Windowed(NamedTuple):
    """A scan as images.

    Args:
        pixels: in [-1, 1], slices along the plane in display orientation.
        subject: the scan, and the way back to its own order.
    """

    pixels: Float32[np.ndarray, " d h w"]
    subject: Subject


def stem_of(path: Path, *, named: bool = False) -> str | None:
    """The name of a scan's file without its suffix; None of other files.

    Args:
        path: of the file.
        named: go by the name alone; otherwise a .hdr is looked into.
    """
    end = next((end for end in FILES if path.name.lower().endswith(end)), None)
    if end is None or (end == nifti.HEADER and not named and not nifti.is_nifti(path)):
        return None
    return path.name[: -len(end)]


def is_series(folder: Path) -> bool:
    """Whether a folder itself holds files that are named as DICOM's."""
    return any(path.suffix.lower() in SLICES and path.is_file() for path in folder.iterdir())


def files_of(place: Path) -> tuple[Path, ...]:
    """The files that are read of an image or a scan."""
    if place.is_dir():
        return dicom.files_below(place)
    if place.suffix.lower() == nifti.HEADER:
        return (place, place.with_suffix(nifti.VOXELS))
    return (place,)


def scans_in(folder: Path) -> dict[str, Path]:
    """Files and DICOM folders of scans below a folder, by their names below it without suffix.

    A folder that is itself a DICOM series has its own name.

    Raises:
        InputError: no such folder, or two scans of one name.
    """
    found: dict[str, Path] = {}
    for path in files_in(folder, contents="scans").files:
        if path.suffix.lower() in SLICES:
            place, stem = path.parent, path.parent.name
            below = place.relative_to(folder).parent
        elif (stem := stem_of(path)) is not None:
            place, below = path, path.parent.relative_to(folder)
        else:
            continue
        name = (below / stem).as_posix()
        if found.setdefault(name, place) != place:
            raise InputError(f"{found[name]} and {place}: two scans of one name; rename one")
    return found


def read_scan(place: Path, reading: Scans) -> Windowed:
    """A scan as images: CT by its window, others from 0 to a percentile of their voxels.

    Raises:
        InputError: it cannot be read.
    """
    try:
        state = tuple((f.stat().st_size, f.stat().st_mtime_ns) for f in files_of(place))
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {error.strerror}") from error
    return _kept(os.fspath(place.absolute()), reading, state)


@lru_cache(maxsize=1)  # slices of one scan follow each other
def _kept(place: str, reading: Scans, state: object) -> Windowed:
    options = ScanOptions(plane=reading.plane, volume=reading.volume, modality=reading.modality)
    subject = prepared(Path(place), options)
    voxels = subject.scan.voxels
    low, high = reading.low, reading.high
    if subject.scan.modality != "CT":
        low, high = 0.0, max(float(np.percentile(voxels, reading.percentile)), 1e-6)
    return Windowed(2 * ((voxels - low) / (high - low)).clip(0, 1) - 1, subject)


def slices_of(place: Path, reading: Scans) -> list[Slice]:
    """The slices of a scan, in order.

    Raises:
        InputError: as `read_scan`.
    """
    count = len(read_scan(place, reading).pixels)
    return [Slice(place, number, reading) for number in range(count)]


def slice_pixels(one: Slice) -> Float[Tensor, " 3 h w"]:
    """The pixels of a slice in [-1, 1], three times.

    Raises:
        InputError: as `read_scan`.
    """
    pixels = read_scan(one.scan, one.reading).pixels[one.number]
    return torch.from_numpy(pixels).expand(3, -1, -1)


def label_volume(mask: Path, place: Path, reading: Scans) -> Int64[np.ndarray, " d h w"]:
    """The labels of a scan's voxels, in the order of its slices.

    Args:
        mask: a NIfTI file on the scan's grid, its axes in any order.
        place: the scan.
        reading: how it is read.

    Raises:
        InputError: it cannot be read, has other voxels than the scan, or no whole numbers from 0.
    """
    if not mask.name.lower().endswith(nifti.SUFFIXES):
        raise InputError(f"{mask}: expected the labels of a scan as NIfTI, .nii or .nii.gz")
    subject = read_scan(place, reading).subject
    labels = nifti.read(mask)
    if labels.voxels.min() < 0 or (labels.voxels != np.rint(labels.voxels)).any():
        raise InputError(
            f"{mask}: expected whole numbers of classes from 0, found "
            f"{labels.voxels.min():g} to {labels.voxels.max():g}; resample labels by the nearest "
            "neighbour"
        )
    try:
        return on_grid(labels, subject.scan).astype(np.int64)
    except InputError as error:
        raise InputError(f"{mask}: {error}") from error
