"""Options checked against signatures: a keyword-only parameter is an option.

Signatures are read from source text where they can be, so that checking a request needs no import
of torch; a signature that the text does not determine is read from the imported part.  Types are
checked by pydantic; every problem is reported at once with its dotted path.
"""

import json
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from core.errors import InputError, brief, cut_lines
from core.parts.registry import Registry, Spec, installed, nearest
from core.parts.signature import REQUIRED, Option, arguments, options_of, part_options
from core.parts.yaml_file import parse_yaml

T = TypeVar("T")


class ConfigError(InputError):
    """Options that do not fit their signatures: all problems, each ``path: what is wrong``."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = [cut_lines(problem) for problem in problems]


# --- checking --------------------------------------------------------------------------------

_EXPECTED = {
    "int": "int", "float": "float", "bool": "true or false", "string": "text", "path": "a path",
    "tuple": "a list", "list": "a list", "dict": "a mapping", "none_required": "null",
}  # fmt: skip


def _kind_of(annotation: Any) -> str | None:
    """The kind of part in ``Annotated[Spec, "network"]``, or in a list; None of another type."""
    if get_origin(annotation) is Annotated and get_args(annotation)[0] is Spec:
        return str(get_args(annotation)[1])
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        kinds = [kind for part in get_args(annotation) if (kind := _kind_of(part))]
        return kinds[0] if kinds else None
    return None


def _dotted(at: str, location: tuple[Any, ...]) -> str:
    for key in location:
        at += f"[{key}]" if isinstance(key, int) else f".{key}" if at else str(key)
    return at


def _located(location: tuple[Any, ...], value: Any) -> tuple[tuple[Any, ...], Any]:
    """The part of a pydantic location that is in the input, without labels of unions; its value."""
    kept: list[Any] = []
    for key in location:
        if (isinstance(value, Mapping) and key in value) or (
            isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value)
        ):
            value = value[key]
            kept.append(key)
    return tuple(kept), value


def _expected(error: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return "one of " + re.sub(r" or (?='[^']*'$|\S+$)", ", ", context["expected"])
    if kind.startswith(("too_short", "too_long")):
        length = context.get("min_length", context.get("max_length"))
        return f"{length} values"
    if kind in ("greater_than_equal", "greater_than", "less_than_equal", "less_than"):
        sign = {"greater_than_equal": "at least", "greater_than": "more than",
                "less_than_equal": "at most", "less_than": "less than"}[kind]  # fmt: skip
        return f"{sign} {next(iter(context.values()))}"
    if kind == "finite_number":
        return "a finite number"
    stem = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    return _EXPECTED.get(stem) or str(stem)


def _nested(name: str, known: list[str]) -> str:
    """A hint of what to write in the place of an unknown option."""
    first, _, rest = name.partition(".")
    if rest and first in known:
        return f"; dotted names are for --set and matrix: write {first}: {{{rest}: ...}}"
    return nearest(name, known)


def _messages(
    errors: list[Any], given: Mapping[str, Any], known: list[str], at: str
) -> Iterator[str]:
    wrong: dict[str, tuple[list[str], Any]] = {}
    located = [_located(error["loc"], given) for error in errors]
    for error, (location, value) in zip(errors, located, strict=True):
        # Of a union's alternatives, the one that reaches furthest into the value is the one meant.
        if any(other[: len(location)] == location != other for other, _ in located):
            continue
        path = _dotted(at, location)
        if error["type"] == "extra_forbidden":
            yield f"{path}: unknown option{_nested(str(location[-1]), known)}"
        elif error["type"] == "missing":
            yield f"{_dotted(at, error['loc'])}: required, but not given"
        elif error["type"] == "value_error":
            yield f"{path}: {error['ctx']['error']}"
        else:
            wrong.setdefault(path, ([], value))[0].append(_expected(error))
    for path, (expected, value) in wrong.items():
        yield f"{path}: expected {' or '.join(dict.fromkeys(expected))}, got {brief(value)}"


def check(
    options: tuple[Option, ...],
    given: Mapping[str, Any],
    *,
    at: str = "",
    registry: Registry | None = None,
    label: str = "",
) -> tuple[dict[str, Any], list[str]]:
    """The options' values with defaults filled in and nested parts resolved, and all problems.

    Args:
        options: the options there are.
        given: names and plain values, as YAML gives them.
        at: dotted path of `given`, for the messages.
        registry: where nested parts are looked up; the installed one by default.
        label: name of the callable whose options these are, where there is no path.
    """
    if not isinstance(given, Mapping):
        return {}, [f"{at or label}: expected a mapping, got {brief(given)}"]
    given = _with_default_parts(options, given)
    try:
        text = json.dumps(_as_plain(given))
    except (TypeError, ValueError) as error:
        return {}, [f"{at or label}: expected plain values: {error}"]
    values, problems = _validated(options, given, text, at)
    problems += [
        f"{_dotted(at, place)}: a path cannot contain a null byte" for place in _with_null(values)
    ]
    for name, kind in _schema(options)[1].items():
        value = values.get(name)
        if value is not None and value is not REQUIRED:
            values[name], more = _resolved(kind, value, _dotted(at, (name,)), registry)
            problems += more
    return values, problems


def _with_null(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where paths with a null byte are, which the system does not take."""
    if isinstance(value, Path) and "\0" in str(value):
        yield place
    elif isinstance(value, (Mapping, list, tuple)):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from _with_null(inner, (*place, key))


