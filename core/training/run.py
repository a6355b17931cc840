"""One run of training: its steps, checkpoints, validations, rollbacks and resumption.

The loop in `core.training.loop` reports each step; this module decides what to write, when to save
and validate, when to roll back and when to end.  The whole state of a run is in its checkpoints.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import takewhile
from typing import Any

from torch import Tensor

from core.data import check_classes
from core.network.ema import save_snapshot
from core.network.upgrade import upgraded
from core.process.noise import Noise, derive
from core.request import Note, Progress
from core.storage import checkpoint, tensor_file
from core.storage.checkpoint import (
    Checkpoint,
    CheckpointError,
    NewerCheckpoint,
    NotFiniteCheckpoint,
)
from core.task import Example
from core.training.batches import batches, order
from core.training.card import card
from core.training.distributed import Status
from core.training.journal import Journal
from core.training.loop import Execution, NotFinite, Step, drop_conditions, fit, learning_rate
from core.training.precision import reproducible
from core.training.preparation import IDENTITY, Run
from core.training.replay import Replay
from core.training.state import TrainingState
from core.training.stopping import ShouldStop, Stopped, remove_stop_file
from core.training.validation import validate

PROGRESS_SECONDS = 0.25  # between two reports of progress
ROLLBACKS = 3  # at most; the next non-finite step ends the run


def train_to_end(
    run: Run, record: Journal, should_stop: ShouldStop, state: TrainingState
) -> TrainingState:
    """Train from a state to the end, rolling back where that is requested; the last state.

    Raises:
        NotFinite: a loss or gradient is not finite, unless `on_nan` handles it; the last checkpoint
            is whole.
        Stopped: a stop was requested; a checkpoint of the current step is on disk.
    """
    while True:
        try:
            return _train(run, record, should_stop, state)
        except NotFinite as error:
            where = f"{run.request.task.name} on {run.request.dataset.name}, {error}"
            if run.request.on_nan != "rollback":
                raise NotFinite(where) from error
            if state.rollbacks == ROLLBACKS:
                raise NotFinite(f"{where}; already rolled back {ROLLBACKS} times") from error
            saved = _newest(run)
            run.learner.load(saved.tensors)
            state = replace(TrainingState.of(saved), rollbacks=state.rollbacks + 1)
            record.truncate(state.step)
            run.emit(
                Note(
                    text=f"{error}; rolled back to step {state.step}, with other draws from there "
                    f"({state.rollbacks} of {ROLLBACKS})"
                )
            )


def _train(
    run: Run, record: Journal, should_stop: ShouldStop, state: TrainingState
) -> TrainingState:
    """Train from a state until the last one, or an exception."""
    request, machine, first = run.request, run.machine, state.step
    last_save = last_report = time.monotonic()
    with closing(_steps(run, state, should_stop)) as steps:
        try:
            for step in () if _is_last(run, state) else steps:
                state = replace(state, step=step.step, skipped=state.skipped + step.skipped)
                record.log(step)
                if request.snapshots and run.world.first:
                    _snapshot(run, step.step)
                state = _validated(run, record, state, step.micro_batch)
                last, now = _is_last(run, state), time.monotonic()
                if last or now - last_save >= machine.save_seconds or _is_new_best(state):
                    save(run, record, state)
                    last_save = time.monotonic()
                if last or now - last_report >= PROGRESS_SECONDS:
                    run.emit(_progress(run, record, state))
                    last_report = now
                if last:
                    break
        except Stopped as stopped:
            if state.step > first:
                save(run, record, state)
            _leave(run)
            if run.world.first:
                remove_stop_file(run.out)
            raise Stopped(state.step, stopped.number) from None
    _leave(run)
    return state


def _leave(run: Run) -> None:
    """Wait for the others, so that all end once the first process has saved."""
    if run.world.all_reduce_max(Status()).not_finite:
        raise NotFinite("the weights are not finite; lower the learning rate")


def _is_last(run: Run, state: TrainingState) -> bool:
    return state.is_last(run.request.steps, run.request.patience)


def _steps(run: Run, state: TrainingState, should_stop: ShouldStop) -> Generator[Step]:
    """The optimiser steps from a state on."""
    request, device, world = run.request, run.device, run.world
    shard = world.shard(request.batch)
    seed = derive(request.seed, "rollback", state.rollbacks) if state.rollbacks else request.seed

    def indices_of(step: int) -> list[int]:
        indices = next(order(seed, len(run.dataset), request.batch, start=step))[1]
        return indices[shard]

    def prepare(step: int, items: Mapping[str, Tensor]) -> tuple[Example, Noise]:
        batch = {name: value.to(device) for name, value in items.items()}
        noise = Noise.of(seed, "train", step, each=range(request.batch))
        example = run.task.prepare(batch)
        check_classes(example, run.task, lambda i: run.dataset.name(indices_of(step)[i]))
        return drop_conditions(example, noise, request.unconditional, shard), noise

    ordered = order(seed, len(run.dataset), request.batch, start=state.step)
    remaining = takewhile(lambda batch: batch[0] < request.steps, ordered)

    def notify(text: str) -> None:
        run.emit(Note(text=text))

    replayed = device.type == "cuda" and run.machine.cuda_graphs and not run.machine.compile
    execution = Execution(
        world=world,
        micro_batch=run.machine.micro_batch,
        precision=request.precision,
        should_stop=should_stop,
        notify=notify,
        replay=Replay(run.learner.network, notify) if replayed else None,
    )
    ahead = batches(
        run.dataset,
        ((step, indices[shard]) for step, indices in remaining),
        workers=run.machine.workers,
    )
    with closing(ahead) as data, reproducible(device):
        yield from fit(
            run.learner,
            data,
            prepare,
            _rate(run),
            clip=request.clip,
            skip=request.on_nan == "skip",
            execution=execution,
        )


def _rate(run: Run) -> Callable[[int], float]:
    r = run.request
    return lambda step: learning_rate(
        step, peak=r.lr, warmup=r.warmup, steps=r.steps, decay=r.decay
    )


def _snapshot(run: Run, step: int) -> None:
    """Averages are on disk before a checkpoint that relies on them."""
    if step % run.request.snapshots == 0 or step == run.request.steps:
        save_snapshot(run.out / "averages", step, run.learner.powers)


def _validated(run: Run, record: Journal, state: TrainingState, micro_batch: int) -> TrainingState:
    """The state after validation, where one is due."""
    if run.held_out is None or state.step % run.request.validate_every:
        return state
    learner = run.learner
    loss = validate(run.held_out, learner.network, learner.average.weights, micro_batch, run.world)
    record.log_validation(state.step, loss)
    state = replace(state, validation=state.validation.updated(state.step, loss))
    if _is_last(run, state) and state.step < run.request.steps:
        run.emit(
            Note(
                text=f"ending at step {state.step}: {state.validation.stale} validations without "
                f"improvement since step {state.validation.best_step}"
            )
        )
    return state


def _is_new_best(state: TrainingState) -> bool:
    return state.validation.best is not None and state.validation.best_step == state.step


def _progress(run: Run, record: Journal, state: TrainingState) -> Progress:
    validation = state.validation.loss
    figures = {"loss": record.loss, "val": validation and validation.mean}
    return Progress(
        done=state.step,
        total=run.request.steps,
        unit="step",
        rate=record.rate,
        figures={name: value for name, value in figures.items() if value is not None},
    )


# --- checkpoints --------------------------------------------------------------------------------


def save(run: Run, record: Journal, state: TrainingState) -> None:
    """Write a checkpoint, with the card beside it, in the first process.

    Raises:
        NotFinite: a weight is not finite; nothing is written.
        StorageError: the disk is full or not writable; older checkpoints are untouched.
    """
    if not run.world.first:
        return
    tensors = run.learner.tensors()
    if any(map(tensor_file.not_finite, tensors.values())):
        run.world.all_reduce_max(Status(not_finite=1))
        raise NotFinite(f"step {state.step}: weights are not finite; lower the learning rate")
    record.sync()
    validation = state.validation
    checkpoint.save(
        run.out / "checkpoints",
        state.step,
        tensors,
        {**run.identity, "shape": run.shape, **state.document()},
        also=(validation.best_step,) if validation.best is not None else (),
        documents={"README.md": card(run.facts, state, record.loss)},
    )


def resume(run: Run) -> TrainingState:
    """Restore the learner from the run in the output folder, if there is one; its state.

    The first process chooses the checkpoint; all read it.

    Raises:
        CheckpointError: the folder holds a run of another request, or of other data or weights.
    """
    first = run.world.first
    found = run.world.barrier_after(lambda: _to_resume(run) if first else None)
    if not run.world.broadcast(0 if found is None else 1):
        return TrainingState()
    saved = _read_by_all(run, found)
    run.learner.load(saved.tensors)
    run.emit(Note(text=f"resuming from step {saved.step} ({saved.path.name})"))
    return TrainingState.of(saved)


def _to_resume(run: Run) -> Checkpoint | None:
    """The newest whole checkpoint of this run, if there is one."""
    folder = run.out / "checkpoints"
    if not checkpoint.is_started(folder):
        return None
    try:
        saved = upgraded(checkpoint.load(folder))
    except (NewerCheckpoint, NotFiniteCheckpoint):
        raise
    except CheckpointError as error:
        run.emit(Note(text=f"{error}; starting from the beginning"))
        return None
    _check_same(run, saved.state)
    for damage in saved.passed_over:
        run.emit(Note(text=f"passed over a damaged checkpoint: {damage}"))
    return saved


def _check_same(run: Run, state: Mapping[str, Any]) -> None:
    before, now = state.get("request", {}), run.identity["request"]
    # `start` is a path: its weights are compared below by their digest; `guidance` is of samples.
    found = _differing(before, now)
    changed = [name for name in found if name.partition(".")[0] not in ("start", "guidance")]
    for name, label in IDENTITY.items():
        if state.get(name, "") != run.identity[name]:
            changed.append(label)
    if changed:
        raise CheckpointError(
            f"{run.out}: holds a run that differs in {', '.join(changed)}; "
            "choose another output folder or remove this one"
        )


def _differing(before: Any, now: Any, at: str = "") -> list[str]:
    """Dotted names of the options that differ between two requests."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [] if before == now else [at]
    if before.get("name") != now.get("name"):
        return [at]  # another part: its options are not comparable
    names = sorted(now.keys() | before.keys())
    each = ((f"{at}.{n}" if at else n, before.get(n), now.get(n)) for n in names)
    return [found for name, a, b in each for found in _differing(a, b, name)]


def _newest(run: Run) -> Checkpoint:
    """The newest whole checkpoint, in every process."""
    folder = run.out / "checkpoints"
    found = run.world.barrier_after(lambda: checkpoint.load(folder) if run.world.first else None)
    return _read_by_all(run, found)


def _read_by_all(run: Run, found: Checkpoint | None) -> Checkpoint:
    """The checkpoint that the first process found, read by the others too."""
    step = run.world.broadcast(found.step if found else 0)
    try:
        saved = run.world.barrier_after(lambda: found or checkpoint.load(run.out, step=step))
        return upgraded(saved)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nEvery process of a run must see the same output folder"
        ) from error
