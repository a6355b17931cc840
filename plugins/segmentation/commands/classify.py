"""``polymode segmentation fit``, ``predict`` and ``evaluate``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from core.commands import OnMachine, Overwrite, Seed, check_new, keeps_nothing
from core.errors import InputError
from core.parts.registry import Spec
from plugins.segmentation.request import (
    Dividing,
    FitRequest,
    Frequencies,
    Kind,
    Labels,
    Scans,
    Tiling,
)

Images = Annotated[Path, typer.Argument(help="Folder of images; those with a mask are used.")]
Classifier = Annotated[
    Path, typer.Option(help="Folder of a classifier that `polymode segmentation fit` wrote.")
]
Prior = Annotated[
    Path | None,
    typer.Option(help="Checkpoint of the classifier's features, where it has moved."),
]


PriorOfImages = Annotated[
    Path | None,
    typer.Option(help="Folder of a diffusion model of your images, as train-prior writes it."),
]


@keeps_nothing
def fit(
    images: Images,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the classifier.")],
    checkpoint: PriorOfImages = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="What the classifier reads, as a part's name or {name: ..., options ...}; see "
            "`polymode list features`.",
            show_default="segmentation/diffusion of --checkpoint",
        ),
    ] = None,
    kind: Annotated[
        Kind, typer.Option(help="Ten small networks, or a linear one in closed form: seconds.")
    ] = "ensemble",
    members: Annotated[int, typer.Option(min=1, max=100, help="Members of the ensemble.")] = 10,
    pixels: Annotated[
        int, typer.Option(min=100, help="Labelled pixels that are used at most.")
    ] = 40_000,
    frequencies: Annotated[
        Frequencies,
        typer.Option(help="Of classes: as in the labels; even, where strokes do not say."),
    ] = "labelled",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    *,
    labels: Labels,
    scans: Scans,
    tiling: Tiling,
    machine: OnMachine,
) -> None:
    """Fit a pixel classifier on images with masks; a few are enough, and few labelled pixels.

    A mask of photo.png is photo_mask.png beside it, or photo.png in the folder of --masks: a grey
    image or a palette of class numbers, 255 where there is no label.  Of a scan (NIfTI, or a folder
    of DICOM) it is NIfTI, scan_mask.nii.gz, and every slice with a label is an image.

    Example: polymode segmentation fit labelled --checkpoint runs/prior -o runs/classifier
    """
    request = FitRequest(
        images=images, labels=labels, features=features_of(features, checkpoint), kind=kind,
        members=members, pixels=pixels, frequencies=frequencies, scans=scans, tiling=tiling,
        seed=seed,
    )  # fmt: skip
    check_new([out / "classifier.json"], overwrite=overwrite)
    from core.progress import listener
    from plugins.segmentation.inference import fit as fitting

    with listener("fit") as emit:
        result = fitting.fit(request, out, machine=machine, emit=emit)
    print(result.classifier)


def features_of(text: str | None, checkpoint: Path | None) -> Spec:
    """The features of the options.

    Raises:
        InputError: neither features nor a checkpoint.
    """
    from core.parts.yaml_file import parse_yaml

    if text is None and checkpoint is None:
        raise InputError(
            "fit: expected --checkpoint of a diffusion model of your images (`polymode "
            "segmentation train-prior`), or --features segmentation/filters, which needs none"
        )
    spec = Spec.parse("segmentation/diffusion" if text is None else parse_yaml(text, "--features"))
    if checkpoint is None:
        return spec
    return Spec(spec.name, {**spec.options, "checkpoint": str(checkpoint)})


@keeps_nothing
def predict(
    files: Annotated[
        list[Path],
        typer.Argument(help="Images, NIfTI, folders of DICOM; of more: `polymode apply`."),
    ],
    classifier: Classifier,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the masks.")],
    prior: Prior = None,
    nifti: Annotated[
        bool, typer.Option("--nifti", help="DICOM: a NIfTI mask too, beside the Segmentation.")
    ] = False,
    overwrite: Overwrite = False,
    *,
    dividing: Dividing,
    machine: OnMachine,
) -> None:
    """Segment images: masks with a palette, overlays, uncertainty and areas.

    The mask of a NIfTI scan is NIfTI, that of a DICOM series a DICOM Segmentation, slice by slice
    as the classifier was fitted. With --objects instances of images too, counted and measured:
    NAME-instances.png and NAME-objects.csv.

    Example: polymode segmentation predict *.png --classifier runs/classifier -o masks
    """
    from core.errors import printable
    from core.storage.files import make_folder
    from plugins.segmentation.data.scans import is_series
    from plugins.segmentation.inference.predictor import Segment

    for file in files:
        if file.is_dir() and not is_series(file):
            raise InputError(
                f"{file}: a folder; use: polymode apply segmentation/segment {file} -o {out} "
                f"--set checkpoint={classifier}"
            )
    targets = [out / Segment.result_name(file.name) for file in files]
    if len(set(targets)) < len(targets):
        raise InputError("files: two have one name; segment them into different folders")
    beside = [target.with_name(n) for target in targets for n in Segment.beside(target.name)]
    check_new([*targets, *beside], overwrite=overwrite)
    segment = Segment(
        machine, classifier, prior=prior, objects=dividing.objects, min_area=dividing.min_area,
        apart=dividing.apart, nifti=nifti,
    )  # fmt: skip
    make_folder(out)
    for file, target in zip(files, targets, strict=True):
        facts = segment(file, target)
        shown = ", ".join(f"{name} {part:.1%}" for name, part in facts["areas"].items())
        shown += f"; {facts['objects']} objects" if "objects" in facts else ""
        print(f"{printable(str(file.name))}: {shown}", file=sys.stderr)
        print(target)


def evaluate(
    images: Images,
    classifier: Classifier,
    prior: Prior = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of metrics.json: the scores beside a baseline's, with "
            "intervals over images.",
            show_default="none",
        ),
    ] = None,
    overwrite: Overwrite = False,
    *,
    labels: Labels,
    dividing: Dividing,
    machine: OnMachine,
) -> None:
    """Score a classifier on images with masks: intersection over union of each class.

    One confusion matrix is summed over all pixels; a class that is neither there nor found does
    not count.  Intervals (95 %) redraw images.  With --objects also the average precision of
    instances, TP / (TP + FP + FN), at an overlap of 0.5 and over 0.5 to 0.95, as a mean over
    images; true ones are those of --instances or of annotations, whatever their class.

    Example: polymode segmentation evaluate held-out --classifier runs/classifier
    """
    if out is not None:
        check_new([out / "metrics.json"], overwrite=overwrite)
    from core.storage.files import make_folder
    from plugins.segmentation.evaluation.scores import evaluate_folder

    found = evaluate_folder(images, classifier, labels, machine, prior=prior, dividing=dividing)
    names = {"miou": "mean IoU", "accuracy": "accuracy", "ap50": "AP 0.5", "ap": "AP 0.5:0.95"}
    width = max(len(text) for text in (*names.values(), *found.classes.names))
    for name, value in zip(found.classes.names, found.total.iou.tolist(), strict=True):
        print(f"{name:{width}}  IoU {value:.4f}")
    for name, cell in found.figures().items():
        print(f"{names[name]:{width}}      {cell.mean:.4f}  ({cell.low:.4f} to {cell.high:.4f})")
    if out is not None:
        print(found.evaluation(images).write(make_folder(out)))
