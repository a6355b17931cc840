"""The scans of a folder, found and checked by their headers before any is learned from.

What is no image to learn from, such as a label map or a series of another modality, is left out; a
scan that cannot be read is bad.  Both are listed with their path and the reason.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.data import split_of
from core.errors import InputError, printable
from core.scans import dicom, dicom_file, dicom_pixels, identity, intensities, itk, nifti
from core.scans.scan import Scan
from core.storage import files, memory
from core.storage.folders import files_in
from plugins.medical.data import label_maps
from plugins.medical.request import Corrupt

Wanted = Literal["auto", "CT", "MR"]

FORMATS = ("nifti", "itk", "dicom")
LISTED = 20  # lines of scans, and paths of one reason, in the notes of a dataset
LEAVE_OUT = "or leave it out by its name: --exclude of train-prior, exclude of the dataset"
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # secondary captures: screenshots, dose reports
# Folders that hold the files of many patients: Decathlon's and nnU-Net's, splits and file types.
COLLECTION = re.compile(
    r"(?:(?:images?|labels?)(?:T[rs]|Va)?|train(?:ing)?|test(?:ing)?|val(?:idation)?|data|scans?"
    r"|volumes?|nifti|nii|dicom|dcm|ct|mri?|raw|patients|cases|subjects"
    r"|(?:Task|Dataset)\d+_.*)",
    re.IGNORECASE,
)
CHANNELS = re.compile(r"images?(?:T[rs]|Va)", re.IGNORECASE)  # nnU-Net's: files end in _0000


@dataclass(frozen=True)
class Entry:
    """A scan on disk.

    Args:
        patient: decides the split and is never shown.
        files: of the scan.
        read: reads it.
        place: its file or folder.
        modality: of its header; empty where the format states none.
        shape: slices, rows and columns; empty where it is not known before it is read.
    """

    patient: str
    files: tuple[Path, ...]
    read: Callable[[], Scan]
    place: Path | None = None
    modality: str = ""
    shape: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the patient, which decides the split."""
        return hashlib.sha256(self.patient.encode()).hexdigest()

    def scan(self) -> Scan:
        """The scan as it is read.

        Raises:
            InputError: it cannot be read; the message has its path and how to leave it out.
        """
        try:
            return self.read()
        except InputError as error:
            if self.place is None:
                raise
            kind = memory.NotEnough if isinstance(error, memory.NotEnough) else InputError
            raise kind(f"{self.place}: {_without(self.place, error)}; {LEAVE_OUT}") from error


def digest_of(paths: Iterable[Path], options: object) -> str:
    """SHA-256 of the bytes of files, and of the options of making slices of them."""
    whole = hashlib.sha256(repr(options).encode())
    for path in paths:
        whole.update(files.digest(path).encode())
    return whole.hexdigest()


@dataclass(frozen=True)
class Refused:
    """A file or folder that is not learned from.

    Args:
        place: its path.
        reason: clause that says why.
        bad: whether it should have been a scan.
    """

    place: Path
    reason: str
    bad: bool = False


