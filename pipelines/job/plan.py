"""What would run and why: a step's key is the hash of everything that decides its result.

That is the verb, the resolved request, the versions of the parts named in it, the keys of its
inputs and the contents of the files it names.  Machines, cores, GPUs, retries and output folders
are not in it.  Imports neither torch nor Ray.
"""

import hashlib
import importlib.util
import json
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from core.errors import InputError
from core.parts.config import plain
from core.parts.registry import Part, Registry, Spec, installed
from core.parts.signature import Option, options_of, part_options
from core.storage import files
from pipelines.job.file import Job, Step
from pipelines.job.verbs import VERBS, Runnable, Verbs, find, load
from pipelines.store import results

Mention = tuple[str, Path | tuple[str, str]]
"""A path, or a part (kind and name, version), with its dotted place in a request."""

FORMAT = 1
SHOWN = 4  # differences named in a reason
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A step with its identity and what is to be done about it.

    Args:
        step: as the job states it.
        key: sha256 of `identity`, in hex.
        identity: everything that decides the result, as JSON's types.
        folder: where the result lies or will lie.
        state: a hit is there already, whole.
        why: one line; empty for a hit.
        code: digests of the modules that do it, by name.
        note: of a hit: which of them have changed since it was made.
    """

    step: Step
    key: str
    identity: Mapping[str, Any]
    folder: Path
    state: Literal["hit", "run"]
    why: str
    code: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def plan(
    job: Job,
    root: Path,
    *,
    verify: bool = False,
    verbs: Verbs = VERBS,
    registry: Registry | None = None,
) -> tuple[Planned, ...]:
    """Each step of `job` with its key, and whether the store `root` has its result.

    Args:
        job: as it was read.
        root: the store; need not exist.
        verify: compare the contents of stored files, not only their sizes.
        verbs: what steps can run.
        registry: where parts are looked up; the installed one by default.

    Raises:
        InputError: a request names a file or folder that does not exist; all of them at once.
    """
    registry = registry or installed()
    planned: dict[str, Planned] = {}
    problems: list[str] = []
    stored, digests = results.by_step(root), dict[str, str | None]()
    for step in job.steps:
        verb = find(step.run, verbs, registry)
        contents, parts, wrong = _weighed(_named(verb, step, registry))
        problems += [f"steps.{step.name}.{said}" for said in wrong]
        if problems:
            continue
        if verb.version:
            parts[f"verb {step.run}"] = verb.version
        identity = {
            "format": FORMAT,
            "run": step.run,
            "request": plain(step.request),
            "parts": dict(sorted(parts.items())),
            "inputs": {
                name: {"key": planned[source.step].key, "field": source.field}
                for name, source in step.inputs.items()
            },
            "files": contents,
        }
        targets = [verb.target, *(part.target for part in _parts(identity, registry))]
        judged = _judge(step, identity, root, stored.get(step.name, ()), verify)
        planned[step.name] = _noted(judged, _code(targets, digests))
    if problems:
        raise InputError("\n".join(problems))
    return tuple(planned.values())


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
    return _weighed(_mentioned(options, values, registry, at))


def _weighed(
    mentioned: Iterable[Mention],
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    contents: dict[str, str] = {}
    parts: dict[str, str] = {}
    problems: list[str] = []
    for at, thing in mentioned:
        if isinstance(thing, Path):
            try:
                contents[at] = results.digest(thing)
            except OSError as error:
                problems.append(f"{at}: {thing}: {error.strerror}")
        else:
            parts.update([thing])
    return contents, parts, problems


def _parts(identity: Mapping[str, Any], registry: Registry) -> Iterator[Part]:
    for named in identity["parts"]:
        kind, _, name = named.partition(" ")
        if kind != "verb":
            yield registry.find(kind, name)


def _code(targets: Iterable[str], digests: dict[str, str | None]) -> dict[str, str]:
    """Digests of the modules that hold `targets`; those that they import are not looked at.

    Args:
        targets: each ``package.module:attribute``.
        digests: of modules that were looked at before; new ones are added.
    """
    modules = sorted({target.partition(":")[0] for target in targets})
    for module in modules:
        if module not in digests:
            digests[module] = _digest(module)
    return {module: found for module in modules if (found := digests[module])}


def _digest(module: str) -> str | None:
    """The digest of a module's text; None where there is none."""
    with suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec(module)
        if spec and spec.origin and spec.origin.endswith(".py"):
            return files.digest(Path(spec.origin))[:16]
    return None


