"""Distances between sets of images: of each method, and of the real images as a floor.

The patches of every image are split into two halves as on a chessboard.  A method's patches of one
half are compared with the real patches of the other, both ways, and the real ones with each other
in the same way: so a method that restores every image exactly has the floor, at the same n, and
no patch is compared with what it was made from.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.data import Dataset, collate
from core.errors import InputError
from core.model import device_of
from core.parts.config import bind, configure, plain
from core.progress import counter
from core.request import Emit, Machine, silent
from core.results import samples
from core.results.distances import diversity, frechet, redrawn_kernel_distances, support
from core.results.evaluation import Evaluation, Row
from core.results.metrics import INTERVAL, Interval, interval, multiplicities
from core.storage.files import make_folder
from core.task import Figure, Kind
from plugins.image2image.evaluation.features import Extractor, learned, load, patches
from plugins.image2image.request import CompareRequest, CompareResult
from plugins.image2image.tasks.restoration import Restoration, to_levels

FLOOR = "real, one half against the other"
DRAWS = 1000  # of every bootstrap
CHUNK = 16  # images whose baselines are computed at once


def compare(
    request: CompareRequest,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
) -> CompareResult:
    """Compare samples with the real images.

    Args:
        request: features and options.
        inputs: folders of samples by label; several must be of the same data.
        out: ``metrics.json`` and ``features.safetensors`` go there.
        machine: threads; features are learned and computed on the CPU, whatever its device.
        emit: called with the number of methods compared.

    Raises:
        InputError: no samples there, samples of different data, or images too small or too few.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    device_of(replace(machine or Machine(), device="cpu"))
    request = bind(CompareRequest, plain(request))
    sets = _gathered(inputs, request)
    make_folder(out)
    if request.extractor:
        found = load(request.extractor)
    else:
        found = learned(request.learned_from, steps=request.steps, seed=request.seed)
    judge = Judge(found, sets, request)
    methods = {FLOOR: Row("floor", judge.floor())}
    count = counter(emit, len(sets.methods), "method")
    for done, (name, drawn) in enumerate(sets.methods.items(), start=1):
        methods[name] = Row(sets.kinds[name], judge.method(name, drawn))
        count(done)
    found.save(out / "features.safetensors")
    report = Evaluation(
        task="image2image/compare",
        dataset=sets.dataset,
        split=sets.split,
        n=len(sets.real),
        sources=list(dict.fromkeys(sets.sources)),
        draws=max(draws.shape[1] for draws in sets.methods.values()),
        confidence=request.confidence,
        interval=f"{INTERVAL.format(draws=DRAWS)}; Frechet distances have none, since redrawn "
        f"sets are further apart. Patches have {request.patch} pixels; {FLOOR}, is the floor",
        figures=judge.figures,
        reference=sets.reference,
        methods=methods,
        differences=judge.differences(),
    )
    return CompareResult(
        metrics=report.write(out),
        extractor=out / "features.safetensors",
        features=found.name,
        scores=report.means(),
        seconds=time.perf_counter() - start,
    )


# --- the sets ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sets:
    """The compared sets of images.

    Args:
        real: images (n, c, h, w).
        labels: their classes, where they have some and the samples were drawn for them.
        sources: what each was taken from.
        methods: by name, images (m, draws, c, h, w).
        paired: whether image i of a method is meant to be the real image i.
        reference: the method that others are compared with.
        kinds: of the methods.
        dataset: of the real images, plain.
        split: of that dataset.
    """

    real: Float[Tensor, " n c h w"]
    labels: Int[Tensor, " n"] | None
    sources: list[str]
    methods: dict[str, Float[Tensor, " m k c h w"]]
    paired: bool
    reference: str
    kinds: dict[str, Kind]
    dataset: Mapping[str, Any]
    split: str