@dataclass(frozen=True)
class Survey:
    """The scans of a folder, and everything else that lies there."""

    root: Path
    entries: tuple[Entry, ...] = ()
    refused: tuple[Refused, ...] = ()

    def usable(self, corrupt: Corrupt) -> list[Entry]:
        """The scans.

        Args:
            corrupt: ``refuse`` if any is bad, or ``skip`` those.

        Raises:
            InputError: bad scans, all of them listed; or none that is good.
        """
        bad = [one for one in self.refused if one.bad]
        if bad and corrupt == "refuse":
            lines = [f"  {printable(str(one.place))}: {one.reason}" for one in bad]
            raise InputError(
                f"{self.root}: {_number(len(bad), 'scan')} cannot be used; mend, remove or leave "
                "out: --corrupt skip of train-prior, corrupt: skip of the dataset\n"
                + "\n".join(lines)
            )
        if not self.entries:
            listed = "".join(f"\n  {line}" for line in self._left_out(LISTED))
            raise InputError(f"{self.root}: contains no readable scan{listed}")
        return list(self.entries)

    def lines(self, test_share: float, *, most: int | None = LISTED) -> list[str]:
        """Scans, patients, slices and split, and what is left out with the reasons.

        Args:
            test_share: approximate fraction of the patients in the test split.
            most: lines of scans, and paths of one reason; None for all.
        """
        sides = {
            split: split_of(self.entries, split, test_share, key=lambda entry: entry.digest)
            for split in ("train", "test")
        }
        shares = [f"{split}: {_counts(entries)}" for split, entries in sides.items()]
        test = {id(entry) for entry in sides["test"]}
        every = [
            f"{self.root}: {_counts(self.entries)}; {'; '.join(shares)}",
            *(f"  {'test ' if id(e) in test else 'train'}  {_row(e)}" for e in self.entries[:most]),
        ]
        if most is not None and len(self.entries) > most:
            every.append(f"  and {len(self.entries) - most} more")
        return every + self._left_out(most)

    def _left_out(self, most: int | None) -> list[str]:
        """A line for each reason, with the paths below the folder."""
        by_reason: dict[str, list[str]] = {}
        for one in self.refused:
            known = one.place != self.root and one.place.is_relative_to(self.root)
            place = one.place.relative_to(self.root) if known else one.place
            by_reason.setdefault(one.reason, []).append(printable(place.as_posix()))
        found = []
        for reason, places in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            more = "" if most is None or len(places) <= most else f", and {len(places) - most} more"
            found.append(f"left out, {reason}: {len(places)} ({', '.join(places[:most])}{more})")
        return found


def _counts(entries: Sequence[Entry]) -> str:
    patients = len({entry.patient for entry in entries})
    known = all(entry.shape for entry in entries)
    slices = f", {sum(entry.shape[0] for entry in entries):,} slices" if known else ""
    return f"{_number(len(entries), 'scan')} of {_number(patients, 'patient')}{slices}"


def _number(count: int, of: str) -> str:
    return f"{count} {of}" if count == 1 else f"{count} {of}s"


def _row(entry: Entry) -> str:
    size = f"{entry.shape[0]} slices of {entry.shape[2]}x{entry.shape[1]}" if entry.shape else ""
    words = (identity.pseudonym(entry.patient), entry.modality, size, str(entry.place or ""))
    return "  ".join(printable(word) for word in words if word)


# --- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which files of a folder are learned from.

    Args:
        modality: that is wanted; ``auto`` for CT and MR.
        volume: index of the volume of 4-D NIfTI files; without one they are left out.
        exclude: names, or paths below the folder, with ``*`` for any letters, of what is left out.
    """

    modality: Wanted = "auto"
    volume: int | None = None
    exclude: tuple[str, ...] = ()


def survey(root: Path, selection: Selection, *, formats: Iterable[str] = FORMATS) -> Survey:
    """The scans of a folder and its subfolders.

    Args:
        root: the folder.
        selection: which of them.
        formats: some of `FORMATS`; ``itk`` are MetaImage and NRRD.

    Raises:
        InputError: no such folder, or a pattern that nothing matches.
        NotEnough: a scan that does not fit into the free memory.
    """
    paths, refused = files_of(root, selection.exclude)
    volumes = [path for path in paths if nifti.is_nifti(path)]
    images = [path for path in paths if path.name.lower().endswith(itk.SUFFIXES)]
    others = sorted(set(paths).difference(volumes, images))
    found: list[Entry | Refused] = []
    if "nifti" in formats:
        found += [_nifti(root, path, selection) for path in volumes]
    if "itk" in formats:
        found += [_itk(root, path, selection.modality) for path in images]
    if "dicom" in formats:
        found += _dicom(root, others, selection.modality)
    entries = tuple(one for one in found if isinstance(one, Entry))
    return Survey(root, entries, (*refused, *(one for one in found if isinstance(one, Refused))))


def files_of(root: Path, exclude: Sequence[str]) -> tuple[list[Path], list[Refused]]:
    """The files below a folder, and those that are left out by their names or as links.

    Raises:
        InputError: no such folder, or a pattern that nothing matches.
    """
    found = files_in(root, contents="scans")
    refused = [Refused(path, why) for path, why in found.refused]
    paths: list[Path] = []
    used: set[str] = set()
    for path in found.files:
        named = [one for one in exclude if _matches(path.relative_to(root), one)]
        used.update(named)
        if named:
            refused.append(Refused(path, f"excluded by {named[0]!r}"))
        else:
            paths.append(path)
    if unused := [one for one in exclude if one not in used]:
        raise InputError(
            f"exclude: nothing below {root} is named {', '.join(map(repr, unused))}; expected "
            "names, or paths below it, with * for any letters"
        )
    return paths, refused


def _matches(place: Path, pattern: str) -> bool:
    """Whether a pattern is the name of a file or of a folder above it, or a path."""
    above = [place, *place.parents[:-1]]
    return any(fnmatch(one.name, pattern) or fnmatch(one.as_posix(), pattern) for one in above)


def bad(place: Path, error: InputError) -> Refused:
    """A scan that cannot be read.

    Raises:
        NotEnough: it does not fit into the memory that is free; if it were left out, what is
            learned from would depend on what else this machine does.
    """
    if isinstance(error, memory.NotEnough):
        raise memory.NotEnough(f"{place}: {_without(place, error)}; {LEAVE_OUT}") from error
    return Refused(place, _without(place, error), bad=True)


def _without(place: Path, error: InputError) -> str:
    """A reason without the file's name, which its path has already."""
    return str(error).removeprefix(f"{place}: ").removeprefix(f"{place.name}: ")


