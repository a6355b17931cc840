"""``polymode segmentation label`` and ``suggest``: what to label, and where."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands import OnMachine, Overwrite, after_stop, check_new, keeps_nothing
from core.errors import InputError, printable
from core.parts.registry import Spec
from plugins.segmentation.commands.classify import Classifier, Prior, PriorOfImages, features_of
from plugins.segmentation.request import Labels, Tiling

if TYPE_CHECKING:
    from plugins.segmentation.label.server import Server

Folder = Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")]
Painted = Annotated[Labels, ("masks", "classes", "ignore")]
Masks = Annotated[Labels, ("masks",)]


@after_stop("every stroke is in its mask")
def label(
    folder: Folder,
    checkpoint: PriorOfImages = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="What the live prediction reads, as a part's name or {name: ..., options ...}.",
            show_default="of --checkpoint or --classifier, else segmentation/filters",
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(help="Folder of a fitted classifier, by which images are suggested."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for a free one.")
    ] = 0,
    *,
    labels: Painted,
    tiling: Tiling,
    machine: OnMachine,
) -> None:
    """Label images in a browser: paint classes, see at once what a classifier makes of them.

    The page is served on this machine alone, at the address printed. Every stroke is saved at once,
    as photo_mask.png beside photo.png or in --masks, at the image's size, 255 where there is no
    label; the classes are stored beside them in classes.json. Masks that are there are continued.

    Example: polymode segmentation label images --checkpoint runs/prior --classes sky --classes tree
    """
    from core.parts.config import configure
    from plugins.segmentation.inference.classifier import Classifier as FittedClassifier
    from plugins.segmentation.inference.classifier import load
    from plugins.segmentation.inference.suggest import scored
    from plugins.segmentation.label.server import Server
    from plugins.segmentation.label.session import Session, classes_for, items_of

    items = items_of(folder, labels.masks)
    fitted = load(classifier, machine) if classifier is not None else None
    named = fitted is None or labels.classes
    classes = classes_for(items, labels, folder) if named or fitted is None else fitted.classes
    if isinstance(fitted, FittedClassifier) and checkpoint is None and features is None:
        read, tiling = fitted.features, fitted.tiling
    else:
        spec = Spec("segmentation/filters")
        if checkpoint is not None or features is not None:
            spec = features_of(features, checkpoint)
        read = configure("features", spec)(machine)

    def score(path: Path) -> float:
        return next(scored(fitted, [(path.name, path)])).uncertainty if fitted else 0.0

    session = Session(
        items, classes, read, labels.masks or folder,
        tiling=tiling, ignore=labels.ignore, score=score if fitted is not None else None,
    )  # fmt: skip
    _serve(Server(session, port))


def _serve(server: "Server") -> None:
    """Print the address and answer until a signal ends it."""
    session = server.session
    with server:
        session.start()
        print(server.address, flush=True)
        print(
            f"{len(session.items)} images; open the address in a browser on this machine, stop "
            "with Ctrl-C",
            file=sys.stderr,
        )
        try:
            server.serve_forever()
        finally:
            session.end()


@keeps_nothing
def suggest(
    folder: Folder,
    classifier: Classifier,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV file of the table.")] = None,
    prior: Prior = None,
    overwrite: Overwrite = False,
    *,
    labels: Masks,
    machine: OnMachine,
) -> None:
    """List the images to label next: those of which a classifier is least certain.

    An image's uncertainty is the mean over the tenth of its pixels that are least certain, in nats.
    Images that have a mask are left out. Of scans every slice is ranked.

    Example: polymode segmentation suggest images --classifier runs/classifier -o next.csv
    """
    from core.progress import columns, counter, listener
    from plugins.segmentation.data.labelled import is_image, masks_of
    from plugins.segmentation.data.scans import slices_of
    from plugins.segmentation.inference.classifier import load
    from plugins.segmentation.inference.suggest import ranked, scored, write_suggestions

    if out is not None:
        check_new([out], overwrite=overwrite)
    images, there = masks_of(folder, labels.masks, scans=True)
    left = [(name, path) for name, path in images.items() if name not in there]
    if not left:
        what = f"all {len(images)} images have a mask" if images else "no image"
        raise InputError(f"{folder}: {what}; add images to choose from")
    built, found = load(classifier, machine, prior=prior), []
    every = [(name, path) for name, path in left if is_image(path)]
    for name, path in left:
        if not is_image(path):
            slices = slices_of(path, built.scans)
            every += [(f"{name}, slice {one.number + 1}", one) for one in slices]
    with listener("suggest") as emit:
        count = counter(emit, len(every), "images")
        for one in scored(built, every):
            found.append(one)
            count(len(found))
    order = ranked(found)
    for line in columns([(f"{one.uncertainty:.4f}", printable(one.name)) for one in order]):
        print(line)
    if out is not None:
        write_suggestions(out, order)
        print(out)
