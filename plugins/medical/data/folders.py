"""Slices of folders of scans: NIfTI, DICOM, and public sets of those."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from core.errors import InputError
from core.process.noise import derive
from core.storage import files
from plugins.medical.data.slices import Pose, Slices
from plugins.medical.io import dicom, identity, nifti, raw
from plugins.medical.io.scan import Plane, Scan
from plugins.medical.operators.fourier import inverse_fourier, root_sum_of_squares

LIDC = r"LIDC-IDRI-\d{4}"
SAMPLES = ("CT_small.dcm", "MR_small.dcm")
Planes = Literal["acquired", "axial", "coronal", "sagittal", "any"]


@dataclass(frozen=True)
class Entry:
    """A scan on disk.

    Args:
        patient: whose it is; decides the split and is never shown.
        files: it is made of.
        read: what reads it.
    """

    patient: str
    files: tuple[Path, ...]
    read: Callable[[], Scan]

    @property
    def place(self) -> float:
        """Where the patient falls in [0, 1): below `test_share` is test."""
        return int(hashlib.sha256(self.patient.encode()).hexdigest()[:13], 16) / 16**13


class _Folder(Slices, ABC):
    """Slices of the scans in a folder and those inside it, split by patient.

    An item holds ``image`` (1, size, size) in [-1, 1]: of CT the window's range, of MR twice the
    share of the brightest less 1.  To test it holds ``fine`` as well (1, 2 size, 2 size), whose
    means over 2x2 it is.  Scans are read when they are first needed.

    Args:
        root: the folder.
        size: side of a slice, in pixels.
        pixel: side of a pixel, in millimetres; by default what shows the whole of each scan.
        plane: of the slices: as they were acquired, another one, or to train any of three,
            two thirds as they were acquired.
        low: of CT, the Hounsfield units that are black.
        high: of CT, the Hounsfield units that are white.
        percentile: of other scans, the share of voxels below white; black is 0.
        modality: what the scans are; where their files do not say, values below -500 tell CT.
        test_share: share of the patients that is kept for testing; approximate, as a patient's
            name decides; 0 and 1 for folders that are for one of the two alone.
        count: how many different slices the training set has.
        per_scan: how many slices of each scan the test set has, spread evenly.
        turn: how far slices to train are turned within their plane to either side, in degrees.
        tilt: how far their plane is tilted about each of its axes, in degrees.
        zoom: greatest factor that they are enlarged or reduced by.
        shift: how far their middle is moved, share of their side.
        mirror: whether left and right may be exchanged.
        contrast: of other scans than CT, by what factor the brightness of tissues is changed.
        seed: of the slices to train.
        cache_gib: memory for volumes, in GiB, in each process; of more the last used are kept.
    """

    def __init__(
        self,
        split: str,
        *,
        root: Path,
        size: int = 128,
        pixel: float | None = None,
        plane: Planes = "acquired",
        low: float = -1000.0,
        high: float = 1000.0,
        percentile: float = 99.8,
        modality: Literal["auto", "CT", "MR"] = "auto",
        test_share: float = 0.2,
        count: int = 20000,
        per_scan: int = 8,
        turn: float = 15.0,
        tilt: float = 10.0,
        zoom: float = 1.2,
        shift: float = 0.1,
        mirror: bool = True,
        contrast: float = 2.0,
        seed: int = 0,
        cache_gib: float = 2.0,
    ) -> None:
        pose = Pose(turn=turn, tilt=tilt, zoom=zoom, shift=shift, mirror=mirror, contrast=contrast)
        problems = []
        if split not in ("train", "test"):
            problems.append(f"split: expected train or test, got {split!r}")
        if not 8 <= size <= 1024:
            problems.append(f"size: expected 8 to 1024, got {size}")
        if pixel is not None and not pixel > 0:
            problems.append(f"pixel: expected more than 0, got {pixel:g}")
        if not low < high:
            problems.append(f"low, high: expected low below high, got {low:g} and {high:g}")
        if not 0 < percentile <= 100:
            problems.append(f"percentile: expected 0 to 100, got {percentile:g}")
        if not 0 <= test_share <= 1:
            problems.append(f"test_share: expected 0 to 1, got {test_share:g}")
        if count < 1 or per_scan < 1:
            problems.append(f"count, per_scan: expected at least 1, got {count} and {per_scan}")
        if not (pose.zoom >= 1 and pose.contrast >= 1):
            problems.append(
                f"zoom, contrast: expected at least 1, got {pose.zoom:g} and {pose.contrast:g}"
            )
        if min(pose.turn, pose.tilt, pose.shift) < 0:
            problems.append(
                "turn, tilt, shift: expected at least 0, got "
                f"{pose.turn:g}, {pose.tilt:g} and {pose.shift:g}"
            )
        if problems:
            raise InputError("\n".join(problems))
        self._entries = side(root, self._found(root), split, test_share)
        first: Plane = "acquired" if plane == "any" else plane
        every: list[Plane] = ["acquired", "acquired", "acquired", "axial", "coronal", "sagittal"]
        self._said = (
            2, split, size, pixel, plane, low, high, percentile, modality,
            (count, pose, seed) if split == "train" else per_scan,
        )  # fmt: skip
        super().__init__(
            [(identity.pseudonym(entry.patient), entry.read) for entry in self._entries],
            split=split,
            size=size,
            pixel=pixel,
            planes=every if plane == "any" and split == "train" else [first],
            window=lambda scan: (low, high) if _is_ct(scan, modality) else None,
            percentile=percentile,
            count=count if split == "train" else per_scan,
            pose=pose,
            seed=derive(seed, "slices"),
            cache=int(cache_gib * 2**30),
        )

    def digest(self) -> str:
        """SHA-256 of the files' bytes and of how slices are cut."""
        whole = hashlib.sha256(repr(self._said).encode())
        for entry in self._entries:
            for path in entry.files:
                whole.update(files.digest(path).encode())
        return whole.hexdigest()

    @staticmethod
    @abstractmethod
    def _found(root: Path) -> list[Entry]:
        """The scans in a folder."""