# --- NIfTI ---------------------------------------------------------------------------------------


def _nifti(root: Path, path: Path, selection: Selection) -> Entry | Refused:
    try:
        header = nifti.header_of(path)
        reason = _reason_of_volumes(header, selection.volume)
        bits = 8 * header.dtype.itemsize
        reason = reason or label_maps.reason_of_name(path.relative_to(root), bits)
        reason = reason or _reason_of_content(nifti.chunks(header), selection.modality)
    except InputError as error:
        return bad(path, error)
    if reason:
        return Refused(path, reason)
    columns, rows, slices = header.shape[:3]
    volume = selection.volume if header.volumes > 1 else None
    modality = None if selection.modality == "auto" else selection.modality
    read = partial(nifti.read, path, volume=volume, modality=modality)
    patient = patient_by_path(root, path)
    return Entry(patient, header.files, read, path, "", (slices, rows, columns))


def _reason_of_volumes(header: nifti.Header, volume: int | None) -> str:
    """Why a file of several volumes is left out; empty where it has one, or has that one."""
    if header.volumes == 1:
        return ""
    if volume is None:
        return f"{header.volumes} volumes; choose one with volume, from 0"
    return "" if volume < header.volumes else f"no volume {volume} of {header.volumes}"


def _reason_of_content(chunks: Iterable[np.ndarray], modality: Wanted) -> str:
    """Why the values of a file are not learned from; empty if they are.

    Reading ends as soon as values decide: of most images with the first chunk.
    """
    seen = label_maps.Content()
    for values in chunks:
        seen.see(values)
        if seen.is_image and (modality != "CT" or seen.lowest < 0):
            break
    if modality == "MR" and seen.lowest < intensities.AIR:
        return f"values below {intensities.AIR:g}, as of CT; MR is expected"
    if seen.reason or modality != "CT" or seen.lowest < 0:
        return seen.reason
    return "no value below 0: not in Hounsfield units; CT is expected"


def patient_by_path(root: Path, path: Path) -> str:
    """The patient of a file: ``sub-`` of BIDS, else the first folder of a patient, or the file.

    Folders that hold many patients, such as ``imagesTr``, are passed over.
    """
    place = path.relative_to(root)
    found = re.search(r"(?:^|[/_])(sub-[A-Za-z0-9]+)", place.as_posix())
    if found:
        return found[1]
    folders = place.parts[:-1]
    own = [part for part in folders if not COLLECTION.fullmatch(part)]
    if own or not folders:
        return own[0] if own else place.name
    name = re.sub(r"\.(?:nii(?:\.gz)?|hdr|mha|nrrd)$", "", place.name, flags=re.IGNORECASE)
    return re.sub(r"_\d{4}$", "", name) if any(map(CHANNELS.fullmatch, folders)) else name


# --- MetaImage and NRRD --------------------------------------------------------------------------


