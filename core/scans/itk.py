"""MetaImage and NRRD files of one file each, read as scans by SimpleITK.

Headers that name another file for their voxels (``.mhd``, ``.nhdr``, or a ``.mha`` that does) are
refused: no file but the user's is opened.
"""

import importlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError
from core.scans.claims import check_claim, reason
from core.scans.intensities import settled
from core.scans.scan import Modality, Scan
from core.storage import files

SUFFIXES = (".mha", ".nrrd")
INSTALL = "pip install 'polymode[medical-formats]'"
HEAD = 1 << 16  # bytes that hold a header
# Lines that name the file of the voxels: LOCAL is the same one; of NRRD any is another.
ELSEWHERE = re.compile(
    rb"^[ \t]*(?:ElementDataFile[ \t]*=(?![ \t]*LOCAL[ \t]*\r?$)|data ?file[ \t]*:)", re.I | re.M
)


def is_installed() -> bool:
    """Whether SimpleITK can be imported."""
    return importlib.util.find_spec("SimpleITK") is not None


def _library() -> Any:
    """SimpleITK, which only this extra brings."""
    return importlib.import_module("SimpleITK")


def read(path: Path, *, modality: Modality | None = None) -> Scan:
    """The scan of a file, in the order of its stored voxels.

    Args:
        path: of the file.
        modality: of the scan; by default CT where values lie below -500, and other elsewhere.

    Raises:
        InputError: SimpleITK is not installed, or the file cannot be read.
    """
    reader, shape = _reader(path), sizes_of(path)[0]
    try:
        found = _library().GetArrayFromImage(reader.Execute())
    except Exception as error:
        raise InputError(
            f"{path.name}: cannot be read by SimpleITK: damaged or truncated, copy it again"
        ) from error
    voxels = found.astype(np.float32).reshape(shape)
    voxels, modality, notes = settled(path.name, voxels, modality)
    return Scan(voxels, _affine(reader), modality, notes=notes, files=(path,))


def sizes_of(path: Path) -> tuple[tuple[int, int, int], int]:
    """Slices, rows and columns of a file, and bits of a voxel, by its header.

    Raises:
        InputError: as `read`, or a size that does not fit into memory.
    """
    reader = _reader(path)
    columns, rows, slices = (*reader.GetSize(), 1)[:3]
    kind = _library().GetPixelIDValueAsString(reader.GetPixelID())
    bits = int((re.findall(r"\d+", kind) or ["64"])[0])
    shape = (int(slices), int(rows), int(columns))
    check_claim(path, shape, 4 + bits // 4)
    return shape, bits


def _reader(path: Path) -> Any:
    """SimpleITK's reader of a file, with its header read."""
    if not is_installed():
        raise InputError(f"{path.name}: SimpleITK reads it, not installed here; {INSTALL}")
    try:
        with files.open_regular(path) as file:
            head = file.read(HEAD)
        # The header of NRRD ends with an empty line, that of MetaImage with the line sought.
        text = head.split(b"\n\n")[0] if head.startswith(b"NRRD") else head
        if found := ELSEWHERE.search(text):
            raise InputError(
                f"{path.name}: its voxels are in another file ({found[0].split()[0].decode()}); "
                "save both as one"
            )
        reader = _library().ImageFileReader()
        reader.SetImageIO("NrrdImageIO" if path.suffix.lower() == ".nrrd" else "MetaImageIO")
        reader.SetFileName(os.fspath(path))
        reader.ReadImageInformation()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: cannot be read: {reason(error)}") from error
    axes, numbers = len(reader.GetSize()), reader.GetNumberOfComponents()
    if axes not in (2, 3) or numbers != 1:
        raise InputError(
            f"{path.name}: has {axes} axes and {numbers} numbers per voxel; expected 2 or 3 axes "
            "and one number; save complex images as NIfTI"
        )
    return reader


def _affine(reader: Any) -> np.ndarray:
    """From (column, row, slice, 1) to millimetres, LPS, which is ITK's space too."""
    axes = len(reader.GetSize())
    affine = np.eye(4)
    directions = np.reshape(reader.GetDirection(), (axes, axes))
    affine[:axes, :axes] = directions * reader.GetSpacing()
    affine[:axes, 3] = reader.GetOrigin()
    return affine
