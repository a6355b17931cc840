"""Commands on scans: what is there, a prior of them, measurements, figures of samples."""

from pathlib import Path
from typing import Annotated

import typer

from core.errors import InputError
from plugins.medical.commands.options import (
    Acceleration,
    Arc,
    Centre,
    Device,
    Geometry,
    Kind,
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


def info(place: Place, series: Series = None, volume: Volume = None) -> None:
    """Say what a scan is, and nothing of whose it is.

    Example: polymode medical info scans/ct
    """
    from plugins.medical.io import raw, scan, scans

    if place.suffix.lower() in raw.SUFFIXES:
        measured = raw.read(place)
        shape = " x ".join(map(str, measured.values.shape))
        if isinstance(measured, raw.KSpace):
            print(f"k-space: {shape}; {measured.mask.mean():.0%} of the frequencies")
        else:
            print(f"sinogram: {shape}; {measured.geometry}")
        return
    found = scans.read(place, series=series, volume=volume)
    d, h, w = found.voxels.shape
    slices, rows, columns = found.spacing
    print(f"patient      {found.patient}")
    print(f"modality     {found.modality}")
    print(f"voxels       {d} slices of {w}x{h}")
    print(f"spacing      {slices:.4g} mm between slices, {columns:.4g} x {rows:.4g} mm in them")
    print(f"values       {found.voxels.min():.5g} to {found.voxels.max():.5g}")
    print(f"slices lie   {scan.plane_of(found)}")
    for note in found.notes:
        print(f"note         {note}")


def _check_kind(kind: str) -> None:
    if kind not in ("ct", "mri"):
        raise InputError(f"kind: expected ct or mri, got {kind!r}")


def train_prior(
    folder: Annotated[Path, typer.Argument(help="Your scans, in this folder and those in it.")],
    kind: Kind,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    steps: Annotated[int | None, typer.Option(min=1, help="By default half an hour's.")] = None,
    pixel: Annotated[
        float | None, typer.Option(help="Millimetres; by default 4 for CT, 1.7 for MRI.")
    ] = None,
    test_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the patients kept for testing.")
    ] = 0.2,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train a prior on pictures alone; run the same command again to go on.

    More options: `polymode train plugins/medical/configs/ct.yaml --set ...`.

    Example: polymode medical train-prior scans --kind ct -o runs/ct
    """
    from core import runs
    from core.parts.config import bind
    from core.parts.yaml_file import read_yaml
    from core.progress import listener
    from core.request import Machine, TrainRequest
    from plugins.medical.data.folders import inside
    from plugins.medical.io.nifti import SUFFIXES

    _check_kind(kind)
    nifti = any(path.name.lower().endswith(SUFFIXES) for path in inside(folder))
    request = dict(read_yaml(Path(__file__).parents[1] / "configs" / f"{kind}.yaml"))
    dataset = {
        **request["dataset"],
        "name": "medical/nifti_folder" if nifti else "medical/dicom_folder",
        "root": str(folder),
        "test_share": test_share,
        "modality": {"ct": "CT", "mri": "MR"}[kind],
    }
    request["dataset"] = dataset | ({"pixel": pixel} if pixel is not None else {})
    request |= {"steps": steps} if steps is not None else {}
    with listener("train-prior") as emit:
        machine = Machine(device=device, threads=threads)
        result = runs.train(bind(TrainRequest, request), out, machine=machine, emit=emit)
    print(result.checkpoint)


def simulate(
    place: Place,
    kind: Kind,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .npy; a .json goes beside it.")],
    views: Views = 23,
    arc: Arc = None,
    geometry: Geometry = "parallel",
    photons: Photons = 1e5,
    mask: Mask = "random",
    acceleration: Acceleration = 4.0,
    centre: Centre = 0.08,
    noise: Noise = 0.005,
    reduce: Reduce = 1,
    plane: Plane = "acquired",
    series: Series = None,
    volume: Volume = None,
    seed: Seed = 0,
) -> None:
    """Measure a scan sparsely: a sinogram of counts, or masked k-space, with its JSON.

    Example: polymode medical simulate scan.nii.gz --kind ct --views 23 -o sparse.npy
    """
    from plugins.medical.inference.measurement import sparse_ct, sparse_mri
    from plugins.medical.io import raw, scans

    raw.check_place(out)
    _check_kind(kind)
    found = scans.prepared(place, series, volume, plane, reduce).scan
    if kind == "ct":
        raw.write_sinogram(out, sparse_ct(found, geometry, views, arc, photons, seed))
    else:
        kspace = sparse_mri(found, mask, acceleration, centre, noise, seed)
        raw.write_kspace(out, kspace)
    print(out)


def evaluate(
    samples: Annotated[Path, typer.Argument(help="Folder of the verb medical/reconstruct.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of figures and pictures.")],
    learned_from: Annotated[
        Path | None,
        typer.Option(help="YAML of the training dataset: are draws nearer to it than the truth?"),
    ] = None,
) -> None:
    """Score reconstructions beside the classical ones, and look for remembered slices.

    Example: polymode medical evaluate runs/drawn --learned-from data.yaml -o runs/eval
    """
    from core import runs
    from core.parts.registry import Spec
    from core.parts.yaml_file import read_yaml
    from core.progress import listener
    from core.request import EvaluateRequest
    from plugins.medical.evaluation import memorisation
    from plugins.medical.request import MemorisationRequest

    with listener("evaluate") as emit:
        result = runs.evaluate(EvaluateRequest(samples=samples), out, emit=emit)
        for method, row in result.scores.items():
            said = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
            print(f"{method:14} {said}")
        print(result.metrics)
        if learned_from is not None:
            spec = Spec.parse(read_yaml(learned_from))
            request = MemorisationRequest(samples=samples, learned_from=spec)
            near = memorisation.evaluate(request, out / "memorisation", emit=emit)
            print(
                f"nearest training slice: of draws {near.draws:.2f} dB, of held-out slices "
                f"{near.truth:.2f} dB"
            )
            print(near.metrics)
