"""What decides a step's result, and its key: the sha256 of all that.

That is the verb, the resolved request, the versions of the parts named in it, the keys of its
inputs and the contents of the files it names, wherever these lie.  Imports neither torch nor Ray.
"""

import hashlib
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from core.errors import InputError
from core.parts.config import plain
from core.parts.registry import Registry, Spec
from core.parts.signature import Option, options_of, part_options
from pipelines.job.file import Step
from pipelines.job.verbs import Runnable, load
from pipelines.store.contents import content_of

FORMAT = 2  # of what is hashed: format 1 held paths, and digests that counted hidden files
CONTENT = "<content>"  # in the place of a path in a request: what lies there counts

Mention = tuple[str, Path | tuple[str, str]]
"""A path, or a part (kind and name, version), with its dotted place in a request."""


@dataclass(frozen=True)
class Weighed:
    """What decides a result beside the plain values of its request.

    Args:
        contents: digests of the files and folders named, by dotted place.
        parts: versions of the parts named, by kind and name.
        named: the files and folders, by dotted place.
        problems: what cannot be read, each with its dotted place.
    """

    contents: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    named: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


Digest = Callable[[Path], str]
"""The digest of what lies at a path."""


def weighed(verb: Runnable, step: Step, registry: Registry, digest: Digest) -> Weighed:
    """What the paths and parts in a step's request, and in those made of it, hold and are."""
    return _weighed(_named(verb, step, registry), digest)


def identity_of(
    step: Step, verb: Runnable, found: Weighed, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that decides the result of `step`, as JSON's types.

    Args:
        step: as its job states it.
        verb: what it runs.
        found: what its request names.
        inputs: keys of the steps that its inputs are results of, by name.
    """
    parts = {**found.parts, **({f"verb {step.run}": verb.version} if verb.version else {})}
    return {
        "format": FORMAT,
        "run": step.run,
        "request": plain(_without_paths(step.request)),
        "parts": dict(sorted(parts.items())),
        "inputs": {
            name: {"key": inputs[source.step], "field": source.field}
            for name, source in step.inputs.items()
        },
        "files": found.contents,
    }


def _without_paths(value: Any) -> Any:
    """`value` with `CONTENT` for every path."""
    match value:
        case Path():
            return CONTENT
        case Spec():
            return Spec(value.name, _without_paths(value.options))
        case Mapping():
            return {key: _without_paths(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_without_paths(inner) for inner in value]
    return value


def _named(verb: Runnable, step: Step, registry: Registry) -> list[Mention]:
    """Every path and part in a step's request, and in those that are made of it."""
    options = options_of(verb.request)
    found = list(_mentioned(options, step.request, registry, "request"))
    return found + (_in_variants(verb, step.request, found, registry) if verb.variants else [])


def _in_variants(
    verb: Runnable, request: Mapping[str, Any], before: Sequence[Mention], registry: Registry
) -> list[Mention]:
    """What the requests that are made of `request` name and it does not itself."""
    named = {thing for _, thing in before}
    options = {option.name: option for option in options_of(verb.request)}
    found: list[Mention] = []
    for number, values in enumerate(load(verb.variants)(request, registry)[0]):
        its = tuple(options[name] for name in values)
        for at, thing in _mentioned(its, values, registry, f"request.variants[{number}]"):
            if thing not in named:
                named.add(thing)
                found.append((at, thing))
    return found


def what_decides(
    options: tuple[Option, ...], values: Mapping[str, Any], registry: Registry, at: str
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """What decides a result beside the values themselves, and what cannot be read of it.

    Args:
        options: of `values`.
        values: resolved; parts may be in them, with options of their own.
        registry: where parts are looked up.
        at: dotted place of `values`.

    Returns:
        Digests of the files and folders named, by dotted place; versions of the parts named, by
        kind and name; and problems, each with its dotted place.
    """
    found = _weighed(_mentioned(options, values, registry, at), lambda p: content_of(p).digest)
    return found.contents, found.parts, found.problems


def _weighed(mentioned: Iterable[Mention], digest: Digest) -> Weighed:
    found = Weighed()
    for at, thing in mentioned:
        if isinstance(thing, Path):
            try:
                found.contents[at] = digest(thing)
            except InputError as error:
                found.problems.append(f"{at}: {error}")
            found.named[at] = thing
        else:
            found.parts.update([thing])
    return found


# --- keys ------------------------------------------------------------------------------------


def key_of(identity: Mapping[str, Any]) -> str:
    """The sha256 of `identity`, the same for every order of its keys and for 1 and 1.0."""
    text = json.dumps(one_number(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def one_number(value: Any) -> Any:
    """`value` with whole floats as integers: a default of 1 and a given 1.0 mean the same."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {key: one_number(inner) for key, inner in value.items()}
        case list() | tuple():
            return [one_number(inner) for inner in value]
    return value


# --- mentions --------------------------------------------------------------------------------


def _kind_in(annotation: Any) -> Any:
    """The kind of part that ``Annotated[Spec, kind]`` somewhere in `annotation` names."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated and inner[0] is Spec:
        return inner[1]
    return next(filter(None, map(_kind_in, inner)), None)


def _mentioned(
    options: tuple[Option, ...], values: Mapping[str, Any], registry: Registry, at: str
) -> Iterator[Mention]:
    """Every path and every part (name, version) in resolved `values`, with its dotted place."""
    annotations = {option.name: option.annotation for option in options}
    for name, value in values.items():
        place = f"{at}.{name}" if at else name
        yield from _within(annotations.get(name), value, registry, place)


def _within(annotation: Any, value: Any, registry: Registry, at: str) -> Iterator[Mention]:
    match value:
        case Path():
            yield at, value
        case Spec():
            kind = _kind_in(annotation)
            yield at, (f"{kind} {value.name}", registry.find(kind, value.name).version)
            options = part_options(kind, value.name, registry)
            yield from _mentioned(options, value.options, registry, at)
        case Mapping():
            for key, inner in value.items():
                yield from _within(annotation, inner, registry, f"{at}.{key}")
        case list() | tuple():
            for index, inner in enumerate(value):
                yield from _within(annotation, inner, registry, f"{at}[{index}]")
