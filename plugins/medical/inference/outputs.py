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
from core.scans import dicom, dicom_write, nifti
from core.scans.reading import Subject
from core.scans.scan import Scan
from plugins.medical.inference import volume
from plugins.medical.inference.volume import Found, Scale

SHEET, RECORD, STD = "sheet.png", "record.json", "std.nii.gz"  # ends of names beside the mean's

UNCERTAIN = 0.05  # of the prior's range: 100 HU of 2000


@dataclass(frozen=True)
class Outputs:
    """Output paths of a reconstruction.

    Args:
        out: a NIfTI file, or a folder for DICOM.
        deviation: the same for the draws' standard deviation, or a .dcm file for a Parametric Map;
            None for none.
        keep: DICOM attributes to copy.
        new_uids: whether DICOM has keyed hashes in place of the source's UIDs.
        uncertain: a .dcm file (Segmentation) or NIfTI for the mask of uncertain voxels; None for
            none.
        above: the standard deviation from which on a voxel is uncertain, in units of the scan; by
            default `UNCERTAIN` of the prior's range.
    """

    out: Path
    deviation: Path | None = None
    keep: tuple[str, ...] = ()
    new_uids: bool = False
    uncertain: Path | None = None
    above: float | None = None

    @property
    def _places(self) -> list[Path]:
        return [x for x in (self.out, self.deviation, self.uncertain) if x is not None]

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
        own = (place for place in self._places if not _is_series(place))
        return [*own, self.sheet, self.record]

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
            InputError: `deviation` or `uncertain` is stated, and fewer than two draws.
        """
        stated = {"deviation": self.deviation, "uncertain": self.uncertain}
        named = [name for name, place in stated.items() if place is not None]
        if named and draws < 2:
            raise InputError(
                f"{', '.join(named)}: the standard deviation requires at least 2 draws, got "
                f"{draws}; raise --draws, or leave {' and '.join(f'--{n}' for n in named)} out"
            )

    def check(self) -> None:
        """Refuse output paths that cannot be written to, before any work.

        Raises:
            InputError: a folder that is not empty, no such folder, or one path for two results.
        """
        places = self._places
        if self.above is not None and not (self.uncertain is not None and self.above > 0):
            raise InputError(
                "uncertain_above: expected more than 0, and --uncertain with a file to write"
            )
        if self.keep:
            dicom_write.check_keep(self.keep)
            if not any(_is_series(place) for place in places):
                raise InputError(
                    "keep: NIfTI and Parametric Maps take no DICOM attributes of the source; give "
                    "-o a folder for DICOM"
                )
        if self.new_uids and all(map(_is_nifti, places)):
            raise InputError("new_uids: NIfTI has no UIDs; give -o a folder for DICOM")
        if len({os.path.realpath(place) for place in places}) < len(places):
            raise InputError(
                "out, deviation, uncertain: expected different paths, got the same one twice"
            )
        if self.uncertain is not None and _is_series(self.uncertain):
            raise InputError(f"{self.uncertain}: expected a .dcm (Segmentation), .nii or .nii.gz")
        for place in places:
            if _is_nifti(place) or (place is not self.out and _is_map(place)):
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
        if self.uncertain is not None:
            self._write_mask(self.uncertain, std, scale, subject)
        volume.write_sheet(self.sheet, found, scale, truth)
        written = [*self._places, self.sheet]
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

    def _write_mask(
        self, place: Path, std: Float32[np.ndarray, " d h w"], scale: Scale, subject: Subject
    ) -> None:
        """Voxels whose standard deviation is above the limit."""
        above = UNCERTAIN * (scale.high - scale.low) if self.above is None else self.above
        inside, like = subject.back((std > above).astype(np.float32)), subject.stored
        what = f"std of draws above {above:.4g} {scale.unit}".rstrip()
        if _is_nifti(place):
            about = f"polymode: {what}, not for diagnosis"
            nifti.write(place, inside, like, description=about)
        else:
            uncertain = dicom_write.Segment(
                f"Uncertain: {what}", "UNCERTAIN", "Uncertain reconstruction"
            )
            dicom_write.write_mask(
                place, inside.astype(np.uint8), like, description=what, content="UNCERTAIN",
                segments=[uncertain], new_uids=self.new_uids,
            )  # fmt: skip


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
