"""Results scored against the truth, picture by picture, by the conventions of papers.

PSNR and SSIM are of values in units of 255; SSIM has a Gaussian window of 11x11 pixels and sigma
1.5, its valid part alone, K1 = 0.01 and K2 = 0.03, and is the mean over channels.  Luma is the Y of
ITU-R BT.601 in studio range, 16 to 235, not rounded, with a peak of 255 all the same.
Source: Wang et al. 2004, IEEE Trans. Image Process. 13(4); BT.601-7, section 2.5.1; luma and border
as Timofte et al. 2017, NTIRE, report them.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import InputError
from core.images.formats import READ
from core.images.reading import read_picture
from core.progress import counter
from core.request import Emit, silent
from core.results.metrics import psnr, ssim
from core.weights import dino
from plugins.image2image.evaluation import lpips
from plugins.image2image.evaluation.distances import Distances
from plugins.image2image.evaluation.features import Features, learned, load
from plugins.image2image.operators.bicubic import Bicubic
from plugins.image2image.request import CompareRequest, ScoreOptions

STUDIO = (65.481, 128.553, 24.966)  # of red, green and blue in [0, 1], above an offset of 16
WINDOW = 11  # pixels, of SSIM
# What names of one picture differ in: a resolution, or a method after a separator.
KIND = re.compile(r"(?:[_-]?(?:hr|lr|sr|gt|srf_\d+|x\d+))+$", re.IGNORECASE)
SEPARATORS = "_-. "


@dataclass(frozen=True)
class Score:
    """The figures of one result.

    Args:
        name: of the result's file, below its folder.
        truth: name of the truth's file.
        figures: by name; PSNR is infinite where both are equal.
        notes: of what was done to the images before, one sentence each.
    """

    name: str
    truth: str
    figures: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """All figures of a folder.

    Args:
        convention: what the figures are of, in words, by figure.
        pictures: of each result.
        means: over pictures; of PSNR, over those that are finite.
        sets: distances between the sets of all patches, and of all images, by figure, with the
            truth's own as floor.
        refused: name of a result and why it has no figures.
        unmatched: names of results without a truth, and of truths without a result.
    """

    convention: Mapping[str, str]
    pictures: Sequence[Score]
    means: Mapping[str, float]
    sets: Mapping[str, float]
    refused: Mapping[str, str]
    unmatched: Mapping[str, Sequence[str]]

    def document(self) -> dict[str, Any]:
        """The same as JSON's types; an infinite PSNR, of equal images, is null."""

        def known(figures: Mapping[str, float]) -> dict[str, float | None]:
            return {name: x if math.isfinite(x) else None for name, x in figures.items()}

        return {
            "format": 1,
            "convention": dict(self.convention),
            "pictures": [
                {"name": one.name, "truth": one.truth, **known(one.figures), "notes": one.notes}
                for one in self.pictures
            ],
            "means": known(self.means),
            "sets": known(self.sets),
            "refused": dict(self.refused),
            "unmatched": {which: list(names) for which, names in self.unmatched.items()},
        }


def score(
    results: Path,
    truth: Path,
    options: ScoreOptions,
    *,
    distances: Distances | None = None,
    emit: Emit = silent,
) -> Scores:
    """Score every result that has a truth.

    Args:
        results: a folder of images, or one image.
        truth: likewise; its names, without suffix, begin those of the results.
        options: of the figures.
        distances: by which networks, new for each call; by default none are measured.
        emit: called with the number of results scored.

    Raises:
        InputError: a folder without images, no result that has a truth, or options that contradict.
    """
    if options.low is not None and options.scale is None:
        raise InputError("low: consistency needs the factor too; give --scale, such as --scale 4")
    ours, theirs = _images(results, "results"), _images(truth, "truth")
    low = {} if options.low is None else _images(options.low, "low")
    matched = _matched(ours, theirs)
    pairs = {name: found for name, found in matched.items() if found is not None}
    if not pairs:
        raise InputError(
            f"{results}: no image has a name that begins with one of {truth}, such as "
            f"{min(theirs)}; rename them, for example baby_x4.png for baby.png"
        )
    inputs = {name: found for name, found in _matched(low, theirs).items() if found is not None}
    low_of = {found: low[name] for name, found in inputs.items()}
    scorer, done, refused = _Scorer(options, distances or Distances()), [], {}
    count = counter(emit, len(pairs), "image")
    for number, (name, found) in enumerate(pairs.items(), start=1):
        try:
            figures, notes = scorer.figures(ours[name], theirs[found], low_of.get(found))
            done.append(Score(name, found, figures, notes))
        except InputError as error:
            refused[name] = str(error).removeprefix(f"{ours[name]}: ")
        count(number)
    return Scores(
        convention=scorer.convention(),
        pictures=done,
        means=_means(done),
        sets=scorer.distances.sets(),
        refused=refused,
        unmatched={
            "results": [name for name, found in matched.items() if found is None],
            "truth": sorted(theirs.keys() - set(pairs.values())),
            **({"low": sorted(set(pairs.values()) - low_of.keys())} if low else {}),
        },
    )