class NiftiFolder(_Folder):
    __doc__ = _Folder.__doc__

    @staticmethod
    def _found(root: Path) -> list[Entry]:
        paths = sorted(path for path in inside(root) if path.name.lower().endswith(nifti.SUFFIXES))
        return [Entry(_patient(root, path), (path,), partial(nifti.read, path)) for path in paths]


class DicomFolder(_Folder):
    __doc__ = _Folder.__doc__

    @staticmethod
    def _found(root: Path) -> list[Entry]:
        folders: dict[Path, list[Path]] = {}
        for path in sorted(inside(root)):
            if path.name != "DICOMDIR" and dicom.is_dicom(path):
                folders.setdefault(path.parent, []).append(path)
        return [
            Entry(
                dicom.patient_of(paths[0]) or _patient(root, paths[0]),
                tuple(paths),
                partial(dicom.read, folder),
            )
            for folder, paths in folders.items()
        ]


class Lidc(_Folder):
    __doc__ = _Folder.__doc__

    @staticmethod
    def _found(root: Path) -> list[Entry]:
        """CT series of LIDC-IDRI's layout: patient, study, series; chest radiographs left out."""
        found = []
        for entry in DicomFolder._found(root):
            place = entry.files[0].relative_to(root)
            named = next((part for part in place.parts if re.fullmatch(LIDC, part)), None)
            if named is not None and len(entry.files) > 2:
                found.append(Entry(named, entry.files, entry.read))
        return found


class FastMri(_Folder):
    __doc__ = _Folder.__doc__

    @staticmethod
    def _found(root: Path) -> list[Entry]:
        """Fully measured volumes of fastMRI's layout."""
        paths = sorted(path for path in inside(root) if path.suffix.lower() == ".h5")
        return [
            Entry(raw.fastmri_patient(path) or path.stem, (path,), partial(fastmri_scan, path))
            for path in paths
        ]


