"""Commands that reconstruct: sparse measurements simulated of a scan, or raw data."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import InputError
from core.parts.registry import Spec
from plugins.medical.commands.options import (
    Acceleration,
    Arc,
    Centre,
    Device,
    Geometry,
    Mask,
    Noise,
    Photons,
    Place,
    Plane,
    Reduce,
    Seed,
    Series,
    Threads,
    Views,
    Volume,
)
from plugins.medical.request import LEVELS, RULE, SOLVER

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
    typer.Option(help="Also write the standard deviation of the draws: a NIfTI file or a folder."),
]
Draws = Annotated[int, typer.Option(min=1, help="Number of draws, whose mean is written.")]
Steps = Annotated[int, typer.Option(min=2, help="Sampler steps.")]
Level = Annotated[
    float,
    typer.Option(min=0.01, help="Noise level added to the initial TV reconstruction."),
]
Along = Annotated[
    float, typer.Option(min=0, help="Weight of total variation between slices; 0 for none.")
]
AtOnce = Annotated[
    int, typer.Option(min=1, help="Slices per network call; lower it to use less memory.")
]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="DICOM attribute to copy from the source, as PatientName; repeatable."),
]
Low = Annotated[float, typer.Option(help="Hounsfield units of the prior's -1.")]
High = Annotated[float, typer.Option(help="Hounsfield units of the prior's 1.")]
START = "TV"


def reconstruct_ct(
    place: Place,
    checkpoint: Checkpoint,
    out: Out,
    deviation: Deviation = None,
    draws: Draws = 8,
    steps: Steps = 20,
    level: Level = 0.5,
    along: Along = 0.1,
    views: Views = 23,
    arc: Arc = None,
    geometry: Geometry = "parallel",
    photons: Photons = 1e5,
    reduce: Reduce = 1,
    plane: Plane = "acquired",
    series: Series = None,
    volume: Volume = None,
    low: Low = -1000.0,
    high: High = 1000.0,
    keep: Keep = None,
    at_once: AtOnce = 8,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Reconstruct sparse-view CT from a sinogram (.npy), or from one simulated of a scan.

    The result has the geometry of the scan. Not a medical device.

    Example: polymode medical reconstruct-ct scans/ct --checkpoint runs/ct -o sparse
    """
    from plugins.medical.inference.measurement import sparse_ct
    from plugins.medical.io import raw, scans

    wanted = Draw(checkpoint, draws, steps, level, along, at_once, seed, device, threads)
    result = Result("reconstruct-ct", out, deviation, tuple(keep or ()))
    result.check()
    if place.suffix.lower() == ".npy":
        found, measured, options = None, raw.read_sinogram(place), {}
    else:
        found = scans.prepared(place, series, volume, plane, reduce)
        options = {"geometry": geometry, "views": views, "arc": arc, "photons": photons}
        measured = sparse_ct(found.scan, geometry, views, arc, photons, seed)
        options |= {"reduce": reduce, "plane": plane, "series": series, "volume": volume}
    task = Spec("medical/ct", {"low": low, "high": high})
    result.make(wanted, task, measured, found, place, options)


def reconstruct_mri(
    place: Place,
    checkpoint: Checkpoint,
    out: Out,
    deviation: Deviation = None,
    draws: Draws = 8,
    steps: Steps = 12,
    level: Level = 0.15,
    along: Along = 0.0,
    mask: Mask = "random",
    acceleration: Acceleration = 4.0,
    centre: Centre = 0.08,
    noise: Noise = 0.005,
    reduce: Reduce = 1,
    plane: Plane = "acquired",
    series: Series = None,
    volume: Volume = None,
    keep: Keep = None,
    at_once: AtOnce = 8,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Reconstruct accelerated MRI from k-space (.npy, .h5), or from one simulated of a scan.

    The result has the geometry of the scan. Not a medical device.

    Example: polymode medical reconstruct-mri brain.h5 --checkpoint runs/mri -o b.nii.gz
    """
    from plugins.medical.inference.measurement import simulated_mri
    from plugins.medical.io import raw, scans

    wanted = Draw(checkpoint, draws, steps, level, along, at_once, seed, device, threads)
    result = Result("reconstruct-mri", out, deviation, tuple(keep or ()))
    result.check()
    if place.suffix.lower() in raw.SUFFIXES:
        found, measured, options = None, raw.read_kspace(place), {}
    else:
        found = scans.prepared(place, series, volume, plane, reduce)
        measured = simulated_mri(
            found.scan, mask=mask, acceleration=acceleration, centre=centre, noise=noise, seed=seed
        )
        options = {"mask": mask, "acceleration": acceleration, "centre": centre, "noise": noise}
        options |= {"reduce": reduce, "plane": plane, "series": series, "volume": volume}
    result.make(wanted, Spec("medical/mri"), measured, found, place, options)


@dataclass(frozen=True)
class Draw:
    """How draws are made; the fields are the options of that name."""

    checkpoint: Path
    draws: int
    steps: int
    level: float
    along: float
    at_once: int
    seed: int
    device: str
    threads: int | None

    @property
    def grid(self) -> Spec:
        """The sampler's times."""
        levels = {**LEVELS.options, "steps": self.steps, "sigma_max": self.level}
        return Spec(LEVELS.name, levels)

    @property
    def about(self) -> dict[str, Any]:
        """Everything here that decides the voxels, as JSON's types."""
        from core.parts.config import plain

        rule = {"posterior": plain(RULE), "sampler": plain(SOLVER), "grid": plain(self.grid)}
        chosen = {"draws": self.draws, "seed": self.seed, "along": self.along}
        return {**rule, "start": START, **chosen}

    def of(self, task: Spec, measured: "Sinogram | KSpace") -> "tuple[Model, Found, Scale]":
        """The prior, its draws given a measurement, and the units of their images."""
        from core.parts.config import configure
        from core.progress import listener
        from core.request import Machine
        from plugins.medical.inference import volume
        from plugins.medical.inference.draws import How
        from plugins.medical.inference.reconstruct import prior_of

        machine = Machine(device=self.device, threads=self.threads)
        model = prior_of(self.checkpoint, task, machine)
        how = How(
            method=configure("posterior", RULE),
            solver=configure("sampler", SOLVER)(),
            grid=configure("grid", self.grid)(model.process),
            along=self.along,
            at_once=self.at_once,
        )
        measurement, like, scale = volume.understood(model, measured)
        with listener("reconstruct") as emit:
            found = volume.drawn(
                model, measurement, like, how, start=START, draws=self.draws, seed=self.seed,
                emit=emit,
            )  # fmt: skip
        return model, found, scale


@dataclass(frozen=True)
class Result:
    """Output paths of a reconstruction.

    Args:
        command: that makes it.
        out: a NIfTI file, or a folder for DICOM.
        deviation: the same for the draws' standard deviation; None for none.
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
            if _is_nifti(place):
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
        from core.parts.config import plain
        from plugins.medical.inference import record, volume
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
        details = {"task": plain(task), **wanted.about, "measurement": options, "misfit": misfit}
        results = [self.out.name, *([self.deviation.name] if self.deviation else []), sheet.name]
        record.write(about, self.command, model, details, inputs, results)
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
            else:
                dicom_write.write(place, voxels, like, description=what, keep=self.keep)
            print(place)

    def _beside(self, end: str) -> Path:
        name = self.out.name.removesuffix(".gz").removesuffix(".nii")
        return self.out.parent / f"{name}-{end}"


def _is_nifti(place: Path) -> bool:
    from plugins.medical.io.nifti import SUFFIXES

    return place.name.lower().endswith(SUFFIXES)
