"""A fitted pixel classifier on disk: its tensors, classes and the features that it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.errors import InputError
from core.features import Features
from core.model import Model, load_model
from core.parts.config import configure, plain
from core.parts.registry import Spec
from core.process.noise import derive
from core.progress import print_note
from core.request import Machine
from core.storage import json_file, tensor_file
from core.storage.checkpoint import CheckpointError
from core.storage.files import write_json
from plugins.segmentation.heads.mlp import Ensemble
from plugins.segmentation.heads.predicting import Head, Segmented, segmented, voted
from plugins.segmentation.heads.ridge import Ridge
from plugins.segmentation.inference.tiles import Tile, maps_of, middle, prepared, tiles_of
from plugins.segmentation.io.classes import Classes
from plugins.segmentation.request import Scans, Tiling
from plugins.segmentation.tasks.masks import Masks

TENSORS, RECORD = "classifier.safetensors", "classifier.json"
VERSION = 1


@dataclass(frozen=True)
class Classifier:
    """A pixel classifier with the features that it reads.

    Args:
        head: the classifier.
        features: what it reads.
        classes: what it tells apart.
        tiling: how large images are read.
        scans: how scans are read.
    """

    head: Head
    features: Features
    classes: Classes
    tiling: Tiling
    scans: Scans

    def __call__(self, image: Float[Tensor, " 3 h w"]) -> "Whole":
        """The segmentation of an image of any size."""
        image = prepared(self.features, image)
        return in_tiles(
            image, self.tiling,
            lambda tile: segmented(self.head, maps_of(self.features, image, tile)),
        )  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """The segmentation of a whole image.

    Args:
        labels: class of each pixel.
        uncertainty: in nats, see `heads.predicting.Segmented`.
        probability: of the likeliest class.
    """

    labels: UInt8[Tensor, "h w"]
    uncertainty: Float[Tensor, "h w"]
    probability: Float[Tensor, "h w"]


def in_tiles(
    image: Float[Tensor, " 3 h w"], tiling: Tiling, one: Callable[[Tile], Segmented]
) -> Whole:
    """An image's segmentation from that of its tiles, of each its middle.

    Args:
        image: the whole.
        tiling: how it is divided.
        one: segments what is read of a tile.
    """
    size = (image.shape[-2], image.shape[-1])
    labels = torch.empty(size, dtype=torch.uint8)
    uncertainty, sure = torch.empty(size), torch.empty(size)
    for tile in tiles_of(size, tiling.tile, tiling.margin):
        found, inside = one(tile), middle(tile)
        where = (
            slice(tile.rows.start, tile.rows.stop),
            slice(tile.columns.start, tile.columns.stop),
        )
        labels[where] = found.labels[inside].cpu()
        uncertainty[where] = found.uncertainty[inside].cpu()
        sure[where] = found.probability.amax(0)[inside].cpu()
    return Whole(labels, uncertainty, sure)


@dataclass(frozen=True)
class PlainNetwork:
    """A network that `polymode train` trained for `segmentation/masks`, as a classifier.

    Args:
        model: the network.
        classes: what it tells apart.
        tiling: how large images are read.
        scans: how scans are read.
    """

    model: Model
    classes: Classes
    tiling: Tiling
    scans: Scans

    def __call__(self, image: Float[Tensor, " 3 h w"]) -> Whole:
        """The segmentation of an image of any size; its uncertainty is the classes' entropy."""
        return in_tiles(image, self.tiling, lambda tile: self._segmented(image, tile))

    @torch.no_grad()
    def _segmented(self, image: Tensor, tile: Tile) -> Segmented:
        part = image[:, tile.top : tile.bottom, tile.left : tile.right].to(self.model.device)
        process, size = self.model.process, (part.shape[-2], part.shape[-1])
        draw = torch.Generator().manual_seed(derive("segmentation/plain"))
        noise = torch.randn((1, len(self.classes), *size), generator=draw).to(part)
        t = torch.full((1,), process.t_max, dtype=torch.float64, device=part.device)
        _, sigma = process.alpha_sigma(t)
        found = self.model.denoise(float(sigma) * noise, t, {"image": part[None]}).x0
        probability = ((found.float() + 1) / 2).clamp(min=1e-6)  # voted normalises
        return voted(probability.log().flatten(2).mT, size)


