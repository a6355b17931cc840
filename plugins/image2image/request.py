"""Requests and results of the plug-in's verbs: frozen values, no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from core.parts.registry import Spec
from core.request import Count

RestorationTask = Literal["colourise", "inpaint", "uncrop", "jpeg"]
"""The tasks of Palette that `restore` does."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How `upscale` and `restore` draw an image, in tiles.

    Args:
        steps: sampler steps; more is slower.
        seed: random seed; the same seed repeats the output.
        mean_of: number of draws averaged into the output: lower error, and smoother.
        detail: 0 for the expected image, of least error and one network call; 1 for a draw, with
            detail that is invented; between, a mixture.
        sampler: solver of a sampler step; see `polymode list sampler`.
        tile: tile side in pixels of the result; bounds the memory.
        overlap: overlap of neighbouring tiles, in pixels.
    """

    steps: Annotated[int, Ge(2)] = 20
    seed: Annotated[int, Ge(0)] = 0
    mean_of: Count = 1
    detail: Annotated[float, Ge(0), Le(1)] = 1.0
    sampler: Annotated[Spec, "sampler"] = Spec("core/ancestral")
    tile: Annotated[int, Ge(64)] = 512
    overlap: Annotated[int, Ge(0)] = 64


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """How `edit`, `guide` and `repaint` draw an image, in tiles.

    Args:
        steps: sampler steps of the full trajectory; more is slower.
        seed: random seed; the same seed repeats the output.
        sampler: solver of a sampler step; see `polymode list sampler`.
        tile: tile side in pixels; by default the model's training size.
        overlap: overlap of neighbouring tiles, in pixels; by default a quarter of a tile.
    """

    steps: Annotated[int, Ge(2)] = 50
    seed: Annotated[int, Ge(0)] = 0
    sampler: Annotated[Spec, "sampler"] = Spec("core/ancestral")
    tile: Annotated[int, Ge(16)] | None = None
    overlap: Annotated[int, Ge(0)] | None = None


@dataclass(frozen=True, kw_only=True)
class ClassifierRequest:
    """Train a small classifier of images.

    Args:
        dataset: items with ``image`` and ``class``; trained on its ``train`` split, measured on
            its ``test`` split.
        width: channels of the first convolution.
        depth: number of convolutions, each after the first at stride 2.
        steps: optimiser steps.
        batch: batch size.
        lr: learning rate of AdamW, annealed to 0 by a cosine.
        weight_decay: weight decay of AdamW.
        seed: random seed.
    """

    dataset: Annotated[Spec, "dataset"] = Spec("image2image/digits")
    width: Count = 32
    depth: Count = 3
    steps: Count = 500
    batch: Count = 64
    lr: Annotated[float, Gt(0)] = 3e-3
    weight_decay: Annotated[float, Ge(0)] = 1e-2
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True)
class ClassifierResult:
    """A trained classifier.

    Args:
        classifier: its weights file.
        accuracy: accuracy on the ``test`` split.
        count: number of items there.
        seconds: run time of this process.
    """

    classifier: Path
    accuracy: float
    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RobustnessRequest:
    """Measure a classifier's accuracy under attack, with and without purification.

    Args:
        checkpoint: folder of the unconditional model of the purifier.
        classifier: file of the verb ``image2image/classifier``; excludes `module`.
        module: ``package.module:attribute`` of your own classifier, a `torch.nn.Module` or a
            function without arguments that makes one; images in [-1, 1] to logits.
        dataset: items with ``image`` and ``class``.
        split: split of the dataset.
        count: number of items, evenly spaced; all if there are fewer.
        norm: norm of the threat model: linf, the largest change of a pixel, or l2.
        eps: attack radius, in units of pixels in [-1, 1].
        steps: PGD steps of every attack.
        eot: draws of the purifier in a step's gradient (expectation over transformation).
        level: diffusion time t* of the purifier.
        solver_steps: sampler steps of the purifier.
        sampler: its sampler, a stochastic one.
        batch: batch size.
        confidence: confidence level of the intervals.
        pictures: number of items shown as images.
        seed: random seed.
    """

    checkpoint: Path
    classifier: Path | None = None
    module: str = ""
    dataset: Annotated[Spec, "dataset"] = Spec("image2image/digits")
    split: Literal["train", "test"] = "test"
    count: Count = 200
    norm: Literal["linf", "l2"] = "linf"
    eps: Annotated[float, Gt(0)] = 0.3
    steps: Count = 20
    eot: Count = 8
    level: Annotated[float, Gt(0)] = 0.1
    solver_steps: Count = 10
    sampler: Annotated[Spec, "sampler"] = Spec("core/euler_maruyama")
    batch: Count = 100
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    pictures: Annotated[int, Ge(0)] = 8
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True)
class RobustnessResult:
    """Accuracies under attack.

    Args:
        metrics: ``metrics.json``: accuracies with intervals and n, options of the attacks; images
            beside it.
        robust: robust accuracy: the lowest of the purified classifier.
        attack: the attack of that accuracy.
        accuracies: accuracy by method.
        seconds: run time of this process.
    """

    metrics: Path
    robust: float
    attack: str
    accuracies: dict[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CascadeRequest:
    """Upscale held-out images by a cascade of two models, from their reductions.

    The output are samples at the whole factor, for ``evaluate`` and ``image2image/compare``.

    Args:
        checkpoint: folder of the first model, trained for `image2image/sr3`.
        then: folder of the second, trained with ``augment`` unless `level` is 0.
        level: standard deviation of the noise added before the second model (conditioning
            augmentation).
        dataset: images with sides that are multiples of the whole factor.
        split: split of the dataset.
        count: number of items, the first ones; by default all.
        samples: draws for each item.
        sampler: sampler of both models.
        grid: time grid of both models.
        back_projections: rounds of back-projection after the second model, for consistency with the
            low-resolution image; needed where `level` hides it from that model.
        seed: random seed; draw k of item i depends on it, i and k alone.
    """

    checkpoint: Path
    then: Path
    level: Annotated[float, Ge(0)] = 0.0
    dataset: Annotated[Spec, "dataset"] = Spec("image2image/photos", {"size": 128, "per_photo": 6})
    split: Literal["train", "test"] = "test"
    count: Count | None = None
    samples: Count = 1
    sampler: Annotated[Spec, "sampler"] = Spec("core/ancestral")
    grid: Annotated[Spec, "grid"] = Spec("core/uniform_time", {"steps": 4})
    back_projections: Annotated[int, Ge(0)] = 2
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """Compare sets of samples with the real images by distances between distributions.

    Distances are of patches, on features of a small classifier trained on `learned_from`: they
    are not comparable with those of Inception features.

    Args:
        learned_from: dataset of the features, in its ``train`` split; the classes are the items',
            or else the photographs of the crops.
        steps: training steps of the features.
        seed: random seed of that training.
        extractor: features file of an earlier comparison, used instead of training: for figures
            that are comparable between machines.
        patch: patch side in pixels.
        real: dataset of the real images; by default that of the samples.
        split: split of the dataset.
        count: number of images of each set, the first ones; by default all.
        neighbours: k of the nearest neighbours of precision, recall and coverage.
        confidence: confidence level of the intervals.
    """

    learned_from: Annotated[Spec, "dataset"] = Spec(
        "image2image/photos", {"size": 32, "patches": 4096}
    )
    steps: Count = 400
    seed: Annotated[int, Ge(0)] = 0
    extractor: Path | None = None
    patch: Count = 32
    real: Annotated[Spec, "dataset"] | None = None
    split: Literal["train", "test"] = "test"
    count: Count | None = None
    neighbours: Count = 3
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """Distances between sets.

    Args:
        metrics: ``metrics.json``: figures with floor, n and, where defined, intervals.
        extractor: the features file.
        features: their name.
        scores: mean by method and figure; those of the real images are the floor.
        seconds: run time of this process.
    """

    metrics: Path
    extractor: Path
    features: str
    scores: dict[str, dict[str, float]]
    seconds: float
