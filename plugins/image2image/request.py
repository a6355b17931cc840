"""What the plug-in's verbs are asked and answer: frozen values, no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from core.parts.registry import Spec
from core.request import Count

RestorationTask = Literal["colourise", "inpaint", "uncrop", "jpeg"]
"""The tasks of Palette that `restore` does."""


@dataclass(frozen=True, kw_only=True)
class ClassifierRequest:
    """Train a small classifier of images.

    Args:
        dataset: items with ``image`` and ``class``; its ``train`` split is learned from, and its
            ``test`` split counted on.
        width: channels of the first convolution.
        depth: convolutions, each after the first at half the size of the one before.
        steps: optimiser steps.
        batch: images in a step.
        lr: learning rate of AdamW, falling to zero on a half cosine.
        weight_decay: of AdamW.
        seed: every draw follows from it.
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
        classifier: its file of tensors.
        accuracy: on the ``test`` split.
        count: items there.
        seconds: spent by this process.
    """

    classifier: Path
    accuracy: float
    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RobustnessRequest:
    """Attack a classifier with and without purification, and count what it still gets right.

    Args:
        checkpoint: folder of the unconditional model that purifies.
        classifier: file that the verb ``image2image/classifier`` wrote; leave out with `module`.
        module: ``package.module:attribute`` of your own classifier, a `torch.nn.Module` or a
            function without arguments that makes one; images in [-1, 1] to logits.
        dataset: items with ``image`` and ``class``.
        split: which of its splits.
        count: items, spread evenly; fewer if there are not so many.
        norm: of the ball that an attack may move in: the largest change of a pixel (linf), or the
            root of the sum of squared changes (l2).
        eps: radius of the ball, in units of pixels in [-1, 1].
        steps: of every attack.
        eot: draws of the purifier that a step of an attack on it is averaged over.
        level: t*, a time of the model's process, that images are diffused to.
        solver_steps: steps of the purifier.
        sampler: rule of such a step; one that draws noise.
        batch: images at a time.
        confidence: of the intervals.
        pictures: number of items shown as images.
        seed: every draw follows from it.
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
        metrics: ``metrics.json``: every accuracy with interval and n, and what the attacks were;
            images beside it.
        robust: the lowest accuracy of the purified classifier.
        attack: the attack that it is under.
        accuracies: method -> accuracy.
        seconds: spent by this process.
    """

    metrics: Path
    robust: float
    attack: str
    accuracies: dict[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CascadeRequest:
    """Draw enlargements of held-out images by one model after another, from their reductions.

    What comes out are samples of the whole enlargement, which ``evaluate`` and
    ``image2image/compare`` read.

    Args:
        checkpoint: folder of the first model, trained for `image2image/sr3`.
        then: folder of the second, trained with ``augment`` unless `level` is 0.
        level: standard deviation of the noise that the second is given with what the first drew.
        dataset: the images; their sides are multiples of the whole factor.
        split: which of its splits.
        count: how many of its items, the first ones; by default all.
        samples: draws for each.
        sampler: rule of a step, of both.
        grid: times, of both.
        back_projections: rounds after the second model, so that the whole agrees with what was
            given; with noise the second model does not see that itself.
        seed: draw k of item i depends on it, i and k alone.
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
    """Compare sets of samples with the real images: distances of sets, not of pairs.

    Images are cut into patches, whose features a small classifier gives that is trained here on
    the crops of `learned_from`: the distances are of no use beside those of Inception's features.

    Args:
        learned_from: what the features are learned from, in its ``train`` split: the items'
            classes, or of which photograph a crop is.
        steps: of that training.
        seed: of that training.
        extractor: a file of features that an earlier comparison wrote, instead of a training: for
            figures that can be compared between machines.
        patch: side of the patches in pixels.
        real: dataset of the real images; by default those that the samples were drawn for.
        split: which of its splits.
        count: images of each set, the first so many; by default all.
        neighbours: how far precision, recall and coverage reach, in neighbours of a patch.
        confidence: of the intervals.
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
        metrics: ``metrics.json``: every figure with its floor and n, intervals where there are any.
        extractor: the features' file.
        features: their name.
        scores: method -> figure -> mean; the real images' own are the floor.
        seconds: spent by this process.
    """

    metrics: Path
    extractor: Path
    features: str
    scores: dict[str, dict[str, float]]
    seconds: float
