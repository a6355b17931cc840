"""Doing one planned step: its request to its verb, its output to its log, its result committed.

Every way of running a job calls `run_step`, with the same threads and device; so all give the same
files.  Whoever does a step holds its lock and commits it.
"""

import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from core.errors import InputError, cut_lines
from core.parts.config import plain
from core.parts.registry import installed_version
from core.request import Emit, Machine, Note, Progress, silent
from core.storage import files
from core.training.stopping import Stopped
from pipelines.cluster.failures import without_colours
from pipelines.job.plan import Planned
from pipelines.job.verbs import Runnable, load
from pipelines.run.names import places, traceback_without_names, without_names
from pipelines.run.unchanged import Changed, unchanged
from pipelines.store import results

BETWEEN = 0.25  # seconds between two written progress events of a step


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a step ended.

    Args:
        step: its name.
        state: made now, found whole, failed, not run because of a failed input, or stopped because
            its machine is taken away, to be resumed elsewhere.
        seconds: spent on the last attempt.
        attempts: how often it was tried.
        cause: one line: the error, or the input that failed; without names of a user's files.
        message: the cause with such names, for the terminal; never written to a file.
        refused: the request was wrong.
        changed: what it reads changed; its log does not say why.
        final: trying again would end in the same way.
    """

    step: str
    state: Literal["done", "hit", "failed", "not run", "moved"]
    seconds: float = 0.0
    attempts: int = 0
    cause: str = ""
    message: str = ""
    refused: bool = False
    changed: bool = False
    final: bool = False

    def document(self) -> dict[str, Any]:
        """What is written of it: everything but the message."""
        return {name: value for name, value in asdict(self).items() if name != "message"}


class Moved(Exception):
    """The step's workers have to leave their machine; all they did is saved, to be resumed."""


def run_step(
    planned: Planned,
    folders: Mapping[str, Path],
    verb: Runnable,
    *,
    attempt: int = 1,
    together: bool = False,
    leave: Callable[[], bool] | None = None,
    emit: Emit = silent,
) -> Outcome:
    """Do a step on this machine and commit its result, unless another process has done it.

    Args:
        planned: the step, its key and its folder.
        folders: the folders of the steps it needs, by name.
        verb: what it runs.
        attempt: counts from 1.
        together: the step's workers do it, by the running Ray.
        leave: whether this machine is taken away; called by verbs that can stop and resume.
        emit: called with the step's events.
    """
    folder, name, began = planned.folder, planned.step.name, time.monotonic()

    def ended(state: Literal["done", "hit", "failed", "moved"], **more: Any) -> Outcome:
        seconds = time.monotonic() - began
        return Outcome(step=name, state=state, seconds=seconds, attempts=attempt, **more)

    def causes(error: Exception) -> dict[str, str]:
        message = _message(error)
        cause = without_names(message, _named(planned), error)
        return {"cause": cause, "message": message}

    def waiting() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with _events(folder, attempt, emit) as tell:
            tell(Note(text="another process is doing this step; waiting for it"))

    try:
        with results.locked(folder, waiting):
            found = results.inspect(folder, planned.key)
            if found.state == "whole":
                return ended("hit")
            if found.state == "unreadable":  # it may well be whole
                raise InputError(results.unreadable(folder, found))
            if found.state == "damaged":
                results.set_aside(folder)
            with unchanged(planned.reads, folder):
                results.begin(
                    folder, planned.key, planned.identity, name, planned.code, planned.named
                )
                with _events(folder, attempt, emit, began=True) as tell:
                    _do(planned, folders, verb, tell, together, leave)
            results.commit(folder, planned.key)
        return ended("done")
    except Stopped:
        if leave is None or not leave():
            raise
        return ended("moved", cause="its machine is taken away")
    except Moved:
        return ended("moved", cause="a machine of its workers is taken away")
    except Changed as error:
        return ended("failed", cause=error.cause, message=str(error), changed=True, final=True)
    except InputError as error:
        return ended("failed", **causes(error), refused=True, final=True)
    except Exception as error:  # noqa: BLE001  (whatever a step raises is its outcome)
        return ended("failed", **causes(error), final=_final(error))


def _named(planned: Planned) -> dict[str, Path]:
    """The files and folders that a step reads, by option: a message may hold their names."""
    return {read.at: read.path for read in planned.reads}


def _message(error: Exception) -> str:
    """A refusal's words; of another error its kind and first line."""
    if isinstance(error, InputError):
        return str(error)
    lines = without_colours(str(error)).strip().splitlines()
    return cut_lines(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)


def _final(error: Exception) -> bool:
    """Whether it is a fault of the numbers, which come out the same at every attempt."""
    training = sys.modules.get("core.training.loop")  # not imported for steps that train nothing
    return training is not None and isinstance(error, training.NotFinite)


