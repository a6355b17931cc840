"""Features for distances between sets of images: those of a small classifier trained here.

Its classes are photographs, its inputs crops with random colours and brightness, so that it learns
texture, edges and grain (Dosovitskiy et al. 2014, arXiv:1406.6909, with photographs
for exemplars); of items with classes it learns those, unchanged.  No weights are fetched or
shipped: the same options give the same weights on the same kind of machine, and the first digits of
their SHA-256 are part of every figure's name.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.data import Dataset, collate
from core.errors import InputError, StorageError
from core.parts.config import configure, plain
from core.parts.registry import Spec
from core.process.noise import derive, generator
from core.request import Emit, silent
from core.storage import tensor_file
from plugins.image2image.evaluation.classifier import Classifier, fitted, of_weights
from plugins.image2image.request import ClassifierRequest

VERSION = 1  # of what is learned from the same options
OWN = ("mean", "deviation", "data", "labelled")  # stored beside the classifier's weights
BATCH = 256


@runtime_checkable
class Features(Protocol):
    """Features of images in [-1, 1], and their name in figures."""

    @property
    def name(self) -> str: ...

    def features(self, pictures: Float[Tensor, " n c h w"]) -> Float[Tensor, " n d"]: ...


@dataclass(frozen=True)
class Extractor:
    """Features of images, standardised over the training crops.

    Args:
        classifier: whose last convolution they are.
        tensors: its weights, ``mean`` and ``deviation`` of each feature over the training crops,
            ``data``, the digest of those, and ``labelled``, whether classes were the items' own.
        called: name of the training dataset.
    """

    classifier: Classifier
    tensors: Mapping[str, Tensor]
    called: str

    @property
    def name(self) -> str:
        """Name of these features in figures, such as ``photos features 1a2b3c4d``."""
        return f"{self.called} features {tensor_file.seal(self.tensors)[:8]}"

    @property
    def labelled(self) -> bool:
        """Whether its classes are the items' own, not photographs."""
        return bool(self.tensors["labelled"])

    @torch.no_grad()
    def features(self, pictures: Float[Tensor, " n c h w"]) -> Float[Tensor, " n d"]:
        """Features of images in [-1, 1], without those that are constant on the training crops."""
        mean, deviation = self.tensors["mean"], self.tensors["deviation"]
        found = torch.cat([self.classifier.features(x) for x in pictures.split(BATCH)])
        return ((found - mean) / deviation)[:, deviation > 0]

    @torch.no_grad()
    def classes(self, pictures: Float[Tensor, " n c h w"]) -> Int[Tensor, " n"]:
        """The predicted class of each image."""
        return torch.cat([self.classifier(x).argmax(1) for x in pictures.split(BATCH)])

    def save(self, path: Path) -> None:
        """Write a file that `load` reads.

        Raises:
            StorageError: the disk is full or not writable.
        """
        tensor_file.save(path, self.tensors)


