"""Doing planned steps: one after another in this process, or as tasks of the running Ray."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from core.progress import duration
from core.request import Note, Progress
from core.storage import json_file
from pipelines.cluster import deadlines, failures
from pipelines.cluster.connection import signals_later
from pipelines.cluster.drained import is_drained
from pipelines.job.plan import Planned
from pipelines.job.verbs import VERBS, Runnable, Verbs, find
from pipelines.run import reuse
from pipelines.run.display import Display
from pipelines.run.step import Outcome, run_step
from pipelines.store import results
from pipelines.store.tail import Tail

POLL = 0.3  # seconds between two looks at Ray and at the steps' events
TAIL = 15  # lines of a failed step's log that are shown

Outcomes = dict[str, Outcome]


def locally(planned: Sequence[Planned], display: Display, *, verbs: Verbs = VERBS) -> Outcomes:
    """Do what is to be done, one step after another, in this process."""
    outcomes: Outcomes = {}
    folders = _folders(planned)
    for p in planned:
        outcome = _settled(p, outcomes)
        for attempt in range(1, p.step.retries + 2) if outcome is None else ():
            display.started(p.step.name, attempt)
            outcome = run_step(
                p,
                _inputs(p, folders),
                find(p.step.run, verbs),
                attempt=attempt,
                emit=lambda event, name=p.step.name: display.news(name, event),
            )
            if not _again(p, outcome, display):
                break
        assert outcome is not None
        outcomes[p.step.name] = outcome
        _show(p, outcome, display)
    return outcomes


def on_ray(planned: Sequence[Planned], display: Display, *, verbs: Verbs = VERBS) -> Outcomes:
    """Do what is to be done as tasks of the running Ray, each as soon as its inputs are done."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote(max_calls=reuse.CALLS, max_retries=0)(_in_a_worker)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    outcomes: Outcomes = {}
    running: dict[Any, tuple[Planned, int, _Events]] = {}
    folders, called = _folders(planned), Path.cwd()

    def submit(p: Planned, attempt: int) -> None:
        tail, alone = _Events(p.folder / results.EVENTS), p.step.workers == 1
        # Of several it is the workers that occupy cores; who calls them stays with this process.
        occupied = (
            {"num_cpus": p.step.cpus, "num_gpus": p.step.gpus, "memory": p.step.memory or None}
            if alone
            else {"num_cpus": 0, "scheduling_strategy": here}
        )
        options = remote.options(name=p.step.name, **occupied)
        task = options.remote(p, _inputs(p, folders), find(p.step.run, verbs), attempt, called)
        running[task] = p, attempt, tail

    def settle(p: Planned, outcome: Outcome) -> None:
        outcomes[p.step.name] = outcome
        _show(p, outcome, display)

    waiting, looked = list(planned), 0.0
    # Ray prints what it thinks of dead workers to standard output, where our results go.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), _cancelled(running):
        while waiting or running:
            for p in list(waiting):
                if outcome := _settled(p, outcomes):
                    settle(p, outcome)
                elif not set(p.step.needs) <= outcomes.keys():
                    continue
                else:
                    submit(p, 1)
                waiting.remove(p)
            with signals_later():
                finished = ray.wait(list(running), timeout=POLL)[0] if running else []
            due = time.monotonic() >= looked + POLL
            looked = time.monotonic() if due else looked
            for task in running if due else finished:
                p, attempt, tail = running[task]
                for event in tail.new():
                    if event is None:
                        display.started(p.step.name, attempt)
                    else:
                        display.news(p.step.name, event)
            for task in finished:
                p, attempt, _ = running.pop(task)
                outcome = _answer(ray.get, task, p, attempt)
                if outcome is None:
                    submit(p, attempt)  # that process was no new one, and has ended
                elif outcome.state == "moved":
                    display.say(f"{outcome.cause}; resuming on another", step=p.step.name)
                    submit(p, attempt)
                elif _again(p, outcome, display):
                    submit(p, attempt + 1)
                else:
                    settle(p, outcome)
    return {p.step.name: outcomes[p.step.name] for p in planned}