def fastmri_scan(path: Path) -> Scan:
    """The magnitude of all coils of a fully measured file, the middle half of its rows.

    The readout is sampled twice as densely as the picture wants: what is beyond is cut off.

    Raises:
        InputError: as `raw.read_fastmri`, or frequencies that were not measured.
    """
    values, mask = raw.read_fastmri(path)
    if mask is not None and not mask.all():
        raise InputError(f"{path.name}: undersampled k-space; a prior wants whole pictures")
    pictures = root_sum_of_squares(inverse_fourier(torch.from_numpy(values)))
    rows, columns = pictures.shape[1:]
    if rows > columns * 1.5:
        pictures = pictures[:, rows // 4 : rows // 4 + rows // 2]
    return Scan(pictures.numpy().astype(np.float32), np.eye(4), "MR", notes=("no geometry",))


class Samples(_Folder):
    """The scans inside pydicom's and nibabel's own packages: for trying files, not for learning.

    Train is a head of echo-planar pictures (nibabel's tests), test a CT slice and an MR slice
    (pydicom's).  Items are as those of `medical/nifti_folder`.

    Args:
        size: side of a slice, in pixels.
        count: how many different slices the training set has.
        per_scan: how many slices of each scan the test set has.
        seed: of the slices to train.
    """

    def __init__(
        self, split: str, *, size: int = 64, count: int = 100, per_scan: int = 1, seed: int = 0
    ) -> None:
        super().__init__(
            split,
            root=Path(split),
            size=size,
            test_share=1.0 if split == "test" else 0.0,
            count=count,
            per_scan=per_scan,
            seed=seed,
        )

    @staticmethod
    def _found(root: Path) -> list[Entry]:
        import nibabel.testing
        import pydicom.data

        if root.name == "train":
            head = Path(str(nibabel.testing.data_path)) / "example4d.nii.gz"
            return [Entry("nibabel example4d", (head,), partial(nifti.read, head, volume=0))]
        places = [pydicom.data.get_testdata_file(name, download=False) for name in SAMPLES]
        return [
            Entry(f"pydicom {path.stem}", (path,), partial(dicom.read, path))
            for path in (Path(str(place)) for place in places)
        ]


def inside(root: Path) -> list[Path]:
    """The files in a folder and those inside it, hidden ones and links left out.

    Raises:
        InputError: no such folder.
    """
    if not root.is_dir():
        what = "a file, not a folder" if root.exists() else "no such folder"
        raise InputError(f"{root}: {what}; root is the folder that holds your scans")
    return [
        Path(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if not name.startswith(".") and not os.path.islink(os.path.join(folder, name))
    ]


def _patient(root: Path, path: Path) -> str:
    """Whose a file is by its place: ``sub-`` of BIDS, the first folder, or the file itself."""
    place = path.relative_to(root)
    found = re.search(r"(?:^|[/_])(sub-[A-Za-z0-9]+)", place.as_posix())
    return found[1] if found else place.parts[0]


def _is_ct(scan: Scan, modality: str) -> bool:
    if modality != "auto":
        return modality == "CT"
    return scan.modality == "CT"


def side(root: Path, entries: list[Entry], split: str, test_share: float) -> list[Entry]:
    """The scans of the patients of one split.

    Raises:
        InputError: there are none.
    """
    if not entries:
        raise InputError(f"{root}: no scan here that can be read")
    test = [entry for entry in entries if entry.place < test_share]
    wanted = test if split == "test" else [entry for entry in entries if entry.place >= test_share]
    if wanted:
        return wanted
    patients = len({entry.patient for entry in entries})
    raise InputError(
        f"{root}: of {patients} patients none falls on the {split} side at test_share "
        f"{test_share:g}; add some, change it, or take another folder to {split} with test_share "
        f"{1 if split == 'test' else 0}"
    )
