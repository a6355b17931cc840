"""The verb medical/memorisation: nearest training slices of a prior's draws."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data import Dataset, collate, open_dataset
from core.errors import InputError
from core.parts.config import bind, plain
from core.progress import counter
from core.request import Emit, Machine, silent
from core.results import samples
from core.results.panels import write_panels
from core.results.sheet import to_bytes
from core.results.summary import summarised
from core.storage.files import make_folder
from core.task import Figure, Panel
from plugins.medical.request import MemorisationRequest, MemorisationResult
from plugins.medical.tasks.reconstruction import Reconstruction

AT_ONCE = 64
FIGURES = {"nearest": Figure("nearest training slice", "dB", "lower")}
TRUTH, DRAW = "held-out slices", "one sample"


def evaluate(
    request: MemorisationRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> MemorisationResult:
    """Find the training slice nearest to each draw, and to its ground truth.

    A draw much nearer to a training slice than its ground truth is was memorised.  Slices are
    compared pixel by pixel: shifted or rotated copies are not found.
    Source: the nearest neighbour as a test, Carlini et al. 2023, arXiv:2301.13188, section 4.2.

    Args:
        request: samples, and the prior's training dataset.
        out: folder of ``metrics.json`` and images.
        machine: unused.
        emit: receives progress.

    Raises:
        InputError: samples of another task, or training slices of another size.
    """
    begun, request = time.perf_counter(), bind(MemorisationRequest, plain(request))
    read = samples.read(request.samples)
    task = read.task
    if not isinstance(task, Reconstruction):
        raise InputError(f"{request.samples}: expected samples that medical/reconstruct wrote")
    count = len(read.results)
    truth = torch.cat([
        task.picture(collate(read.dataset, [i])["image"]) for i in range(count)
    ])  # fmt: skip
    drawn = task.picture(read.results[:, 0])
    learned = open_dataset(request.learned_from, "train", task)
    both, where = nearest(torch.cat([drawn, truth]), _slices(learned, task, request.count, emit))
    decibels = 10 * (4 / both.clamp(min=1e-12)).log10()
    report = summarised(
        {
            TRUTH: {"nearest": decibels[count:].tolist()},
            DRAW: {"nearest": decibels[:count].tolist()},
        },
        read.about,
        figures=FIGURES,
        reference=TRUTH,
        draws=1,
        confidence=request.confidence,
        kinds={TRUTH: "baseline", DRAW: "draw"},
    )
    make_folder(out)
    panels = [
        Panel(read.about["items"][i]["name"], {
            "one sample": to_bytes(drawn[i]),
            "nearest to it in training": to_bytes(_picture(learned, task, int(where[i]))),
            "truth": to_bytes(truth[i]),
            "nearest to that in training": to_bytes(_picture(learned, task, int(where[count + i]))),
        })
        for i in range(min(request.pictures, count))
    ]  # fmt: skip
    shown = write_panels(panels, make_folder(out / "pictures"))
    return MemorisationResult(
        metrics=replace(report, panels=shown).write(out),
        draws=float(decibels[:count].mean()),
        truth=float(decibels[count:].mean()),
        seconds=time.perf_counter() - begun,
    )


def nearest(
    pictures: Float[Tensor, " n 1 h w"], others: Iterator[Float[Tensor, " m 1 h w"]]
) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """Mean squared error to the nearest of the others, and its index from 0.

    Raises:
        InputError: others of another size.
    """
    rows, first = pictures.double().flatten(1), 0
    best = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    where = torch.zeros(len(rows), dtype=torch.int64)
    for some in others:
        if some.shape[1:] != pictures.shape[1:]:
            raise InputError(
                f"learned_from: expected slices of {pictures.shape[-1]}x{pictures.shape[-2]}, as "
                f"the samples, got {some.shape[-1]}x{some.shape[-2]}; set its size"
            )
        apart = torch.cdist(rows, some.double().flatten(1)).square() / rows.shape[1]
        least, at = apart.min(1)
        where = torch.where(least < best, at + first, where)
        best = torch.minimum(best, least)
        first += len(some)
    return best, where


def _slices(
    learned: Dataset, task: Reconstruction, count: int, emit: Emit
) -> Iterator[Float[Tensor, " m 1 h w"]]:
    total = min(count, len(learned))
    progress = counter(emit, total, "slice")
    for first in range(0, total, AT_ONCE):
        chosen = list(range(first, min(first + AT_ONCE, total)))
        yield task.picture(collate(learned, chosen)["image"])
        progress(chosen[-1] + 1)


def _picture(learned: Dataset, task: Reconstruction, index: int) -> Float[Tensor, "1 h w"]:
    return task.picture(collate(learned, [index])["image"])[0]
