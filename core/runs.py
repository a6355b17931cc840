"""The three runs, from a frozen request to a frozen result: train, sample, evaluate.

Commands, pipelines, tests and the plug-ins' own scripts all call these.  Each writes only below
its `out` folder; `train` resumes from the checkpoints it finds there.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.data import Dataset, check_classes, collate, open_dataset
from core.model import Model, corrected, device_of, for_task, guidance_of, guided, load_model
from core.network.predict_refine import with_estimate
from core.parts.config import bind, configure, plain
from core.process.noise import seed_of, source
from core.progress import counter
from core.request import (
    Emit,
    EvaluateRequest,
    EvaluateResult,
    Machine,
    SampleRequest,
    SampleResult,
    TrainRequest,
    TrainResult,
    silent,
)
from core.results import samples
from core.results.evaluation import Evaluation
from core.results.panels import write_panels
from core.results.sheet import TOGETHER
from core.results.summary import finite_figures, summarised
from core.sampler.sample import prior
from core.sampler.sample import sample as integrate
from core.storage.files import make_folder, output_folder
from core.task import Kind, ShownTogether, Task
from core.training.distributed import PeerError, World, process_group
from core.training.journal import journal
from core.training.preparation import Run, prepare_run
from core.training.rehearsal import check_scores, rehearse
from core.training.run import resume, save, train_to_end
from core.training.state import TrainingState
from core.training.stopping import Stopped, catch_signals, raise_caught_signal, stop_request

# --- train ------------------------------------------------------------------------------------


def train(
    request: TrainRequest,
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
    stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train, resuming from the newest whole checkpoint in `out` if there is one.

    The same request in another folder gives the same weights, bit for bit, on the same device and
    number of threads, however often it was interrupted.  Under ``torchrun``, or inside a process
    group, every process calls this and they share each batch; the first one writes.

    SIGINT, SIGTERM and SIGHUP, a file named STOP in `out`, or `stop` end it between two
    micro-batches with a checkpoint written; a second signal ends it at once.

    Args:
        request: the training request.
        out: ``checkpoints/``, ``averages/`` and ``metrics.jsonl`` go there.
        machine: where to run.
        emit: called with progress.
        stop: asked at every micro-batch whether to stop.

    Raises:
        InputError: any part or option is wrong, `out` is not writable, it holds a run of another
            request, or one sample is too much for the memory.
        NotFinite: the loss is no longer a number; the last checkpoint is whole.
        Stopped: asked to stop, without a signal or with a handler that returned.
    """
    start, machine = time.perf_counter(), machine or Machine()
    request = bind(TrainRequest, plain(request))  # every option stated and checked
    device = device_of(machine)
    try:
        with process_group(device) as world:
            run, state, loss = _trained(request, out, machine, device, world, emit, stop)
    except Stopped as stopped:
        raise_caught_signal(stopped)
        raise
    best = state.validation.best_step if state.validation.best is not None else state.step
    return TrainResult(
        checkpoint=out / "checkpoints",
        best=out / "checkpoints" / f"step-{best:08d}",
        steps=state.step,
        loss=loss,
        parameters=run.facts.parameters,
        seconds=time.perf_counter() - start,
    )


def _trained(
    request: TrainRequest,
    out: Path,
    machine: Machine,
    device: torch.device,
    world: World,
    emit: Emit,
    stop: Callable[[], bool] | None,
) -> tuple[Run, TrainingState, float]:
    """The run, its last state and its late loss, in each of the processes that share it."""
    listener = emit if world.first else silent
    try:
        with output_folder(out):
            run = world.barrier_after(
                lambda: prepare_run(request, out, machine, device, world, listener)
            )
            state = resume(run)
            with (
                journal(out, request.steps, taken=state.step, tensorboard=machine.tensorboard,
                        writes=world.first) as record,
                catch_signals() as signals,
            ):  # fmt: skip
                if state.step == 0 and request.on_nan == "rollback":
                    save(run, record, state)  # the checkpoint of a first rollback
                state = train_to_end(run, record, stop_request(signals, out, stop), state)
                return run, state, world.broadcast(record.late_loss(state.step))
    except PeerError:
        raise
    except Exception:
        world.report_failure()
        raise


# --- sample -----------------------------------------------------------------------------------


