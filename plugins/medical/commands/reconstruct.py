"""Commands that reconstruct: sparse measurements simulated of a scan, or raw data."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.commands import OnMachine
from core.errors import InputError
from core.parts.config import plain
from core.parts.registry import Spec
from core.request import Machine
from plugins.medical.commands.options import Place
from plugins.medical.request import (
    LEVELS,
    RULE,
    SOLVER,
    CtOptions,
    MriOptions,
    PosteriorOptions,
    ScanOptions,
)

if TYPE_CHECKING:
    import numpy as np

    from core.model import Model
    from plugins.medical.inference.volume import Found, Scale
    from plugins.medical.io.raw import KSpace, Sinogram
    from plugins.medical.io.scans import Subject

Checkpoint = Annotated[Path, typer.Option(help="Prior: the folder that `train-prior` wrote.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="A .nii or .nii.gz, or a new folder for DICOM.")
]
Deviation = Annotated[
    Path | None,
    typer.Option(
        help="Also write the standard deviation of the draws: a .nii, a .dcm (Parametric Map) "
        "or a folder for DICOM."
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="DICOM attribute to copy from the source, as PatientName; repeatable."),
]
Low = Annotated[float, typer.Option(help="Hounsfield units of the prior's -1.")]
High = Annotated[float, typer.Option(help="Hounsfield units of the prior's 1.")]
START = "TV"
MRI_POSTERIOR = PosteriorOptions(steps=12, level=0.15, along=0.0)


def reconstruct_ct(
    place: Place,
    checkpoint: Checkpoint,
    out: Out,
    deviation: Deviation = None,
    low: Low = -1000.0,
    high: High = 1000.0,
    keep: Keep = None,
    *,
    posterior: PosteriorOptions,
    ct: CtOptions,
    scan: ScanOptions,
    machine: OnMachine,
) -> None:
    """Reconstruct sparse-view CT from a sinogram (.npy), or from one simulated of a scan.

    The result has the geometry of the scan. Not a medical device.

    Example: polymode medical reconstruct-ct scans/ct --checkpoint runs/ct -o sparse
    """
    from plugins.medical.inference.measurement import sparse_ct
    from plugins.medical.io import raw, scans

    wanted = Draw(checkpoint, posterior, machine)
    result = Result("reconstruct-ct", out, deviation, tuple(keep or ()))
    result.check()
    if place.suffix.lower() == ".npy":
        found, measured, options = None, raw.read_sinogram(place), {}
    else:
        found = scans.prepared(place, scan)
        measured = sparse_ct(found.scan, ct, posterior.seed)
        options = {**plain(ct), **plain(scan)}
    task = Spec("medical/ct", {"low": low, "high": high})
    result.make(wanted, task, measured, found, place, options)


def reconstruct_mri(
    place: Place,
    checkpoint: Checkpoint,
    out: Out,
    deviation: Deviation = None,
    keep: Keep = None,
    *,
    posterior: PosteriorOptions = MRI_POSTERIOR,
    mri: MriOptions,
    scan: ScanOptions,
    machine: OnMachine,
) -> None:
    """Reconstruct accelerated MRI from k-space (.npy, .h5), or from one simulated of a scan.

    The result has the geometry of the scan. Not a medical device.

    Example: polymode medical reconstruct-mri brain.h5 --checkpoint runs/mri -o b.nii.gz
    """
    from plugins.medical.inference.measurement import simulated_mri
    from plugins.medical.io import raw, scans

    wanted = Draw(checkpoint, posterior, machine)
    result = Result("reconstruct-mri", out, deviation, tuple(keep or ()))
    result.check()
    if place.suffix.lower() in raw.SUFFIXES:
        found, measured, options = None, raw.read_kspace(place), {}
    else:
        found = scans.prepared(place, scan)
        measured = simulated_mri(found.scan, mri, posterior.seed)
        options = {**plain(mri), **plain(scan)}
    result.make(wanted, Spec("medical/mri"), measured, found, place, options)


@dataclass(frozen=True)
class Draw:
    """How draws are made.

    Args:
        checkpoint: folder of the prior.
        options: of the posterior sampler.
        machine: where to run.
    """

    checkpoint: Path
    options: PosteriorOptions
    machine: Machine

    @property
    def grid(self) -> Spec:
        """The sampler's times."""
        levels = {**LEVELS.options, "steps": self.options.steps, "sigma_max": self.options.level}
        return Spec(LEVELS.name, levels)

    @property
    def about(self) -> dict[str, Any]:
        """Everything here that decides the voxels, as JSON's types."""
        rule = {"posterior": plain(RULE), "sampler": plain(SOLVER), "grid": plain(self.grid)}
        options = self.options
        chosen = {"draws": options.draws, "seed": options.seed, "along": options.along}
        return {**rule, "start": START, **chosen}

    def of(self, task: Spec, measured: "Sinogram | KSpace") -> "tuple[Model, Found, Scale]":
        """The prior, its draws given a measurement, and the units of their images."""
        from core.parts.config import configure
        from core.progress import listener
        from plugins.medical.inference import volume
        from plugins.medical.inference.draws import How
        from plugins.medical.inference.reconstruct import prior_of

        options, model = self.options, prior_of(self.checkpoint, task, self.machine)
        how = How(
            method=configure("posterior", RULE),
            solver=configure("sampler", SOLVER)(),
            grid=configure("grid", self.grid)(model.process),
            along=options.along,
            at_once=options.at_once,
        )
        measurement, like, scale = volume.understood(model, measured)
        with listener("reconstruct") as emit:
            found = volume.drawn(
                model, measurement, like, how, start=START, draws=options.draws,
                seed=options.seed, emit=emit,
            )  # fmt: skip
        return model, found, scale