def _do(
    planned: Planned,
    folders: Mapping[str, Path],
    verb: Runnable,
    emit: Emit,
    together: bool,
    leave: Callable[[], bool] | None,
) -> None:
    """Call the verb with its output below the step's folder; write what it gave and where."""
    step, folder = planned.step, planned.folder
    # For libraries that start threads before torch's number is set; torch's own are the Machine's.
    os.environ["OMP_NUM_THREADS"] = str(step.cpus)
    # Threads that wait by spinning make a step ten times slower where another program is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if 0 < step.gpus < 1:
        share_gpu(step.gpus)
    machine = Machine(device="auto" if step.gpus else "cpu", threads=step.cpus)
    began, clock, spent = datetime.now(UTC), time.monotonic(), sum(os.times()[:4])
    with _logged(folder / results.LOG):
        try:
            result = _call(planned, folders, verb, machine, emit, together, leave)
        except Exception as error:
            named = _named(planned)
            print(traceback_without_names(error, named), end="", file=sys.stderr)
            raise
    files.write_json(folder / results.RESULT, _relative(result, folder))
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
    files.write_json(folder / results.ENVIRONMENT, environment)


def share_gpu(part: float) -> None:
    """Limit this process to its part of the GPU's memory; Ray assigns numbers only."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(part)


def _call(
    planned: Planned,
    folders: Mapping[str, Path],
    verb: Runnable,
    machine: Machine,
    emit: Emit,
    together: bool,
    leave: Callable[[], bool] | None,
) -> Any:
    step = planned.step
    function = load(verb.together if together else verb.target)
    more: dict[str, Any] = {}
    if together:
        more = {"workers": step.workers, "gpus": step.gpus}
    elif leave is not None and "stop" in inspect.signature(function).parameters:
        more = {"stop": leave}
    if verb.folders:
        _check_signature(step.run, function)
        whole = {label: folders[source.step] for label, source in step.inputs.items()}
        request = verb.request(**step.request)
        return function(request, whole, planned.folder, machine=machine, emit=emit, **more)
    given = {
        field: results.result_path(folders[source.step], source.field)
        for field, source in step.inputs.items()
    }
    request = verb.request(**step.request, **given)
    return function(request, planned.folder, machine=machine, emit=emit, **more)


def _check_signature(name: str, function: Callable[..., Any]) -> None:
    """Refuse a verb of the signature that verbs of folders had: ``(*options, inputs, out)``.

    Raises:
        InputError: it cannot be called as ``(request, inputs, out, *, machine, emit)``.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(None, {}, Path(), machine=None, emit=silent)
    except TypeError as error:
        raise InputError(
            f"verb {name!r}: expected the signature (request, inputs, out, *, machine, emit), got "
            f"{signature}; change {function.__module__}.{function.__qualname__}"
        ) from error


def _relative(result: Any, folder: Path) -> dict[str, Any]:
    """The fields of a result, its paths relative to the step's folder."""
    values: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Path):
            value = value.resolve().relative_to(folder.resolve()).as_posix()
        values[field.name] = value
    return plain(values)


@cache
def _environment() -> dict[str, Any]:
    """Versions and machine, as this process began; no environment variables: they hold secrets."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        **{
            package: installed_version(package) for package in ("polymode", "torch", "numpy", "ray")
        },
        **_commit(),
    }


def _commit() -> dict[str, Any]:
    """The commit of the checkout that this code lies in, and whether files in it have changed."""
    here, git = Path(__file__).resolve().parents[1], shutil.which("git")
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
    """Send standard output and standard error, those of C code and of children too, to a file.

    Names of the user's files are taken out of warnings, which go there as well.
    """

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: Any = None, line: str | None = None,
    ) -> None:  # fmt: skip
        text = warnings.formatwarning(message, category, filename, lineno, line)
        sys.stderr.write(without_names(text, places([path.parent])))

    saved, shown = [os.dup(1), os.dup(2)], warnings.showwarning
    with path.open("a", encoding="utf-8", buffering=1) as log, ExitStack() as stack:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.showwarning = shown
            for number, handle in enumerate(saved, start=1):
                os.dup2(handle, number)
                os.close(handle)


@contextmanager
def _events(folder: Path, attempt: int, emit: Emit, *, began: bool = False) -> Iterator[Emit]:
    """A listener that writes a step's events, one JSON line each, and passes them on.

    Names of the user's files are taken out of notes, as they are out of errors.
    """
    with (folder / results.EVENTS).open("a", encoding="utf-8", buffering=1) as file:
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
            if isinstance(event, Note):
                event = Note(text=without_names(event.text, places([folder])))
            write(asdict(event))
            emit(event)

        if began:
            write({"began": True})
        yield tell


@contextmanager
def continued(folder: Path, *, tells: bool) -> Iterator[Emit]:
    """In another process of a step: its output to the step's log, its events to the step's events.

    Args:
        folder: the step's.
        tells: whether its events are written; one process of a step does.
    """
    with _logged(folder / results.LOG):
        if not tells:
            yield silent
            return
        with _events(folder, 1, silent) as tell:
            yield tell
