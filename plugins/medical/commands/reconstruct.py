"""Commands that reconstruct: a scan measured sparsely, or raw data, and what is not certain."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import InputError
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

if TYPE_CHECKING:
    from plugins.medical.inference.volume import Found, Scale
    from plugins.medical.io.raw import KSpace, Sinogram
    from plugins.medical.io.scans import Subject

Checkpoint = Annotated[Path, typer.Option(help="Folder that `train-prior` wrote.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="A .nii or .nii.gz, or a new folder for DICOM.")
]
Uncertain = Annotated[
    Path | None, typer.Option(help="Also the draws' deviation, in the same units and place.")
]
Draws = Annotated[int, typer.Option(min=1, help="Draws, whose mean is written.")]
Steps = Annotated[int, typer.Option(min=2, help="Steps of the sampler; more is slower.")]
Level = Annotated[
    float, typer.Option(min=0.01, help="Noise that draws begin with, on top of a TV picture.")
]
Along = Annotated[
    float, typer.Option(min=0, help="Weight of total variation from slice to slice; 0: none.")
]
AtOnce = Annotated[int, typer.Option(min=1, help="Slices in the network at once: the memory.")]
Keep = Annotated[
    list[str] | None, typer.Option(help="DICOM field to copy from the source, as PatientName.")
]


def reconstruct_ct(
    place: Place,
    checkpoint: Checkpoint,
    out: Out,
    deviation: Uncertain = None,
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
    low: Annotated[float, typer.Option(help="Hounsfield units of the prior's -1.")] = -1000.0,
    high: Annotated[float, typer.Option(help="Hounsfield units of the prior's 1.")] = 1000.0,
    keep: Keep = None,
    at_once: AtOnce = 8,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Reconstruct CT from few views: of a sinogram (.npy), or of a scan measured so.

    The result lies where the scan lies. Not a medical device.

    Example: polymode medical reconstruct-ct scans/ct --checkpoint runs/ct -o sparse
    """
    from plugins.medical.inference.measurement import sparse_ct
    from plugins.medical.io import raw, scans

    wanted = Draw(checkpoint, draws, steps, level, along, at_once, seed, device, threads)
    result = Result(out, deviation, tuple(keep or ()))
    result.check()
    if place.suffix.lower() == ".npy":
        found, measured = None, raw.read_sinogram(place)
    else:
        found = scans.prepared(place, series, volume, plane, reduce)
        measured = sparse_ct(found.scan, geometry, views, arc, photons, seed)
    result.make(wanted, "medical/ct", {"low": low, "high": high}, measured, found)


