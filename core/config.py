"""Options checked against signatures: a keyword-only parameter is an option.

Signatures are read from source text where they can be, so that checking a request needs no import
of torch; a signature that plain text does not tell is read from the imported part.  pydantic does
the checking; every problem is reported at once with its dotted path.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from core.errors import InputError
from core.registry import Registry, installed, nearest
from core.yaml_file import parse_yaml

REQUIRED: Any = inspect.Parameter.empty
T = TypeVar("T")


class ConfigError(InputError):
    """Options that do not fit their signatures: all problems, each ``path: what is wrong``."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Spec:
    """A part by full name, with options: plain, picklable, savable."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: "str | Mapping[str, Any] | Spec") -> "Spec":
        """A spec from ``"core/heun"`` or ``{name: core/heun, steps: 18}``.

        Raises:
            ValueError: neither a name nor a mapping with a name.
        """
        if isinstance(value, Spec):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return cls(value["name"], {key: v for key, v in value.items() if key != "name"})
        raise ValueError(f"a part is a name or a mapping with a name, got {value!r}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(cls.parse)


@dataclass(frozen=True, slots=True)
class Option:
    """One keyword-only parameter.

    Args:
        name: the parameter's name.
        annotation: its type.
        default: its default, or `REQUIRED`.
        meaning: its line in the docstring's ``Args``.
    """

    name: str
    annotation: Any
    default: Any = REQUIRED
    meaning: str = ""


# --- signatures ------------------------------------------------------------------------------


class _NotPlain(Exception):
    """The text of a signature does not tell the option; import the part instead."""


_PLAIN_TYPES: dict[str, Any] = {
    "int": int, "float": float, "bool": bool, "str": str, "tuple": tuple, "list": list,
    "dict": dict, "Path": Path, "Spec": Spec, "Literal": Literal, "Annotated": Annotated,
    "Optional": Optional, "None": None,
}  # fmt: skip
_BOUNDS: dict[str, Callable[[Any], object]] = {"Ge": Ge, "Gt": Gt, "Le": Le, "Lt": Lt}


def _tree(module: str) -> ast.Module:
    """The text of a module, parsed; the module is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise _NotPlain(module)
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _named(tree: ast.Module, name: str) -> Any:
    """The type that a module calls `name`: given there, or taken from another module."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return _type_from(value, tree)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                # A package that is not here yet would be imported by being looked for.
                known = module.partition(".")[0] in sys.modules
                for alias in names if known else ():
                    if (alias.asname or alias.name) == name:
                        return _named(_tree(module), alias.name)
    raise _NotPlain(name)


def _type_from(node: ast.expr, tree: ast.Module) -> Any:
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in _PLAIN_TYPES:
            return _PLAIN_TYPES[name]
        case ast.Name(id=name):
            return _named(tree, name)
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=bound)]) if name in _BOUNDS:
            return _BOUNDS[name](bound)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            parts = _type_from(left, tree), _type_from(right, tree)
            return Union[parts]  # noqa: UP007  (built from values)
        case ast.Subscript(value=outer, slice=ast.Tuple(elts=inner)):
            return _type_from(outer, tree)[tuple(_type_from(one, tree) for one in inner)]
        case ast.Subscript(value=outer, slice=inner):
            return _type_from(outer, tree)[_type_from(inner, tree)]
    raise _NotPlain(ast.unparse(node))


def _default_from(node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Spec" and not node.keywords:
        return Spec(*map(ast.literal_eval, node.args))
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise _NotPlain(ast.unparse(node)) from error


def _is_field(node: ast.stmt) -> bool:
    """Whether it is one of a dataclass: `ClassVar`s are none."""
    return (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not ast.unparse(node.annotation).startswith("ClassVar")
    )


def _is_dataclass(node: ast.ClassDef) -> bool:
    names = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return any(isinstance(name, ast.Name) and name.id == "dataclass" for name in names)


def _is_class(tree: ast.Module, name: str) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def _options_in_text(module: str, attribute: str) -> tuple[Option, ...]:
    tree = _tree(module)

    def option(name: str, annotation: ast.expr, default: ast.expr | None) -> Option:
        return Option(
            name, _type_from(annotation, tree), _default_from(default), said.get(name, "")
        )

    found = [node for node in tree.body if getattr(node, "name", None) == attribute]
    match found:
        case [ast.FunctionDef(args=args) as function]:
            document = ast.get_docstring(function)
        case [ast.ClassDef() as kind]:
            document = ast.get_docstring(kind)
            if _is_dataclass(kind):
                said = _meanings(document)
                fields = cast(list[ast.AnnAssign], list(filter(_is_field, kind.body)))
                return tuple(option(ast.unparse(f.target), f.annotation, f.value) for f in fields)
            inits = [n for n in kind.body if getattr(n, "name", None) == "__init__"]
            match kind.bases:
                case [ast.Name(id=base)] if not inits and _is_class(tree, base):
                    return _options_in_text(module, base)  # it is made as what it builds on
            if len(inits) != 1 or not isinstance(inits[0], ast.FunctionDef):
                raise _NotPlain(attribute)
            args = inits[0].args
            document = document if "Args:" in (document or "") else ast.get_docstring(inits[0])
        case _:
            raise _NotPlain(attribute)
    said, options = _meanings(document), []
    for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        if argument.annotation is None:
            raise _NotPlain(argument.arg)
        options.append(option(argument.arg, argument.annotation, default))
    return tuple(options)


def _meanings(document: str | None) -> dict[str, str]:
    """The lines of a Google-style ``Args:`` section, by parameter."""
    section = re.search(r"^ *Args:\n(.*?)(?=^ *[A-Z]\w+:\s*$|\Z)", document or "", re.M | re.S)
    if not section:
        return {}
    body = inspect.cleandoc("\n" + section.group(1))
    entries = re.findall(r"^(\w+): (.*(?:\n +.*)*)", body, re.M)
    return {name: re.sub(r"\s+", " ", meaning).strip() for name, meaning in entries}


def options_of(build: Callable[..., Any]) -> tuple[Option, ...]:
    """The keyword-only parameters of an imported callable; of a dataclass, its fields."""
    said = _meanings(inspect.getdoc(build))
    hints = typing.get_type_hints(
        build if is_dataclass(build) or inspect.isfunction(build) else build.__init__,
        include_extras=True,
    )
    if is_dataclass(build):
        named = [
            (f.name, f.default_factory() if f.default_factory is not MISSING else f.default)
            for f in fields(build)
        ]
        named = [(name, REQUIRED if default is MISSING else default) for name, default in named]
    else:
        if not said:
            said = _meanings(inspect.getdoc(getattr(build, "__init__", None)))
        parameters = inspect.signature(build).parameters.values()
        named = [(p.name, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY]
    return tuple(Option(n, hints.get(n, Any), d, said.get(n, "")) for n, d in named)


def part_options(kind: str, name: str, registry: Registry | None = None) -> tuple[Option, ...]:
    """The options of a registered part; imports it only if its source text does not tell them.

    Raises:
        RegistryError: no such part.
    """
    registry = registry or installed()
    module, attribute = registry.find(kind, name).target.split(":")
    try:
        return _options_in_text(module, attribute)
    except (_NotPlain, ImportError, OSError, SyntaxError):
        return options_of(registry.load(kind, name))


# --- checking --------------------------------------------------------------------------------

_EXPECTED = {
    "int": "int", "float": "float", "bool": "true or false", "string": "text", "path": "a path",
    "tuple": "a list", "list": "a list", "dict": "a mapping", "none_required": "null",
}  # fmt: skip


def _kind_of(annotation: Any) -> str | None:
    """The kind of part that ``Annotated[Spec, "network"]`` asks for."""
    if get_origin(annotation) is Annotated and get_args(annotation)[0] is Spec:
        return str(get_args(annotation)[1])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for part in get_args(annotation) if (kind := _kind_of(part))]
        return kinds[0] if kinds else None
    return None


def _dotted(at: str, location: tuple[Any, ...]) -> str:
    for key in location:
        at += f"[{key}]" if isinstance(key, int) else f".{key}" if at else str(key)
    return at


def _located(location: tuple[Any, ...], value: Any) -> tuple[tuple[Any, ...], Any]:
    """What of a pydantic location is in the input, not a union's label; and the value there."""
    kept: list[Any] = []
    for key in location:
        if (isinstance(value, Mapping) and key in value) or (
            isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value)
        ):
            value = value[key]
        else:
            break
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


