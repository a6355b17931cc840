"""Steps that stand for several: a matrix of options, and parts of one sampling.

Works on steps as they are written, before they are checked; what is not as it should be is left
for the check to name.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import product
from typing import Any

from core.errors import brief
from core.parts.config import ConfigError, override
from pipelines.job.verbs import Runnable

MOST = 1000  # steps that one may stand for
MOST_STEPS = 10_000  # of a job, each of which has a folder and lines in every listing
MOST_INPUTS = 100_000  # of all of them
MAX_NAME = 64  # letters of a step's name; a folder's holds it, a dash and 16 digits
Written = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """The values that one option of one step takes in turn.

    Args:
        step: whose matrix it is in.
        option: dotted name in its request.
        values: plain values.
        names: of the values, for the names of steps.
    """

    step: str
    option: str
    values: tuple[Any, ...]
    names: tuple[str, ...]


Choice = dict[tuple[str, str], int]  # (step, option) to the place of its value


def expand(
    steps: Mapping[str, Written], table: Mapping[str, Runnable]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The steps with one for each choice of a matrix and for each shard, and all problems.

    A step that takes a result of a step with a matrix has that matrix too; a report takes all.
    """
    problems: list[str] = []
    axes: dict[str, tuple[Axis, ...]] = {}
    for name in _order(steps, table):
        own, more = _own_axes(name, steps[name])
        problems += more
        taken = [] if _whole(steps[name], table) else _sources(steps[name])
        inherited = (axis for source in taken for axis in axes.get(source, ()))
        axes[name] = (*dict.fromkeys(inherited), *own)
        count = _count(axes[name])
        if count > MOST:
            problems.append(f"steps.{name}: its matrix makes {count} steps; at most {MOST}")
            axes[name] = ()
    if too_many := _too_many(steps, axes, table):
        return {}, [*problems, too_many]
    made: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        for choice in _choices(axes[name]):
            variant, more = _variant(name, step, choice, axes, _whole(step, table))
            problems += more
            for key, value in _shards(_name(name, axes[name], choice), variant, table, problems):
                if key in made or (key in steps and key != name):
                    problems.append(f"steps.{name}: one of its variants is named {brief(key)} as "
                                    "another step is; rename one")  # fmt: skip
                made[key] = value
    return made, problems


# --- a matrix --------------------------------------------------------------------------------


def _whole(step: Written, table: Mapping[str, Runnable]) -> bool:
    run = step.get("run")
    return isinstance(run, str) and run in table and table[run].folders


def _sources(step: Written) -> list[str]:
    """The steps that a step's inputs name."""
    inputs = step.get("inputs")
    texts = inputs.values() if isinstance(inputs, Mapping) else ()
    return [text.partition(".")[0] for text in texts if isinstance(text, str)]


