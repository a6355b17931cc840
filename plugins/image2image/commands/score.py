"""``polymode image2image score``: a folder of results beside the truth, as a table."""

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands import Overwrite, check_new, keeps_nothing
from core.errors import InputError
from plugins.image2image.request import ScoreOptions

if TYPE_CHECKING:
    from plugins.image2image.evaluation.score import Scores


@keeps_nothing
def score(
    results: Annotated[Path, typer.Argument(help="Folder of results, or one image.")],
    truth: Annotated[Path, typer.Argument(help="Folder of the true images, or one image.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the figures: .json or .csv.")
    ] = None,
    lpips: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Also measure LPIPS, with your weights: safetensors of AlexNet or VGG16 with "
            "torchvision's names and of its heads (lin0.model.1.weight), in one file, or give the "
            "option twice.",
        ),
    ] = None,
    dino: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Also measure cosine distance, FID and KID in features of your DINO or DINOv2 "
            "ViT: its safetensors, or the folder of a Hugging Face model.",
        ),
    ] = None,
    distances: Annotated[
        bool, typer.Option(help="Also measure FID, KID and the distance to the truth in features.")
    ] = False,
    extractor: Annotated[
        Path | None,
        typer.Option(
            help="Features of distances: features.safetensors of a comparison; without, features "
            "that are trained here, in seconds."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    overwrite: Overwrite = False,
    *,
    options: ScoreOptions,
) -> None:
    """PSNR, SSIM, LPIPS and consistency of your own results, image by image; distances of sets.

    Names are matched by their beginning: baby_x4.png, baby-model.png and baby.jpg.png belong to
    baby.png; images without a partner and sizes that differ are named.  PSNR and SSIM are those of
    papers: peak 255, Gaussian window of 11x11 with sigma 1.5, valid part; with --luma of Y alone,
    BT.601, 16 to 235.  Super-resolution papers report --luma --border 4 for four-fold.

    Those of --distances are on features of a small classifier, not Inception's.  LPIPS and DINO
    are measured with weights that you bring; nothing is fetched, and pickles (.pth) are not read.
    LPIPS sees texture and sharpness, DINO what is shown.  Names of networks end with digits of
    their weights' SHA-256: compare figures of the same name.  Ends with 1 where a result could not
    be scored.

    Examples: polymode image2image score enlarged/ truth/ --luma --border 4; with the consistency
    of the reduction and a file: add --low small/ --scale 4 -o scores.csv; with networks of yours:
    add --lpips alexnet.safetensors --lpips heads.safetensors --dino dinov2-small/
    """
    if out is not None and out.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"out: {out}: expected a file that ends in .csv or .json")
    check_new([out] if out else [], overwrite=overwrite)
    if extractor is not None and not distances:
        raise InputError("extractor: features of distances, which were not asked; add --distances")
    from core.model import device_of
    from core.progress import listener
    from core.request import Machine
    from core.storage import files
    from plugins.image2image.evaluation import score as scoring

    device_of(Machine(device="cpu", threads=threads))
    with listener("score") as emit:
        measured = scoring.distances_of(
            patches=distances, extractor=extractor, lpips_files=lpips or (), dino_file=dino
        )
        scores = scoring.score(results, truth, options, distances=measured, emit=emit)
    for line in scoring.lines(scores):
        typer.echo(line)
    _print_notes(scores)
    if out is not None:
        if out.suffix.lower() == ".json":
            files.write_json(out, scores.document())
        else:
            files.write_text(out, _csv(scores))
        typer.echo(out)
    if scores.refused:
        raise typer.Exit(1)


def _print_notes(scores: "Scores") -> None:
    """On the error stream: conventions, notes of images, and those without figures."""
    for figure, words in scores.convention.items():
        print(f"{figure}: {words}", file=sys.stderr)
    for one in scores.pictures:
        for note in one.notes:
            print(f"{one.name}: {note}", file=sys.stderr)
    for name, reason in scores.refused.items():
        print(f"{name}: not scored: {reason}", file=sys.stderr)
    said = {
        "results": "no truth of that name",
        "truth": "no result",
        "low": "no low-resolution input",
    }
    for which, names in scores.unmatched.items():
        for name in names:
            print(f"{name}: {said[which]}", file=sys.stderr)


def _csv(scores: "Scores") -> str:
    """A line for each result, then their means; what is not scored has a reason alone."""
    figures = list(dict.fromkeys(name for one in scores.pictures for name in one.figures))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "truth", *figures, "reason"])
    for one in scores.pictures:
        table.writerow([one.name, one.truth, *(one.figures.get(f, "") for f in figures), ""])
    for name, reason in scores.refused.items():
        table.writerow([name, "", *("" for _ in figures), reason])
    table.writerow(["mean", "", *(scores.means.get(f, "") for f in figures), ""])
    return text.getvalue()
