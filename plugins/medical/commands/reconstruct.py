"""Commands that reconstruct: sparse measurements simulated of a scan, or raw data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from core.commands import OnMachine, Overwrite, Stated, check_new, keeps_nothing
from core.parts.registry import Spec
from core.request import Machine
from core.scans.request import ScanOptions
from plugins.medical.commands.options import Place, print_notes
from plugins.medical.request import CtOptions, MriOptions

if TYPE_CHECKING:
    from plugins.medical.inference.outputs import Outputs
    from plugins.medical.inference.predictors import ReconstructCt, ReconstructMri

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

Uncertain = Annotated[
    Path | None,
    typer.Option(
        help="Also write where the standard deviation is above --uncertain-above, as a .dcm "
        "(Segmentation) or a .nii mask."
    ),
]
Above = Annotated[
    float | None,
    typer.Option(
        help="Standard deviation of an uncertain voxel, in units of the scan.",
        show_default="a twentieth of the prior's range, CT 100 HU",
    ),
]
NewUids = Annotated[
    bool,
    typer.Option(
        "--new-uids",
        help="DICOM: keyed hashes in place of the source's UIDs; viewers overlay the two no more.",
    ),
]


@keeps_nothing
def reconstruct_ct(
    place: Place,
    checkpoint: Checkpoint,
    out: Out,
    deviation: Deviation = None,
    uncertain: Uncertain = None,
    uncertain_above: Above = None,
    keep: Keep = None,
    new_uids: NewUids = False,
    overwrite: Overwrite = False,
    *,
    stated: Stated,
    predictor: Annotated[Spec, "predictor", "medical/reconstruct_ct"],
    machine: OnMachine,
) -> None:
    """Reconstruct sparse-view CT from a sinogram (.npy), or from one simulated of a scan.

    The result has the geometry of the scan. Not a medical device.

    Example: polymode medical reconstruct-ct scans/ct --checkpoint runs/ct -o sparse
    """
    from plugins.medical.inference.outputs import Outputs

    _check_raw(place, stated)
    outputs = Outputs(
        out, deviation, tuple(keep or ()), new_uids, uncertain=uncertain, above=uncertain_above
    )
    outputs.check()
    check_new(outputs.files, overwrite=overwrite)
    _reconstruct(place, checkpoint, outputs, predictor, machine)


@keeps_nothing
def reconstruct_mri(
    place: Place,
    checkpoint: Checkpoint,
    out: Out,
    deviation: Deviation = None,
    uncertain: Uncertain = None,
    uncertain_above: Above = None,
    keep: Keep = None,
    new_uids: NewUids = False,
    overwrite: Overwrite = False,
    *,
    stated: Stated,
    predictor: Annotated[Spec, "predictor", "medical/reconstruct_mri"],
    machine: OnMachine,
) -> None:
    """Reconstruct accelerated MRI from k-space (.npy, .h5), or from one simulated of a scan.

    The result has the geometry of the scan. Not a medical device.

    Example: polymode medical reconstruct-mri brain.h5 --checkpoint runs/mri -o b.nii.gz
    """
    from plugins.medical.inference.outputs import Outputs

    _check_raw(place, stated)
    outputs = Outputs(
        out, deviation, tuple(keep or ()), new_uids, uncertain=uncertain, above=uncertain_above
    )
    outputs.check()
    check_new(outputs.files, overwrite=overwrite)
    _reconstruct(place, checkpoint, outputs, predictor, machine)


def _check_raw(place: Path, stated: Stated) -> None:
    """Refuse options of a simulation for raw data, also where they are stated at their default.

    Raises:
        InputError: there are some.
    """
    from plugins.medical.inference.measurement import check_unused, simulation_options
    from plugins.medical.io import raw

    if place.suffix.lower() in raw.SUFFIXES:
        check_unused(stated & simulation_options(CtOptions, MriOptions, ScanOptions))


def _reconstruct(
    place: Path, checkpoint: Path, outputs: "Outputs", predictor: Spec, machine: Machine
) -> None:
    """Draw, write mean, standard deviation, contact sheet and record, and print their paths."""
    from core.parts.config import configure
    from core.progress import listener
    from plugins.medical.inference.predictors import misfit_of, sentence_of
    from plugins.medical.inference.remarks import remarks

    build = configure("predictor", predictor)
    reconstruction = cast("ReconstructCt | ReconstructMri", build(machine, checkpoint))
    outputs.check_draws(reconstruction.draws)
    given = reconstruction.read(place)
    print_notes((*given.notes, *outputs.check_source(given.subject.stored)))
    with listener("reconstruct") as emit:
        found, scale = reconstruction.draw(given, emit=emit)
    for path in reconstruction.write(outputs, given, found, scale):
        print(path)
    print_notes(remarks(found, scale, given.measured, given.truth))
    misfit = misfit_of(found)
    print(f"misfit {misfit['mean']:.2f} times the noise, {misfit['worst']:.2f} at worst")
    if found.choice is not None:
        print(sentence_of(found.choice))
    print("Not for diagnosis: nothing here is a medical device.")
