"""The verb ``segmentation/fit``: a pixel classifier from images with labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from core.features import Features, Maps
from core.parts.config import configure, resolve
from core.parts.registry import Spec
from core.progress import counter
from core.request import Emit, Machine, Note, silent
from core.storage.files import make_folder
from plugins.segmentation.data.labelled import (
    Labelled,
    pairs_of,
    read_labelled,
    rgb,
    stated_classes,
)
from plugins.segmentation.heads import mlp, ridge
from plugins.segmentation.heads.pixels import Pixels, places_of, with_features
from plugins.segmentation.inference.classifier import save
from plugins.segmentation.inference.tiles import Tile, maps_of, prepared, tiles_of
from plugins.segmentation.io.classes import IGNORE
from plugins.segmentation.request import FitRequest, FitResult, Labels, Scans, Tiling


def read(images: Path, labels: Labels, scans: Scans | None = None) -> Labelled:
    """The labelled images of a folder, and the labelled slices of its scans.

    Raises:
        InputError: as `pairs_of` and `read_labelled`.
    """
    return read_labelled(
        pairs_of(images, labels.masks, scans=True),
        classes=labels.classes if labels.instances
        else stated_classes(images, labels.masks, labels.classes),
        ignore=labels.ignore, instances=labels.instances,
        sparse=labels.sparse, scans=scans,
    )  # fmt: skip


def pixels_of(
    labelled: Labelled,
    features: Features,
    tiling: Tiling,
    *,
    most: int,
    seed: int,
    emit: Emit = silent,
) -> tuple[Pixels, Int64[Tensor, " n"]]:
    """The labelled pixels of images with their features, and the number of each pixel's image.

    Images are read in tiles.

    Raises:
        InputError: as `places_of`, or an image that cannot be read.
    """
    tiles = [
        (number, tile)
        for number, mask in enumerate(labelled.masks)
        for tile in tiles_of((mask.shape[0], mask.shape[1]), tiling.tile, tiling.margin)
    ]
    masks = [_inside(labelled.masks[number], tile) for number, tile in tiles]
    source = [number for number, _ in tiles]
    places = places_of(masks, len(labelled.classes), source=source, most=most, seed=seed)
    used = places.image.unique().tolist()
    progress = counter(emit, len(used), "features")
    images: dict[int, Tensor] = {}

    def maps(number: int) -> Maps:
        image, tile = tiles[number]
        if image not in images:
            images.clear()  # one at a time
            images[image] = prepared(features, rgb(labelled.files[image]))
        progress(used.index(number) + 1)
        return maps_of(features, images[image], tile)

    pixels = with_features(places, maps)
    return pixels, torch.tensor(source)[places.image]


def _inside(mask: Tensor, tile: Tile) -> Tensor:
    """The labels of a tile, without those of its margins."""
    part = torch.full((tile.bottom - tile.top, tile.right - tile.left), IGNORE, dtype=torch.uint8)
    rows = slice(tile.rows.start - tile.top, tile.rows.stop - tile.top)
    columns = slice(tile.columns.start - tile.left, tile.columns.stop - tile.left)
    part[rows, columns] = mask[
        tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop
    ]
    return part


def fit(
    request: FitRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> FitResult:
    """Fit a pixel classifier and write it into `out`.

    Raises:
        InputError: no labels, masks that do not fit their images, or features that cannot be had.
    """
    labelled = read(request.images, request.labels, request.scans)
    features: Features = configure("features", request.features)(machine or Machine())
    pixels, _ = pixels_of(
        labelled, features, request.tiling, most=request.pixels, seed=request.seed, emit=emit
    )
    counts = torch.bincount(pixels.labels, minlength=pixels.classes).tolist()
    listed = ", ".join(f"{n} {c}" for n, c in zip(labelled.classes.names, counts, strict=True))
    emit(Note(text=f"{len(labelled.files)} labelled images; pixels: {listed}"))
    if request.kind == "ensemble":
        head, how = mlp.fit(pixels, members=request.members, seed=request.seed)
        loss = how.loss
    else:
        head = ridge.fit(pixels)
        loss = head.loss
    if request.frequencies == "labelled":
        head = head.at_frequencies(frequencies(labelled.masks, pixels.classes))
    make_folder(out)
    facts = {
        "images": len(labelled.files),
        "pixels": dict(zip(labelled.classes.names, counts, strict=True)),
        "loss": loss,
    }
    spec = _stated(request.features, out)
    save(out, head, spec, features.digest(), labelled.classes, request.tiling, request.scans, facts)
    return FitResult(out, loss)


def frequencies(masks: Sequence[UInt8[Tensor, "h w"]], classes: int) -> Int64[Tensor, " classes"]:
    """Labelled pixels of each class."""
    found = [torch.bincount(m[m != IGNORE].long(), minlength=classes) for m in masks]
    return torch.stack(found).sum(0)


def _stated(features: Spec, out: Path) -> Spec:
    """The features with every option stated, and paths that hold wherever it is read.

    Those in the classifier's folder `out` are relative to it, so that it can be moved as a whole.
    """
    resolved, _ = resolve("features", features, "features")
    return Spec(resolved.name, {name: _path(v, out) for name, v in resolved.options.items()})


def _path(value: Any, out: Path) -> Any:
    if not isinstance(value, Path):
        return value
    path, folder = value.absolute(), out.absolute()
    return path.relative_to(folder) if path.is_relative_to(folder) else path
