"""The verb ``segmentation/choose``: mean IoU over blocks and noise levels, cross-validated.

Source: the comparison of blocks and steps of Baranchuk et al. 2022, arXiv:2112.03126, figure 2.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.errors import InputError
from core.request import Emit, Machine, silent
from core.results.evaluation import Evaluation, Row
from core.results.metrics import INTERVAL
from core.storage.files import make_folder
from core.task import Figure
from plugins.segmentation.evaluation.scores import CONFIDENCE, DRAWS, pooled
from plugins.segmentation.features.diffusion import Diffusion
from plugins.segmentation.heads import ridge
from plugins.segmentation.heads.pixels import Pixels
from plugins.segmentation.inference.fit import frequencies, pixels_of, read
from plugins.segmentation.request import ChooseRequest, ChooseResult

ALL = "all"


class Choice(NamedTuple):
    """Blocks and steps that are read together.

    Args:
        block: its name, or `ALL`.
        step: the noise level, or `ALL`.
        columns: of the features.
    """

    block: str
    step: str
    columns: Int64[Tensor, " k"]


def choose(
    request: ChooseRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> ChooseResult:
    """Compare blocks and steps on labelled images and write ``metrics.json`` into `out`.

    Raises:
        InputError: as `fit`, or fewer than two labelled images.
    """
    labelled = read(request.images, request.labels)
    if len(labelled.files) < 2:
        raise InputError(
            f"{request.images}: one image has a mask; expected two at least, as each is segmented "
            "by a classifier of others"
        )
    features = Diffusion(
        machine or Machine(), checkpoint=request.checkpoint, blocks=request.blocks,
        steps=request.steps, seed=request.seed,
    )  # fmt: skip
    pixels, image = pixels_of(
        labelled, features, request.tiling, most=request.pixels, seed=request.seed, emit=emit
    )
    # A sampled pixel stands for as many as its class has for each that was sampled.
    every = frequencies(labelled.masks, pixels.classes)
    rate = every / torch.bincount(pixels.labels, minlength=pixels.classes).clamp(min=1)
    choices = choices_of(features.blocks, request.steps, features.channels)
    counts = [
        confusions(pixels, image, one.columns, rate, len(labelled.files), request.folds)
        for one in choices
    ]
    evaluation = _evaluation(request, choices, counts, labelled.names)
    best = max(choices, key=lambda one: evaluation.means()[_name(one)]["miou"])
    return ChooseResult(
        evaluation.write(make_folder(out)),
        features.blocks if best.block == ALL else (best.block,),
        request.steps if best.step == ALL else (int(best.step),),
        evaluation.means()[_name(best)]["miou"],
    )


def choices_of(
    blocks: Sequence[str], steps: Sequence[int], channels: Sequence[int]
) -> list[Choice]:
    """Each block and all of them, at each step and at all of them.

    Args:
        blocks: names.
        steps: noise levels.
        channels: of each block at the first step, then at the next.
    """
    ends = torch.tensor(channels).cumsum(0)
    parts = {
        (block, str(step)): torch.arange(int(end) - width, int(end))
        for (step, block), end, width in zip(
            ((s, b) for s in steps for b in blocks), ends, channels, strict=True
        )
    }
    rows = [*blocks, ALL] if len(blocks) > 1 else list(blocks)
    across = [*map(str, steps), ALL] if len(steps) > 1 else list(map(str, steps))
    return [
        Choice(row, column, torch.cat([
            part for (block, step), part in parts.items()
            if row in (block, ALL) and column in (step, ALL)
        ]))
        for row in rows for column in across
    ]  # fmt: skip


def confusions(
    pixels: Pixels,
    image: Int64[Tensor, " n"],
    columns: Int64[Tensor, " k"],
    rate: Float[Tensor, " classes"],
    images: int,
    folds: int,
) -> Int64[Tensor, " images classes classes"]:
    """Confusion of each image by a linear classifier of the images of other folds.

    Args:
        pixels: labelled.
        image: of each pixel.
        columns: features that are read.
        rate: pixels that one of a class stands for.
        images: number of images.
        folds: parts that they are divided into.
    """
    x, classes = pixels.features[:, columns], pixels.classes
    part = image % min(folds, images)
    found = torch.empty_like(pixels.labels)
    for fold in part.unique().tolist():
        learned, tested = part != fold, part == fold
        head = ridge.fit(Pixels(x[learned], pixels.labels[learned], pixels.fold[learned], classes))
        often = rate * torch.bincount(pixels.labels[learned], minlength=classes)
        head = head.at_frequencies(often.round().long())
        found[tested] = (x[tested] @ head.weight.T + head.bias).argmax(1)
    at = (image * classes + pixels.labels) * classes + found
    counts = torch.bincount(at, minlength=images * classes**2).view(images, classes, classes)
    return (counts * rate[:, None]).round().long()


def _name(choice: Choice) -> str:
    return f"{choice.block} at {choice.step}"


def _evaluation(
    request: ChooseRequest,
    choices: Sequence[Choice],
    counts: Sequence[Tensor],
    names: tuple[str, ...],
) -> Evaluation:
    rows = {
        _name(one): {"miou": pooled(each, names)["miou"]}
        for one, each in zip(choices, counts, strict=True)
    }
    reference = _name(choices[-1])
    lines: dict[str, list[list[float]]] = {}
    for one in choices:
        if one.step != ALL:
            cell = rows[_name(one)]["miou"]
            lines.setdefault(one.block, []).append([int(one.step), cell.mean])
    chart = {
        "title": "Mean IoU over steps",
        "x": {"label": "step of 1000"},
        "y": {"label": "mean IoU"},
        "series": [{"label": block, "points": points} for block, points in lines.items()],
    }
    return Evaluation(
        task="segmentation/choose",
        dataset={"name": "segmentation/folder", "root": str(request.images)},
        split="train",
        n=len(names),
        sources=names,
        draws=1,
        confidence=CONFIDENCE,
        interval=INTERVAL.format(draws=DRAWS),
        figures={"miou": Figure("Mean IoU", "", "higher")},
        reference=reference,
        methods={name: Row("model", row) for name, row in rows.items()},
        differences={
            _name(one): {"miou": pooled(each, names, less=counts[-1])["miou"]}
            for one, each in zip(choices, counts, strict=True)
            if _name(one) != reference
        },
        charts=[chart],
    )