def sample(
    request: SampleRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> SampleResult:
    """Draw `samples` results for each of the first `count` items of a dataset's split.

    Args:
        request: the sampling request.
        out: ``samples.safetensors`` and ``samples.json`` go there, and ``sheet.png`` where the task
            shows pictures.
        machine: where to run.
        emit: called with progress.

    Raises:
        InputError: as `load_model`; or the dataset has too few items, or a draw is not finite.
        StorageError: the disk is full or not writable.
    """
    start = time.perf_counter()
    request = bind(SampleRequest, plain(request))
    model = load_model(
        request.checkpoint,
        machine=machine,
        ema=request.ema,
        ema_width=request.ema_width,
        emit=emit,
    )
    if request.task is not None:
        model = for_task(model, request.task)
    spec = request.dataset or model.request.dataset
    dataset = open_dataset(spec, request.split, model.task)
    about = {
        **samples.described(model.request.task, spec, dataset, request.split, request.count),
        "seed": request.seed,
        "sampler": plain(request.sampler),
        "grid": plain(request.grid),
        "guidance": plain(guidance_of(model, request)),
        "checkpoint_step": model.step,
    }
    rehearse(model.task, dataset, scored=False, emit=emit)
    items = range(len(about["items"]))
    pairs = [(item, draw) for item in items for draw in range(request.samples)]
    chunks = [pairs[i : i + request.batch] for i in range(0, len(pairs), request.batch)]
    chunks = samples.chunks_of_part(chunks, request.part, request.parts)
    with output_folder(out):
        results = _draw(request, model, dataset, chunks, emit)
        if request.parts > 1:
            samples.write_part(out, results, about, request.part, request.parts)
        else:
            samples.write(out, results, about, model.task, dataset)
    return SampleResult(
        samples=out,
        items=len({item for chunk in chunks for item, _ in chunk}),
        draws=request.samples,
        seconds=time.perf_counter() - start,
    )


def _draw(
    request: SampleRequest,
    model: Model,
    dataset: Dataset,
    chunks: list[list[tuple[int, int]]],
    emit: Emit,
) -> Float[Tensor, " draws *shape"]:
    """Draw the pairs (item, draw) of `chunks`, one chunk at a time."""
    denoise = guided(model, request, emit)
    solver = configure("sampler", request.sampler)()
    grid = configure("grid", request.grid)(model.process)
    drawn, done, progress = [], 0, counter(emit, sum(map(len, chunks)), "draw")
    for chunk in chunks:
        batch = collate(dataset, [item for item, _ in chunk])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        seeds = [seed_of(request.seed, "sample", item, draw) for item, draw in chunk]
        noise = source(request.noise, seeds)
        example = model.task.prepare(batch)
        check_classes(example, model.task, lambda i, chunk=chunk: dataset.name(chunk[i][0]))
        x = prior(model.process, grid, example.x0, noise)
        asked = corrected(denoise, model.task, batch)
        condition = with_estimate(model.network, example.condition)
        x0 = integrate(asked, grid, solver, x, noise, condition)
        results = model.task.finish(x0, batch).cpu()
        samples.check_finite(
            results, lambda i, c=chunk: f"{dataset.name(c[i][0])}, draw {c[i][1] + 1}"
        )
        drawn.append(results)
        done += len(chunk)
        progress(done)
    return torch.cat(drawn)


# --- evaluate ---------------------------------------------------------------------------------


def evaluate(
    request: EvaluateRequest, out: Path, *, machine: Machine | None = None, emit: Emit = silent
) -> EvaluateResult:
    """Score samples against the items they were drawn for, and picture some.

    Args:
        request: the evaluation request.
        out: ``metrics.json`` and ``pictures/`` go there.
        machine: where to run.
        emit: called with progress.

    Raises:
        InputError: no samples there, some that are not finite, or the dataset has changed since
            they were drawn.
    """
    start = time.perf_counter()
    request = bind(EvaluateRequest, plain(request))
    device_of(machine or Machine())
    drawn = samples.read(request.samples)
    with output_folder(out):
        found = _evaluated(request, drawn, out, emit)
        metrics = found.write(out)
    return EvaluateResult(
        metrics=metrics,
        scores=found.means(),
        seconds=time.perf_counter() - start,
    )


def _evaluated(
    request: EvaluateRequest, drawn: samples.Samples, out: Path, emit: Emit
) -> Evaluation:
    """Every method's scores, with intervals, and the panels; pictures are written."""
    results, about, task, dataset = drawn.results, drawn.about, drawn.task, drawn.dataset
    values: dict[str, dict[str, list[float]]] = {}
    kinds: dict[str, Kind] = {}
    count, size = len(results), 8
    progress = counter(emit, count, "item")
    for first in range(0, count, size):
        chosen = list(range(first, min(first + size, count)))
        scores = task.score(results[chosen], collate(dataset, chosen))
        for name, method in check_scores(task, scores, len(chosen)).items():
            kinds[name] = method.kind
            for figure, numbers in method.figures.items():
                values.setdefault(name, {}).setdefault(figure, []).extend(numbers.tolist())
        progress(chosen[-1] + 1)
    found = summarised(
        finite_figures(values, about, emit),
        about,
        figures=task.figures,
        reference=task.reference,
        draws=results.shape[1],
        confidence=request.confidence,
        kinds=kinds,
    )
    return replace(found, panels=_pictures(request, task, dataset, results, about, out))


def _pictures(
    request: EvaluateRequest,
    task: Task,
    dataset: Dataset,
    results: Tensor,
    about: Mapping[str, Any],
    out: Path,
) -> list[dict[str, Any]]:
    """Panels of items spread evenly over the set, written as files."""
    count = min(request.pictures, len(results))
    chosen = [round(i * (len(results) - 1) / max(1, count - 1)) for i in range(count)]
    if not chosen:
        return []
    titles = [about["items"][i]["name"] for i in chosen]
    if isinstance(task, ShownTogether):
        every = list(range(min(TOGETHER, len(results))))
        panels = [task.show_together(results[every], collate(dataset, every))]
    else:
        panels = task.show(results[chosen], collate(dataset, chosen), titles)
    return write_panels(panels, make_folder(out / "pictures"))