def distances_of(
    *, patches: bool, extractor: Path | None, lpips_files: Sequence[Path], dino_file: Path | None
) -> Distances:
    """The distances by a user's files.

    Args:
        patches: whether those of patches are measured.
        extractor: file of the patches' features; by default those that `compare` trains.
        lpips_files: weights of LPIPS, in one file or two; without, it is not measured.
        dino_file: weights of DINO or DINOv2; without, they are not measured.

    Raises:
        InputError: a file that cannot be read, or holds something else.
    """
    return Distances(
        lpips=lpips.load(lpips_files) if lpips_files else None,
        dino=None if dino_file is None else dino.load(dino_file),
        patches=_features(extractor) if patches else None,
    )


def _features(file: Path | None) -> Features:
    default = CompareRequest()
    if file is not None:
        return load(file)
    return learned(default.learned_from, steps=default.steps, seed=default.seed)


# --- names -------------------------------------------------------------------------------------


def _images(place: Path, option: str) -> dict[str, Path]:
    """Image files in a folder and below, by their names below it; or one file."""
    if place.is_file():
        return {place.name: place}
    if not place.is_dir():
        raise InputError(f"{option}: {place}: no such folder or image")
    found = {}
    for at, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in READ and not name.startswith("."):
                path = Path(at, name)
                found[path.relative_to(place).as_posix()] = path
    if not found:
        raise InputError(f"{option}: {place}: no image in it ({', '.join(READ)})")
    return found


def _matched(names: Mapping[str, Path], truths: Mapping[str, Path]) -> dict[str, str | None]:
    """The truth of each name: the longest stem that begins it, in the folder of that name."""
    if len(names) == len(truths) == 1:  # two files: stated by the caller
        return {next(iter(names)): next(iter(truths))}
    stems = {}
    for truth in truths:
        folder, stem = os.path.split(truth)
        stems.setdefault(folder, []).append((_stem(stem), truth))

    def of(name: str) -> str | None:
        folder, last = os.path.split(name)
        named = os.path.splitext(last)[0]
        fitting = [
            (len(stem), truth)
            for stem, truth in stems.get(folder, ())
            if _stem(last) == stem or any(named.startswith(stem + one) for one in SEPARATORS)
        ]
        return max(fitting)[1] if fitting else None

    return {name: of(name) for name in names}


def _stem(name: str) -> str:
    """The name without suffix and without what says high or low resolution."""
    stem = os.path.splitext(name)[0]
    return KIND.sub("", stem) or stem


