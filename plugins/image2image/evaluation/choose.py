"""A checkpoint's defaults of drawing, chosen on held-out images."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data import collate, open_dataset
from core.errors import InputError
from core.model import Model, for_task, guided_by_default, load_model
from core.parts.config import bind, configure, plain
from core.parts.registry import Spec
from core.progress import counter
from core.request import Emit, Machine, silent
from core.results.metrics import psnr
from core.storage import checkpoint
from core.storage.files import make_folder, write_json
from core.task import Batch
from plugins.image2image.inference.draws import Sampling, draw_restorations
from plugins.image2image.request import ChooseRequest, ChooseResult, Drawing
from plugins.image2image.tasks.multiscale import MultiScale
from plugins.image2image.tasks.multitask import MultiTask
from plugins.image2image.tasks.restoration import MOST, Restoration

NEAR = 0.02  # dB: a choice that costs less and is this near to the best one is taken


@dataclass(frozen=True)
class Choice:
    """A combination, what it gave and what it costs.

    Args:
        drawing: steps, number of draws and detail.
        psnr: mean over tasks and images, in dB.
        calls: network calls for an image.
        tasks: mean over the images of each task of the model, in dB.
    """

    drawing: Drawing
    psnr: float
    calls: int
    tasks: Mapping[str, float] = field(default_factory=dict[str, float])


def choose(
    request: ChooseRequest,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
) -> ChooseResult:
    """Choose a model's default of steps, draws and detail on held-out images.

    Args:
        request: the model, the images and the values to try.
        inputs: none.
        out: ``checkpoints``, a copy of the model with its default, and ``choices.json`` go there.
        machine: where to compute.
        emit: called with the number of images drawn.

    Raises:
        InputError: nothing to try, a model of no restoration task, or images that do not fit.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    request = bind(ChooseRequest, plain(request))
    for name in ("steps", "draws", "details"):
        if not getattr(request, name):
            raise InputError(f"{name}: expected at least one value to try, got none")
    model = guided_by_default(load_model(request.checkpoint, machine=machine, emit=emit), emit=emit)
    make_folder(out)
    each_task = _of_each_task(model)
    items = [(name, item) for name, each in each_task.items() for item in _items(request, each)]
    found: dict[Drawing | None, dict[str, list[float]]] = {}
    count = counter(emit, len(items), "image")
    for done, (task, item) in enumerate(items, start=1):
        each = each_task[task]
        batch = {name: value.to(model.device) for name, value in item.items()}
        for drawing, result in _results(request, each, batch):
            of = found.setdefault(drawing, {}).setdefault(task, [])
            of.append(_psnr(each, result, batch))
        count(done)
    reference = {task: float(np.mean(of)) for task, of in found.pop(None).items()}
    choices = [_choice(drawing, of) for drawing, of in found.items() if drawing]
    chosen = best(choices)
    _write(out / "choices.json", choices, chosen, reference, images=len(items))
    sampling = asdict(chosen.drawing)
    checkpoint.copy(model.checkpoint, out / "checkpoints", {"sampling": sampling})
    return ChooseResult(
        checkpoint=out / "checkpoints", metrics=out / "choices.json", **sampling,
        psnr=chosen.psnr, reference=_mean(reference),
        seconds=time.perf_counter() - start,
    )  # fmt: skip


def cost(drawing: Drawing) -> int:
    """Network calls for an image, as of a solver with one call a step."""
    expected = int(drawing.detail < 1)
    return expected + (drawing.steps * drawing.mean_of if drawing.detail > 0 else 0)


def best(choices: Sequence[Choice]) -> Choice:
    """The cheapest of those within `NEAR` of the highest PSNR; of equal cost the better."""
    highest = max(choice.psnr for choice in choices)
    near = [choice for choice in choices if choice.psnr >= highest - NEAR]
    return min(near, key=lambda choice: (choice.calls, -choice.psnr))


def _of_each_task(model: Model) -> dict[str, Model]:
    """The model for its task, or for each of those that it was trained for, by name.

    Raises:
        InputError: it was trained for another kind of task.
    """
    if isinstance(model.task, MultiTask | MultiScale):
        return {name: for_task(model, spec) for name, spec in model.task.specs.items()}
    if not isinstance(model.task, Restoration):
        raise InputError(
            f"{model.checkpoint}: trained for {model.request.task.name}; expected a model of a "
            "restoration task, such as image2image/sr3"
        )
    return {model.request.task.name: model}


def _mean(of: Mapping[str, float]) -> float:
    return float(np.mean(list(of.values())))


def _choice(drawing: Drawing, of: Mapping[str, Sequence[float]]) -> Choice:
    tasks = {task: float(np.mean(quality)) for task, quality in of.items()}
    return Choice(drawing, _mean(tasks), cost(drawing), tasks)


def _items(request: ChooseRequest, model: Model) -> list[Batch]:
    """Held-out items, spread evenly."""
    dataset = open_dataset(request.dataset or model.request.dataset, request.split, model.task)
    count = min(request.count, len(dataset))
    numbers = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    return [collate(dataset, [int(number)]) for number in numbers]


def _results(
    request: ChooseRequest, model: Model, batch: Batch
) -> Iterator[tuple[Drawing | None, Float[Tensor, " 1 3 h w"]]]:
    """Every combination with its result, whose draws are made once; None: the first estimate."""
    task = model.task
    assert isinstance(task, Restoration), "so it was chosen"
    yield None, task.base(batch)
    solver = configure("sampler", request.sampler)()
    few, many = min(request.steps), max(request.draws)

    def sampling(steps: int) -> Sampling:
        grid = configure("grid", Spec("core/uniform_time", {"steps": steps}))(model.process)
        return Sampling(solver=solver, grid=grid, seed=request.seed, draws=many)

    expected = next(draw_restorations(model, batch, replace(sampling(few), draws=1, detail=0.0)))
    if 0 in request.details:
        yield Drawing(steps=few, detail=0.0), expected
    details = [detail for detail in request.details if detail > 0]
    for steps in request.steps if details else ():
        draws = torch.cat(list(draw_restorations(model, batch, sampling(steps))))
        for number, detail in itertools.product(request.draws, details):
            mean = draws[:number].mean(0, keepdim=True)
            drawing = Drawing(steps=steps, mean_of=number, detail=detail)
            yield drawing, expected + detail * (mean - expected)


def _psnr(model: Model, result: Float[Tensor, " 1 3 h w"], batch: Batch) -> float:
    assert isinstance(model.task, Restoration), "so it was chosen"
    return float(psnr(model.task.written(result, batch), batch["image"]).clamp(max=MOST))


def _write(
    path: Path,
    choices: Sequence[Choice],
    chosen: Choice,
    reference: Mapping[str, float],
    *,
    images: int,
) -> None:
    """The table of all combinations, best first."""
    ordered = sorted(choices, key=lambda choice: -choice.psnr)
    table = {
        "chosen": asdict(chosen),
        "images": images,
        "reference": {"psnr": _mean(reference), "tasks": dict(reference)},
        "choices": [asdict(choice) for choice in ordered],
    }
    write_json(path, table)