def _gathered(inputs: Mapping[str, Path], request: CompareRequest) -> Sets:
    """The real images, those of all inputs and those of their tasks' baselines.

    Raises:
        InputError: nothing to compare, or sets that have no comparison.
    """
    real, split, count = request.real, request.split, request.count
    if not inputs:
        raise InputError("compare: expected one folder of samples or more, got none")
    read = {label: samples.read(folder) for label, folder in inputs.items()}
    first = next(iter(read.values()))
    same = {
        (len(drawn.results), drawn.about["data"], drawn.about["split"]) for drawn in read.values()
    }
    if len(same) > 1:
        raise InputError("compare: the samples are of different data; compare those of one dataset")
    paired = real is None and all(isinstance(drawn.task, Restoration) for drawn in read.values())
    dataset: Dataset = configure("dataset", real)(split) if real else first.dataset
    wanted = min(len(first.results), count or len(first.results))
    chosen = list(range(min(len(dataset), wanted if real is None else count or len(dataset))))
    batch = collate(dataset, chosen)
    if "image" not in batch or batch["image"].ndim != 4:
        raise InputError(
            "compare: the real items have no images; set `real` to a dataset of images"
        )
    methods: dict[str, Tensor] = {}
    kinds: dict[str, Kind] = {}
    for label, drawn in read.items():
        before = f"{label}: " if len(read) > 1 else ""
        for name, (kind, pictures) in _methods(drawn, wanted, paired).items():
            title = name if kind == "baseline" else before + name
            if title in methods and not torch.equal(methods[title], pictures):
                raise InputError(
                    f"compare: {title} is not the same image for all of these samples: they are "
                    "of different tasks or options; compare them one by one"
                )
            methods[title], kinds[title] = pictures, kind
    return Sets(
        real=batch["image"],
        labels=batch.get("class") if real is None else None,
        sources=[dataset.source(i) for i in chosen],
        methods=methods,
        paired=paired,
        reference=first.task.reference if first.task.reference in methods else FLOOR,
        kinds=kinds,
        dataset=plain(real) if real else first.about["dataset"],
        split=split if real else first.about["split"],
    )


def _methods(
    drawn: samples.Samples, count: int, paired: bool
) -> dict[str, tuple[Kind, Float[Tensor, " n k c h w"]]]:
    """Each method's kind and images at 8 bits: baselines, draws, and the draws' mean."""
    task, results = drawn.task, drawn.results[:count]
    if results.ndim != 5:
        raise InputError(f"compare: expected images, got samples of {tuple(results.shape[2:])}")
    if not paired:
        return {"one sample": ("draw", to_levels(results))}
    assert isinstance(task, Restoration)
    found: dict[str, list[Tensor]] = {}
    kinds: dict[str, Kind] = {"one sample": "draw", "mean of all": "mean"}
    for first in range(0, len(results), CHUNK):
        draws = results[first : first + CHUNK]
        batch = collate(drawn.dataset, list(range(first, first + len(draws))))
        outputs = {name: x[:, None] for name, x in task.baselines(batch).items()}
        outputs["one sample"] = draws
        if draws.shape[1] > 1:
            outputs["mean of all"] = draws.mean(1, keepdim=True)
        for name, pictures in outputs.items():
            written = [task.written(x, batch) for x in pictures.unbind(1)]
            found.setdefault(name, []).append(torch.stack(written, 1))
    return {name: (kinds.get(name, "baseline"), torch.cat(x)) for name, x in found.items()}


# --- their figures -----------------------------------------------------------------------------


@dataclass(frozen=True)
class HalfSet:
    """Features of the patches on one colour of the chessboard, and of which image each is."""

    features: Float[Tensor, " m d"]
    picture: Int[Tensor, " m"]


