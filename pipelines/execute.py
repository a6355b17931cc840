"""Doing planned steps: one after another in this process, or as tasks of a private Ray.

Both call `run_step`, the one function that does a step, with the same threads and device; so both
give the same files.  Whoever does a step holds its lock and commits it.
"""

import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from core import files
from core.config import plain
from core.errors import InputError
from core.progress import duration
from core.request import Emit, Machine, Note, Progress, silent
from pipelines import store
from pipelines.plan import Planned
from pipelines.progress import Display
from pipelines.verbs import VERBS, Verb, Verbs, find

POLL = 0.3  # seconds between two looks at Ray and at the steps' events
BETWEEN = 0.25  # seconds between two written progress events of a step
TAIL = 15  # lines of a failed step's log that are shown


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a step ended.

    Args:
        step: its name.
        state: made now, found whole, failed, or not run because of a failed input.
        seconds: spent on the last attempt.
        attempts: how often it was tried.
        cause: one line: the error, or the input that failed.
        refused: the request was wrong, so that trying again is no use.
    """

    step: str
    state: Literal["done", "hit", "failed", "not run"]
    seconds: float = 0.0
    attempts: int = 0
    cause: str = ""
    refused: bool = False


Outcomes = dict[str, Outcome]


# --- one step --------------------------------------------------------------------------------


def run_step(
    planned: Planned,
    folders: Mapping[str, Path],
    verb: Verb,
    *,
    attempt: int = 1,
    emit: Emit = silent,
) -> Outcome:
    """Do a step on this machine and commit its result, unless another process has done it.

    Args:
        planned: the step, its key and its folder.
        folders: the folders of the steps it needs, by name.
        verb: what it runs.
        attempt: counts from 1.
        emit: told what the step tells.
    """
    folder, name, began = planned.folder, planned.step.name, time.monotonic()

    def ended(state: Literal["done", "hit", "failed"], **more: Any) -> Outcome:
        seconds = time.monotonic() - began
        return Outcome(step=name, state=state, seconds=seconds, attempts=attempt, **more)

    def waiting() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with _events(folder, attempt, emit) as tell:
            tell(Note(text="another process is doing this step; waiting for it"))

    try:
        with store.locked(folder, waiting):
            found = store.inspect(folder, planned.key)
            if found.state == "whole":
                return ended("hit")
            if found.state == "damaged":
                store.set_aside(folder)
            store.begin(folder, planned.key, planned.identity, name)
            with _events(folder, attempt, emit, began=True) as tell:
                _do(planned, folders, verb, tell)
            store.commit(folder, planned.key)
        return ended("done")
    except InputError as error:
        return ended("failed", cause=str(error), refused=True)
    except Exception as error:  # noqa: BLE001  (whatever a step raises is its outcome)
        lines = str(error).strip().splitlines()
        cause = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        return ended("failed", cause=cause)


def _do(planned: Planned, folders: Mapping[str, Path], verb: Verb, emit: Emit) -> None:
    """Call the verb with its output below the step's folder; write what it gave and where."""
    step, folder = planned.step, planned.folder
    # For what starts threads before torch is told how many; torch's own are the Machine's.
    os.environ["OMP_NUM_THREADS"] = str(step.cpus)
    # Threads that wait by spinning make a step ten times slower where another program is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    machine = Machine(device="auto" if step.gpus else "cpu", threads=step.cpus)
    began, clock, spent = datetime.now(UTC), time.monotonic(), sum(os.times()[:4])
    with _logged(folder / store.LOG):
        try:
            result = _call(planned, folders, verb, machine, emit)
        except Exception:
            traceback.print_exc()
            raise
    files.write_json(folder / store.RESULT, _relative(result, folder))
    environment = {
        **_environment(),
        "device": machine.device,
        "threads": machine.threads,
        "gpus": step.gpus,
        "start": began.isoformat(timespec="seconds"),
        "end": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
        "cpu_seconds": round(sum(os.times()[:4]) - spent, 3),  # children that ended included
    }
    files.write_json(folder / store.ENVIRONMENT, environment)


def _call(
    planned: Planned, folders: Mapping[str, Path], verb: Verb, machine: Machine, emit: Emit
) -> Any:
    step = planned.step
    module, _, attribute = verb.target.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    if verb.folders:
        whole = {label: folders[source.step] for label, source in step.inputs.items()}
        return function(*step.request.values(), whole, planned.folder)
    given = {
        field: store.result_path(folders[source.step], source.field)
        for field, source in step.inputs.items()
    }
    return function(
        verb.request(**step.request, **given), planned.folder, machine=machine, emit=emit
    )


def _relative(result: Any, folder: Path) -> dict[str, Any]:
    """The fields of a result, its paths relative to the step's folder."""
    values: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Path):
            value = value.resolve().relative_to(folder.resolve()).as_posix()
        values[field.name] = value
    return plain(values)


def _environment() -> dict[str, Any]:
    """Versions and machine; never environment variables, which may hold secrets."""

    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        **{package: of(package) for package in ("polymode", "torch", "numpy", "ray")},
        **_commit(),
    }