def _messages(
    errors: list[Any], given: Mapping[str, Any], known: list[str], at: str
) -> Iterator[str]:
    wrong: dict[str, tuple[list[str], Any]] = {}
    for error in errors:
        location, value = _located(error["loc"], given)
        path = _dotted(at, location)
        if error["type"] == "extra_forbidden":
            yield f"{path}: unknown option{nearest(str(location[-1]), known)}"
        elif error["type"] == "missing":
            yield f"{_dotted(at, error['loc'])}: required, but not given"
        elif error["type"] == "value_error":
            yield f"{path}: {error['ctx']['error']}"
        else:
            wrong.setdefault(path, ([], value))[0].append(_expected(error))
    for path, (expected, value) in wrong.items():
        yield f"{path}: expected {' or '.join(dict.fromkeys(expected))}, got {value!r}"


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
        options: what may be given.
        given: names and plain values, as YAML gives them.
        at: dotted path of `given`, for the messages.
        registry: where nested parts are looked up; the installed one by default.
        label: what these are the options of, for the message about values that are not plain.
    """
    from pydantic import ConfigDict, ValidationError, create_model

    if not isinstance(given, Mapping):
        return {}, [f"{at or label}: expected a mapping, got {given!r}"]
    model = create_model(
        "Options",
        __config__=ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=()),
        **cast(
            dict[str, Any],
            {o.name: (o.annotation, ... if o.default is REQUIRED else o.default) for o in options},
        ),
    )
    # Options of a part without its name are options of the default part.
    named = {o.name: o.default.name for o in options if isinstance(o.default, Spec)}
    given = {
        key: {"name": named[key], **value}
        if key in named and isinstance(value, Mapping) and "name" not in value
        else value
        for key, value in given.items()
    }
    try:
        text = json.dumps(_as_plain(given))
    except (TypeError, ValueError) as error:
        return {}, [f"{at or label}: not a plain value: {error}"]
    known, problems, values = [o.name for o in options], [], {}
    try:
        checked = model.model_validate_json(text, strict=True)
        values = {name: getattr(checked, name) for name in known}
    except ValidationError as error:
        problems += _messages(error.errors(), json.loads(text), known, at)
        bad = {e["loc"][0] for e in error.errors()}
        values = {o.name: given.get(o.name, o.default) for o in options if o.name not in bad}
    for option in options:
        kind, value = _kind_of(option.annotation), values.get(option.name)
        if kind and value is not None and value is not REQUIRED:
            try:
                resolved, more = resolve(
                    kind, Spec.parse(value), _dotted(at, (option.name,)), registry
                )
                values[option.name] = resolved
                problems += more
            except InputError as error:
                problems.append(f"{_dotted(at, (option.name,))}: {error}")
    return values, problems


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
    return build(**values)


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
    return lambda *inputs: build(*inputs, **resolved.options)


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
                problems.append(f"--set {setting}: {key!r} has no options, it is {inner!r}")
                break
        else:
            last = keys[-1]
            # --set network=core/x keeps no options of another network; --set network.name=... does.
            inner[last] = value
    if problems:
        raise ConfigError(problems)
    return result
