"""Small steps, one after another in a process of Ray.

A new process takes a second to start and more to import torch, where a small step takes
milliseconds.  So a process does the next step too, unless its last one leaves something behind:
memory, threads, processes, a GPU, or a failure.  The number of threads, which libraries read when
they are imported, is the same for all of its steps.

Source: Ray 2.60, `ray/_private/function_manager.py`.
"""

import importlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pipelines.job.plan import Planned
from pipelines.run.step import Outcome

CALLS = 1000  # that Ray gives to a process at most, `max_calls`
SECONDS = 10.0  # a step that took longer is not small: its process ends
RESIDENT_BYTES = 512 << 20  # torch and our modules take half of it

_threads = 0  # of the steps that this process has done; none yet


def in_this_process(
    p: Planned, work: Callable[[], Outcome], folder: Path, *, alone: bool
) -> Outcome | None:
    """The outcome of a step, done in `folder`; None if this process may not do it, and ends.

    Args:
        p: the step.
        work: does it.
        folder: where the command was called: relative paths in requests start there.
        alone: no other processes take part in it.
    """
    global _threads
    small = alone and not p.step.gpus  # until it takes long
    if _threads and not (small and _threads == p.step.cpus):
        _end_after_this()
        return None
    _threads = p.step.cpus
    with suppress(OSError):  # a folder that this machine does not have
        os.chdir(folder)
    before = {thread.ident for thread in threading.enumerate()}
    kept = False
    try:
        outcome = work()
        small = small and outcome.seconds <= SECONDS and outcome.state in ("done", "hit")
        kept = small and _is_clean(before)
        return outcome
    finally:
        if not kept:
            _end_after_this()


def _is_clean(threads: set[int | None]) -> bool:
    """Whether a step has left no large memory, no child and no thread beside those before it."""
    process = psutil.Process()
    more = [thread for thread in threading.enumerate() if thread.ident not in threads]
    return process.memory_info().rss <= RESIDENT_BYTES and not more and not process.children()


def _end_after_this() -> None:
    """Have Ray end this process when it has taken the outcome, as after the last of its calls."""
    worker: Any = importlib.import_module("ray._private.worker")
    manager = worker.global_worker.function_actor_manager
    for function, info in manager._function_execution_info.items():
        if info.max_calls:
            manager._num_task_executions[function] = info.max_calls - 1
