"""The verb `cascade`: held-out images upscaled by two models in turn, as samples to score."""

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
from core.progress import counter
from core.request import Emit, Machine, SampleResult, silent
from core.results import samples
from core.storage.files import make_folder
from plugins.image2image.inference.draws import Sampling, draw_cascade
from plugins.image2image.request import CascadeRequest
from plugins.image2image.tasks.super_resolution import SR3


def sample(
    request: CascadeRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> SampleResult:
    """Draw upscaled images through both models, from the 8-bit reduction by the whole factor.

    Args:
        request: models, dataset, sampler and number of draws.
        out: folder of the samples, as `core.runs.sample` writes them for one model.
        machine: where to run.
        emit: receives progress.

    Raises:
        InputError: a part or option is wrong, a model of another task, or sides of images that are
            not multiples of the factor.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    request = bind(CascadeRequest, plain(request))
    folders = ((request.checkpoint, 0.0), (request.then, request.level))
    models = [
        (load_model(folder, machine=machine, task="image2image/sr3", emit=emit), level)
        for folder, level in folders
    ]
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
    how = Sampling(solver=configure("sampler", request.sampler)(), grid=grid, draws=request.samples)
    results, count = [], len(about["items"])
    progress = counter(emit, count, "item")
    for item in range(count):
        batch = collate(dataset, [item])
        drawn = replace(how, seed=derive(request.seed, "cascade", item))
        pictures = draw_cascade(models, whole.low(batch).to(first.device), drawn)
        results += [
            whole.make_consistent(picture.cpu(), batch).clamp(-1, 1) for picture in pictures
        ]
        progress(item + 1)
    samples.write(out, torch.cat(results), about, whole, dataset)
    return SampleResult(
        samples=out, items=count, draws=request.samples, seconds=time.perf_counter() - start
    )