def reconstruct_mri(
    place: Place,
    checkpoint: Checkpoint,
    out: Out,
    deviation: Uncertain = None,
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
    """Reconstruct MRI from few frequencies: of k-space (.npy, .h5), or of a scan measured so.

    The result lies where the scan lies. Not a medical device.

    Example: polymode medical reconstruct-mri brain.h5 --checkpoint runs/mri -o b.nii.gz
    """
    from plugins.medical.inference.measurement import sparse_mri
    from plugins.medical.io import raw, scans

    wanted = Draw(checkpoint, draws, steps, level, along, at_once, seed, device, threads)
    result = Result(out, deviation, tuple(keep or ()))
    result.check()
    if place.suffix.lower() in raw.SUFFIXES:
        found, measured = None, raw.read_kspace(place)
    else:
        found = scans.prepared(place, series, volume, plane, reduce)
        measured = sparse_mri(found.scan, mask, acceleration, centre, noise, seed)
    result.make(wanted, "medical/mri", {}, measured, found)


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

    def of(
        self, task: str, options: dict[str, float], measured: "Sinogram | KSpace"
    ) -> "tuple[Found, Scale]":
        """Draws of what was measured, and what their pictures stand for."""
        from core.parts.config import configure
        from core.parts.registry import Spec
        from core.progress import listener
        from core.request import Machine
        from plugins.medical.inference import volume
        from plugins.medical.inference.draws import How
        from plugins.medical.inference.reconstruct import prior_of
        from plugins.medical.request import LEVELS, RULE, SOLVER

        machine = Machine(device=self.device, threads=self.threads)
        model = prior_of(self.checkpoint, Spec(task, options), machine)
        levels = {**LEVELS.options, "steps": self.steps, "sigma_max": self.level}
        how = How(
            method=configure("posterior", RULE),
            solver=configure("sampler", SOLVER)(),
            grid=configure("grid", Spec(LEVELS.name, levels))(model.process),
            along=self.along,
            at_once=self.at_once,
        )
        measurement, like, scale = volume.understood(model, measured)
        with listener("reconstruct") as emit:
            found = volume.drawn(
                model, measurement, like, how, start="TV", draws=self.draws, seed=self.seed,
                emit=emit,
            )  # fmt: skip
        return found, scale


@dataclass(frozen=True)
class Result:
    """Where a reconstruction is written.

    Args:
        out: a NIfTI file, or a folder for DICOM.
        deviation: the same for the draws' deviation; None for none.
        keep: DICOM fields to copy.
    """

    out: Path
    deviation: Path | None
    keep: tuple[str, ...]

    def check(self) -> None:
        """Refuse places that cannot be written to, before there is anything to write.

        Raises:
            InputError: a folder that holds something, no such folder, or one name for two.
        """
        places = [place for place in (self.out, self.deviation) if place is not None]
        if self.keep:
            from plugins.medical.io.dicom_write import check_keep

            check_keep(self.keep)
            if all(map(_is_nifti, places)):
                raise InputError("keep: NIfTI has no such fields; name a folder for DICOM with -o")
        if len(places) == 2 and os.path.realpath(places[0]) == os.path.realpath(places[1]):
            raise InputError("out, deviation: name the same place; choose two")
        for place in places:
            if _is_nifti(place):
                if not place.parent.is_dir():
                    raise InputError(f"{place}: no folder {place.parent} to write to; make it")
                if place.is_dir():
                    raise InputError(f"{place}: a folder; name a file")
            elif place.suffix in (".npy", ".dcm", ".gz", ".png", ".img"):
                raise InputError(f"{place}: expected a .nii or .nii.gz, or a folder for DICOM")
            elif place.exists() and (not place.is_dir() or any(place.iterdir())):
                raise InputError(f"{place}: holds something already; name a new folder")

    def make(
        self,
        wanted: Draw,
        task: str,
        options: dict[str, float],
        measured: "Sinogram | KSpace",
        subject: "Subject | None",
    ) -> None:
        """Draw and write mean and deviation, a sheet to look at, and how well the data are met.

        Args:
            wanted: how draws are made.
            task: of reconstruction, by its full name.
            options: of the task.
            measured: of what they are.
            subject: the scan that was measured; None for raw data.
        """
        from plugins.medical.inference import volume
        from plugins.medical.io import dicom_write, nifti

        drawn, scale = wanted.of(task, options, measured)
        known = None if subject is None else subject.scan
        if subject is None:
            subject = volume.place_of(measured)
            for note in subject.scan.notes:
                print(f"note: {note}", file=sys.stderr)
        mean, spread = volume.in_units(drawn, scale)
        jobs = [(self.out, mean, "mean of draws of a sparse measurement")]
        if self.deviation is not None:
            jobs.append((self.deviation, spread, "deviation of draws"))
        for place, found, what in jobs:
            voxels, like = subject.back(found), subject.stored
            if _is_nifti(place):
                nifti.write(place, voxels, like, description=f"polymode: {what}, not for diagnosis")
            else:
                dicom_write.write(place, voxels, like, description=what, keep=self.keep)
            print(place)
        sheet = self.out.parent / f"{_stem(self.out)}-sheet.png"
        volume.write_sheet(sheet, drawn, scale, known)
        print(sheet)
        worst = float(drawn.misfit.max())
        print(f"misfit {float(drawn.misfit.mean()):.2f} times the noise, {worst:.2f} at worst")
        print("Not for diagnosis: nothing here is a medical device.")


def _is_nifti(place: Path) -> bool:
    from plugins.medical.io.nifti import SUFFIXES

    return place.name.lower().endswith(SUFFIXES)


def _stem(place: Path) -> str:
    return place.name.removesuffix(".gz").removesuffix(".nii")
