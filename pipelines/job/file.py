"""A job file: named steps, where their inputs come from, what they may use.

Read and checked in full before anything starts, without torch or Ray.  Every problem is reported
at once with its dotted path.  Requests are kept resolved, defaults stated, so that a changed
default changes a step's identity.
"""

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from core.errors import InputError, brief
from core.parts.config import ConfigError, check, override, plain
from core.parts.inherited import FROM, inherit
from core.parts.registry import Registry, installed, nearest
from core.parts.signature import Option, options_of
from core.parts.yaml_file import read_yaml
from core.request import Count
from pipelines.job.matrix import MAX_NAME, expand
from pipelines.job.verbs import VERBS, Runnable, Verbs, find, known, load

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)")
UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where an input comes from.

    Args:
        step: the step that makes it.
        field: which of its results; empty for the whole step.
    """

    step: str
    field: str = ""

    def __str__(self) -> str:
        return f"{self.step}.{self.field}" if self.field else self.step


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run with everything that decides its numbers, and what it may use.

    Args:
        name: unique in the job.
        run: its verb.
        request: resolved options by name, those that inputs supply left out.
        inputs: request field, or a report's label, to where it comes from.
        cpus: threads it computes with, and cores it occupies.
        gpus: GPUs it occupies; a fraction of one is possible. 0 computes on the CPU.
        memory: bytes of memory it is counted with; 0 for none.
        workers: processes of the step on Ray, each with `cpus` and `gpus`.
        retries: how often it is tried again after a failure.
    """

    name: str
    run: str
    request: Mapping[str, Any]
    inputs: Mapping[str, Source]
    cpus: int = 1
    gpus: float = 0
    memory: int = 0
    workers: int = 1
    retries: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The steps it waits for."""
        return tuple(dict.fromkeys(source.step for source in self.inputs.values()))


@dataclass(frozen=True, kw_only=True)
class Job:
    """Steps in an order in which each comes after those it needs."""

    name: str
    steps: tuple[Step, ...]
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class _JobAsWritten:
    name: str
    steps: dict[str, dict[str, Any]]
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class _StepAsWritten:
    run: str
    request: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    cpus: Count = 1
    gpus: Annotated[float, Ge(0)] = 0
    memory: int | str = 0
    workers: Count = 1
    retries: Annotated[int, Ge(0)] = 0
    matrix: dict[str, list[Any]] = field(default_factory=dict)
    shards: Count = 1


def read(
    path: Path,
    settings: Sequence[str] = (),
    *,
    verbs: Verbs = VERBS,
    registry: Registry | None = None,
) -> Job:
    """The job in a YAML file with ``steps.train.request.steps=10`` settings laid over it.

    Raises:
        InputError: the file cannot be read or is not YAML.
        ConfigError: anything in it does not fit; all problems at once.
    """
    return parse(written(path, settings), verbs=verbs, registry=registry)


def written(path: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a job file with settings laid over it, and what its steps take from others.

    Raises:
        InputError: a file cannot be read or is not YAML.
        ConfigError: a setting does not fit.
    """
    return _inherited(override(read_yaml(path), list(settings)), path.parent)


