"""Requests and results of the plug-in's verbs: frozen values, no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from core.parts.registry import Spec
from core.parts.signature import Flag
from core.request import Count

RestorationTask = Literal["colourise", "inpaint", "uncrop", "jpeg"]
"""The tasks of Palette that `restore` does."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What training images go through before they are reduced; by default nothing.

    Args:
        blur: largest standard deviation of a Gaussian blur, in pixels of the result.
        noise: largest standard deviation of noise, as a fraction of the range; 0.05 is 13 levels.
        jpeg: lowest JPEG quality; 100 for no JPEG.
        filters: whether images are reduced by a random filter (area, bilinear, bicubic), or by
            bicubic alone.
        twice: fraction of the items that go through a chain of blur, resizing, noise and JPEG
            twice, as pictures from the web did.
    """

    blur: Annotated[float, Ge(0), Le(16)] = 0.0
    noise: Annotated[float, Ge(0), Le(1)] = 0.0
    jpeg: Annotated[int, Ge(1), Le(100)] = 100
    filters: bool = False
    twice: Annotated[float, Ge(0), Le(1)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How much is drawn for an image: what a checkpoint's defaults are of.

    Args:
        steps: sampler steps.
        mean_of: number of draws averaged.
        detail: 0 for the expected image, 1 for draws; between, a mixture.
    """

    steps: Annotated[int, Ge(2)] = 4
    mean_of: Count = 1
    detail: Annotated[float, Ge(0), Le(1)] = 1.0


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How `upscale` and `restore` draw an image, in tiles.

    Without `steps`, `mean_of` and `detail` the checkpoint's defaults apply: what was chosen on
    held-out images (`image2image/choose`), or else the expected image of a network that estimates
    it, or else the mean of 8 draws of 4 steps.  Where one of them is given, `mean_of` and `detail`
    are 1 unless given too.

    Args:
        steps: sampler steps; more is slower.  By default the checkpoint's.
        seed: random seed; the same seed repeats the output.
        mean_of: number of draws averaged into the output: lower error, and smoother.  By default
            the checkpoint's.
        detail: 0 for the expected image, of least error and one network call; 1 for a draw, with
            detail that is invented; between, a mixture.  By default the checkpoint's.
        sampler: solver of a sampler step; see `polymode list sampler`.
        tile: tile side in pixels of the result; bounds the memory.
        overlap: overlap of neighbouring tiles, in pixels.
    """

    steps: Annotated[int, Ge(2)] | None = None
    seed: Annotated[int, Ge(0)] = 0
    mean_of: Count | None = None
    detail: Annotated[float, Ge(0), Le(1)] | None = None
    sampler: Annotated[Spec, "sampler"] = Spec("core/ancestral")
    tile: Annotated[int, Ge(64)] = 512
    overlap: Annotated[int, Ge(0)] = 64

    def drawing(self, default: Drawing) -> Drawing:
        """What is drawn of a checkpoint with these defaults."""
        if self.steps is None and self.mean_of is None and self.detail is None:
            return default
        return Drawing(
            steps=default.steps if self.steps is None else self.steps,
            mean_of=1 if self.mean_of is None else self.mean_of,
            detail=1.0 if self.detail is None else self.detail,
        )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """How a result is written.

    Args:
        quality: of JPEG and WebP, 1 to 100; by default 95 for JPEG, and WebP is lossless.
        format: of results in a folder; by default the input's, and PNG for one that is not written.
        file_name: name of a result in a folder without its suffix, such as ``{stem}_x4``, where
            ``{stem}`` is the input's name without its suffix and ``{name}`` with it.
        strip: EXIF entries that are left out: gps, the place and maker notes, which may hold it, or
            all, with comments and texts.
    """

    quality: Annotated[int, Ge(1), Le(100)] | None = None
    format: Literal["png", "tiff", "webp", "jpeg", "bmp"] | None = None
    file_name: Annotated[str, Flag("name")] | None = None
    strip: Literal["gps", "all"] | None = None


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
class ScoreOptions:
    """Which figures of results and their truth are taken, and of which pixels.

    Args:
        luma: score luma alone, Y of BT.601 in studio range; else R, G and B.
        border: pixels left out at each border; papers leave out as many as the scale.
        low: folder of the low-resolution inputs, for consistency.
        scale: upscaling factor of the results; the truth is cut to multiples of it, as results are.
    """

    luma: bool = False
    border: Annotated[int, Ge(0)] = 0
    low: Path | None = None
    scale: Annotated[int, Ge(2)] | None = None


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
class ChooseRequest:
    """Choose a model's default of steps, draws and detail on held-out images.

    Every combination is drawn; the one of the highest PSNR becomes the checkpoint's default, or one
    that costs less and is within 0.02 dB of it.  Of a model of several tasks it is the mean over
    the tasks.

    Args:
        checkpoint: folder of a restoration model; a copy of its newest step with the default is
            written to ``checkpoints``.
        dataset: held-out images, of sides that the task takes; by default the data learned from.
        split: split of the dataset.
        count: number of items of each task, spread evenly; all if there are fewer.
        steps: sampler steps to try.
        draws: numbers of draws to try.
        details: values of detail to try.
        sampler: solver of a sampler step.
        seed: random seed of the draws.
    """

    checkpoint: Path
    dataset: Annotated[Spec, "dataset"] | None = None
    split: Literal["train", "test"] = "test"
    count: Count = 16
    steps: tuple[Annotated[int, Ge(2)], ...] = (4, 10)
    draws: tuple[Count, ...] = (1, 8)
    details: tuple[Annotated[float, Ge(0), Le(1)], ...] = (0.0, 0.25, 0.5, 1.0)
    sampler: Annotated[Spec, "sampler"] = Spec("core/ancestral")
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True)
class ChooseResult:
    """The default that was chosen.

    Args:
        checkpoint: ``checkpoints``, whose model has the default.
        metrics: ``choices.json``: PSNR and network calls of every combination.
        steps: sampler steps chosen.
        mean_of: number of draws averaged.
        detail: 0 for the expected image, 1 for draws.
        psnr: mean PSNR of that choice in dB.
        reference: mean PSNR of the first estimate in dB.
        seconds: run time of this process.
    """

    checkpoint: Path
    metrics: Path
    steps: int
    mean_of: int
    detail: float
    psnr: float
    reference: float
    seconds: float


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