def _itk(root: Path, path: Path, modality: Wanted) -> Entry | Refused:
    """A file that SimpleITK reads; its values are read whole, since it gives no parts of them."""
    if not itk.is_installed():
        return Refused(path, f"MetaImage or NRRD, which needs SimpleITK: {itk.INSTALL}")
    try:
        shape, bits = itk.sizes_of(path)
        reason = label_maps.reason_of_name(path.relative_to(root), bits)
        reason = reason or _reason_of_content([itk.read(path).voxels.ravel()], modality)
    except InputError as error:
        return bad(path, error)
    if reason:
        return Refused(path, reason)
    read = partial(itk.read, path, modality=None if modality == "auto" else modality)
    return Entry(patient_by_path(root, path), (path,), read, path, "", shape)


# --- DICOM ---------------------------------------------------------------------------------------


def _dicom(root: Path, paths: Sequence[Path], modality: Wanted) -> Iterator[Entry | Refused]:
    """The series of a folder, by SeriesInstanceUID wherever their files lie."""
    series: dict[str, dict[Path, Any]] = {}  # headers by path: each is read once
    refused: list[Refused] = []
    with dicom_pixels.quiet():
        for path in paths:
            if path.name == "DICOMDIR":
                continue
            if not dicom_file.is_dicom(path):
                if path.suffix.lower() in dicom_file.SUFFIXES:
                    refused.append(Refused(path, "not a DICOM file, by its first bytes", bad=True))
                continue
            try:
                header = dicom_file.header_of(path)
            except InputError as error:
                refused.append(bad(path, error))
                continue
            if reason := _reason_of_header(header, modality):
                refused.append(Refused(path, reason))
            else:
                uid = str(header.get("SeriesInstanceUID") or path.parent)
                series.setdefault(uid, {})[path] = header
    yield from _by_folder(refused)
    for headers in series.values():
        yield from _one_series(root, headers)


def _reason_of_header(header: Any, modality: Wanted) -> str:
    """Why an object is no slice to learn from; empty if it is one."""
    if "Rows" not in header or "Columns" not in header:
        return "no image"
    wanted = ("CT", "MR") if modality == "auto" else (modality,)
    stated = dicom_file.modality_of(header)
    if stated not in wanted:
        return f"modality {stated}; {' or '.join(wanted)} is expected"
    kinds = header.get("ImageType") or ()
    if "LOCALIZER" in ([kinds] if isinstance(kinds, str) else list(kinds)):
        return "a localizer"
    if str(header.get("SOPClassUID", "")).startswith(SECONDARY):
        return "a secondary capture, such as a screenshot"
    return "a colour image" if header.get("SamplesPerPixel") not in (None, 1) else ""


def _by_folder(refused: Sequence[Refused]) -> Iterator[Refused]:
    """One line for a folder whose files are left out for one reason; bad files one by one."""
    counts = Counter((one.place.parent, one.reason) for one in refused if not one.bad)
    for one in refused:
        number = counts.pop((one.place.parent, one.reason), 0)
        if one.bad or number == 1:
            yield one
        elif number:
            yield Refused(one.place.parent, one.reason)


def _one_series(root: Path, headers: Mapping[Path, Any]) -> Iterator[Entry | Refused]:
    """The scan of a series; of one that is no volume, but lies in several folders, theirs.

    Anonymisers that give all series one UID, and copies, are the reason.
    """
    folders: dict[Path, dict[Path, Any]] = {}
    for path, header in headers.items():
        folders.setdefault(path.parent, {})[path] = header
    whole = _checked(root, headers, next(iter(folders)))
    if isinstance(whole, Refused) and len(folders) > 1:
        yield from (_checked(root, some, folder) for folder, some in folders.items())
    else:
        yield whole


def _checked(root: Path, headers: Mapping[Path, Any], folder: Path) -> Entry | Refused:
    files = tuple(headers)
    place = files[0] if len(files) == 1 else folder
    try:
        series = dicom.examined(headers)
    except InputError as error:
        return bad(place, error)
    patient = dicom_file.whose(series.header) or patient_by_path(root, files[0])
    shape = (len(series.frames), *series.files[0].size)
    return Entry(patient, files, partial(dicom.read_series, files), place, series.modality, shape)