Fitted = Classifier | PlainNetwork
"""What `load` gives: a callable on images, with its classes, tiling and how scans are read."""


def save(
    folder: Path,
    head: Ensemble | Ridge,
    features: Spec,
    digest: str,
    classes: Classes,
    tiling: Tiling,
    scans: Scans,
    facts: Mapping[str, Any],
) -> None:
    """Write a fitted classifier into a folder, the record last."""
    if isinstance(head, Ensemble):
        tensors, more = head.tensors, {}
    else:
        tensors = {"weight": head.weight, "bias": head.bias}
        more = {"sharpness": head.sharpness, "strength": head.strength}
    tensor_file.save(folder / TENSORS, tensors)
    write_json(
        folder / RECORD,
        {
            "version": VERSION,
            "kind": "ensemble" if isinstance(head, Ensemble) else "linear",
            **more,
            "features": plain(features),
            "features_digest": digest,
            "classes": classes.as_json(),
            "tiling": plain(tiling),
            "scans": plain(scans),
            **facts,
        },
    )


def load(folder: Path, machine: Machine, *, prior: Path | None = None) -> Fitted:
    """A classifier that `polymode segmentation fit` wrote, or a network of `segmentation/masks`.

    Args:
        folder: of the classifier.
        machine: where its features run.
        prior: the checkpoint of its features, where it has moved.

    Raises:
        InputError: no whole classifier, or its features cannot be had, or are others now.
    """
    if not (folder / RECORD).exists():
        return _plain_network(folder, machine)
    record = _record(folder)
    try:
        spec = Spec.parse(record["features"])
        classes = Classes.from_json(record["classes"])
        kind, tiling = record["kind"], Tiling(**record["tiling"])
        scans = Scans(**record.get("scans", {}))  # of classifiers of images alone: none
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / RECORD}: not a whole record: {error!r}") from error
    if prior is not None:
        spec = Spec(spec.name, {**spec.options, "checkpoint": str(prior)})
    elif (stated := spec.options.get("checkpoint")) is not None:
        inside = folder / str(stated)  # an absolute path stays as it is
        spec = Spec(spec.name, {**spec.options, "checkpoint": str(inside)})
    features: Features = configure("features", spec)(machine)
    if features.digest() != record.get("features_digest"):
        raise InputError(
            f"{folder}: its features {spec.name} have changed since it was fitted, in weights or "
            "options; fit it again, or give their checkpoint with --prior"
        )
    tensors = tensor_file.load(folder / TENSORS, mend="fit the classifier again")
    if kind == "ensemble":
        head: Head = Ensemble(tensors)
    else:
        head = Ridge(tensors["weight"], tensors["bias"], record["sharpness"], record["strength"])
    if head.first[0].shape[1] != sum(features.channels) or head.classes != len(classes):
        raise InputError(f"{folder}: its tensors do not fit its features and classes; fit it again")
    return Classifier(head, features, classes, tiling, scans)


def _plain_network(folder: Path, machine: Machine) -> PlainNetwork:
    """The network in a run's folder.

    Raises:
        InputError: no checkpoint, or one of another task.
    """
    try:
        model = load_model(folder, machine=machine, task="segmentation/masks", emit=print_note)
    except CheckpointError as error:
        raise InputError(
            f"{folder}: no classifier; give the folder that `polymode segmentation fit` wrote, or "
            f"the run of a network of segmentation/masks ({error})"
        ) from error
    assert isinstance(model.task, Masks)
    names = model.task.classes
    return PlainNetwork(model, Classes(names, tuple(range(len(names)))), Tiling(), Scans())


def _record(folder: Path) -> Mapping[str, Any]:
    try:
        found = json_file.read(folder / RECORD)
    except (OSError, json_file.NotJson) as error:
        raise InputError(f"{folder / RECORD}: cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise InputError(f"{folder / RECORD}: not a record of a classifier of this version")
    return found
