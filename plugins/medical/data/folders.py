"""Slices of the scans in a folder: NIfTI, DICOM, and public datasets."""

import re
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from core.data import problems_of_split, split_of
from core.errors import InputError
from core.process.noise import derive
from core.scans import dicom, identity, nifti
from core.scans.request import Plane
from core.scans.scan import Scan
from plugins.medical.data.augmentation import Pose
from plugins.medical.data.slices import Slices
from plugins.medical.data.survey import (
    Entry,
    Refused,
    Selection,
    Survey,
    bad,
    digest_of,
    files_of,
    survey,
)
from plugins.medical.io import raw
from plugins.medical.operators.fourier import inverse_fourier, root_sum_of_squares

LIDC = r"LIDC-IDRI-\d{4}"
UNDERSAMPLED = "k-space is undersampled; medical/kspace_folder learns from it"
SAMPLES = ("CT_small.dcm", "MR_small.dcm")
Planes = Literal["acquired", "axial", "coronal", "sagittal", "any"]


class _Folder(Slices, ABC):
    """Slices of the scans in a folder and its subfolders, split by patient.

    An item holds ``image`` (slices, size, size) in [-1, 1], CT by its window, MR by 0 and a
    percentile; ``pixel``, its pixel spacing in millimetres, where files state it; and of several
    slices ``gap``, their distance.  A test item also holds ``fine`` (slices, 2 size, 2 size), whose
    means over 2x2 are the image.  Scans are read when they are first needed.

    Args:
        root: the folder.
        size: side of a slice, in pixels.
        pixel: pixel spacing, in millimetres; by default the one that fits each scan's whole slice.
        pixel_range: least and largest pixel spacing of training slices, in millimetres; each has
            its own, drawn evenly by its logarithm, in place of `pixel`.  Slices finer than a scan
            are interpolated.
        slices: adjacent slices of an item: 1, or 3 for a prior of stacks.
        gap_range: least and largest distance of the slices of a training item, in millimetres,
            drawn evenly by its logarithm; by default the scan's own.
        plane: of the slices; ``any``, for training: acquired in half, and each of the three
            standard planes in a sixth of the slices.
        low: CT: lower end of the window, in Hounsfield units.
        high: CT: upper end of the window, in Hounsfield units.
        percentile: other scans: intensity that becomes 1; 0 becomes -1.
        modality: of the scans; others are left out.  ``auto`` takes CT and MR by the header, and
            NIfTI with values below -500 for CT.
        volume: NIfTI: index of the volume of 4-D files, from 0; without it they are left out.
        exclude: names, or paths below the folder, of files and folders to leave out, with ``*`` for
            any letters.
        corrupt: ``refuse`` to start with scans that cannot be read, or ``skip`` them.
        test_share: fraction of the patients held out for testing, approximate, since a hash of the
            patient decides; 0 and 1 for folders of one split alone.
        count: number of training slices.
        per_scan: number of test slices of each scan, evenly spaced.
        pose: a group of options.
        seed: of the training slices.
        cache_gib: memory for volumes, in GiB, in each process; the least recently used are dropped.
    """

    def __init__(
        self,
        split: str,
        *,
        root: Path,
        size: int = 128,
        pixel: float | None = None,
        pixel_range: tuple[float, float] | None = None,
        slices: Literal[1, 3] = 1,
        gap_range: tuple[float, float] | None = None,
        plane: Planes = "acquired",
        low: float = -1000.0,
        high: float = 1000.0,
        percentile: float = 99.8,
        modality: Literal["auto", "CT", "MR"] = "auto",
        volume: int | None = None,
        exclude: tuple[str, ...] = (),
        corrupt: Literal["refuse", "skip"] = "refuse",
        test_share: float = 0.2,
        count: int = 20000,
        per_scan: int = 8,
        pose: Pose = Pose(),
        seed: int = 0,
        cache_gib: float = 2.0,
    ) -> None:
        _check(
            split, size, pixel, (pixel_range, gap_range), (low, high), percentile, test_share,
            count, per_scan, pose,
        )  # fmt: skip
        if gap_range is not None and slices == 1:
            raise InputError("gap_range: is the distance of several slices; set slices: 3")
        if (pixel_range or gap_range or slices > 1) and not self._spaced:
            raise InputError(
                "pixel_range, slices, gap_range: require files that state distances in millimetres"
            )
        if volume is not None and not self._volumes:
            raise InputError("volume: applies to NIfTI only; leave it out")
        selection = Selection(modality=modality, volume=volume, exclude=exclude)
        self._survey, self._share = self._found(root, split, selection), test_share
        try:
            self._entries = side(root, self._survey.usable(corrupt), split, test_share)
        except NoneOnThisSide as error:
            listed = "".join(f"\n  {line}" for line in self.notes())
            raise InputError(f"{error}{listed}") from None
        first: Plane = "acquired" if plane == "any" else plane
        every: list[Plane] = ["acquired", "acquired", "acquired", "axial", "coronal", "sagittal"]
        self._options = (
            4, split, size, pixel, plane, low, high, percentile, modality, volume,
            slices, (count, pixel_range, gap_range, pose, seed) if split == "train" else per_scan,
        )  # fmt: skip
        super().__init__(
            [(identity.pseudonym(entry.patient), entry.scan) for entry in self._entries],
            split=split,
            size=size,
            pixel=pixel,
            pixel_range=pixel_range,
            slices=slices,
            gap_range=gap_range,
            planes=every if plane == "any" and split == "train" else [first],
            window=lambda scan: (low, high) if _is_ct(scan, modality) else None,
            percentile=percentile,
            count=count if split == "train" else per_scan,
            pose=pose,
            seed=derive(seed, "slices"),
            cache=int(cache_gib * 2**30),
        )

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = super().__getitem__(index)
        return item if self._spaced else {k: v for k, v in item.items() if k != "pixel"}

    def digest(self) -> str:
        """SHA-256 of the files' bytes and of the options of slicing."""
        paths = (path for entry in self._entries for path in entry.files)
        return digest_of(paths, self._options)

    def notes(self) -> list[str]:
        """Scans, patients, slices and split, and what is left out with the reasons."""
        return self._survey.lines(self._share)

    _volumes: ClassVar[bool] = False  # whether a file may hold several
    _spaced: ClassVar[bool] = True  # whether files state their pixel spacing

    @staticmethod
    @abstractmethod
    def _found(root: Path, split: str, selection: Selection) -> Survey:
        """The scans of a folder, those of both splits unless they have folders of their own."""