class Judge:
    """Figures of each method against the same real images.

    Args:
        extractor: gives the features.
        sets: what is compared.
        request: how.

    Raises:
        InputError: features of other images, or too few of them.
    """

    def __init__(self, extractor: Extractor, sets: Sets, request: CompareRequest) -> None:
        channels = extractor.tensors["layers.0.weight"].shape[1]
        if sets.real.shape[1] != channels:
            raise InputError(
                f"learned_from: the features have {channels} channels, the images "
                f"{sets.real.shape[1]}; train them on a dataset of such images"
            )
        self.extractor, self.sets, self.request = extractor, sets, request
        self._real = self._features(sets.real)
        self._labels = sets.labels if extractor.labelled else None
        self._redrawn: dict[str, np.ndarray] = {}  # kernel distances, by method
        self._values: dict[str, dict[str, list[float]]] = {}  # of each image, by method and figure

    @property
    def figures(self) -> dict[str, Figure]:
        """How each figure is read; the features are part of the name of those that rest on them."""
        name = self.extractor.name
        accuracy = "taken for the truth's class" if self._labels is None else "classifier accuracy"
        return {
            "kid": Figure(f"KID ({name})", "", "lower"),
            "fid": Figure(f"FID ({name})", "", "lower"),
            "precision": Figure("precision", "", "higher"),
            "recall": Figure("recall", "", "higher"),
            "coverage": Figure("coverage", "", "higher"),
            "accuracy": Figure(accuracy, "", "higher"),
            "distance": Figure("feature distance to the truth", "", "lower"),
            "diversity": Figure("feature distance of draws", "", "higher"),
        }

    def floor(self) -> dict[str, Interval]:
        """Figures of the real images against themselves."""
        row = self._of_sets(FLOOR, self._real, paired=True)
        if self._labels is not None:
            row["accuracy"] = self._mean(FLOOR, "accuracy", self._right(self.sets.real))
        return row

    def method(self, name: str, drawn: Float[Tensor, " n k c h w"]) -> dict[str, Interval]:
        """Figures of a method's images: of its first draw, but for the diversity of all."""
        features = self._features(drawn[:, 0])
        row = self._of_sets(name, features, paired=self.sets.paired)
        if self.sets.paired or self._labels is not None:
            row["accuracy"] = self._mean(name, "accuracy", self._right(drawn[:, 0]))
        if self.sets.paired:
            apart = (features - self._real).double().norm(dim=-1).flatten(1).mean(1)
            row["distance"] = self._mean(name, "distance", apart)
        if drawn.shape[1] > 1:
            row["diversity"] = self._mean(name, "diversity", self._diversity(drawn))
        return row

    def differences(self) -> dict[str, dict[str, Interval]]:
        """Of every method to the reference: what is known image by image, and the KID."""
        reference, found = self.sets.reference, {}
        for name in self.sets.methods:
            if name == reference:
                continue
            n = self._patches_of_a_half()
            apart = self._redrawn[name] - self._redrawn[reference]
            found[name] = {"kid": self._between(apart[1:], float(apart[0]), n)}
            for figure in ("accuracy", "distance"):
                ours, theirs = (
                    self._values.get(method, {}).get(figure) for method in (name, reference)
                )
                if ours and theirs:
                    values = [a - b for a, b in zip(ours, theirs, strict=True)]
                    found[name][figure] = interval(
                        values,
                        self.sets.sources,
                        confidence=self.request.confidence,
                        draws=DRAWS,
                    )
        return found

    # Of one set of images.

    def _features(self, pictures: Float[Tensor, " n c h w"]) -> Float[Tensor, " n rows columns d"]:
        cut = patches(pictures, self.request.patch)
        return self.extractor.features(cut.flatten(0, 2)).unflatten(0, cut.shape[:3])

    def _right(self, pictures: Float[Tensor, " n c h w"]) -> Float[Tensor, " n"]:
        """The share of each image's patches with the right class, or the truth's."""

        def taken_for(x: Tensor) -> Tensor:
            cut = patches(x, self.request.patch)
            return self.extractor.classes(cut.flatten(0, 2)).unflatten(0, (len(x), -1))

        known = taken_for(self.sets.real) if self._labels is None else self._labels[:, None]
        return (taken_for(pictures) == known).double().mean(1)

    def _diversity(self, drawn: Float[Tensor, " n k c h w"]) -> Float[Tensor, " n"]:
        features = torch.stack([self._features(x) for x in drawn.unbind(1)], dim=3)
        return diversity(features.flatten(0, 2)).unflatten(0, features.shape[:3]).mean((1, 2))

    # Of one set against the real one.

    def _of_sets(
        self, name: str, features: Float[Tensor, " n rows columns d"], *, paired: bool
    ) -> dict[str, Interval]:
        """Distances of a set and the real one, each half with the other half, both ways."""
        here, there = _halves(features), _halves(self._real)
        ways = [(here[0], there[1]), (here[1], there[0])]
        kid = np.mean([self._kernel(mine, real, len(features), paired) for mine, real in ways], 0)
        if not np.isfinite(kid[0]):
            raise InputError(
                f"compare: {len(features)} images and {len(self._real)} real ones are too few; "
                "draw more"
            )
        self._redrawn[name] = kid
        n = self._patches_of_a_half()
        fid = float(np.mean([frechet(mine.features, real.features) for mine, real in ways]))
        return {
            "kid": self._between(kid[1:], float(kid[0]), n),
            "fid": Interval(fid, None, None, n),
            **self._supports(ways, len(features), paired),
        }

    def _kernel(self, mine: HalfSet, real: HalfSet, count: int, paired: bool) -> np.ndarray:
        """The kernel distance of two halves, first as they are and then redrawn.

        Patches of one image, or of an image and what was made of it, are not paired.
        """
        often = _with_whole(multiplicities(self.sets.sources, draws=DRAWS))
        if paired:
            groups, weights = (mine.picture, real.picture), (often, often)
        else:  # numbered and redrawn apart
            alone = [str(i) for i in range(count)]
            theirs = _with_whole(multiplicities(alone, draws=DRAWS, seed=1))
            groups = (mine.picture, real.picture + count)
            weights = (
                np.concatenate([theirs, np.zeros_like(often)], 1),
                np.concatenate([np.zeros_like(theirs), often], 1),
            )
        return redrawn_kernel_distances(mine.features, real.features, groups, weights, apart=True)

    def _supports(
        self, ways: list[tuple[HalfSet, HalfSet]], count: int, paired: bool
    ) -> dict[str, Interval]:
        found = [
            support(real.features, mine.features, neighbours=self.request.neighbours)
            for mine, real in ways
        ]
        of_mine = torch.cat([mine.picture for mine, _ in ways])
        of_real = torch.cat([real.picture for _, real in ways])
        sources = self.sets.sources if paired else [str(i) for i in range(count)]

        def mean(figure: str, of: Tensor, whose: list[str]) -> Interval:
            values = torch.cat([getattr(one, figure) for one in found])
            each = torch.zeros(len(whose), dtype=torch.float64).index_add_(0, of, values)
            each = each / torch.bincount(of, minlength=len(whose))
            return interval(each.tolist(), whose, confidence=self.request.confidence, draws=DRAWS)

        return {
            "precision": mean("precise", of_mine, sources),
            "recall": mean("recalled", of_real, self.sets.sources),
            "coverage": mean("covered", of_real, self.sets.sources),
        }

    def _patches_of_a_half(self) -> int:
        return self._real.shape[:3].numel() // 2

    def _mean(self, name: str, figure: str, values: Float[Tensor, " n"]) -> Interval:
        self._values.setdefault(name, {})[figure] = values.tolist()
        alone = [str(i) for i in range(len(values))]
        sources = self.sets.sources if len(values) == len(self.sets.sources) else alone
        return interval(values.tolist(), sources, confidence=self.request.confidence, draws=DRAWS)

    def _between(self, redrawn: np.ndarray, value: float, n: int) -> Interval:
        """A kernel distance or a difference with its interval, of the draws that left a pair."""
        ends = [(1 - self.request.confidence) / 2, (1 + self.request.confidence) / 2]
        low, high = np.nanquantile(redrawn, ends)
        return Interval(value, float(low), float(high), n)


def _halves(features: Float[Tensor, " n rows columns d"]) -> tuple[HalfSet, HalfSet]:
    """Patches dealt as on a chessboard; the next image begins with the other colour."""
    picture, row, column = (torch.arange(size) for size in features.shape[:3])
    picture = picture[:, None, None].expand(features.shape[:3])
    colour = (picture + row[:, None] + column) % 2
    first, second = (HalfSet(features[colour == c], picture[colour == c]) for c in (0, 1))
    return first, second


def _with_whole(often: Float[np.ndarray, " draws n"]) -> Float[np.ndarray, " more n"]:
    """First the set as it is, then the redrawn ones."""
    return np.concatenate([np.ones_like(often[:1]), often])