def _inherited(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`document` with the options that its steps' requests take from files, which lie at `folder`.

    `from` of a step is that of its request.  What its inputs supply, and its matrix or its
    space varies, is not taken from a file.

    Raises:
        InputError: a file cannot be read.
    """
    steps = document.get("steps")
    if not isinstance(steps, Mapping):
        return dict(document)
    made = dict(steps)
    for name, step in steps.items():
        request = step.get("request", {}) if isinstance(step, Mapping) else None
        if not isinstance(request, Mapping):
            continue
        if FROM in step and FROM in request:
            raise InputError(f"steps.{name}.{FROM}: given in request too; keep one of them")
        if FROM in step or FROM in request:
            rest = {key: value for key, value in step.items() if key != FROM}
            varied = [*_keys(step.get("inputs")), *_keys(step.get("matrix"))]
            varied += _keys(request.get("space"))
            request = {FROM: step[FROM], **request} if FROM in step else request
            at = f"steps.{name}" if FROM in step else f"steps.{name}.request"
            made[name] = {**rest, "request": inherit(request, folder, at=at, without=varied)}
    return {**document, "steps": made}


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, Mapping) else []


def parse(
    document: object,
    settings: Sequence[str] = (),
    *,
    verbs: Verbs = VERBS,
    registry: Registry | None = None,
) -> Job:
    """The job that `document`, a value as YAML gives it, describes.

    Raises:
        ConfigError: anything in it does not fit; all problems at once.
    """
    if not isinstance(document, Mapping):
        raise ConfigError([f"job: expected a mapping with name and steps, got {brief(document)}"])
    try:
        given: dict[str, Any] = plain(document)
    except (TypeError, ValueError) as error:
        raise ConfigError([f"job: not a plain value: {error}"]) from error
    given = _inherited(override(given, list(settings)), Path())
    top, problems = check(options_of(_JobAsWritten), given, label="job")
    name, written = top.get("name"), top.get("steps")
    if isinstance(name, str):
        problems += _about_name("name", name)
        if name == "store":
            problems.append("name: 'store' is where results are kept; choose another")
    if not isinstance(written, dict):
        raise ConfigError(problems)
    if not written:
        problems.append("steps: none given; a job has at least one step")
    table, wrong = _verbs(written, verbs, registry)
    written, more = expand(written, table)
    problems += more
    steps: dict[str, Step] = {}
    for key, step in written.items():
        problems += _about_name(f"steps.{key}", key)
        steps[key], more = _step(key, step, written, table, wrong, registry)
        problems += more
    order, more = _order(steps)
    problems += more
    if problems:
        raise ConfigError(problems)
    description = top.get("description", "")
    return Job(name=str(name), description=description, steps=tuple(steps[key] for key in order))


def _about_name(at: str, name: str) -> list[str]:
    if NAME.fullmatch(name) and len(name) <= MAX_NAME:
        return []
    allowed = f"at most {MAX_NAME} of a-z, 0-9, _ and -, the first a letter or digit"
    return [f"{at}: {brief(name)} is not a name; allowed: {allowed}"]


def _verbs(
    written: Mapping[str, Mapping[str, Any]], verbs: Verbs, registry: Registry | None
) -> tuple[dict[str, Runnable], dict[str, str]]:
    """The verbs that the steps name and those that join their parts; what is wrong with others."""
    table, wrong = dict(verbs), dict[str, str]()
    for run in {step["run"] for step in written.values() if isinstance(step.get("run"), str)}:
        try:
            table[run] = find(run, verbs, registry)
        except InputError as error:
            wrong[run] = str(error)
    names = known(verbs, registry)
    for run, said in wrong.items():
        if run not in names:
            wrong[run] = f"no verb {brief(run)}{nearest(run, names)}; known: {', '.join(names)}"
            if run.partition("/")[0] in (registry or installed()).broken:
                wrong[run] = said
    return table, wrong


def _step(
    name: str,
    written: Mapping[str, Any],
    steps: Mapping[str, Mapping[str, Any]],
    table: Mapping[str, Runnable],
    wrong: Mapping[str, str],
    registry: Registry | None,
) -> tuple[Step, list[str]]:
    """The step as far as it can be read, and all that is wrong with it."""
    at = f"steps.{name}"
    values, problems = check(options_of(_StepAsWritten), written, at=at)
    sources = {
        key: Source(*text.partition(".")[::2]) for key, text in values.get("inputs", {}).items()
    }
    run, request = values.get("run"), values.get("request", {})
    verb = table.get(run) if isinstance(run, str) else None
    if isinstance(run, str) and run in wrong:
        problems.append(f"{at}.run: {wrong[run]}")
    elif verb is not None:
        options = options_of(verb.request)
        if not verb.folders:
            problems += _about_fields(at, options, request, sources)
            # What inputs supply is neither required of the request nor wanted in it.
            options = tuple(o for o in options if o.name not in sources)
            request = {key: value for key, value in request.items() if key not in sources}
        request, more = check(options, request, at=f"{at}.request", registry=registry)
        if verb.variants and not more:
            _, wrong_ones = load(verb.variants)(request, registry)
            more = [f"{at}.request.{said}" for said in wrong_ones]
        problems += more
    for key, source in sources.items():
        whole = verb is not None and verb.folders
        problems += _about_source(f"{at}.inputs.{key}", source, steps, table, whole)
    rest = {key: values[key] for key in ("cpus", "gpus", "workers", "retries") if key in values}
    if rest.get("workers", 1) > 1 and verb is not None and not verb.together:
        able = ", ".join(name for name, other in table.items() if other.together)
        problems.append(
            f"{at}.workers: {run} runs in one process, expected 1; verbs of several workers: {able}"
        )
    try:
        rest["memory"] = _bytes(values.get("memory", 0))
    except ValueError as error:
        problems.append(f"{at}.memory: {error}")
    return Step(name=name, run=str(run), request=request, inputs=sources, **rest), problems


def _bytes(said: int | str) -> int:
    """The bytes that ``8GiB``, ``500 MB`` or a number of bytes mean."""
    if isinstance(said, int) and said >= 0:
        return said
    match = SIZE.fullmatch(said) if isinstance(said, str) else None
    if match is None:
        raise ValueError(f"expected a size such as 8GiB or 500MB, got {brief(said)}")
    return int(float(match[1]) * UNITS[match[2]])


def _takes_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_takes_path, typing.get_args(annotation)))


def _about_fields(
    at: str, options: tuple[Option, ...], request: Mapping[str, Any], sources: Mapping[str, Source]
) -> Iterator[str]:
    by_name = {option.name: option for option in options}
    able = [option.name for option in options if _takes_path(option.annotation)]
    for key in sources:
        if key not in by_name:
            yield f"{at}.inputs.{key}: unknown option{nearest(key, able)}"
        elif key not in able:
            takes = ", ".join(able) or "none"
            yield f"{at}.inputs.{key}: takes no file or folder; options that do: {takes}"
        if key in request:
            yield f"{at}.inputs.{key}: given in request too; keep one of them"


def _about_source(
    at: str,
    source: Source,
    steps: Mapping[str, Mapping[str, Any]],
    table: Mapping[str, Runnable],
    whole: bool,
) -> Iterator[str]:
    run = steps[source.step].get("run") if source.step in steps else None
    if source.step not in steps:
        yield f"{at}: no step named {brief(source.step)}{nearest(source.step, steps)}"
    elif isinstance(run, str) and run in table:
        paths = table[run].paths
        if not source.field and not whole:
            yield f"{at}: expected one of {', '.join(f'{source.step}.{p}' for p in paths)}"
        elif source.field and source.field not in paths:
            yield (
                f"{at}: {run} gives no file or folder {brief(source.field)}"
                f"{nearest(source.field, paths)}; known: {', '.join(paths)}"
            )


def _order(steps: Mapping[str, Step]) -> tuple[list[str], list[str]]:
    graph = {name: [need for need in step.needs if need in steps] for name, step in steps.items()}
    try:
        return list(TopologicalSorter(graph).static_order()), []
    except CycleError as error:
        cycle: list[str] = error.args[1][:-1]
        first = cycle.index(min(cycle))
        cycle = cycle[first:] + cycle[: first + 1]
        return [], [f"steps: circular inputs {' -> '.join(cycle)}"]
