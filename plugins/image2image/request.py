"""What the plug-in's verbs are asked and answer: frozen values, no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from core.config import Spec
from core.request import Count


@dataclass(frozen=True, kw_only=True)
class ClassifierRequest:
    """Train a small classifier of pictures.

    Args:
        dataset: items with ``image`` and ``class``; its ``train`` split is learned from, and its
            ``test`` split counted on.
        width: channels of the first of three convolutions.
        steps: optimiser steps.
        batch: pictures in a step.
        lr: learning rate of AdamW, falling to zero on a half cosine.
        weight_decay: of AdamW.
        seed: every draw follows from it.
    """

    dataset: Annotated[Spec, "dataset"] = Spec("image2image/digits")
    width: Count = 32
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
            function without arguments that makes one; pictures in [-1, 1] to logits.
        dataset: items with ``image`` and ``class``.
        split: which of its splits.
        count: items, spread evenly; fewer if there are not so many.
        norm: of the ball that an attack may move in: the largest change of a pixel (linf), or the
            root of the sum of squared changes (l2).
        eps: radius of the ball, in units of pixels in [-1, 1].
        steps: of every attack.
        eot: draws of the purifier that a step of an attack on it is averaged over.
        level: t*, a time of the model's process, that pictures are diffused to.
        solver_steps: steps of the purifier.
        sampler: rule of such a step; one that draws noise.
        batch: pictures at a time.
        confidence: of the intervals.
        pictures: items to picture.
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
            pictures beside it.
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