@contextmanager
def _cancelled(running: Mapping[Any, object]) -> Iterator[None]:
    """If the block is left by a stop, have tasks end as by SIGINT, so that training saves."""
    import ray

    try:
        yield
    except BaseException:
        with signals_later():
            for task in running:
                ray.cancel(task, force=False)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=deadlines.STEPS)
        raise


def _in_a_worker(
    p: Planned, folders: Mapping[str, Path], verb: Runnable, attempt: int, called: Path
) -> Outcome | None:
    """A step done in a process of Ray; None if it needs a newer one."""
    alone = p.step.workers == 1
    work = partial(
        run_step, p, folders, verb, attempt=attempt, together=not alone, leave=is_drained
    )
    return reuse.in_this_process(p, work, called, alone=alone)


def _answer(
    get: Callable[[Any], Outcome | None], task: Any, p: Planned, attempt: int
) -> Outcome | None:
    """A task's outcome; of a worker that died or cannot import the step's code, a failure."""
    try:
        return get(task)
    except Exception as error:  # noqa: BLE001  (Ray's errors for a lost worker share no base)
        lack = failures.not_imported(error)
        cause = lack or f"its worker process died ({failures.last_words(error)})"
        outcome = Outcome(step=p.step.name, state="failed", attempts=attempt, cause=cause)
        return replace(outcome, refused=True, final=True) if lack else outcome


def _folders(planned: Sequence[Planned]) -> dict[str, Path]:
    return {p.step.name: p.folder for p in planned}


def _inputs(p: Planned, folders: Mapping[str, Path]) -> dict[str, Path]:
    """The folders of the steps that a step needs: those of all go to no worker of a large job."""
    return {need: folders[need] for need in p.step.needs}


def _settled(p: Planned, outcomes: Outcomes) -> Outcome | None:
    """The outcome of a step that needs no doing, or cannot be done any more."""
    if p.state == "hit":
        return Outcome(step=p.step.name, state="hit")
    lost = [n for n in p.step.needs if n in outcomes and outcomes[n].state in ("failed", "not run")]
    if lost:
        return Outcome(step=p.step.name, state="not run", cause=f"needs {', '.join(lost)}")
    return None


def _again(p: Planned, outcome: Outcome, display: Display) -> bool:
    """Whether a failed attempt is followed by another; reported if it is."""
    if outcome.state != "failed" or outcome.final or outcome.attempts > p.step.retries:
        return False
    left = p.step.retries + 1 - outcome.attempts
    display.say(
        f"attempt {outcome.attempts} failed: {outcome.cause}; {left} left", step=p.step.name
    )
    return True


def _show(p: Planned, outcome: Outcome, display: Display) -> None:
    detail = outcome.cause if outcome.state == "not run" else ""
    if outcome.state in ("done", "failed"):
        detail = duration(outcome.seconds)
    display.ended(p.step.name, outcome.state, detail)


def failure(p: Planned, outcome: Outcome) -> str:
    """The report of a failed step: which, why, where its log is, how that ends."""
    log = p.folder / results.LOG
    tries = f", attempt {outcome.attempts} of {p.step.retries + 1}" if p.step.retries else ""
    said = f"step {p.step.name}{tries}: {outcome.message or outcome.cause}"
    if outcome.refused or outcome.changed:
        return said
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    except OSError:
        return said
    return "\n".join([said, f"  log: {log}", *(f"  | {line}" for line in lines)])


class _Events:
    """The events that a step writes from now on."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)

    def new(self) -> Iterator[Progress | Note | None]:
        """Events that were not there at the last look; None where a step began."""
        for line in self._tail.lines():
            said = json_file.parse(line)
            for ours in ("time", "attempt"):
                said.pop(ours)
            if "began" in said:
                yield None
            else:
                yield Note(**said) if "text" in said else Progress(**said)
