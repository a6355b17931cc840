"""Predictors: a scan or raw data reconstructed from a sparse measurement by a trained prior."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from core.errors import InputError
from core.parts.config import plain
from core.parts.registry import Spec
from core.progress import print_note
from core.request import Emit, Machine, silent
from core.scans import dicom, itk, nifti, reading
from core.scans.reading import Subject
from core.scans.request import ScanOptions
from core.scans.scan import Scan
from core.task import Panel
from plugins.medical.inference import volume
from plugins.medical.inference.choice import CHOSEN, START, Choice, chosen, settings_of
from plugins.medical.inference.curve import misfit_curve
from plugins.medical.inference.measurement import changed, simulated_mri, sparse_ct
from plugins.medical.inference.outputs import RECORD, SHEET, STD, Outputs, sibling
from plugins.medical.inference.reconstruct import prior_of
from plugins.medical.inference.remarks import remarks
from plugins.medical.inference.spacing import Fit, fit, learned
from plugins.medical.inference.volume import Found, Scale, prior_facts
from plugins.medical.io import raw
from plugins.medical.io.acquisition import KSpace, Sinogram
from plugins.medical.request import (
    NOISE,
    RULE,
    SOLVER,
    CtOptions,
    MriOptions,
    PosteriorOptions,
)
from plugins.medical.tasks.reconstruction import Reconstruction

SERIES = (".dcm", ".ima")  # files of which a folder is one DICOM series


@dataclass(frozen=True, eq=False)
class Input:
    """A sparse measurement, read from raw data or simulated of a scan.

    Args:
        measured: sinogram or k-space.
        subject: the geometry of the result.
        truth: the scan that it was simulated of; None for raw data.
        files: that were read.
        options: of the simulation; of raw data a noise level that was stated.
        unused: names of options of the simulation that raw data have no use for.
        fit: how the prior is used for its pixels.
    """

    measured: Sinogram | KSpace
    subject: Subject
    truth: Scan | None
    files: tuple[Path, ...]
    options: Mapping[str, Any]
    unused: frozenset[str] = frozenset()
    fit: Fit = field(default_factory=Fit)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what reading assumed or replaced; none names a file."""
        notes = self.subject.stored.notes + self.fit.notes
        if self.unused:
            names = ", ".join(sorted(self.unused))
            notes += (f"not used: {names}; raw data state how they were measured",)
        return notes


