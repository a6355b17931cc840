"""One run of training: prepared, followed step by step, saved, and gone on with.

The loop in `core.training.loop` reports; here it is decided what to write, when to save, validate,
go back and end.  All that a run has learned and decided is in its checkpoints.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from torch import Tensor

from core.data import check_classes
from core.network.ema import save_snapshot
from core.network.upgrade import upgraded
from core.parts.config import plain
from core.process.noise import Noise, derive
from core.request import Note, Progress
from core.results.metrics import Mean
from core.storage import checkpoint
from core.storage.checkpoint import Checkpoint, CheckpointError, NewerCheckpoint
from core.task import Example
from core.training.batches import batches, order
from core.training.card import State, card
from core.training.distributed import Status
from core.training.journal import Journal
from core.training.loop import Execution, NotFinite, Step, fit, learning_rate, without_condition
from core.training.preparation import IDENTITY, Run
from core.training.stopping import Asked, Stopped, obey
from core.training.validation import Standing, validate

NEWS_SECONDS = 0.25  # between two pieces of news
ROLLBACKS = 3  # after so many a run that goes back ends


@dataclass(frozen=True)
class Place:
    """How far a run is: beside the learner, all that the next step depends on.

    Args:
        step: steps taken.
        skipped: of them, those left out.
        rollbacks: times it went back; each draws what follows anew.
        standing: of validation.
    """

    step: int = 0
    skipped: int = 0
    rollbacks: int = 0
    standing: Standing = field(default_factory=Standing)

    @classmethod
    def of(cls, saved: Checkpoint) -> "Place":
        """The place that `state` gave."""
        state = saved.state
        standing = dict(state.get("validation", {}))
        if standing.get("loss"):
            standing["loss"] = Mean(**standing["loss"])
        return cls(
            saved.step, state.get("skipped", 0), state.get("rollbacks", 0), Standing(**standing)
        )

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "validation": plain(self.standing),
        }

    def is_last(self, run: Run) -> bool:
        """Whether nothing is left to do."""
        patience = run.request.patience
        impatient = 0 < patience <= self.standing.stale
        return self.step >= run.request.steps or impatient


def follow(run: Run, record: Journal, asked: Asked, place: Place) -> Place:
    """Train to the end from a place, over rollbacks; where it ended.

    Raises:
        NotFinite: as the request's `on_nan` has it; the last checkpoint is whole.
        Stopped: it was asked to; a checkpoint of the current step is on disk.
    """
    while True:
        try:
            return _onwards(run, record, asked, place)
        except NotFinite as error:
            what = f"{run.request.task.name} on {run.request.dataset.name}, {error}"
            if run.request.on_nan != "rollback":
                raise NotFinite(what) from error
            if place.rollbacks == ROLLBACKS:
                raise NotFinite(f"{what}; it went back {ROLLBACKS} times already") from error
            saved = _back(run)
            run.learner.load(saved.tensors)
            place = replace(Place.of(saved), rollbacks=place.rollbacks + 1)
            record.forget(place.step)
            run.emit(
                Note(
                    text=f"{error}; back to step {place.step}, other draws from there "
                    f"({place.rollbacks} of {ROLLBACKS})"
                )
            )


def _onwards(run: Run, record: Journal, asked: Asked, place: Place) -> Place:
    """Train from a place until it is the last, or an exception."""
    request, machine, begun = run.request, run.machine, place.step
    last_save = last_news = time.monotonic()
    with closing(_steps(run, place, asked)) as steps:
        try:
            for step in () if place.is_last(run) else steps:
                place = replace(place, step=step.step, skipped=place.skipped + step.skipped)
                record.note(step)
                if request.snapshots and run.world.first:
                    _snapshot(run, step.step)
                place = _validated(run, record, place, step.micro_batch)
                last, now = place.is_last(run), time.monotonic()
                if last or now - last_save >= machine.save_seconds or _is_new_best(place):
                    save(run, record, place)
                    last_save = time.monotonic()
                if last or now - last_news >= NEWS_SECONDS:
                    run.emit(_news(run, record, place))
                    last_news = now
                if last:
                    break
        except Stopped as stopped:
            if place.step > begun:
                save(run, record, place)
            _leave(run)
            if run.world.first:
                obey(run.out)
            raise Stopped(place.step, stopped.number) from None
    _leave(run)
    return place


def _leave(run: Run) -> None:
    """Wait for the others, so that all end when what they did is saved."""
    if run.world.all_reduce_max(Status()).not_finite:
        raise NotFinite("the weights are not finite; lower the learning rate")


def _steps(run: Run, place: Place, asked: Asked) -> Generator[Step]:
    """The optimiser steps from a place on."""
    request, device, world = run.request, run.device, run.world
    part = world.shard(request.batch)
    seed = derive(request.seed, "rollback", place.rollbacks) if place.rollbacks else request.seed

    def indices_of(step: int) -> list[int]:
        indices = next(order(seed, len(run.dataset), request.batch, start=step))[1]
        return indices[part]

    def prepare(step: int, items: Mapping[str, Tensor]) -> tuple[Example, Noise]:
        batch = {name: value.to(device) for name, value in items.items()}
        noise = Noise.of(seed, "train", step, each=range(request.batch))
        example = run.task.prepare(batch)
        check_classes(example, run.task, lambda i: run.dataset.name(indices_of(step)[i]))
        return without_condition(example, noise, request.unconditional, part), noise

    ordered = order(seed, len(run.dataset), request.batch, start=place.step)
    wanted = takewhile(lambda batch: batch[0] < request.steps, ordered)
    execution = Execution(
        world=world,
        micro_batch=run.machine.micro_batch,
        precision=request.precision,
        asked=asked,
        say=lambda text: run.emit(Note(text=text)),
    )
    with closing(
        batches(
            run.dataset,
            ((step, indices[part]) for step, indices in wanted),
            workers=run.machine.workers,
        )
    ) as data:
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
    """Averages are on disk before a checkpoint can say that they are."""
    if step % run.request.snapshots == 0 or step == run.request.steps:
        save_snapshot(run.out / "averages", step, run.learner.powers)


def _validated(run: Run, record: Journal, place: Place, micro: int) -> Place:
    """The place once a validation that is due has been made."""
    if run.held_out is None or place.step % run.request.validate_every:
        return place
    learner = run.learner
    loss = validate(run.held_out, learner.network, learner.average.weights, micro, run.world)
    record.validated(place.step, loss)
    place = replace(place, standing=place.standing.after(place.step, loss))
    if place.is_last(run) and place.step < run.request.steps:
        run.emit(
            Note(
                text=f"ending at step {place.step}: {place.standing.stale} validations without "
                f"improvement since step {place.standing.best_step}"
            )
        )
    return place


def _is_new_best(place: Place) -> bool:
    return place.standing.best is not None and place.standing.best_step == place.step


def _news(run: Run, record: Journal, place: Place) -> Progress:
    figures = {"loss": record.loss, "val": place.standing.loss and place.standing.loss.mean}
    return Progress(
        done=place.step,
        total=run.request.steps,
        unit="step",
        rate=record.rate,
        figures={name: value for name, value in figures.items() if value is not None},
    )


# --- checkpoints --------------------------------------------------------------------------------


def save(run: Run, record: Journal, place: Place) -> None:
    """Write a checkpoint, with the card beside it; the first process does.

    Raises:
        NotFinite: something in it is not, so that it is not written.
        StorageError: the disk is full or not writable; older checkpoints are untouched.
    """
    if not run.world.first:
        return
    tensors = run.learner.tensors()
    if not _is_finite(tensors):
        run.world.all_reduce_max(Status(not_finite=1))
        raise NotFinite(f"step {place.step}: weights are not finite; lower the learning rate")
    record.keep()
    standing = place.standing
    state = State(place.step, record.loss, place.skipped, place.rollbacks, standing)
    checkpoint.save(
        run.out / "checkpoints",
        place.step,
        tensors,
        {**run.identity, "shape": run.shape, **place.state()},
        also=(standing.best_step,) if standing.best is not None else (),
        documents={"README.md": card(run.facts, state)},
    )


def _is_finite(groups: Mapping[str, Mapping[str, Tensor]]) -> bool:
    tensors = (value for named in groups.values() for value in named.values())
    return all(bool(value.isfinite().all()) for value in tensors if value.is_floating_point())


def resume(run: Run) -> Place:
    """Where the run in the output folder was, with the learner put there; the start if it is new.

    The first process chooses the checkpoint; all read it.

    Raises:
        CheckpointError: the folder holds a run of another request, or of other data or weights.
    """
    first = run.world.first
    found = run.world.barrier_after(lambda: _continued(run) if first else None)
    if not run.world.broadcast(0 if found is None else 1):
        return Place()
    saved = _chosen(run, found)
    run.learner.load(saved.tensors)
    run.emit(Note(text=f"going on from step {saved.step} ({saved.path.name})"))
    return Place.of(saved)


def _continued(run: Run) -> Checkpoint | None:
    """The newest whole checkpoint of this very run, if there is one."""
    folder = run.out / "checkpoints"
    if not checkpoint.is_started(folder):
        return None
    try:
        saved = upgraded(checkpoint.load(folder))
    except NewerCheckpoint:
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
    # Of `start` the weights count, which are compared below, not where they lie.
    changed = sorted(n for n in now if n != "start" and before.get(n) != now[n])
    for name, what in IDENTITY.items():
        if state.get(name, "") != run.identity[name]:
            changed.append(what)
    if changed:
        raise CheckpointError(
            f"{run.out}: holds a run that differs in {', '.join(changed)}; "
            "choose another output folder or remove this one"
        )


def _back(run: Run) -> Checkpoint:
    """The newest whole checkpoint, in every process."""
    folder = run.out / "checkpoints"
    found = run.world.barrier_after(lambda: checkpoint.load(folder) if run.world.first else None)
    return _chosen(run, found)


def _chosen(run: Run, found: Checkpoint | None) -> Checkpoint:
    """What the first process found, read by the others too."""
    step = run.world.broadcast(found.step if found else 0)
    try:
        saved = run.world.barrier_after(lambda: found or checkpoint.load(run.out, step=step))
        return upgraded(saved)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nEvery process of a run has to see the same output folder"
        ) from error
