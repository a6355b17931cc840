"""Commands on scans: their properties, a prior, simulated measurements, evaluation."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from core.commands import OnMachine, Overwrite, Seed, Stated, check_new, keeps_nothing
from core.errors import InputError
from core.scans.request import CODES, ScanOptions
from plugins.medical.commands.options import Kind, Place, print_notes
from plugins.medical.request import Corrupt, CtOptions, MriOptions

Chosen = Annotated[ScanOptions, ("series", "volume", "modality")]
CONFIGS = {"ct": "reference.yaml", "mri": "reference-mri.yaml"}


def info(place: Place, *, stated: Stated, scan: Chosen) -> None:
    """Print a scan's modality, size, spacing and range, without the patient's identity.

    Example: polymode medical info scans/ct
    """
    from core.scans import reading
    from core.scans.scan import plane_of
    from plugins.medical.io import raw
    from plugins.medical.io.acquisition import KSpace

    if place.suffix.lower() in raw.SUFFIXES:
        if unused := sorted(stated & {field.name for field in fields(ScanOptions)}):
            raise InputError(f"{', '.join(unused)}: for scans; {place.name} is raw data")
        measured = raw.read(place)
        shape = " x ".join(map(str, measured.values.shape))
        if isinstance(measured, KSpace):
            height, width = measured.size
            along = f"along a trajectory, of images of {width}x{height}"
            part = f"{measured.mask.mean():.0%} sampled"
            print(f"k-space: {shape}; {part if measured.trajectory is None else along}")
        else:
            print(f"sinogram: {shape}; {measured.geometry}")
        for note in measured.notes:
            print(f"note         {note}")
        return
    found = reading.read(place, series=scan.series, volume=scan.volume, modality=scan.modality)
    d, h, w = found.voxels.shape
    slices, rows, columns = found.spacing
    print(f"patient      {found.patient}")
    print(f"modality     {found.modality}")
    print(f"voxels       {d} slices of {w}x{h}")
    print(f"spacing      {slices:.4g} mm between slices, {columns:.4g} x {rows:.4g} mm in plane")
    print(f"values       {found.voxels.min():.5g} to {found.voxels.max():.5g}")
    print(f"plane        {plane_of(found)}")
    for note in found.notes:
        print(f"note         {note}")


def train_prior(
    folder: Annotated[Path, typer.Argument(help="Folder of your scans, searched recursively.")],
    kind: Kind,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Optimiser steps.", show_default="4800, half an hour of one core"),
    ] = None,
    pixel_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Least and largest pixel spacing of the prior in mm.",
            show_default="CT 2 6, MRI 0.8 2.5",
        ),
    ] = None,
    pixel: Annotated[
        float | None, typer.Option(help="One pixel spacing in mm, in place of a range.")
    ] = None,
    stacks: Annotated[
        bool,
        typer.Option(
            "--stacks",
            help="Learn stacks of three adjacent slices, as far apart as pixels, for volumes.",
        ),
    ] = False,
    test_share: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of the patients held out for testing.")
    ] = 0.2,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or path in the folder to leave out, * for any letters; repeatable."
        ),
    ] = None,
    volume: Annotated[
        int | None, typer.Option(min=0, help="Index of the volume of 4-D NIfTI files, from 0.")
    ] = None,
    corrupt: Annotated[
        Corrupt, typer.Option(help="What to do about scans that cannot be read.")
    ] = "refuse",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List all scans and what is left out, and end.")
    ] = False,
    *,
    machine: OnMachine,
) -> None:
    """Train a prior on images alone; the same command resumes it.

    Scans of another modality, label maps, localizers and files of several volumes are left out;
    what is learned from is listed first.

    More options: `polymode train plugins/medical/configs/reference.yaml --set ...`.

    Example: polymode medical train-prior scans --kind ct -o runs/ct
    """
    from core import runs
    from core.parts.config import bind
    from core.parts.yaml_file import read_yaml
    from core.progress import listener
    from core.request import TrainRequest

    if pixel is not None and pixel_range is not None:
        raise InputError("pixel, pixel_range: expected one of them, got both; leave one out")
    request = dict(read_yaml(Path(__file__).parents[1] / "configs" / CONFIGS[kind]))
    dataset = {
        **request["dataset"],
        "name": "medical/scan_folder",
        "root": str(folder),
        "test_share": test_share,
        "modality": CODES[kind],
        "exclude": list(exclude or ()),
        "volume": volume,
        "corrupt": corrupt,
    }
    if dry_run:
        _list(folder, dataset)
        return
    dataset |= {"pixel_range": pixel_range} if pixel_range else {}
    if stacks:
        dataset |= {"slices": 3, "gap_range": dataset["pixel_range"]}
        request["task"] = request["task"] | {"slices": 3}
    if pixel is not None:
        dataset |= {"pixel": pixel, "pixel_range": None}
        request["task"] = request["task"] | {"condition_on_pixel": stacks}
    request["dataset"] = dataset
    request |= {"steps": steps} if steps is not None else {}
    with listener("train-prior") as emit:
        result = runs.train(bind(TrainRequest, request), out, machine=machine, emit=emit)
    print(result.checkpoint)


def _list(folder: Path, dataset: Mapping[str, Any]) -> None:
    """Print every scan of a folder and everything that is left out, the bad ones too."""
    from plugins.medical.data.survey import Selection, survey

    selection = Selection(
        modality=dataset["modality"],
        volume=dataset["volume"],
        exclude=tuple(dataset["exclude"]),
    )
    for line in survey(folder, selection).lines(dataset["test_share"], most=None):
        print(line)


@keeps_nothing
def simulate(
    place: Place,
    kind: Kind,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .npy; its .json is written too.")],
    seed: Seed = 0,
    overwrite: Overwrite = False,
    *,
    stated: Stated,
    ct: CtOptions,
    mri: MriOptions,
    scan: ScanOptions,
) -> None:
    """Simulate a sparse measurement of a scan: a sinogram of counts, or undersampled k-space.

    Of raw k-space (.h5, .npy) the sampling pattern keeps a part.

    Example: polymode medical simulate scan.nii.gz --kind ct --views 23 -o sparse.npy
    """
    from core.scans import reading
    from plugins.medical.inference.measurement import (
        check_unused,
        simulated_mri,
        simulation_options,
        sparse_ct,
        undersampled,
    )
    from plugins.medical.io import raw

    others = {field.name for field in fields(MriOptions if kind == "ct" else CtOptions)}
    if unused := sorted(stated & others):
        raise InputError(f"{', '.join(unused)}: not for --kind {kind}; leave it out")
    raw.check_place(out)
    check_new([out, out.with_suffix(".json")], overwrite=overwrite)
    if place.suffix.lower() in raw.SUFFIXES:
        if kind == "ct":
            raise InputError(f"{place.name}: is raw data; CT is simulated of scans")
        check_unused(stated & simulation_options(ScanOptions))
        kept = undersampled(raw.read_kspace(place), mri, seed)
        print_notes(kept.notes)
        raw.write_kspace(out, kept)
        print(out)
        return
    found = reading.prepared(place, scan).scan
    print_notes(found.notes)
    if kind == "ct":
        raw.write_sinogram(out, sparse_ct(found, ct, seed))
    else:
        raw.write_kspace(out, simulated_mri(found, mri, seed))
    print(out)


@keeps_nothing
def evaluate(
    samples: Annotated[Path, typer.Argument(help="Samples of the verb medical/reconstruct.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of metrics and images.")],
    learned_from: Annotated[
        Path | None,
        typer.Option(help="YAML of the training dataset, to test draws for memorisation."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Score reconstructions against classical methods, and test them for memorisation.

    Example: polymode medical evaluate runs/drawn --learned-from data.yaml -o runs/eval
    """
    from core import runs
    from core.parts.registry import Spec
    from core.parts.yaml_file import read_yaml
    from core.progress import listener
    from core.request import EvaluateRequest
    from plugins.medical.evaluation import memorisation
    from plugins.medical.request import MemorisationRequest

    metrics = [out / "metrics.json"]
    metrics += [out / "memorisation" / "metrics.json"] if learned_from is not None else []
    check_new(metrics, overwrite=overwrite)
    with listener("evaluate") as emit:
        result = runs.evaluate(EvaluateRequest(samples=samples), out, emit=emit)
        for method, row in result.scores.items():
            figures = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
            print(f"{method:14} {figures}")
        print(result.metrics)
        if learned_from is not None:
            spec = Spec.parse(read_yaml(learned_from))
            request = MemorisationRequest(samples=samples, learned_from=spec)
            near = memorisation.evaluate(request, out / "memorisation", emit=emit)
            print(
                f"PSNR to the nearest training slice: draws {near.draws:.2f} dB, ground truth "
                f"{near.truth:.2f} dB"
            )
            print(near.metrics)
