"""The options of a part, read from its signature: from its source text where that suffices.

A keyword-only parameter is an option; of a dataclass, a keyword-only field, or every field where
none is keyword-only.  A keyword-only parameter whose type is a dataclass is a group: its fields are
the options, so that several signatures can have them and one place states them.  Reading text needs
no import of torch; a signature that the text does not determine is read from the imported part.
"""

import ast
import importlib
import importlib.util
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union, cast

from annotated_types import Ge, Gt, Le, Lt

from core.parts.registry import Registry, RegistryError, Spec, installed

REQUIRED: Any = inspect.Parameter.empty


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """One keyword-only parameter; equal to itself alone, so that a schema is kept by its options.

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


@dataclass(frozen=True, slots=True)
class Flag:
    """Mark in an `Annotated` type: the name of the option on command lines.

    For a name that a part cannot have: ``name`` itself is the part's.
    """

    name: str


class _NotPlain(Exception):
    """The text of a signature does not tell the option; import the part instead."""


_PLAIN_TYPES: dict[str, Any] = {
    "int": int, "float": float, "bool": bool, "str": str, "tuple": tuple, "list": list,
    "dict": dict, "Path": Path, "Spec": Spec, "Literal": Literal, "Annotated": Annotated,
    "Optional": Optional, "None": None,
}  # fmt: skip


_MARKS: dict[str, Callable[[Any], object]] = {"Ge": Ge, "Gt": Gt, "Le": Le, "Lt": Lt, "Flag": Flag}


_Stamp = tuple[str, int, int]


def _stamp(module: str) -> _Stamp:
    """The file of a module, the time of its last change and its size; it is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise _NotPlain(module)
    found = os.stat(spec.origin)
    return spec.origin, found.st_mtime_ns, found.st_size


@lru_cache(maxsize=64)
def _parsed(stamp: _Stamp) -> ast.Module:
    return ast.parse(Path(stamp[0]).read_text(encoding="utf-8"))


def _tree(module: str) -> ast.Module:
    """The text of a module, parsed; the module is not imported."""
    return _parsed(_stamp(module))


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
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=bound)]) if name in _MARKS:
            return _MARKS[name](bound)
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


def _option_fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    """Fields after `_: KW_ONLY`, or all where there is no such mark."""
    fields = cast(list[ast.AnnAssign], list(filter(_is_field, node.body)))
    marks = [i for i, f in enumerate(fields) if ast.unparse(f.annotation) == "KW_ONLY"]
    return fields[marks[0] + 1 :] if marks else fields


def _group_home(annotation: ast.expr, module: str) -> tuple[str, str] | None:
    """Module and name of the dataclass that a module's annotation is; None of any other type."""
    if not isinstance(annotation, ast.Name) or annotation.id in _PLAIN_TYPES:
        return None
    for node in _tree(module).body:
        match node:
            case ast.ClassDef(name=found) if found == annotation.id:
                return (module, found) if _is_dataclass(node) else None
            case ast.ImportFrom(module=str(other), names=names, level=0):
                # A package that is not here yet would be imported by being looked for.
                for alias in names if other.partition(".")[0] in sys.modules else ():
                    if (alias.asname or alias.name) == annotation.id:
                        return _group_home(ast.Name(alias.name), other)
    return None


def _group_in_text(home: tuple[str, str], default: ast.expr | None) -> tuple[Option, ...]:
    """The options of a group, with the defaults that ``Group(name=value)`` states."""
    stated: dict[str, Any] = {}
    match default:
        case None:
            pass
        case ast.Call(func=ast.Name(), args=[], keywords=keywords) if all(k.arg for k in keywords):
            stated = {str(k.arg): _default_from(k.value) for k in keywords}
        case _:
            raise _NotPlain(ast.unparse(default))
    return tuple(
        replace(option, default=stated.get(option.name, option.default))
        for option in _options_in_text(*home)
    )


def _is_class(tree: ast.Module, name: str) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def _meanings_in_text(tree: ast.Module, kind: ast.ClassDef) -> dict[str, str]:
    """The meanings that a class states, and its base in the same module where it does not."""
    bases = [base.id for base in kind.bases if isinstance(base, ast.Name)]
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in bases:
            found |= _meanings_in_text(tree, node)
    return found | _meanings(ast.get_docstring(kind))


