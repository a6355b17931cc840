"""Files of a reconstruction: mean, standard deviation, contact sheet and record."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from core.errors import InputError
from core.results import record
from plugins.medical.inference import volume
from plugins.medical.inference.volume import Found, Scale
from plugins.medical.io import dicom, dicom_write, nifti
from plugins.medical.io.scan import Scan
from plugins.medical.io.scans import Subject

SHEET, RECORD, STD = "sheet.png", "record.json", "std.nii.gz"  # ends of names beside the mean's


@dataclass(frozen=True)
class Outputs:
    """Output paths of a reconstruction.

    Args:
        out: a NIfTI file, or a folder for DICOM.
        deviation: the same for the draws' standard deviation, or a .dcm file for a Parametric Map;
            None for none.
        keep: DICOM attributes to copy.
        new_uids: whether DICOM has keyed hashes in place of the source's UIDs.
    """

    out: Path
    deviation: Path | None = None
    keep: tuple[str, ...] = ()
    new_uids: bool = False

    @property
    def sheet(self) -> Path:
        """The contact sheet, beside the mean."""
        return sibling(self.out, SHEET)

    @property
    def record(self) -> Path:
        """The record, beside the mean."""
        return sibling(self.out, RECORD)

    @property
    def files(self) -> list[Path]:
        """The files that are written, without folders for DICOM, which have to be empty."""
        places = [place for place in (self.out, self.deviation) if place is not None]
        return [*(place for place in places if not _is_series(place)), self.sheet, self.record]

    def check_source(self, source: Scan) -> tuple[str, ...]:
        """Refuse attributes to copy from a source that has none, before any work.

        Returns:
            A note of those that this source lacks.

        Raises:
            InputError: `keep` is stated, and the source is not DICOM.
        """
        if self.keep and not isinstance(source.origin, dicom.Origin):
            raise InputError(
                f"keep: {', '.join(self.keep)}: the source is not DICOM and has no attributes to "
                "copy; leave it out"
            )
        found = dicom_write.kept(source, self.keep)
        lost = ", ".join(name for name in self.keep if name not in found)
        return (f"keep: the source has no {lost}; left out",) if lost else ()

    def check_draws(self, draws: int) -> None:
        """Refuse the standard deviation of a single draw, which would be 0, before any work.

        Raises:
            InputError: `deviation` is stated, and fewer than two draws.
        """
        if self.deviation is not None and draws < 2:
            raise InputError(
                f"deviation: the standard deviation requires at least 2 draws, got {draws}; raise "
                "--draws, or leave --deviation out"
            )

    def check(self) -> None:
        """Refuse output paths that cannot be written to, before any work.

        Raises:
            InputError: a folder that is not empty, no such folder, or one path for two results.
        """
        places = [place for place in (self.out, self.deviation) if place is not None]
        if self.keep:
            dicom_write.check_keep(self.keep)
            if not any(_is_series(place) for place in places):
                raise InputError(
                    "keep: NIfTI and Parametric Maps take no DICOM attributes of the source; give "
                    "-o a folder for DICOM"
                )
        if self.new_uids and all(map(_is_nifti, places)):
            raise InputError("new_uids: NIfTI has no UIDs; give -o a folder for DICOM")
        if len(places) == 2 and os.path.realpath(places[0]) == os.path.realpath(places[1]):
            raise InputError("out, deviation: expected two different paths, got the same one twice")
        for place in places:
            if _is_nifti(place) or (place is self.deviation and _is_map(place)):
                if not place.parent.is_dir():
                    raise InputError(f"{place}: the folder {place.parent} does not exist; make it")
                if place.is_dir():
                    raise InputError(f"{place}: is a folder; expected the name of a file")
            elif place.suffix in (".npy", ".dcm", ".gz", ".png", ".img"):
                raise InputError(f"{place}: expected a .nii or .nii.gz, or a folder for DICOM")
            elif place.exists() and (not place.is_dir() or any(place.iterdir())):
                raise InputError(f"{place}: is not an empty folder; give a new one")

    def write(
        self,
        found: Found,
        scale: Scale,
        subject: Subject,
        *,
        truth: Scan | None,
        command: str,
        about: Mapping[str, Any],
        inputs: Sequence[Path],
        checkpoint: Path,
    ) -> list[Path]:
        """Write every file, the record last; each is replaced whole or not at all.

        Args:
            found: the draws' summary.
            scale: units of its images.
            subject: the geometry of the results.
            truth: the scan that a measurement was simulated of; None for raw data.
            command: for the record.
            about: further entries of the record.
            inputs: files that were read.
            checkpoint: of the prior.

        Returns:
            The paths, in the order of writing.

        Raises:
            InputError: a folder that is not empty, or voxels that are not finite.
            StorageError: the disk is full or not writable.
        """
        mean, std = volume.in_units(found, scale)
        self._write_volume(self.out, mean, subject, "mean of draws of a sparse measurement")
        if self.deviation is not None:
            self._write_volume(self.deviation, std, subject, "standard deviation of draws")
        volume.write_sheet(self.sheet, found, scale, truth)
        written = [path for path in (self.out, self.deviation, self.sheet) if path is not None]
        record.write(
            self.record,
            command,
            about,
            inputs=inputs,
            checkpoint=checkpoint,
            results=[path.name for path in written],
            names=False,
        )
        return [*written, self.record]

    def _write_volume(
        self, place: Path, values: Float32[np.ndarray, " d h w"], subject: Subject, what: str
    ) -> None:
        voxels, like = subject.back(values), subject.stored
        if _is_nifti(place):
            nifti.write(place, voxels, like, description=f"polymode: {what}, not for diagnosis")
        elif _is_map(place):
            dicom_write.write_map(place, voxels, like, description=what, new_uids=self.new_uids)
        else:
            dicom_write.write(
                place, voxels, like, description=what, keep=self.keep, new_uids=self.new_uids
            )


def sibling(out: Path, end: str) -> Path:
    """The path ``NAME-end`` beside a NIfTI file or a folder called NAME."""
    name = out.name.removesuffix(".gz").removesuffix(".nii")
    return out.parent / f"{name}-{end}"


def _is_nifti(place: Path) -> bool:
    return place.name.lower().endswith(nifti.SUFFIXES)


def _is_map(place: Path) -> bool:
    return place.suffix.lower() == ".dcm"


def _is_series(place: Path) -> bool:
    return not (_is_nifti(place) or _is_map(place))