def _noted(planned: Planned, code: Mapping[str, str]) -> Planned:
    """`planned` with its code, and of a hit a note if that was another when it was made."""
    request = (
        results.read_json(planned.folder / results.REQUEST) if planned.state == "hit" else None
    )
    before = (request or {}).get("code")
    before = before if isinstance(before, dict) else {}
    changed = [name for name in code if name in before and before[name] != code[name]]
    note = f"{', '.join(changed)} changed since; raise the part's version if results do"
    return replace(planned, code=code, note=note if changed else "")


def key_of(identity: Mapping[str, Any]) -> str:
    """The sha256 of `identity`, the same for every order of its keys and for 1 and 1.0."""
    text = json.dumps(_one_number(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _one_number(value: Any) -> Any:
    """`value` with whole floats as integers: a default of 1 and a given 1.0 mean the same."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {key: _one_number(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_one_number(inner) for inner in value]
    return value


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


# --- hit or run, and why ---------------------------------------------------------------------


def _judge(
    step: Step, identity: Mapping[str, Any], root: Path, stored: Sequence[Path], verify: bool
) -> Planned:
    key = key_of(identity)
    folder = results.folder_of(root, step.name, key)
    found = results.inspect(folder, key, verify=verify)
    match found.state:
        case "whole":
            why = ""
        case "damaged":
            why = f"output damaged: {found.what}"
        case "unfinished":
            why = "unfinished: resumes where it stopped"
        case "absent":
            before = results.latest(stored)
            why = _difference(before["identity"], identity, step) if before else "first run"
    state = "run" if why else "hit"
    return Planned(step=step, key=key, identity=identity, folder=folder, state=state, why=why)


def _flat(value: Any, at: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {
            k: v for key, inner in value.items() for k, v in _flat(inner, f"{at}.{key}").items()
        }
    return {at: value}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], step: Step) -> str:
    """What differs between two identities, the likeliest causes first."""

    def changed(section: str) -> Iterator[tuple[str, Any, Any]]:
        old, new = _flat(before.get(section, {}), section), _flat(now.get(section, {}), section)
        for name in dict.fromkeys([*new, *old]):
            pair = old.get(name, _ABSENT), new.get(name, _ABSENT)
            if _one_number(pair[0]) != _one_number(pair[1]):
                yield name, *pair

    said = [f"run {before.get('run')} -> {now['run']}"] if before.get("run") != now["run"] else []
    for name, old, new in changed("request"):
        if old is _ABSENT:
            said.append(f"{name} {_text(new)} is new")
        else:
            said.append(
                f"{name} {_text(old)} " + ("is gone" if new is _ABSENT else f"-> {_text(new)}")
            )
    for name, old, new in changed("parts"):
        if _ABSENT not in (old, new):  # a part come or gone shows in the request
            said.append(f"part {name.partition(' ')[2]} version {old} -> {new}")
    named = dict(_texts(now["request"], "request"))
    said += [f"file {named.get(name, name)} changed" for name, old, new in _files(before, now)]
    sources = {name: source.step for name, source in step.inputs.items()}
    inputs = [name.split(".")[1] for name, _, _ in changed("inputs")]
    for name in dict.fromkeys(inputs):
        said.append(f"input {sources[name]} changed" if name in sources else f"input {name} gone")
    if before.get("format") != now["format"]:
        said.append("the format of step keys has changed in this version")
    more = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return "; ".join(dict.fromkeys(said[:SHOWN])) + more or "its earlier result is gone"


def _files(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    old = before.get("files", {})
    for name, new in now["files"].items():
        if name in old and old[name] != new:
            yield name, old[name], new


def _texts(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """Dotted places and texts in plain values, to name a file by what the user wrote."""
    match value:
        case str():
            yield at, value
        case Mapping():
            for key, inner in value.items():
                yield from _texts(inner, f"{at}.{key}")
        case list():
            for index, inner in enumerate(value):
                yield from _texts(inner, f"{at}[{index}]")