def _options_in_text(module: str, attribute: str) -> tuple[Option, ...]:
    tree = _tree(module)

    def option(name: str, annotation: ast.expr, default: ast.expr | None) -> Option:
        return Option(
            name, _type_from(annotation, tree), _default_from(default), meanings.get(name, "")
        )

    found = [node for node in tree.body if getattr(node, "name", None) == attribute]
    inherited: dict[str, str] = {}
    match found:
        case [ast.FunctionDef(args=args) as function]:
            document = ast.get_docstring(function)
        case [ast.ClassDef() as kind]:
            document = ast.get_docstring(kind)
            if _is_dataclass(kind):
                meanings = _meanings(document)
                return tuple(
                    option(ast.unparse(f.target), f.annotation, f.value)
                    for f in _option_fields(kind)
                )
            inits = [n for n in kind.body if getattr(n, "name", None) == "__init__"]
            match kind.bases:
                case [ast.Name(id=base)] if not inits and _is_class(tree, base):
                    return _options_in_text(module, base)  # it is made as what it builds on
                case [] if not inits and not kind.decorator_list:
                    return ()  # it is made of nothing
            if len(inits) != 1 or not isinstance(inits[0], ast.FunctionDef):
                raise _NotPlain(attribute)
            args = inits[0].args
            document = document if "Args:" in (document or "") else ast.get_docstring(inits[0])
            inherited = _meanings_in_text(tree, kind)
        case _:
            raise _NotPlain(attribute)
    meanings, options = inherited | _meanings(document), []
    for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        if argument.annotation is None:
            raise _NotPlain(argument.arg)
        if home := _group_home(argument.annotation, module):
            options += _group_in_text(home, default)
        else:
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


def _hints(build: Callable[..., Any]) -> dict[str, Any]:
    """The types of a callable's parameters, or of a dataclass' fields."""
    plain = is_dataclass(build) or inspect.isfunction(build)
    return typing.get_type_hints(build if plain else build.__init__, include_extras=True)


def _fields_of(kind: type) -> tuple[Option, ...]:
    """The keyword-only fields of a dataclass, or all; described where they are defined."""
    meanings = {
        name: meaning
        for one in reversed(kind.__mro__)
        for name, meaning in _meanings(one.__doc__).items()
    }
    hints, options = _hints(kind), []
    every = fields(cast(Any, kind))
    for field in [f for f in every if f.kw_only] or every:
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        default = REQUIRED if default is MISSING else default
        options.append(
            Option(field.name, hints.get(field.name, Any), default, meanings.get(field.name, ""))
        )
    return tuple(options)


@lru_cache(maxsize=1024)
def options_of(build: Callable[..., Any]) -> tuple[Option, ...]:
    """The keyword-only parameters of an imported callable; of a dataclass, such fields or all."""
    if is_dataclass(build):
        return _fields_of(cast(type, build))
    meanings = _meanings_of(build)
    hints, groups, options = _hints(build), groups_of(build), []
    for p in inspect.signature(build).parameters.values():
        if p.name in groups:
            options += [
                option
                if p.default is REQUIRED
                else replace(option, default=getattr(p.default, option.name))
                for option in _fields_of(groups[p.name])
            ]
        elif p.kind is p.KEYWORD_ONLY:
            options.append(
                Option(p.name, hints.get(p.name, Any), p.default, meanings.get(p.name, ""))
            )
    return tuple(options)


def _meanings_of(build: Callable[..., Any]) -> dict[str, str]:
    """The meanings that a callable states; of a class, those that only its bases state too."""
    if not isinstance(build, type):
        return _meanings(inspect.getdoc(build))
    found: dict[str, str] = {}
    for one in reversed(build.__mro__[:-1]):
        found |= _meanings(one.__doc__) or _meanings(one.__dict__.get("__init__", one).__doc__)
    return found


def groups_of(build: Callable[..., Any]) -> dict[str, type]:
    """The keyword-only parameters that stand for the fields of a dataclass, by name."""
    if is_dataclass(build):
        return {}
    hints, parameters = _hints(build), inspect.signature(build).parameters
    return {
        name: kind
        for name, kind in hints.items()
        if name in parameters
        and parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        and isinstance(kind, type)
        and is_dataclass(kind)
        and kind is not Spec
    }


def arguments(build: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options as keyword arguments of `build`: those of a group as one value."""
    given = dict(values)
    for name, kind in groups_of(build).items():
        inner = {option.name: given.pop(option.name) for option in _fields_of(kind)}
        given[name] = kind(**inner)
    return given


def part_options(kind: str, name: str, registry: Registry | None = None) -> tuple[Option, ...]:
    """The options of a registered part; imports it only if its source text does not tell them.

    Raises:
        RegistryError: no such part, or one of its options has no annotation.
    """
    registry = registry or installed()
    module, attribute = registry.find(kind, name).target.split(":")
    try:
        found = _kept_options(module, attribute, _stamp(module))
    except (_NotPlain, ImportError, OSError):
        found = None
    options = options_of(registry.load(kind, name)) if found is None else found
    if bare := [option.name for option in options if option.annotation is Any]:
        raise RegistryError(
            f"{kind} {name!r}: option {', '.join(map(repr, bare))} has no annotation, so its "
            f"values cannot be checked; annotate it, as in `{bare[0]}: int`"
        )
    return options


@lru_cache(maxsize=1024)
def _kept_options(module: str, attribute: str, stamp: _Stamp) -> tuple[Option, ...] | None:
    """The options that the text of a module tells, read again where the file has changed."""
    try:
        return _options_in_text(module, attribute)
    except (_NotPlain, ImportError, OSError, SyntaxError):
        return None
