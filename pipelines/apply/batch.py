"""A folder of files through a trained model: in this process, or by workers of Ray Data.

Both do each file in the same way, so that the results are the same bytes.  A result appears whole,
its record after it; so the same call after any stop goes on where that stopped.

Source: Ray 2.60, `ray.data.Dataset.map_batches` and `ray.data.ActorPoolStrategy`.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from core.errors import InputError, StorageError
from core.parts.registry import Registry
from core.request import Emit, Machine, Note, Progress, silent
from core.training.stopping import NO_SIGNAL, Stopped
from pipelines.apply import ledger
from pipelines.apply.ledger import Ledger, Record, shown
from pipelines.apply.listing import RESULTS, Batch, Order, prepared
from pipelines.apply.pictures import write_pictures
from pipelines.apply.request import ApplyRequest, ApplyResult
from pipelines.apply.worker import Worker, first_line
from pipelines.job.verbs import load
from pipelines.run.names import without_names
from pipelines.run.step import continued, share_gpu

STARTS = 3  # times that each worker may die while it loads the model
ROWS = 16  # files handed to a worker at once, at most
SHOWN = 20  # files that could not be done and are named


Share = Callable[[Batch], Iterator[Record]]
"""Does what is to be done, and gives a record for each file."""


class Incomplete(Exception):
    """Some files failed, and may not fail next time."""


def apply(
    request: ApplyRequest,
    out: Path,
    *,
    machine: Machine | None = None,
    emit: Emit = silent,
    stop: Callable[[], bool] | None = None,
    registry: Registry | None = None,
) -> ApplyResult:
    """Make one file of each file in a folder and those inside it, one after another.

    Files that cannot be used are noted and counted, and stop nothing.

    Args:
        request: what is done with which files.
        out: ``results/``, ``files.jsonl`` and views for reports go there; what an earlier call left
            is gone on with.
        machine: where to run.
        emit: hears of progress.
        stop: asked before every file whether to stop.
        registry: where the predictor is looked up; the installed one by default.

    Raises:
        InputError: the request is wrong, or no file could be used.
        Incomplete: something else went wrong with a file; the others are done.
        Stopped: asked to stop; what is done is kept.
    """
    given = machine or Machine()
    with prepared(request, out, machine=given, emit=emit, registry=registry) as batch:
        share = partial(here, stop=stop)
        return _demanded(finish(batch, share, _by_number(emit, request)), batch)


def apply_together(
    request: ApplyRequest,
    out: Path,
    *,
    workers: int,
    gpus: float,
    machine: Machine,
    emit: Emit,
    registry: Registry | None = None,
) -> ApplyResult:
    """What `apply` gives, the files shared by `workers` processes of the running Ray.

    Args:
        request: what is done with which files.
        out: a folder that every worker sees.
        workers: processes that load the model.
        gpus: of each of them.
        machine: of each of them.
        emit: hears of progress.
        registry: where the predictor is looked up; the installed one by default.

    Raises:
        InputError: as `apply`, or a worker does not see the folder.
        Incomplete: as `apply`.
    """
    with prepared(request, out, machine=machine, emit=emit, registry=registry) as batch:
        share = partial(on_ray, workers=workers, gpus=gpus)
        return _demanded(finish(batch, share, _by_number(emit, request)), batch)


def _by_number(emit: Emit, request: ApplyRequest) -> Emit:
    """A listener whose notes name files by their numbers, since a step's notes are kept."""

    def numbered(event: Progress | Note) -> None:
        if isinstance(event, Note):
            event = Note(text=without_names(event.text, {"request.folder": request.folder}))
        emit(event)

    return numbered


def _demanded(result: ApplyResult, batch: Batch) -> ApplyResult:
    """The result, if what needs it can be done with it; some files are shown beside it."""
    records = [r for line in result.files.open(encoding="utf-8") if (r := ledger.read(line))]
    wrong = next((f"{shown(r.name)}: {r.cause}" for r in records if r.state == "failed"), "")
    if result.failed:
        count = result.done + result.bad + result.failed
        raise Incomplete(f"{result.failed} of {count} files failed; the first: {wrong}")
    if not result.done:
        first = records[0]
        raise InputError(
            f"none of {result.bad} files could be used; the first: "
            f"{shown(first.name)}: {first.cause}"
        )
    write_pictures(batch.order, records)
    return result


# --- all files -------------------------------------------------------------------------------


def finish(batch: Batch, share: Share, emit: Emit = silent) -> ApplyResult:
    """Do what is to be done and list what became of every file.

    Args:
        batch: what `prepared` found.
        share: `here`, or `on_ray` with its workers.
        emit: hears of progress; at the end of what could not be done.
    """
    lines, first = dict(batch.settled), 0.0
    counts = Counter(json.loads(line)["state"] for line in lines.values())

    def tell(rate: float) -> None:
        figures = {state: float(counts[state]) for state in ("bad", "failed") if counts[state]}
        done = len(lines)
        emit(Progress(done=done, total=batch.total, unit="file", rate=rate, figures=figures))

    for more, record in enumerate(share(batch) if batch.todo else ()):
        lines[record.name] = record.line()
        counts[record.state] += 1
        first = first or time.monotonic()  # before it, the model was loaded
        tell(more / (time.monotonic() - first) if more else 0.0)
    missing = set(batch.todo) - lines.keys()
    if missing:
        raise RuntimeError(f"{len(missing)} files came back from no worker; run it again")
    Ledger(batch.order.out).close(lines)
    for text in _troubles(lines):
        emit(Note(text=text))
    return ApplyResult(
        results=batch.order.out / RESULTS,
        files=batch.order.out / ledger.LISTING,
        done=counts["done"],
        bad=counts["bad"],
        failed=counts["failed"],
    )


