"""The choices that a search of training options tries: drawn, checked and written as options.

Imports neither torch nor Ray: mistakes are found where a job is read.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from core.errors import InputError, brief
from core.parts.config import ConfigError, check, override, plain
from core.parts.registry import Registry, nearest
from core.parts.signature import options_of
from core.parts.yaml_file import parse_yaml
from core.request import TrainRequest

RANGES = ("uniform", "loguniform", "int")
MOST = 1000  # trials of a search
TRIES = 100  # draws for each; one of so few choices is missed once in e to the 100th
# What a validation measures depends on these, so that its figures could not be compared.
MEASURE = (
    "task", "process", "weighting", "times", "objective", "steps", "validate_every", "validation",
    "validation_items", "seed",
)  # fmt: skip
TRAINING = tuple(field.name for field in fields(TrainRequest))

Choice = dict[str, Any]  # dotted option to its value


@dataclass(frozen=True)
class Axis:
    """The values that one option may take.

    Args:
        option: its dotted name.
        value: the one at a place from 0 to below 1, which all are equally likely.
        ends: those that are checked one by one: all, or the ends of a range.
        count: of different values; None for a range of real numbers.
    """

    option: str
    value: Callable[[float], Any]
    ends: tuple[Any, ...]
    count: int | None


def draw(space: Mapping[str, Any], trials: int, seed: int) -> list[Choice]:
    """`trials` different choices, or all that there are if they are fewer.

    They follow from `space` and `seed`, and the first so many are the same for every `trials`.

    Raises:
        ConfigError: what is said of an option is no list and no range.
    """
    axes, problems = _axes(space)
    if problems:
        raise ConfigError(problems)
    counts = [axis.count for axis in axes]
    most = trials if None in counts else min(trials, math.prod(c for c in counts if c is not None))
    stream = random.Random(seed)
    found: dict[str, Choice] = {}
    for _ in range(TRIES * most):  # a narrow range has few values of six digits
        choice = {axis.option: axis.value(stream.random()) for axis in axes}
        found.setdefault(json.dumps(choice, sort_keys=True), choice)
        if len(found) == most:
            break
    return list(found.values())


def trained(values: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """The options of a training, as JSON's types: those of a search with a choice laid over them.

    Raises:
        ConfigError: an option of the choice leads through what has no options.
    """
    training = {name: plain(value) for name, value in values.items() if name in TRAINING}
    return override(training, [f"{name}={json.dumps(value)}" for name, value in choice.items()])


def variants(
    values: Mapping[str, Any], registry: Registry | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The checked options of every trial of a search, and all that is wrong with the search.

    Args:
        values: its checked options, those that come from other steps left out.
        registry: where parts are looked up.
    """
    axes, wrong = _axes(values["space"])
    problems = [*_about(values), *wrong, *_forbidden(values)]
    options = tuple(o for o in options_of(TrainRequest) if o.name in values)

    def checked(choice: Choice, at: str) -> dict[str, Any]:
        try:
            found, wrong_ones = check(options, trained(values, choice), registry=registry)
        except ConfigError as error:
            found, wrong_ones = {}, error.problems
        # A message that begins with the option's own name needs no place.
        problems.extend(
            f"space.{text}" if text.startswith(at.removeprefix("space.")) else f"{at}: {text}"
            for text in wrong_ones
        )
        return found

    for axis in axes:
        for value in axis.ends:
            checked({axis.option: value}, f"space.{axis.option}")
    if problems or values["trials"] > MOST:
        return [], list(dict.fromkeys(problems))
    choices = draw(values["space"], values["trials"], values["seed"])
    made = [checked(choice, f"space: {shown(choice)}") for choice in choices]
    return made, problems


