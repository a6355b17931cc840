"""A checkpoint's defaults of drawing, chosen on held-out images."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data import collate, open_dataset
from core.errors import InputError
from core.model import Model, guided_by_default, load_model
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
from plugins.image2image.tasks.multitask import MultiTask
from plugins.image2image.tasks.restoration import MOST, Restoration

NEAR = 0.02  # dB: a choice that costs less and is this near to the best one is taken


@dataclass(frozen=True)
class Choice:
    """A combination, what it gave and what it costs.

    Args:
        drawing: steps, number of draws and detail.
        psnr: mean over the images, in dB.
        calls: network calls for an image.
    """

    drawing: Drawing
    psnr: float
    calls: int


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
        InputError: a model of no restoration task or of several, or images that do not fit.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    request = bind(ChooseRequest, plain(request))
    model = guided_by_default(load_model(request.checkpoint, machine=machine, emit=emit), emit=emit)
    task = model.task
    if not isinstance(task, Restoration) or isinstance(task, MultiTask):
        raise InputError(
            f"{request.checkpoint}: trained for {model.request.task.name}; expected a model of one "
            "restoration task, such as image2image/sr3"
        )
    make_folder(out)
    found: dict[Drawing, list[float]] = {}
    reference: list[float] = []
    items = _items(request, model)
    count = counter(emit, len(items), "image")
    for done, item in enumerate(items, start=1):
        batch = {name: value.to(model.device) for name, value in item.items()}
        reference.append(_psnr(task.written(task.base(batch), batch), batch))
        for drawing, result in _results(request, model, batch):
            found.setdefault(drawing, []).append(_psnr(task.written(result, batch), batch))
        count(done)
    choices = [Choice(each, float(np.mean(of)), cost(each)) for each, of in found.items()]
    chosen = best(choices)
    _write(out / "choices.json", choices, chosen, reference)
    sampling = asdict(chosen.drawing)
    checkpoint.copy(model.checkpoint, out / "checkpoints", {"sampling": sampling})
    return ChooseResult(
        checkpoint=out / "checkpoints", metrics=out / "choices.json", **sampling,
        psnr=chosen.psnr, reference=float(np.mean(reference)),
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


def _items(request: ChooseRequest, model: Model) -> list[Batch]:
    """Held-out items, spread evenly."""
    dataset = open_dataset(request.dataset or model.request.dataset, request.split, model.task)
    count = min(request.count, len(dataset))
    numbers = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    return [collate(dataset, [int(number)]) for number in numbers]


def _results(
    request: ChooseRequest, model: Model, batch: Batch
) -> Iterator[tuple[Drawing, Float[Tensor, " 1 3 h w"]]]:
    """Every combination with its result: the draws of a number of steps are made once."""
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


def _psnr(written: Float[Tensor, " 1 3 h w"], batch: Batch) -> float:
    return float(psnr(written, batch["image"]).clamp(max=MOST))


def _write(
    path: Path, choices: Sequence[Choice], chosen: Choice, reference: Sequence[float]
) -> None:
    """The table of all combinations, best first."""
    ordered = sorted(choices, key=lambda choice: -choice.psnr)
    table = {
        "chosen": asdict(chosen),
        "images": len(reference),
        "reference": {"psnr": float(np.mean(reference))},
        "choices": [asdict(choice) for choice in ordered],
    }
    write_json(path, table)
