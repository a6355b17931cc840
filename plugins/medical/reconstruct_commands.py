"""Commands that reconstruct: a scan measured sparsely, or raw data, and what is not certain."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import InputError
from plugins.medical.commands import (
    Acceleration,
    Arc,
    Centre,
    Geometry,
    Mask,
    Noise,
    Photons,
    Place,
    Plane,
    Reduce,
    Seed,
    Series,
    Views,
    Volume,
)

if TYPE_CHECKING:
    from plugins.medical.reconstruct import How
    from plugins.medical.scans import Subject
    from plugins.medical.volume import Found, Scale

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
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")]


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

    Example: python -m plugins.medical reconstruct-ct scans/ct --checkpoint runs/ct -o sparse
    """
    from plugins.medical import raw, scans

    result = Result(out, deviation, tuple(keep or ()))
    result.check()
    if place.suffix.lower() == ".npy":
        found, sinogram = None, raw.read_sinogram(place)
    else:
        found = scans.prepared(place, series, volume, plane, reduce)
        sinogram = scans.sparse_ct(found.scan, geometry, views, arc, photons, seed)
    from plugins.medical import volume as volumes

    model = volumes.prior(checkpoint, "medical/ct", {"low": low, "high": high}, device, threads)
    measurement, like, scale = volumes.ct(model, sinogram)
    drawn = _drawn(model, measurement, like, _how(model, steps, level, along, at_once), draws, seed)
    result.write(drawn, scale, found or volumes.place_of(sinogram), known=found is not None)


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

    Example: python -m plugins.medical reconstruct-mri brain.h5 --checkpoint runs/mri -o b.nii.gz
    """
    from plugins.medical import raw, scans

    result = Result(out, deviation, tuple(keep or ()))
    result.check()
    if place.suffix.lower() in (".npy", ".h5", ".hdf5"):
        found, kspace = None, raw.read_kspace(place)
    else:
        found = scans.prepared(place, series, volume, plane, reduce)
        kspace = scans.sparse_mri(found.scan, mask, acceleration, centre, noise, seed)
    from plugins.medical import volume as volumes

    model = volumes.prior(checkpoint, "medical/mri", {}, device, threads)
    measurement, like, scale = volumes.mri(model, kspace)
    drawn = _drawn(model, measurement, like, _how(model, steps, level, along, at_once), draws, seed)
    result.write(drawn, scale, found or volumes.place_of(kspace), known=found is not None)


def _how(model, steps: int, level: float, along: float, at_once: int) -> "How":
    from core.config import Spec, configure
    from plugins.medical.reconstruct import How
    from plugins.medical.request import LEVELS, RULE, SOLVER

    levels = {**LEVELS.options, "steps": steps, "sigma_max": level}
    return How(
        method=configure("posterior", RULE)(),
        solver=configure("sampler", SOLVER)(),
        grid=configure("grid", Spec(LEVELS.name, levels))(model.process),
        along=along,
        at_once=at_once,
    )


def _drawn(model, measurement, like, how: "How", draws: int, seed: int) -> "Found":
    from core.progress import listener
    from plugins.medical import volume

    with listener("reconstruct") as emit:
        return volume.drawn(
            model, measurement, like, how, start="TV", draws=draws, seed=seed, emit=emit
        )


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

    def write(self, drawn: "Found", scale: "Scale", subject: "Subject", *, known: bool) -> None:
        """Write mean and deviation, a sheet to look at, and say how well the data are met."""
        from plugins.medical import derived, nifti, volume

        if not known:
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
                derived.write(place, voxels, like, description=what, keep=self.keep)
            print(place)
        sheet = self.out.parent / f"{_stem(self.out)}-sheet.png"
        volume.write_sheet(sheet, drawn, scale, subject.scan if known else None)
        print(sheet)
        worst = float(drawn.misfit.max())
        print(f"misfit {float(drawn.misfit.mean()):.2f} times the noise, {worst:.2f} at worst")
        print("Not for diagnosis: nothing here is a medical device.")


def _is_nifti(place: Path) -> bool:
    from plugins.medical.nifti import SUFFIXES

    return place.name.lower().endswith(SUFFIXES)


def _stem(place: Path) -> str:
    return place.name.removesuffix(".gz").removesuffix(".nii")