def load(path: Path, *, called: str = "given") -> Extractor:
    """The extractor in a file.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    tensors = tensor_file.load(path, mend="remove it to have it learned again")
    if not set(OWN) <= tensors.keys():
        raise InputError(f"{path}: not a features file; image2image/compare writes them")
    weights = {name: value for name, value in tensors.items() if name not in OWN}
    classifier = of_weights(weights, path).eval().requires_grad_(False)
    return Extractor(classifier, tensors, called)


def learned(spec: Spec, *, steps: int, seed: int, emit: Emit = silent) -> Extractor:
    """An extractor learned from the ``train`` split of a dataset, or what was kept of it.

    It is kept in ``polymode`` in the user's folder for caches, under a digest of all that decided
    it; what cannot be read there is learned again, what cannot be written there is not kept.

    Args:
        spec: items with an image of one size and, if there are classes, a class.
        steps: of training.
        seed: of every draw.
        emit: hears of the training.

    Raises:
        InputError: no images, or one photograph only.
    """
    data: Dataset = configure("dataset", spec)("train")
    request = ClassifierRequest(dataset=spec, width=16, depth=4, steps=steps, batch=32, seed=seed)
    decided = [VERSION, plain(request), data.digest(), torch.__version__]
    key = hashlib.sha256(json.dumps(decided).encode()).hexdigest()
    caches = _caches()
    kept = caches / f"features-{key[:16]}.safetensors" if caches else None
    called = spec.name.rpartition("/")[2]
    if kept and kept.exists():
        with suppress(InputError):
            return load(kept, called=called)
    items = _Exemplars(data, seed)
    classifier = fitted(request, items, device=torch.device("cpu"), emit=emit)
    extractor = Extractor(classifier.requires_grad_(False), _tensors(classifier, items), called)
    if kept:
        with suppress(StorageError):
            extractor.save(kept)
    return extractor


def _caches() -> Path | None:
    """Our folder among the user's caches; none where the user has no home.

    Source: XDG Base Directory Specification 0.8: relative paths are not to be used.
    """
    places = (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))
    return next((Path(place) / "polymode" for place in places if os.path.isabs(place)), None)


@torch.no_grad()
def _tensors(classifier: Classifier, items: "_Exemplars") -> dict[str, Tensor]:
    """The classifier's weights, and its features' mean and deviation over crops as they are."""
    count = min(len(items), 1024)
    crops = collate(items.data, [i * len(items) // count for i in range(count)])["image"]
    found = torch.cat([classifier.features(x) for x in crops.split(BATCH)]).double()
    deviation = found.std(0)
    return {
        **classifier.state_dict(),
        "mean": found.mean(0).float(),
        "deviation": torch.where(deviation > 1e-6, deviation, 0).float(),
        "data": torch.tensor(list(bytes.fromhex(items.digest())), dtype=torch.uint8),
        "labelled": torch.tensor(items.labelled),
    }


class _Exemplars:
    """Items with the class they have, or with their photograph for one and their colours changed.

    Half of the latter are made grey; all get a contrast of 0.5 to 1.5 times their own and are made
    brighter or darker by up to 0.3.  A function of the seed and the index alone.
    """

    def __init__(self, data: Dataset, seed: int) -> None:
        self.data, self._seed = data, derive("exemplars", seed)
        first = data[0]
        if "image" not in first:
            raise InputError(
                f"learned_from: features are learned from items with an image, these have "
                f"{', '.join(first)}; use image2image/photos or image2image/folder"
            )
        self.labelled = "class" in first
        sources = [] if self.labelled else [data.source(i) for i in range(len(data))]
        numbers = {source: number for number, source in enumerate(sorted(set(sources)))}
        if len(numbers) == 1:
            raise InputError(
                "learned_from: one photograph cannot be told from others; give more of them"
            )
        self._numbers = [numbers[source] for source in sources]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        item = self.data[index]
        if self.labelled:
            return {"image": item["image"], "class": item["class"]}
        grey, contrast, light = generator(self._seed, index).random(3)
        image = item["image"]
        if grey < 0.5:
            image = image.mean(0, keepdim=True).expand_as(image)
        image = (image * (0.5 + contrast) + 0.6 * (light - 0.5)).clamp(-1, 1)
        return {"image": image, "class": torch.tensor(self._numbers[index])}

    def source(self, index: int) -> str:
        return self.data.source(index)

    def name(self, index: int) -> str:
        return self.data.name(index)

    def digest(self) -> str:
        return self.data.digest()


def patches(
    pictures: Float[Tensor, " n c h w"], side: int
) -> Float[Tensor, " n rows columns c side side"]:
    """Squares of an image side by side; what does not fill one is left out evenly at the edges.

    Raises:
        InputError: images smaller than a square.
    """
    height, width = pictures.shape[-2:]
    if min(height, width) < side:
        raise InputError(
            f"patch: expected at most {min(height, width)}, the side of the images, got {side}"
        )
    top, left = height % side // 2, width % side // 2
    inner = pictures[..., top : top + height // side * side, left : left + width // side * side]
    return inner.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)