def _resolved(kind: str, value: Any, path: str, registry: Registry | None) -> tuple[Any, list[str]]:
    """A part that a request names, or a list of parts, with every option stated; all problems."""
    if isinstance(value, (list, tuple)):
        each = [_resolved(kind, one, f"{path}[{i}]", registry) for i, one in enumerate(value)]
        return tuple(spec for spec, _ in each), [one for _, problems in each for one in problems]
    try:
        spec = Spec.parse(value)
        part = (registry or installed()).find(kind, spec.name)
        if part.inputs:
            return spec, [
                f"{path}: {spec.name} requires {', '.join(part.inputs)}, which only a program can "
                f"supply; call {part.target} from Python"
            ]
        return resolve(kind, spec, path, registry)
    except InputError as error:
        return value, [f"{path}: {error}"]


def _with_default_parts(options: tuple[Option, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, where options of a part without its name become options of the default part."""
    default = {o.name: o.default.name for o in options if isinstance(o.default, Spec)}
    return {
        key: {"name": default[key], **value}
        if key in default and isinstance(value, Mapping) and "name" not in value
        else value
        for key, value in given.items()
    }


@lru_cache(maxsize=1024)
def _schema(options: tuple[Option, ...]) -> tuple[Any, dict[str, str]]:
    """Of the same options once: a pydantic model, and the kinds of those that name parts."""
    from pydantic import ConfigDict, create_model

    schema: Any = {
        o.name: (o.annotation, ... if o.default is REQUIRED else o.default) for o in options
    }
    strict = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())
    model = create_model("Options", __config__=strict, **schema)
    return model, {o.name: kind for o in options if (kind := _kind_of(o.annotation))}


def _validated(
    options: tuple[Option, ...], given: Mapping[str, Any], text: str, at: str
) -> tuple[dict[str, Any], list[str]]:
    """The values of `text`, which is `given` as JSON, checked by type; and the problems."""
    from pydantic import ValidationError

    model = _schema(options)[0]
    known = [option.name for option in options]
    try:
        checked = model.model_validate_json(text, strict=True)
        return {name: getattr(checked, name) for name in known}, []
    except ValidationError as error:
        # Options that do fit are kept, so that problems inside their parts are found as well.
        bad = {e["loc"][0] for e in error.errors()}
        values = {o.name: given.get(o.name, o.default) for o in options if o.name not in bad}
        return values, list(_messages(error.errors(), json.loads(text), known, at))


def resolve(
    kind: str, spec: Spec, at: str, registry: Registry | None = None
) -> tuple[Spec, list[str]]:
    """`spec` with every option stated, defaults included, and all problems.

    Raises:
        RegistryError: no such part.
    """
    options = part_options(kind, spec.name, registry)
    values, problems = check(options, spec.options, at=at, registry=registry, label=spec.name)
    return Spec(spec.name, values), problems


def bind(build: Callable[..., T], given: Mapping[str, Any], *, at: str = "") -> T:
    """Call `build` with the options `given`, checked.

    Raises:
        ConfigError: any option unknown, of a wrong type, missing or out of range.
    """
    values, problems = check(options_of(build), given, at=at, label=build.__name__)
    if problems:
        raise ConfigError(problems)
    return build(**arguments(build, values))


def configure(
    kind: str, spec: Spec, *, at: str = "", registry: Registry | None = None
) -> Callable[..., Any]:
    """The part that `spec` names with its options set: call it with its inputs.

    Raises:
        ConfigError: its options do not fit.
        RegistryError: it does not exist or needs a package that is not installed.
    """
    resolved, problems = resolve(kind, spec, at or kind, registry)
    if problems:
        raise ConfigError(problems)
    build = (registry or installed()).load(kind, spec.name)
    options = arguments(build, resolved.options)
    return lambda *inputs: build(*inputs, **options)


# --- plain values ----------------------------------------------------------------------------


def _as_plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return {"name": value.name, **{k: _as_plain(v) for k, v in value.options.items()}}
    if isinstance(value, Mapping):
        return {k: _as_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _as_plain(getattr(value, f.name)) for f in fields(value)}
    return value


def plain(value: Any) -> Any:
    """`value` as JSON's types: specs and dataclasses become mappings, paths become text.

    Raises:
        TypeError: something in it has no plain form.
    """
    return json.loads(json.dumps(_as_plain(value), allow_nan=False))


def override(options: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """`options` with ``a.b=value`` settings laid over them; a part's name becomes a mapping.

    Raises:
        ConfigError: a setting without ``=``, or a path through a value that is not a mapping.
    """
    result, problems = json.loads(json.dumps(_as_plain(options))), []
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            problems.append(f"--set {setting}: expected NAME.OPTION=VALUE")
            continue
        value = parse_yaml(text, f"--set {path}")
        inner = result
        for key in keys[:-1]:
            if isinstance(inner.get(key), str):
                inner[key] = {"name": inner[key]}
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                problems.append(f"--set {setting}: {key!r} has no options, it is {brief(inner)}")
                break
        else:
            last = keys[-1]
            # --set network=core/x keeps no options of another network; --set network.name=... does.
            inner[last] = value
    if problems:
        raise ConfigError(problems)
    return result