def _check(
    split: str,
    size: int,
    pixel: float | None,
    ranges: tuple[tuple[float, float] | None, tuple[float, float] | None],
    window: tuple[float, float],
    percentile: float,
    test_share: float,
    count: int,
    per_scan: int,
    pose: Pose,
) -> None:
    """Refuse options out of their range, all at once."""
    low, high = window
    problems = problems_of_split(split)
    if not 8 <= size <= 1024:
        problems.append(f"size: expected 8 to 1024, got {size}")
    if pixel is not None and not pixel > 0:
        problems.append(f"pixel: expected more than 0, got {pixel:g}")
    for name, ends in zip(("pixel_range", "gap_range"), ranges, strict=True):
        if ends is not None and not 0 < ends[0] <= ends[1]:
            problems.append(
                f"{name}: expected two numbers above 0, the least first, got {ends[0]:g} and "
                f"{ends[1]:g}"
            )
    if not low < high:
        problems.append(f"low, high: expected low below high, got {low:g} and {high:g}")
    if not 0 < percentile <= 100:
        problems.append(f"percentile: expected 0 to 100, got {percentile:g}")
    if not 0 <= test_share <= 1:
        problems.append(f"test_share: expected 0 to 1, got {test_share:g}")
    if count < 1 or per_scan < 1:
        problems.append(f"count, per_scan: expected at least 1, got {count} and {per_scan}")
    problems += pose.problems()
    if problems:
        raise InputError("\n".join(problems))


class NiftiFolder(_Folder):
    __doc__ = _Folder.__doc__
    _volumes = True

    @staticmethod
    def _found(root: Path, split: str, selection: Selection) -> Survey:
        return survey(root, selection, formats=("nifti",))


class DicomFolder(_Folder):
    __doc__ = _Folder.__doc__

    @staticmethod
    def _found(root: Path, split: str, selection: Selection) -> Survey:
        return survey(root, selection, formats=("dicom",))


class ScanFolder(_Folder):
    __doc__ = _Folder.__doc__
    _volumes = True

    @staticmethod
    def _found(root: Path, split: str, selection: Selection) -> Survey:
        return survey(root, selection)