# --- figures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scorer:
    """Figures of pairs."""

    options: ScoreOptions
    distances: Distances

    def figures(
        self, result: Path, truth: Path, low: Path | None
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Figures of one pair, and notes.

        Raises:
            InputError: an image that cannot be read, or sizes that do not match.
        """
        notes: list[str] = []
        ours, theirs = _pixels(result, notes), _pixels(truth, notes)
        scale, border = self.options.scale, self.options.border
        theirs = _cut(theirs, ours, scale, notes)
        (high, wide), (height, width) = ours.shape[-2:], theirs.shape[-2:]
        if (high, wide) != (height, width):
            raise InputError(
                f"{result}: has {wide}x{high} pixels, the truth {width}x{height}; "
                "crop or resize one of them"
            )
        if min(high, wide) - 2 * border < WINDOW:
            raise InputError(
                f"{result}: has {wide}x{high} pixels, without a border of {border} fewer than the "
                f"{WINDOW} of SSIM's window; give a smaller border"
            )
        inner = slice(border, high - border), slice(border, wide - border)
        shown = [x[..., inner[0], inner[1]] for x in (ours, theirs)]
        measured = [studio_luma(x) for x in shown] if self.options.luma else shown
        found = {"psnr": float(psnr(*measured)), "ssim": float(ssim(*measured))}
        if low is not None and scale is not None:
            found["consistency"] = _consistency(ours, _pixels(low, notes), scale, low)
        found |= self.distances.of_pair(shown[0], shown[1], notes)
        return found, tuple(dict.fromkeys(notes))

    def convention(self) -> dict[str, str]:
        """What each figure is, in words."""
        of = "Y of BT.601, 16 to 235, not rounded" if self.options.luma else "R, G and B"
        cut = self.options.border
        border = f"without {cut} pixels at each border" if cut else "whole image"
        words = {
            "psnr": f"dB, peak 255, of {of}, {border}",
            "ssim": f"of {of}, {border}; Gaussian window 11x11, sigma 1.5, valid part, K1 = 0.01, "
            "K2 = 0.03, mean over channels",
        }
        if self.options.low is not None:
            words["consistency"] = (
                f"1e-5, MSE in [0, 1] of the {self.options.scale}-fold reduction (bicubic, "
                "antialiased, a = -0.5) and the input, RGB, whole image"
            )
        return words | self.distances.convention(border)


def studio_luma(image: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b 1 h w"]:
    """Y of BT.601, 16 to 235 of 255, of an image in [-1, 1]; in the same units, 255 being 1."""
    weights = torch.tensor(STUDIO, dtype=torch.float64)
    level = 16 + torch.einsum("c,bchw->bhw", weights, (image.double() + 1) / 2)
    return level[:, None] / 127.5 - 1


def _pixels(path: Path, notes: list[str]) -> Float[Tensor, " 1 3 h w"]:
    """An image's colours in [-1, 1]; grey as three equal ones, alpha left out."""
    drawn = read_picture(path)
    if drawn.alpha is not None:
        notes.append("transparency was left out")
    return drawn.pixels.expand(3, -1, -1)[None].double()


def _cut(theirs: Tensor, ours: Tensor, scale: int | None, notes: list[str]) -> Tensor:
    """The truth without the rows and columns that a whole factor left out of the result."""
    whole = [side // (scale or 1) * (scale or 1) for side in theirs.shape[-2:]]
    if list(ours.shape[-2:]) != whole or ours.shape == theirs.shape:
        return theirs
    notes.append(f"the truth was cut to {whole[1]}x{whole[0]} pixels, multiples of {scale}")
    return theirs[..., : whole[0], : whole[1]]


def _consistency(ours: Tensor, low: Tensor, scale: int, path: Path) -> float:
    """The mean squared error of the reduction in [0, 1], in units of 1e-5."""
    wanted = tuple(side // scale for side in ours.shape[-2:])
    if tuple(low.shape[-2:]) != wanted or any(side % scale for side in ours.shape[-2:]):
        raise InputError(
            f"{path}: has {low.shape[-1]}x{low.shape[-2]} pixels, which is not a {scale}-fold "
            f"reduction of {ours.shape[-1]}x{ours.shape[-2]}; give the input of this result"
        )
    error = (Bicubic(factor=scale).forward(ours) - low) / 2
    return float(error.square().mean() * 1e5)


def _means(scores: Sequence[Score]) -> dict[str, float]:
    """The mean of each figure over the pictures that have a finite one."""
    names = dict.fromkeys(name for one in scores for name in one.figures)
    values = {
        name: [x for one in scores if math.isfinite(x := one.figures.get(name, math.nan))]
        for name in names
    }
    return {name: float(np.mean(known)) for name, known in values.items() if known}


def lines(scores: Scores) -> Iterator[str]:
    """The table of a terminal: a line for each result, and the means; nothing of no result."""
    if not scores.pictures:
        return
    figures = list(dict.fromkeys(name for one in scores.pictures for name in one.figures))
    titles = {
        "psnr": "PSNR, dB",
        "ssim": "SSIM",
        "consistency": "consist., 1e-5",
        "lpips": "LPIPS",
        "dino": "DINO",
    }
    digits = {"psnr": 2, "consistency": 3, "distance": 3}
    longest = max((len(one.name) for one in scores.pictures), default=4)

    def row(name: str, cells: Sequence[str]) -> str:
        return "  ".join([name.ljust(longest), *(cell.rjust(14) for cell in cells)])

    def shown(known: Mapping[str, float]) -> list[str]:
        return [f"{known[f]:.{digits.get(f, 4)}f}" if f in known else "" for f in figures]

    yield row("", [titles.get(figure, figure) for figure in figures])
    for one in scores.pictures:
        yield row(one.name, shown(one.figures))
    yield row("mean", shown(scores.means))
    for of, names in (
        ("patches", [name for name in scores.sets if not name.startswith("dino")]),
        ("images", [name for name in scores.sets if name.startswith("dino")]),
    ):
        if names:
            yield f"all {of}: " + ", ".join(f"{name} {scores.sets[name]:.3g}" for name in names)