def shown(choice: Choice) -> str:
    """``lr 0.001, network.width 32``."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in choice.items())


def value_text(value: Any) -> str:
    """A value in words: text as it is, numbers in four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _about(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a search whatever its space."""
    every, steps, grace = (values[name] for name in ("validate_every", "steps", "grace"))
    if not values["space"]:
        yield "space: no option to search; name an option, for example lr: [1.0e-4, 1.0e-3]"
    if values["trials"] > MOST:
        yield f"trials: at most {MOST}, got {values['trials']}"
    if not 0 < every <= steps:
        yield (
            f"validate_every: {every} of {steps} steps, but trials are compared by validation; "
            f"set it to at least 1 and at most {steps}, for example {max(1, steps // 10)}"
        )
    if grace is not None and grace > steps:
        yield f"grace: {grace}, but a trial has {steps} steps; lower it, or leave it out"


def _forbidden(values: Mapping[str, Any]) -> Iterator[str]:
    for option in values["space"]:
        first = option.partition(".")[0]
        at = f"space.{option}"
        if first not in TRAINING:
            yield f"{at}: unknown option{nearest(first, TRAINING)}"
        elif first not in values:
            yield f"{at}: given in inputs too; keep one of them"
        elif first in MEASURE:
            yield f"{at}: the loss on held-out items means another thing with each {first}; fix it"
        elif first == "dataset" and values.get("validation") is None:
            yield (
                f"{at}: each choice would be measured on other items; "
                "name one dataset for all by `validation`"
            )


def _axes(space: Mapping[str, Any]) -> tuple[list[Axis], list[str]]:
    """The axes in an order that does not depend on how they were written, and all problems."""
    axes, problems = [], []
    for option in sorted(space):
        try:
            axes.append(_axis(option, space[option]))
        except InputError as error:
            problems.append(f"space.{option}: {error}")
    return axes, problems


def _axis(option: str, stated: Any) -> Axis:
    if isinstance(stated, list):
        return _list(option, stated)
    if not isinstance(stated, Mapping) or len(stated) != 1 or next(iter(stated)) not in RANGES:
        raise InputError(
            f"expected a list of values, or one of {', '.join(RANGES)}, got {brief(stated)}"
        )
    kind, ends = next(iter(stated.items()))
    return _integers(option, ends) if kind == "int" else _reals(option, kind, ends)


def _integers(option: str, ends: Any) -> Axis:
    low, high, step = (*ends, 1)[:3] if isinstance(ends, list) and len(ends) > 1 else (0, 0, 0)
    if any(type(end) is not int for end in (low, high, step)) or len(ends) > 3:
        low = high = 0
    if low >= high or step < 1:
        raise InputError(
            "int: expected whole numbers [low, high] or [low, high, step], low below high and step "
            f"at least 1, got {brief(ends)}"
        )
    count = (high - low) // step + 1
    last = low + (count - 1) * step
    return Axis(option, lambda u: low + step * int(u * count), (low, last), count)


def _reals(option: str, kind: str, ends: Any) -> Axis:
    pair = isinstance(ends, list) and len(ends) == 2 and all(type(e) in (int, float) for e in ends)
    if not pair or not ends[0] < ends[1] or not math.isfinite(ends[1] - ends[0]):
        raise InputError(f"{kind}: expected two numbers, the lower one first, got {brief(ends)}")
    low, high = map(float, ends)
    if kind == "loguniform" and low <= 0:
        raise InputError(f"loguniform: expected two numbers above zero, got {brief(ends)}")

    def value(u: float) -> float:
        even = kind == "uniform"
        exact = low + u * (high - low) if even else low * math.exp(u * math.log(high / low))
        return min(high, max(low, float(f"{exact:.6g}")))  # six digits, which a person can copy

    return Axis(option, value, (low, high), None)


def _list(option: str, values: Sequence[Any]) -> Axis:
    texts = {json.dumps(value, sort_keys=True) for value in values}
    if not values:
        raise InputError("no values; name at least one")
    if len(texts) < len(values):
        raise InputError("a value is given twice")
    return Axis(option, lambda u: values[int(u * len(values))], tuple(values), len(values))


def vary(settings: Sequence[str]) -> dict[str, Any]:
    """The space that texts such as ``lr=loguniform:1e-5:1e-2`` or ``batch=8,16`` describe.

    Raises:
        ConfigError: one of them is none; all problems at once.
    """
    space, problems = {}, []
    for setting in settings:
        option, equals, text = (part.strip() for part in setting.partition("="))
        kind, colon, ends = text.partition(":")
        if not option or not equals or not text:
            problems.append(
                f"--vary {setting}: expected NAME=VALUE,VALUE or NAME=RANGE:LOW:HIGH, where RANGE "
                f"is one of {', '.join(RANGES)}"
            )
        elif option in space:
            problems.append(f"--vary {setting}: {option} is given twice")
        elif colon and kind in RANGES:
            space[option] = {kind: parse_yaml(f"[{ends.replace(':', ', ')}]", f"--vary {option}")}
        else:
            space[option] = parse_yaml(f"[{text}]", f"--vary {option}")
    if problems:
        raise ConfigError(problems)
    return space