def _commit() -> dict[str, Any]:
    """The commit of the checkout that this code lies in, and whether files in it have changed."""
    here, git = Path(__file__).resolve().parent, shutil.which("git")
    if git is None or not (here.parent / ".git").exists():
        return {}

    def said(*arguments: str) -> str | None:
        done = subprocess.run(
            [git, "-C", str(here), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    head = said("rev-parse", "HEAD")
    return {"commit": head, "dirty": bool(said("status", "--porcelain"))} if head else {}


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send standard output and standard error, those of C code and of children too, to a file."""
    saved = [os.dup(1), os.dup(2)]
    with path.open("a", encoding="utf-8", buffering=1) as log, ExitStack() as stack:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        try:
            yield
        finally:
            for number, handle in enumerate(saved, start=1):
                os.dup2(handle, number)
                os.close(handle)


@contextmanager
def _events(folder: Path, attempt: int, emit: Emit, *, began: bool = False) -> Iterator[Emit]:
    """A listener that writes a step's events, one JSON line each, and passes them on."""
    with (folder / store.EVENTS).open("a", encoding="utf-8", buffering=1) as file:
        last = 0.0

        def write(event: Mapping[str, Any]) -> None:
            line = {"time": round(time.time(), 3), "attempt": attempt, **event}
            file.write(json.dumps(line) + "\n")

        def tell(event: Progress | Note) -> None:
            nonlocal last
            if isinstance(event, Progress) and event.done < event.total:
                if time.monotonic() - last < BETWEEN:
                    return
                last = time.monotonic()
            write(asdict(event))
            emit(event)

        if began:
            write({"began": True})
        yield tell


# --- all steps -------------------------------------------------------------------------------


def locally(planned: Sequence[Planned], display: Display, *, verbs: Verbs = VERBS) -> Outcomes:
    """Do what is to be done, one step after another, in this process."""
    outcomes: Outcomes = {}
    for p in planned:
        outcome = _settled(p, outcomes)
        for attempt in range(1, p.step.retries + 2) if outcome is None else ():
            display.started(p.step.name, attempt)
            outcome = run_step(
                p,
                _folders(planned),
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

    # A fresh worker for each step: its memory and its GPU are free when it ends.
    remote: Any = ray.remote(max_calls=1, max_retries=0)(run_step)
    outcomes: Outcomes = {}
    running: dict[Any, tuple[Planned, int, _Tail]] = {}

    def submit(p: Planned, attempt: int) -> None:
        tail = _Tail(p.folder / store.EVENTS)
        options = remote.options(num_cpus=p.step.cpus, num_gpus=p.step.gpus, name=p.step.name)
        task = options.remote(p, _folders(planned), find(p.step.run, verbs), attempt=attempt)
        running[task] = p, attempt, tail

    def settle(p: Planned, outcome: Outcome) -> None:
        outcomes[p.step.name] = outcome
        _show(p, outcome, display)

    waiting = list(planned)
    while waiting or running:
        for p in list(waiting):
            if outcome := _settled(p, outcomes):
                settle(p, outcome)
            elif not set(p.step.needs) <= outcomes.keys():
                continue
            else:
                submit(p, 1)
            waiting.remove(p)
        with _signals_later():
            finished = ray.wait(list(running), timeout=POLL)[0] if running else []
        for p, attempt, tail in running.values():
            for event in tail.new():
                if event is None:
                    display.started(p.step.name, attempt)
                else:
                    display.news(p.step.name, event)
        for task in finished:
            p, attempt, _ = running.pop(task)
            outcome = _answer(ray.get, task, p, attempt)
            if _again(p, outcome, display):
                submit(p, attempt + 1)
            else:
                settle(p, outcome)
    return {p.step.name: outcomes[p.step.name] for p in planned}


@contextmanager
def _signals_later() -> Iterator[None]:
    """Have SIGINT and SIGTERM act at the end of the block.

    Inside Ray's wait, whatever a handler raises comes out as an exit with status 1.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


def _answer(get: Callable[[Any], Outcome], task: Any, p: Planned, attempt: int) -> Outcome:
    """A task's outcome; of a worker that died, a failure that says so."""
    try:
        return get(task)
    except Exception as error:  # noqa: BLE001  (Ray's errors for a lost worker share no base)
        first = next(iter(str(error).strip().splitlines()), "")
        cause = f"its worker process died ({type(error).__name__}: {first})"
        return Outcome(step=p.step.name, state="failed", attempts=attempt, cause=cause)


def _folders(planned: Sequence[Planned]) -> dict[str, Path]:
    return {p.step.name: p.folder for p in planned}


def _settled(p: Planned, outcomes: Outcomes) -> Outcome | None:
    """The outcome of a step that needs no doing, or cannot be done any more."""
    if p.state == "hit":
        return Outcome(step=p.step.name, state="hit")
    lost = [n for n in p.step.needs if n in outcomes and outcomes[n].state in ("failed", "not run")]
    if lost:
        return Outcome(step=p.step.name, state="not run", cause=f"needs {', '.join(lost)}")
    return None


def _again(p: Planned, outcome: Outcome, display: Display) -> bool:
    """Whether a failed attempt is to be followed by another; says so."""
    if outcome.state != "failed" or outcome.refused or outcome.attempts > p.step.retries:
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
    """What a user needs to see of a failed step: which, why, where its log is, how that ends."""
    log = p.folder / store.LOG
    tries = f", attempt {outcome.attempts} of {p.step.retries + 1}" if p.step.retries else ""
    said = f"step {p.step.name}{tries}: {outcome.cause}"
    if outcome.refused:
        return said
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    except OSError:
        return said
    return "\n".join([said, f"  log: {log}", *(f"  | {line}" for line in lines)])


class _Tail:
    """The events that a step writes from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def new(self) -> Iterator[Progress | Note | None]:
        """Events that were not there at the last look; None where a step began."""
        try:
            if self._path.stat().st_size < self._at:
                self._at = 0  # the folder was moved aside and begun again
            with self._path.open("rb") as file:
                file.seek(self._at)
                found = file.read()
        except OSError:
            return
        whole = found[: found.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            said = json.loads(line)
            for ours in ("time", "attempt"):
                said.pop(ours)
            if "began" in said:
                yield None
            else:
                yield Note(**said) if "text" in said else Progress(**said)
