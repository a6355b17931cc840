"""A part or a verb in words, for ``polymode show``."""

import ast
import importlib.util
import inspect
import json
import textwrap
import types
import typing
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from core.parts.registry import Registry, RegistryError, Spec, Verb, attribute_of, installed
from core.parts.signature import REQUIRED, Option, options_of, part_options


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin is typing.Annotated:
        return f"a {arguments[1]}" if arguments[0] is Spec else _type_name(arguments[0])
    if origin is typing.Union or origin is types.UnionType:
        return " | ".join(map(_type_name, arguments))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"mapping to {_type_name(arguments[1])}"
    return {type(None): "none", Path: "path"}.get(
        annotation, getattr(annotation, "__name__", "any")
    )


def _default_text(option: Option) -> str:
    if option.default is REQUIRED:
        return "required"
    if isinstance(option.default, Spec):
        return option.default.name
    if isinstance(option.default, tuple):
        return f"[{', '.join(map(str, option.default))}]"
    if isinstance(option.default, Path):
        return str(option.default)
    return json.dumps(option.default).strip('"')


def _source(target: str) -> tuple[str, str]:
    """The docstring of `target` and ``file:line``, read as text."""
    module, attribute = target.split(":")
    try:
        spec = importlib.util.find_spec(module)
        path = Path(spec.origin) if spec and spec.origin else None
        tree = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])
    except (ImportError, OSError, SyntaxError):
        return "", target
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == attribute:
            return ast.get_docstring(node) or "", f"{path}:{node.lineno}"
    return "", str(path)


def _about(document: str, summary: str) -> str:
    """A docstring up to its sections, indented; the summary if there is none."""
    about = document.split("\nArgs:")[0].split("\nRaises:")[0].strip() or summary
    return textwrap.indent(about, "  ")


def _listed(title: str, options: tuple[Option, ...], *, defaults: bool = True) -> list[str]:
    """Options with type, default and meaning, below a title."""
    lines = [f"{title}:" if options else f"no {title}"]
    for option in options:
        default = f" = {_default_text(option)}" if defaults else ""
        lines.append(f"  {option.name}: {_type_name(option.annotation)}{default}")
        if option.meaning:
            lines.append(textwrap.indent(textwrap.fill(option.meaning, 82), "      "))
    return lines


def describe_verb(name: str, verb: Verb) -> str:
    """A verb of a job in words: its options, its result, and how a step names it.

    Raises:
        RegistryError: its request or result is not a dataclass.
    """
    request, result = (attribute_of(t, f"verb {name!r}") for t in (verb.request, verb.result))
    for kind, target in ((request, verb.request), (result, verb.result)):
        if not is_dataclass(kind):
            raise RegistryError(f"verb {name!r}: {target} is not a dataclass")
    lines = [f"verb {name}", "", _about(inspect.getdoc(request) or "", verb.summary), ""]
    given = "inputs: {LABEL: STEP, ...}, " if verb.folders else ""
    lines.append(f"  YAML: {{run: {name}, {given}request: {{OPTION: VALUE, ...}}}}")
    lines += ["", *_listed("options", options_of(request))]
    lines += ["", *_listed("results", options_of(result), defaults=False)]
    return "\n".join([*lines, "", f"source: {_source(verb.target)[1]}"])


def describe_part(kind: str, name: str, registry: Registry | None = None) -> str:
    """Everything a user needs to take a part into use.

    Raises:
        RegistryError: no such part.
    """
    registry = registry or installed()
    part = registry.find(kind, name)
    document, where = _source(part.target)
    options = part_options(kind, name, registry)
    given = "".join(f", {o.name}: {_default_text(o)}" for o in options)
    lines = [f"{kind} {name}  (version {part.version})", "", _about(document, part.summary), ""]
    if part.inputs:
        lines.append(f"  from Python: {part.target}, with {', '.join(part.inputs)}")
    else:
        lines.append(f"  YAML: {{name: {name}{given}}}")
    lines += ["", *_listed("options", options)]
    missing = registry.missing(part)
    if missing:
        lines += ["", f"needs {', '.join(missing)}, not installed here"]
    return "\n".join([*lines, "", f"source: {where}"])