class _Reconstruction(ABC):
    """Predictors that draw from the posterior of a volume; the output is the draws' mean."""

    suffixes: ClassVar[tuple[str, ...]]
    folders: ClassVar[tuple[str, ...]] = SERIES
    command: ClassVar[str]
    level: ClassVar[float]
    steps: ClassVar[int]
    along: ClassVar[float]

    def __init__(
        self, machine: Machine, checkpoint: Path, task: Spec, options: PosteriorOptions
    ) -> None:
        self._model = model = prior_of(checkpoint, task, machine, emit=print_note)
        assert isinstance(model.task, Reconstruction)
        if options.start is not None:
            model.task.check_start(options.start)
        self._slices = slices = model.task.slices
        if options.along is None:
            options = replace(options, along=0.0 if slices > 1 else self.along)
        self._settings = settings_of(model.process, options, self.level, self.steps, slices=slices)
        self._options = options
        self._learned = learned(model.request)
        self._about = {
            "prior": prior_facts(model),
            "spacing_learned": None if self._learned is None else plain(self._learned),
            "task": plain(task),
            "posterior": plain(RULE),
            "sampler": plain(SOLVER),
            "draws": options.draws,
            "seed": options.seed,
            "along": options.along,
        }

    @property
    def draws(self) -> int:
        """Number of draws."""
        return self._options.draws

    @staticmethod
    def result_name(name: str) -> str:
        """The name with ``.nii.gz`` in place of a scan's or raw data's suffix."""
        known = (*nifti.SUFFIXES, *itk.SUFFIXES, *SERIES, *raw.SUFFIXES)
        end = next((end for end in known if name.lower().endswith(end)), "")
        return f"{name[: len(name) - len(end)] or name}.nii.gz"

    @staticmethod
    def beside(name: str) -> tuple[str, ...]:
        """Names of the standard deviation, the contact sheet and the record."""
        return tuple(sibling(Path(name), end).name for end in (STD, SHEET, RECORD))

    @staticmethod
    def reads(source: Path) -> tuple[Path, ...]:
        """Every file that is read for `source`: a series' slices, raw data's JSON and mask."""
        if source.is_dir():
            return dicom.files_below(source)
        return raw.files_beside(source) if source.suffix.lower() in raw.SUFFIXES else (source,)

    @abstractmethod
    def _measured(self, source: Path) -> Input:
        """A measurement of a file, or of a folder of DICOM files."""

    def read(self, source: Path) -> Input:
        """A measurement of a file, or of a folder of DICOM files.

        Raises:
            InputError: `source` cannot be used, or not with this prior.
        """
        given = self._measured(source)
        size, spacing = given.subject.scan.voxels.shape[1:], volume.spacing_of(given.measured)
        fitting = fit(
            self._learned, size, spacing, self._options.spacing,
            conditioned=bool(self._model.task.conditions),
        )  # fmt: skip
        if self._slices > 1:
            fitting = fitting.stacked(self._learned, given.subject.scan)
        return replace(given, fit=fitting)

    def draw(self, given: Input, *, emit: Emit = silent) -> tuple[Found, Scale]:
        """Draws given a measurement, and the units of their images.

        Raises:
            InputError: a measurement that the task does not take.
        """
        measurement, like, scale = volume.understood(self._model, given.measured)
        options, choice = self._options, None
        settings = [one.fitting(given.fit, len(like)) for one in self._settings]
        if options.choose == CHOSEN:
            choice = chosen(
                self._model, measurement, like, settings,
                start=options.start, draws=options.draws, seed=options.seed, emit=emit,
            )  # fmt: skip
        found = volume.drawn(
            self._model, measurement, like, (choice.setting if choice else settings[0]).how,
            start=choice.start if choice else options.start or START,
            draws=options.draws, seed=options.seed, choice=choice, emit=emit,
        )  # fmt: skip
        return found, scale

    def _grid(self, choice: Choice | None) -> Spec:
        """The times of the chosen setting, or of the default one: the first."""
        return (choice.setting if choice else self._settings[0]).grid

    def _start(self, choice: Choice | None) -> str:
        """The chosen start, or the stated or default one."""
        return choice.start if choice else self._options.start or START

    def write(self, outputs: Outputs, given: Input, found: Found, scale: Scale) -> list[Path]:
        """Write mean, standard deviation, contact sheet and record; their paths.

        Raises:
            InputError: an output folder that is not empty.
            StorageError: the disk is full or not writable.
        """
        choice = found.choice
        about = {
            **self._about,
            "grid": plain(self._grid(choice)),
            "pixel_given": given.fit.pixel,
            "gap_given": given.fit.gap,
            "start": self._start(choice),
            "measurement": dict(given.options),
            "misfit": misfit_of(found),
            "held_out": choice.record if choice else None,
        }
        return outputs.write(
            found, scale, given.subject,
            truth=given.truth, command=self.command, about=about, inputs=given.files,
            checkpoint=self._model.checkpoint,
        )  # fmt: skip

    def __call__(self, source: Path, target: Path) -> Mapping[str, Any]:
        """Write the mean of the draws as NIfTI.

        The standard deviation of several draws, a contact sheet and a record are written beside it.

        Returns:
            ``misfit`` in units of the noise, ``slices``, ``notes``, and ``held_out``: what held-out
            measurements decided, where they did.

        Raises:
            InputError: `source` cannot be used.
        """
        given = self.read(source)
        found, scale = self.draw(given)
        notes = (*given.notes, *remarks(found, scale, given.measured, given.truth))
        several = self._options.draws > 1
        outputs = Outputs(target, sibling(target, STD) if several else None)
        self.write(outputs, given, found, scale)
        facts = {
            "misfit": misfit_of(found), "slices": len(found.mean), "notes": list(notes),
        }  # fmt: skip
        return facts | ({"held_out": found.choice.record} if found.choice else {})

    @staticmethod
    def show(source: Path, target: Path, facts: Mapping[str, Any]) -> Panel | None:
        """The contact sheet of a result, and the curve of what held-out measurements decided."""
        sheet = sibling(target, SHEET)
        if not sheet.is_file():
            return None
        with Image.open(sheet) as image:
            images = {"contact sheet": np.asarray(image.convert("RGB"))}
        if (facts.get("held_out") or {}).get("misfit"):
            images["held-out misfit"] = misfit_curve(facts["held_out"])
        return Panel(f"{facts['slices']} slices. Not a medical device", images)


