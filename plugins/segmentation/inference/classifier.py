"""A fitted pixel classifier on disk: its tensors, classes and the features that it reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.errors import InputError
from core.features import Features
from core.parts.config import configure, plain
from core.parts.registry import Spec
from core.request import Machine
from core.storage import json_file, tensor_file
from core.storage.files import write_json
from plugins.segmentation.heads.mlp import Ensemble
from plugins.segmentation.heads.predicting import Head, segmented
from plugins.segmentation.heads.ridge import Ridge
from plugins.segmentation.inference.tiles import maps_of, middle, prepared, tiles_of
from plugins.segmentation.io.classes import Classes
from plugins.segmentation.request import Scans, Tiling

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
        image, size = prepared(self.features, image), (image.shape[-2], image.shape[-1])
        labels = torch.empty(size, dtype=torch.uint8)
        uncertainty, sure = torch.empty(size), torch.empty(size)
        for tile in tiles_of(size, self.tiling.tile, self.tiling.margin):
            found = segmented(self.head, maps_of(self.features, image, tile))
            inside = middle(tile)
            where = (
                slice(tile.rows.start, tile.rows.stop),
                slice(tile.columns.start, tile.columns.stop),
            )
            labels[where] = found.labels[inside].cpu()
            uncertainty[where] = found.uncertainty[inside].cpu()
            sure[where] = found.probability.amax(0)[inside].cpu()
        return Whole(labels, uncertainty, sure)


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


def load(folder: Path, machine: Machine, *, prior: Path | None = None) -> Classifier:
    """A classifier that `polymode segmentation fit` wrote, with its features.

    Args:
        folder: of the classifier.
        machine: where its features run.
        prior: the checkpoint of its features, where it has moved.

    Raises:
        InputError: no whole classifier, or its features cannot be had, or are others now.
    """
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


def _record(folder: Path) -> Mapping[str, Any]:
    try:
        found = json_file.read(folder / RECORD)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no classifier; give the folder that `polymode segmentation fit` wrote"
        ) from error
    except (OSError, json_file.NotJson) as error:
        raise InputError(f"{folder / RECORD}: cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise InputError(f"{folder / RECORD}: not a record of a classifier of this version")
    return found
