"""Enlargements of held-out pictures by two models in turn, as samples that can be scored."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from core.data import collate, open_dataset
from core.model import load_model
from core.parts.config import bind, configure, plain
from core.parts.registry import Spec
from core.process.noise import derive
from core.request import Emit, Machine, Note, Progress, SampleResult, silent
from core.results import samples
from core.storage.files import make_folder
from plugins.image2image.inference.draws import How, cascade
from plugins.image2image.request import CascadeRequest
from plugins.image2image.tasks.super_resolution import SR3


def sample(
    request: CascadeRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> SampleResult:
    """Draw enlargements through both models, from the 8-bit reduction by the whole factor.

    Args:
        request: what to draw, by which models.
        out: what `core.runs.sample` writes, as of one model for the whole factor.
        machine: where to run.
        emit: hears of progress.

    Raises:
        InputError: a part or option is wrong, a model of another task, or pictures whose sides are
            no multiples of the factor.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    request = bind(CascadeRequest, plain(request))
    places = ((request.checkpoint, 0.0), (request.then, request.level))
    models = [
        (load_model(place, machine=machine, task="image2image/sr3"), level)
        for place, level in places
    ]
    for model, _ in models:
        for note in model.notes:
            emit(Note(text=note))
    first = models[0][0]
    factor = math.prod(cast(SR3, model.task).scale for model, _ in models)
    options = {"scale": factor, "back_projections": request.back_projections}
    task = Spec("image2image/sr3", options)
    whole = configure("task", task)()
    dataset = open_dataset(request.dataset, request.split, whole)
    about = {
        **samples.described(task, request.dataset, dataset, request.split, request.count),
        "seed": request.seed,
        "level": request.level,
        "sampler": plain(request.sampler),
        "grid": plain(request.grid),
    }
    make_folder(out)
    grid = configure("grid", request.grid)(first.process)
    how = How(solver=configure("sampler", request.sampler)(), grid=grid, draws=request.samples)
    results, begun, count = [], time.monotonic(), len(about["items"])
    for item in range(count):
        batch = collate(dataset, [item])
        drawn = replace(how, seed=derive(request.seed, "cascade", item))
        pictures = cascade(models, whole.low(batch).to(first.device), drawn)
        results += [whole.agree(picture.cpu(), batch).clamp(-1, 1) for picture in pictures]
        rate = (item + 1) / (time.monotonic() - begun)
        emit(Progress(done=item + 1, total=count, unit="item", rate=rate, figures={}))
    samples.write(out, torch.cat(results), about, whole, dataset)
    return SampleResult(
        samples=out, items=count, draws=request.samples, seconds=time.perf_counter() - start
    )