class ReconstructCt(_Reconstruction):
    """Sparse-view CT of a sinogram, or of one simulated of a scan, by a prior of CT images.

    A sinogram is a .npy with its JSON; a scan a NIfTI file, a DICOM file or a folder of a series.
    The result is NIfTI with the geometry of the scan.  Not a medical device.

    Args:
        low: Hounsfield units of the prior's -1.
        high: Hounsfield units of the prior's 1.
        posterior: a group of options.
        ct: a group of options.
        scan: a group of options.
    """

    suffixes: ClassVar[tuple[str, ...]] = (*nifti.SUFFIXES, *itk.SUFFIXES, *SERIES, ".npy")
    command: ClassVar[str] = "reconstruct-ct"
    level: ClassVar[float] = 0.5
    steps: ClassVar[int] = 20
    along: ClassVar[float] = 0.1

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        low: float = -1000.0,
        high: float = 1000.0,
        posterior: PosteriorOptions = PosteriorOptions(),
        ct: CtOptions = CtOptions(),
        scan: ScanOptions = ScanOptions(),
    ) -> None:
        task = Spec("medical/ct", {"low": low, "high": high})
        super().__init__(machine, checkpoint, task, posterior)
        self._ct, self._scan = ct, scan

    def _measured(self, source: Path) -> Input:
        """The sinogram of a file, or one simulated of a scan."""
        if source.suffix.lower() in raw.HDF5:
            raise InputError(
                f"{source.name}: HDF5 is read as k-space; expected a sinogram as .npy with its "
                "JSON, or a scan; use reconstruct-mri for k-space"
            )
        if source.suffix.lower() == ".npy":
            found = _of_raw(raw.read_sinogram(source), source, {})
            return replace(found, unused=changed(self._ct, self._scan))
        subject = reading.prepared(source, self._scan)
        measured = sparse_ct(subject.scan, self._ct, self._options.seed)
        return _of_scan(measured, subject, self._ct, self._scan)


class ReconstructMri(_Reconstruction):
    """Accelerated MRI of k-space, or of k-space simulated of a scan, by a prior of MRI images.

    K-space is a .npy with its JSON or HDF5 of fastMRI or ISMRMRD; a scan a NIfTI file, a DICOM file
    or a folder of a series.  The result is NIfTI with the geometry of the scan.  Not a medical
    device.

    Args:
        posterior: a group of options.
        mri: a group of options.
        scan: a group of options.
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        *nifti.SUFFIXES, *itk.SUFFIXES, *SERIES, *raw.SUFFIXES,
    )  # fmt: skip
    command: ClassVar[str] = "reconstruct-mri"
    level: ClassVar[float] = 0.15
    steps: ClassVar[int] = 12
    along: ClassVar[float] = 0.0

    def __init__(
        self,
        machine: Machine,
        checkpoint: Path,
        *,
        posterior: PosteriorOptions = PosteriorOptions(),
        mri: MriOptions = MriOptions(),
        scan: ScanOptions = ScanOptions(),
    ) -> None:
        super().__init__(machine, checkpoint, Spec("medical/mri"), posterior)
        self._mri, self._scan = mri, scan

    def _measured(self, source: Path) -> Input:
        """The k-space of a file, or k-space simulated of a scan."""
        if source.suffix.lower() in raw.SUFFIXES:
            measured, noise = raw.read_kspace(source), self._mri.noise
            options = {} if noise is None else {"noise": noise}
            measured = replace(measured, **options)
            found = _of_raw(measured, source, options)
            return replace(found, unused=changed(self._mri, self._scan))
        subject = reading.prepared(source, self._scan)
        mri = self._mri if self._mri.noise is not None else replace(self._mri, noise=NOISE)
        measured = simulated_mri(subject.scan, mri, self._options.seed)
        return _of_scan(measured, subject, mri, self._scan)


def _of_raw(measured: Sinogram | KSpace, source: Path, options: Mapping[str, Any]) -> Input:
    return Input(measured, volume.place_of(measured), None, raw.files_of(source), options)


def _of_scan(
    measured: Sinogram | KSpace, subject: Subject, how: CtOptions | MriOptions, scan: ScanOptions
) -> Input:
    options = {**plain(how), **plain(scan)}
    return Input(measured, subject, subject.scan, subject.scan.files, options)


def misfit_of(found: Found) -> dict[str, float]:
    """Mean and worst misfit of a volume's slices, in units of the noise."""
    return {"mean": float(found.misfit.mean()), "worst": float(found.misfit.max())}


def sentence_of(choice: Choice) -> str:
    """A choice by held-out measurements in a line."""
    mixed = " + ".join(f"{weight:.2f} {name}" for name, weight in choice.weights.items())
    if not choice.levels:
        return (
            f"{mixed} alone: too little is measured to check what the prior adds on pixels coarser "
            "than the scan's (--choose none: draws as they are)"
        )
    return (
        f"chosen by {choice.about}: {mixed}, from {choice.start} with noise of "
        f"{choice.setting.level:g}; standard deviation x {choice.scale:.2f}"
    )
