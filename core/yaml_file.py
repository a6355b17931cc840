"""YAML from users: plain values only, within bounds, each fault with its line."""

import re
from pathlib import Path
from typing import Any

from core.errors import InputError

MAX_YAML_BYTES = 1 << 20
MAX_YAML_DEPTH = 32


def _refuse_tricks(text: str, where: str) -> None:
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{where}: anchors and aliases are not read; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise InputError(f"{where}: nested more than {MAX_YAML_DEPTH} levels deep")


def _line(where: str, node: Any) -> str:
    return f"{where}, line {node.start_mark.line + 1}"


def parse_yaml(text: str, where: str) -> Any:
    """The value of YAML text; refuses anchors, doubled keys, deep nesting and sizes over 1 MiB.

    Raises:
        InputError: any of these, or text that is not YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        pairs = [(loader.construct_object(k), v) for k, v in node.value]
        seen: set[str] = set()
        for key, value in pairs:
            if not isinstance(key, str):
                raise InputError(
                    f"{where}, line {value.start_mark.line + 1}: key {key!r} is not text"
                )
            if key in seen:
                raise InputError(
                    f"{where}, line {value.start_mark.line + 1}: {key!r} is given twice"
                )
            seen.add(key)
        return {key: loader.construct_object(value, deep=True) for key, value in pairs}

    # YAML 1.1 reads 1e-4 as text; a learning rate is a number.
    number = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    if len(text.encode()) > MAX_YAML_BYTES:
        raise InputError(f"{where}: more than {MAX_YAML_BYTES} bytes of YAML")
    try:
        _refuse_tricks(text, where)
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{where}{line}: not YAML: {getattr(error, 'problem', error)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: no such file, not text, not YAML, or not a mapping.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise InputError(f"{path}: more than {MAX_YAML_BYTES} bytes of YAML")
        value = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a mapping of options, got {type(value).__name__}")
    return value