def _troubles(lines: Mapping[str, str]) -> Iterator[str]:
    count = 0
    for name in sorted(lines):
        record = ledger.read(lines[name])
        if record is None or record.state == "done":
            continue
        count += 1
        if count <= SHOWN:
            yield f"{record.state}: {shown(name)}: {record.cause}"
    if count > SHOWN:
        yield f"and {count - SHOWN} more; {ledger.LISTING} names them all"


def here(batch: Batch, stop: Callable[[], bool] | None = None) -> Iterator[Record]:
    """Do the files of a batch in this process, one after another.

    Raises:
        InputError: the predictor cannot be had.
        Stopped: `stop` asked for it.
    """
    worker = Worker(batch.order)
    for number, name in enumerate(batch.todo):
        if stop is not None and stop():
            raise Stopped(number, NO_SIGNAL)
        yield worker.do(name)


# --- several processes -----------------------------------------------------------------------


def on_ray(batch: Batch, *, workers: int, gpus: float) -> Iterator[Record]:
    """Do the files of a batch by workers of the running Ray, each with a model of its own.

    Args:
        batch: what `prepared` found; its folder, its checkpoint and `out` are seen by all machines.
        workers: how many, at most one for each file.
        gpus: of each of them.

    Raises:
        InputError: the predictor cannot be had, here or on a machine of Ray's, or Ray Data's own
            requirements are not installed.
        StorageError: there is no room for results.
        RuntimeError: a worker could not load the model.
    """
    try:
        import ray.data
    except ImportError as error:
        raise InputError(
            f"workers: {workers} needs Ray Data; pip install 'polymode[cluster]', or set workers=1"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = (
        -1
    )  # it gives up after half an hour in which no file is done
    workers = min(workers, len(batch.todo))
    at_once = max(1, min(ROWS, len(batch.todo) // (4 * workers)))
    # By its name: a worker that cannot import the class could not even read an order that holds it.
    target = f"{batch.order.build.__module__}:{batch.order.build.__qualname__}"
    rows = ray.data.from_items(
        [{"name": os.fsencode(name)} for name in batch.todo],
        override_num_blocks=-(-len(batch.todo) // at_once),
    ).map_batches(
        _Hand,
        fn_constructor_args=(replace(batch.order, build=None), target, workers, gpus),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=1,
        num_cpus=batch.order.machine.threads or 1,
        num_gpus=gpus or None,
    )
    for row in rows.iter_rows():
        yield _heard(json.loads(row["said"]))


def _heard(answer: dict[str, Any]) -> Record:
    """The record that a worker gave, or why it gave none, raised."""
    if "refused" in answer:
        raise InputError(answer["refused"])
    if "full" in answer:
        raise StorageError(answer["full"])
    if "broken" in answer:
        raise RuntimeError(f"a worker could not load the model: {answer['broken']}")
    return Record(**answer)


def _worker(order: Order, target: str) -> Worker:
    """A worker whose predictor is the class of that name.

    Raises:
        InputError: as `Worker`, or this machine lacks what is to be imported.
    """
    try:
        return Worker(replace(order, build=load(target)))
    except ImportError as error:
        raise InputError(
            f"predictor: {target} cannot be imported on {os.uname().nodename}: {error}; install "
            f"what it lacks there, for {sys.executable}"
        ) from error


class _Hand:
    """A `Worker` in a process of Ray Data, whose output goes to the log of the step.

    Ray starts it again when it dies, and gives it again what it had in hand.
    """

    def __init__(self, order: Order, target: str, workers: int, gpus: float) -> None:
        self._log = ExitStack()
        self._log.enter_context(continued(order.out, tells=False))
        self._worker: Worker | None = None
        self._lack: dict[str, str] = {}
        book = Ledger(order.out)
        if book.deaths("") >= STARTS * workers:
            self._lack = {
                "broken": "every attempt ended the worker process, probably out of memory; "
                "use fewer workers"
            }
            return
        book.begin("")
        try:
            if 0 < gpus < 1:
                share_gpu(gpus)
            self._worker = _worker(order, target)
        except InputError as error:
            self._lack = {"refused": str(error)}
        except Exception as error:  # noqa: BLE001  (raised in a worker it would come as Ray's own)
            traceback.print_exc()
            self._lack = {"broken": first_line(error)}
        book.end("")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """One file's record, or why there will be none, as JSON."""
        if self._worker is None:
            return {"said": [json.dumps(self._lack)]}
        try:
            return {"said": [self._worker.do(os.fsdecode(batch["name"][0])).line()]}
        except StorageError as error:
            return {"said": [json.dumps({"full": str(error)})]}