class Lidc(_Folder):
    __doc__ = _Folder.__doc__

    @staticmethod
    def _found(root: Path, split: str, selection: Selection) -> Survey:
        """CT series of LIDC-IDRI's layout: patient, study, series; without chest radiographs."""
        found = survey(root, selection, formats=("dicom",))
        entries, refused = [], list(found.refused)
        for entry in found.entries:
            place = entry.files[0].relative_to(root)
            named = next((part for part in place.parts if re.fullmatch(LIDC, part)), None)
            if named is None or len(entry.files) <= 2:
                why = "not in a folder of a patient of LIDC-IDRI" if not named else "a radiograph"
                refused.append(Refused(entry.place or root, why))
            else:
                entries.append(replace(entry, patient=named))
        return Survey(root, tuple(entries), tuple(refused))


class FastMri(_Folder):
    __doc__ = _Folder.__doc__
    _spaced = False

    @staticmethod
    def _found(root: Path, split: str, selection: Selection) -> Survey:
        """Fully sampled volumes of fastMRI's layout."""
        paths, refused = files_of(root, selection.exclude)
        entries = []
        for path in (path for path in paths if path.suffix.lower() == ".h5"):
            patient = raw.hdf5_patient(path) or path.stem
            try:
                _, mask = raw.read_fastmri(path, slices=slice(0, 1))
            except InputError as error:
                refused.append(bad(path, error))
                continue
            if mask is not None and not mask.all():
                refused.append(Refused(path, UNDERSAMPLED))
            else:
                entries.append(Entry(patient, (path,), partial(fastmri_scan, path), path, "MR"))
        return Survey(root, tuple(entries), tuple(refused))


def fastmri_scan(path: Path) -> Scan:
    """The root sum of squares of a fully sampled file, the central half of its rows.

    The readout is oversampled twice: rows beyond the field of view are cropped.

    Raises:
        InputError: as `raw.read_fastmri`, or undersampled k-space.
    """
    values, mask = raw.read_fastmri(path)
    if mask is not None and not mask.all():
        raise InputError(f"{path.name}: {UNDERSAMPLED}; this dataset needs fully sampled images")
    pictures = root_sum_of_squares(inverse_fourier(torch.from_numpy(values)))
    rows, columns = pictures.shape[1:]
    if rows > columns * 1.5:
        pictures = pictures[:, rows // 4 : rows // 4 + rows // 2]
    return Scan(pictures.numpy().astype(np.float32), np.eye(4), "MR", notes=("no geometry",))


class Samples(_Folder):
    """The scans inside the packages pydicom and nibabel: examples, too few to train on.

    Train is an echo-planar head (nibabel's tests), test a CT and an MR slice (pydicom's).  Items
    are as those of `medical/nifti_folder`.

    Args:
        size: side of a slice, in pixels.
        count: number of training slices.
        per_scan: number of test slices of each scan.
        seed: of the training slices.
    """

    def __init__(
        self, split: str, *, size: int = 64, count: int = 100, per_scan: int = 1, seed: int = 0
    ) -> None:
        super().__init__(
            split,
            root=Path("pydicom and nibabel"),
            size=size,
            test_share=1.0 if split == "test" else 0.0,
            count=count,
            per_scan=per_scan,
            seed=seed,
        )

    @staticmethod
    def _found(root: Path, split: str, selection: Selection) -> Survey:
        import nibabel.testing
        import pydicom.data

        if split == "train":
            head = Path(str(nibabel.testing.data_path)) / "example4d.nii.gz"
            read = partial(nifti.read, head, volume=0)
            return Survey(root, (Entry("nibabel example4d", (head,), read),))
        places = [pydicom.data.get_testdata_file(name, download=False) for name in SAMPLES]
        slices = [Path(str(place)) for place in places]
        return Survey(
            root,
            tuple(Entry(f"pydicom {x.stem}", (x,), partial(dicom.read, x)) for x in slices),
        )


def _is_ct(scan: Scan, modality: str) -> bool:
    if modality != "auto":
        return modality == "CT"
    return scan.modality == "CT"


class NoneOnThisSide(InputError):
    """No patient of a folder falls into the split that is wanted."""


def side(root: Path, entries: list[Entry], split: str, test_share: float) -> list[Entry]:
    """The scans of the patients of one split.

    Raises:
        NoneOnThisSide: there are none.
    """
    wanted = split_of(entries, split, test_share, key=lambda entry: entry.digest)
    if wanted:
        return wanted
    patients = len({entry.patient for entry in entries})
    raise NoneOnThisSide(
        f"{root}: none of {patients} patients falls into split {split} at test_share "
        f"{test_share:g}; add patients, change it, or give a folder for {split} alone and "
        f"test_share {1 if split == 'test' else 0}"
    )
