"""The three runs, from a frozen request to a frozen result: train, sample, evaluate.

Commands, pipelines, tests and the plug-ins' own scripts all call these.  Each writes only below
its `out` folder; `train` goes on from the checkpoints it finds there.
"""

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core import checkpoint, files
from core.checkpoint import CheckpointError
from core.config import Spec, bind, configure, plain
from core.data import Dataset, collate, order
from core.ema import WIDTHS, Average, PowerAverage, save_snapshot
from core.errors import InputError
from core.guided import guided
from core.metrics import INTERVAL, interval
from core.model import device_of, load_model, network_of, objective_of
from core.process.noise import Brownian, Noise, derive
from core.request import (
    Emit,
    EvaluateRequest,
    EvaluateResult,
    Machine,
    Note,
    Progress,
    SampleRequest,
    SampleResult,
    TrainRequest,
    TrainResult,
    silent,
)
from core.sampler.sample import prior
from core.sampler.sample import sample as integrate
from core.task import Example, Task
from core.train import Learner, Step, fit, learning_rate, without_condition

STATE_FORMAT = 1


def make_folder(out: Path) -> Path:
    """`out`, made and found writable.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{out}: cannot write there: {error.strerror}; choose another output folder"
        ) from error
    return out


# --- train ------------------------------------------------------------------------------------


def train(
    request: TrainRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> TrainResult:
    """Train, going on from the newest whole checkpoint in `out` if there is one.

    The same request in another folder gives the same weights, bit for bit, on the same device and
    number of threads, however often it was interrupted.

    Args:
        request: what to train.
        out: ``checkpoints/``, ``averages/`` and ``metrics.jsonl`` go there.
        machine: where to run.
        emit: hears of progress.

    Raises:
        InputError: any part or option is wrong, `out` is not writable, or it holds a run of
            another request.
        NotFinite: the loss is no longer a number; the last checkpoint is whole.
    """
    start, machine = time.perf_counter(), machine or Machine()
    request = bind(TrainRequest, plain(request))  # every option stated and checked
    device = device_of(machine)
    task: Task = configure("task", request.task)()
    learner = _learner(request, task, device)
    dataset: Dataset = configure("dataset", request.dataset)("train")
    make_folder(out)
    state = {"format": STATE_FORMAT, "request": plain(request), "data": dataset.digest()}
    saved = _resume(out, state, learner, emit)

    def prepare(step: int, indices: list[int]) -> tuple[Example, Noise]:
        batch = {k: v.to(device) for k, v in collate(dataset, indices).items()}
        noise = Noise.of(request.seed, "train", step, each=range(len(indices)))
        return without_condition(task.prepare(batch), noise, request.unconditional), noise

    def save(step: int) -> None:
        checkpoint.save(out / "checkpoints", step, learner.tensors(), state)

    batches = order(request.seed, len(dataset), request.batch, start=saved)
    wanted = takewhile(lambda batch: batch[0] < request.steps, batches)
    steps = fit(learner, wanted, prepare, _rate(request), clip=request.clip)
    if request.snapshots:
        steps = _with_snapshots(steps, learner, request, out / "averages")
    loss = _follow(steps, request, saved, out / "metrics.jsonl", machine, save, emit)
    return TrainResult(
        checkpoint=out / "checkpoints",
        steps=request.steps,
        loss=loss,
        parameters=sum(p.numel() for p in learner.network.parameters()),
        seconds=time.perf_counter() - start,
    )


def _learner(request: TrainRequest, task: Task, device: torch.device) -> Learner:
    objective = objective_of(request)
    network = network_of(request, task, objective.outputs).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=request.lr, weight_decay=request.weight_decay
    )
    powers = tuple(PowerAverage(network, width) for width in WIDTHS) if request.snapshots else ()
    return Learner(network, objective, optimizer, Average(network, request.ema), powers)


def _with_snapshots(
    steps: Iterable[Step], learner: Learner, request: TrainRequest, folder: Path
) -> Iterator[Step]:
    """The same steps; averages are on disk before a checkpoint can say that they are."""
    for step in steps:
        if step.step % request.snapshots == 0 or step.step == request.steps:
            save_snapshot(folder, step.step, learner.powers)
        yield step


def _rate(request: TrainRequest) -> Callable[[int], float]:
    return lambda step: learning_rate(
        step, peak=request.lr, warmup=request.warmup, steps=request.steps, decay=request.decay
    )


def _resume(
    out: Path,
    state: dict[str, Any],
    learner: Learner,
    emit: Emit,
) -> int:
    """Steps already taken in `out`, with the learner put where it was."""
    folder = out / "checkpoints"
    if not checkpoint.is_started(folder):
        return 0
    try:
        saved = checkpoint.load(folder)
    except CheckpointError as error:
        emit(Note(text=f"{error}; starting from the beginning"))
        return 0
    before, now = saved.state.get("request", {}), state["request"]
    changed = sorted(name for name in now if before.get(name) != now[name])
    if saved.state.get("data") != state["data"]:
        changed.append("the data")
    if changed:
        raise CheckpointError(
            f"{out}: holds a run that differs in {', '.join(changed)}; "
            "choose another output folder or remove this one"
        )
    for damage in saved.passed_over:
        emit(Note(text=f"passed over a damaged checkpoint: {damage}"))
    learner.load(saved.tensors)
    emit(Note(text=f"going on from step {saved.step} ({saved.path.name})"))
    return saved.step


def _follow(
    steps: Iterable[Step],
    request: TrainRequest,
    taken: int,
    log: Path,
    machine: Machine,
    save: Callable[[int], None],
    emit: Emit,
) -> float:
    """Log, report and save while the loop runs; the mean loss of the last tenth of all steps."""
    _forget_after(log, taken)
    recent: deque[Step] = deque(maxlen=50)
    every = max(1, request.steps // 2000)
    last_save = last_news = time.monotonic()
    gathered: list[Step] = []
    with log.open("a", buffering=1) as file:
        for step in steps:
            recent.append(step)
            gathered.append(step)
            now, rate = time.monotonic(), len(recent) / sum(s.seconds for s in recent)
            finished = step.step == request.steps
            if step.step % every == 0 or finished:
                file.write(json.dumps(_line(gathered, rate)) + "\n")
                gathered = []
            if now - last_save >= machine.save_seconds or finished:
                save(step.step)
                last_save = time.monotonic()
            if now - last_news >= 0.25 or finished:
                mean = sum(s.loss for s in recent) / len(recent)
                emit(
                    Progress(
                        done=step.step,
                        total=request.steps,
                        unit="step",
                        rate=rate,
                        figures={"loss": mean},
                    )
                )
                last_news = now
    late = [row["loss"] for row in _rows(log) if row["step"] > 0.9 * request.steps]
    return sum(late) / len(late)


def _line(steps: list[Step], rate: float) -> dict[str, float | int]:
    return {
        "step": steps[-1].step,
        "loss": sum(s.loss for s in steps) / len(steps),
        "gradient": steps[-1].gradient,
        "lr": steps[-1].lr,
        "rate": rate,
        "seconds": sum(s.seconds for s in steps),
    }


def _rows(log: Path) -> list[dict[str, Any]]:
    rows = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the line that a crash cut short
            break
    return rows


def _forget_after(log: Path, step: int) -> None:
    """Drop what was logged after the checkpoint that training goes on from."""
    kept = [json.dumps(row) for row in _rows(log) if row["step"] <= step]
    log.write_text("".join(line + "\n" for line in kept))


# --- sample -----------------------------------------------------------------------------------


def sample(
    request: SampleRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> SampleResult:
    """Draw `samples` results for each of the first `count` items of a dataset's split.

    Args:
        request: what to draw.
        out: ``samples.safetensors`` and ``samples.json`` go there.
        machine: where to run.
        emit: hears of progress.

    Raises:
        InputError: as `load_model`; or the dataset has fewer items than wanted.
    """
    from safetensors.torch import save_file

    start = time.perf_counter()
    request = bind(SampleRequest, plain(request))
    model = load_model(
        request.checkpoint, machine=machine, ema=request.ema, ema_width=request.ema_width
    )
    for note in model.notes:
        emit(Note(text=note))
    spec = request.dataset or model.request.dataset
    dataset: Dataset = configure("dataset", spec)(request.split)
    count = request.count or len(dataset)
    if count > len(dataset):
        raise InputError(
            f"count: {count} wanted, {spec.name} has {len(dataset)} in {request.split}"
        )
    make_folder(out)
    denoise = guided(model, request, emit)
    pairs = [(item, draw) for item in range(count) for draw in range(request.samples)]
    drawn, done, begun = [], 0, time.monotonic()
    solver = configure("sampler", request.sampler)()
    grid = configure("grid", request.grid)(model.process)
    for chunk in (pairs[i : i + request.batch] for i in range(0, len(pairs), request.batch)):
        batch = collate(dataset, [item for item, _ in chunk])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        seeds = [derive(request.seed, "sample", f"{item}/{draw}") for item, draw in chunk]
        noise = Brownian(seeds) if request.noise == "brownian" else Noise(seeds)
        example = model.task.prepare(batch)
        x = prior(model.process, grid, example.x0, noise)
        x0 = integrate(denoise, model.process, grid, solver, x, noise, example.condition)
        drawn.append(model.task.finish(x0, batch).cpu())
        done += len(chunk)
        rate = done / (time.monotonic() - begun)
        emit(Progress(done=done, total=len(pairs), unit="draw", rate=rate, figures={}))
    results = torch.cat(drawn).unflatten(0, (count, request.samples)).contiguous()
    save_file({"samples": results}, out / "samples.safetensors")
    about = {
        "format": STATE_FORMAT,
        "task": plain(model.request.task),
        "dataset": plain(spec),
        "data": dataset.digest(),
        "split": request.split,
        "seed": request.seed,
        "items": [{"name": dataset.name(i), "source": dataset.source(i)} for i in range(count)],
        "sampler": plain(request.sampler),
        "grid": plain(request.grid),
        "checkpoint_step": int(_digits(model.checkpoint.name)),
    }
    files.write_json(out / "samples.json", about)
    return SampleResult(
        samples=out, items=count, draws=request.samples, seconds=time.perf_counter() - start
    )


def _digits(name: str) -> str:
    return re.sub(r"\D", "", name) or "0"


# --- evaluate ---------------------------------------------------------------------------------


def evaluate(
    request: EvaluateRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> EvaluateResult:
    """Score samples against the items they were drawn for, and picture some.

    Args:
        request: what to score.
        out: ``metrics.json`` and ``pictures/`` go there.
        machine: where to run.
        emit: hears of progress.

    Raises:
        InputError: no samples there, or the dataset has changed since they were drawn.
    """
    start = time.perf_counter()
    request = bind(EvaluateRequest, plain(request))
    device_of(machine or Machine())
    results, about = _read_samples(request.samples)
    task_spec, data_spec = Spec.parse(about["task"]), Spec.parse(about["dataset"])
    task: Task = configure("task", task_spec)()
    dataset: Dataset = configure("dataset", data_spec)(about["split"])
    if dataset.digest() != about["data"]:
        raise InputError(
            f"{request.samples}: drawn for other data than {data_spec.name} holds now; draw again"
        )
    make_folder(out)
    values: dict[str, dict[str, list[float]]] = {}
    count, size = len(results), 8
    for first in range(0, count, size):
        chosen = list(range(first, min(first + size, count)))
        scores = task.score(results[chosen], collate(dataset, chosen))
        for method, named in scores.items():
            for figure, numbers in named.items():
                values.setdefault(method, {}).setdefault(figure, []).extend(numbers.tolist())
        emit(Progress(done=chosen[-1] + 1, total=count, unit="item", figures={}))
    sources = [item["source"] for item in about["items"]]
    report = _summary(request, task, task_spec, about, values, sources, results.shape[1])
    report["panels"] = _pictures(request, task, dataset, results, about, out)
    files.write_json(out / "metrics.json", report)
    return EvaluateResult(
        metrics=out / "metrics.json",
        scores={
            m: {f: v["mean"] for f, v in named.items()} for m, named in report["methods"].items()
        },
        seconds=time.perf_counter() - start,
    )


def _read_samples(place: Path) -> tuple[Tensor, dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        about = json.loads((place / "samples.json").read_text())
        results = load_file(place / "samples.safetensors")["samples"]
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise InputError(f"{place}: no samples that `sample` wrote: {error}") from error
    return results, about


def _summary(
    request: EvaluateRequest,
    task: Task,
    task_spec: Spec,
    about: dict[str, Any],
    values: dict[str, dict[str, list[float]]],
    sources: list[str],
    draws: int,
) -> dict[str, Any]:
    def mean(numbers: list[float]) -> dict[str, Any]:
        return plain(interval(numbers, sources, confidence=request.confidence))

    reference = values[task.reference]
    differences = {
        method: {
            figure: mean([a - b for a, b in zip(numbers, reference[figure], strict=True)])
            for figure, numbers in named.items()
        }
        for method, named in values.items()
        if method != task.reference
    }
    return {
        "format": STATE_FORMAT,
        "task": task_spec.name,
        "dataset": about["dataset"],
        "split": about["split"],
        "n": len(sources),
        "sources": list(dict.fromkeys(sources)),
        "draws": draws,
        "confidence": request.confidence,
        "interval": INTERVAL.format(draws=4000),
        "metrics": {name: plain(figure) for name, figure in task.figures.items()},
        "reference": task.reference,
        "methods": {m: {f: mean(v) for f, v in named.items()} for m, named in values.items()},
        "differences": differences,
    }


def _pictures(
    request: EvaluateRequest,
    task: Task,
    dataset: Dataset,
    results: Tensor,
    about: dict[str, Any],
    out: Path,
) -> list[dict[str, Any]]:
    """Panels of items spread evenly over the set, written as PNG."""
    from PIL import Image

    wanted = min(request.pictures, len(results))
    chosen = [round(i * (len(results) - 1) / max(1, wanted - 1)) for i in range(wanted)]
    if not chosen:
        return []
    folder = make_folder(out / "pictures")
    titles = [about["items"][i]["name"] for i in chosen]
    panels = []
    for number, panel in enumerate(task.show(results[chosen], collate(dataset, chosen), titles)):
        images = []
        for place, (label, pixels) in enumerate(panel.images.items()):
            name = f"{number:03d}-{place}.png"
            Image.fromarray(pixels.squeeze()).save(folder / name)
            height, width = pixels.shape[:2]
            images.append(
                {"label": label, "file": f"pictures/{name}", "width": width, "height": height}
            )
        panels.append({"title": panel.title, "images": images})
    return panels