@dataclass(frozen=True)
class Result:
    """Output paths of a reconstruction.

    Args:
        command: that makes it.
        out: a NIfTI file, or a folder for DICOM.
        deviation: the same for the draws' standard deviation, or a .dcm file for a Parametric Map;
            None for none.
        keep: DICOM attributes to copy.
    """

    command: str
    out: Path
    deviation: Path | None
    keep: tuple[str, ...]

    def check(self) -> None:
        """Refuse output paths that cannot be written to, before any work.

        Raises:
            InputError: a folder that is not empty, no such folder, or one path for two results.
        """
        places = [place for place in (self.out, self.deviation) if place is not None]
        if self.keep:
            from plugins.medical.io.dicom_write import check_keep

            check_keep(self.keep)
            if all(map(_is_nifti, places)):
                raise InputError("keep: NIfTI has no DICOM attributes; give -o a folder for DICOM")
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

    def make(
        self,
        wanted: Draw,
        task: Spec,
        measured: "Sinogram | KSpace",
        subject: "Subject | None",
        place: Path,
        options: dict[str, Any],
    ) -> None:
        """Draw, and write mean, standard deviation, a contact sheet and a record.

        Args:
            wanted: how draws are made.
            task: of reconstruction.
            measured: sparsely.
            subject: the scan that the measurement was simulated of; None for raw data.
            place: the input.
            options: of the simulated measurement.
        """
        from core.results import record
        from plugins.medical.inference import volume
        from plugins.medical.inference.volume import prior_facts
        from plugins.medical.io import raw

        model, drawn, scale = wanted.of(task, measured)
        known = None if subject is None else subject.scan
        inputs = raw.files_of(place) if subject is None else subject.scan.files
        if subject is None:
            subject = volume.place_of(measured)
            for note in subject.scan.notes:
                print(f"note: {note}", file=sys.stderr)
        self._write(*volume.in_units(drawn, scale), subject)
        sheet, about = (self._beside(end) for end in ("sheet.png", "record.json"))
        volume.write_sheet(sheet, drawn, scale, known)
        misfit = {"mean": float(drawn.misfit.mean()), "worst": float(drawn.misfit.max())}
        details = {
            "prior": prior_facts(model), "task": plain(task), **wanted.about,
            "measurement": options, "misfit": misfit,
        }  # fmt: skip
        results = [self.out.name, *([self.deviation.name] if self.deviation else []), sheet.name]
        record.write(
            about, self.command, details,
            inputs=inputs, checkpoint=model.checkpoint, results=results, names=False,
        )  # fmt: skip
        print(sheet)
        print(about)
        print(f"misfit {misfit['mean']:.2f} times the noise, {misfit['worst']:.2f} at worst")
        print("Not for diagnosis: nothing here is a medical device.")

    def _write(self, mean: "np.ndarray", std: "np.ndarray", subject: "Subject") -> None:
        """Write the mean, and the standard deviation if it has a path."""
        from plugins.medical.io import dicom_write, nifti

        jobs = [(self.out, mean, "mean of draws of a sparse measurement")]
        if self.deviation is not None:
            jobs.append((self.deviation, std, "standard deviation of draws"))
        for place, found, what in jobs:
            voxels, like = subject.back(found), subject.stored
            if _is_nifti(place):
                nifti.write(place, voxels, like, description=f"polymode: {what}, not for diagnosis")
            elif _is_map(place):
                dicom_write.write_map(place, voxels, like, description=what)
            else:
                dicom_write.write(place, voxels, like, description=what, keep=self.keep)
            print(place)

    def _beside(self, end: str) -> Path:
        name = self.out.name.removesuffix(".gz").removesuffix(".nii")
        return self.out.parent / f"{name}-{end}"


def _is_nifti(place: Path) -> bool:
    from plugins.medical.io.nifti import SUFFIXES

    return place.name.lower().endswith(SUFFIXES)


def _is_map(place: Path) -> bool:
    return place.suffix.lower() == ".dcm"