def _order(steps: Mapping[str, Written], table: Mapping[str, Runnable]) -> list[str]:
    """Each step after those whose matrix it has; as written if they go in a circle."""
    graph = {name: [s for s in _sources(step) if s in steps] for name, step in steps.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError:  # named later, with the steps in it
        return list(steps)


def _too_many(
    steps: Mapping[str, Written],
    axes: Mapping[str, tuple[Axis, ...]],
    table: Mapping[str, Runnable],
) -> str:
    """The problem of a job of too many steps or inputs, counted before any is made; or nothing."""
    total = inputs = 0
    for name, step in steps.items():
        shards = step.get("shards", 1)
        parts = shards if type(shards) is int and 1 < shards <= MOST else 1
        variants = _count(axes[name])
        total += variants * (parts + (parts > 1))
        for source in _sources(step) if _whole(step, table) else ():
            inputs += variants * _count(axes.get(source, ()))
    if total > MOST_STEPS:
        return f"steps: {total} with those of matrices and shards, at most {MOST_STEPS} in a job"
    if inputs > MOST_INPUTS:
        return f"steps: reports have {inputs} inputs, at most {MOST_INPUTS} in a job"
    return ""


def _own_axes(name: str, step: Written) -> tuple[list[Axis], list[str]]:
    matrix, request = step.get("matrix"), step.get("request")
    axes, problems = [], []
    if not isinstance(matrix, Mapping):
        return [], []
    for option, values in matrix.items():
        at = f"steps.{name}.matrix.{option}"
        if not isinstance(values, list):
            continue  # the check says what was expected
        texts = [json.dumps(value, sort_keys=True) for value in values]
        if not all(key.isidentifier() for key in option.split(".")):
            problems.append(f"{at}: expected the dotted name of an option of the request")
        elif not values:
            problems.append(f"{at}: no values; name at least one")
        elif len(set(texts)) < len(texts):
            problems.append(f"{at}: a value is given twice")
        elif _given(request, option):
            problems.append(f"{at}: given in request too; keep one of them")
        else:
            axes.append(Axis(name, option, tuple(values), _names(values)))
    return axes, problems


def _given(request: Any, option: str) -> bool:
    for key in option.split("."):
        if not isinstance(request, Mapping) or key not in request:
            return False
        request = request[key]
    return True


def _names(values: Sequence[Any]) -> tuple[str, ...]:
    """A short name for each value: its letters and digits, or a hash of what has no short text."""
    names = []
    for value in values:
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        short = re.sub(r"[^a-z0-9-]+", "_", text.lower()).strip("_")
        simple = short and len(short) <= 24 and not isinstance(value, (dict, list))
        names.append(short if simple else _hash(value))
    counts = Counter(names)
    return tuple(
        name if counts[name] == 1 else f"{name}_{_hash(value)}"
        for name, value in zip(names, values, strict=True)
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _count(axes: Sequence[Axis]) -> int:
    count = 1
    for axis in axes:
        count *= len(axis.values)
    return count


def _choices(axes: Sequence[Axis], agreed: Choice | None = None) -> Iterator[Choice]:
    """Every choice of the axes' values, those that `agreed` decides as it does."""
    keys, agreed = [(axis.step, axis.option) for axis in axes], agreed or {}
    ranges = (
        [agreed[key]] if key in agreed else range(len(axis.values))
        for key, axis in zip(keys, axes, strict=True)
    )
    for places in product(*ranges):
        yield dict(zip(keys, places, strict=True))


def _suffix(axes: Sequence[Axis], choice: Choice) -> str:
    words = (
        f"-{re.sub(r'[^a-z0-9]+', '_', axis.option.rpartition('.')[2].lower())}"
        f"_{axis.names[choice[axis.step, axis.option]]}"
        for axis in axes
    )
    return "".join(words)


def _name(name: str, axes: Sequence[Axis], choice: Choice) -> str:
    suffix = _suffix(axes, choice)
    room = MAX_NAME - len("-1000of1000")  # for a shard's
    if suffix and len(name + suffix) > room:
        digits = _hash(name + suffix)
        return f"{name[: room - len(digits) - 1]}-{digits}"
    return name + suffix


def _variant(
    name: str,
    step: Written,
    choice: Choice,
    axes: Mapping[str, tuple[Axis, ...]],
    whole: bool,
) -> tuple[dict[str, Any], list[str]]:
    """The step with its options set by `choice` and its inputs those of the same choice."""
    variant, problems = dict(step), []
    own = [axis for axis in axes[name] if axis.step == name]
    if own and isinstance(step.get("request", {}), Mapping):
        variant.pop("matrix", None)
        try:
            settings = [f"{a.option}={json.dumps(a.values[choice[a.step, a.option]])}" for a in own]
            variant["request"] = override(step.get("request", {}), settings)
        except ConfigError as error:
            problems += [f"steps.{name}.matrix: {said}" for said in error.problems]
    inputs = step.get("inputs")
    if isinstance(inputs, Mapping):
        variant["inputs"] = {
            key: value
            for label, text in inputs.items()
            for key, value in _matched(label, text, choice, axes, whole)
        }
    return variant, problems


def _matched(
    label: str, text: Any, choice: Choice, axes: Mapping[str, tuple[Axis, ...]], whole: bool
) -> Iterator[tuple[str, Any]]:
    """An input as the variants of its source that agree with `choice`."""
    source, dot, result = text.partition(".") if isinstance(text, str) else ("", "", "")
    if not axes.get(source):
        yield label, text
        return
    for other in _choices(axes[source], choice):
        suffix = _suffix(axes[source], other) if whole else ""
        yield label + suffix, f"{_name(source, axes[source], other)}{dot}{result}"


# --- shards ----------------------------------------------------------------------------------


def _shards(
    name: str, step: dict[str, Any], table: Mapping[str, Runnable], problems: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The step, or its parts and a step of its name that joins them."""
    count, run, request = step.get("shards"), step.get("run"), step.get("request", {})
    if type(count) is not int or count < 1 or not isinstance(run, str) or run not in table:
        yield name, step
        return
    rest = {key: value for key, value in step.items() if key != "shards"}
    able = [other for other, verb in table.items() if verb.joined_by in table]
    if run not in able:
        problems.append(f"steps.{name}.shards: {run} cannot be split into shards; verbs that can: "
                        f"{', '.join(able) or 'none'}")  # fmt: skip
    elif count > MOST:
        problems.append(f"steps.{name}.shards: at most {MOST}, got {count}")
    elif isinstance(request, Mapping) and request.keys() & {"part", "parts"}:
        problems.append(f"steps.{name}.request: shards sets part and parts; leave them out")
    elif count > 1 and isinstance(request, Mapping):
        shares = {f"{i}of{count}": i for i in range(1, count + 1)}
        for label, i in shares.items():
            yield f"{name}-{label}", {**rest, "request": {**request, "part": i, "parts": count}}
        joined: dict[str, Any] = {"run": table[run].joined_by}
        joined["inputs"] = {label: f"{name}-{label}" for label in shares}
        if "memory" in step:
            joined["memory"] = step["memory"]
        yield name, joined
        return
    yield name, rest
