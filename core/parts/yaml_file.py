"""YAML from users: plain values only, within bounds, each fault with its line."""

import re
from pathlib import Path
from typing import Any

from core.errors import InputError

MAX_YAML_BYTES = 1 << 20
MAX_YAML_DEPTH = 32
MAX_YAML_BITS = 1024  # of a whole number; what a float holds, about
MAX_YAML_VALUES = 20_000  # seconds to read, for whoever writes a million brackets


def _refuse_tricks(text: str, where: str) -> None:
    import yaml

    depth = values = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = f"{where}, line {event.start_mark.line + 1}" if event.start_mark else where
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{where}: anchors and aliases are not read; write the value out")
        if getattr(event, "tag", None):
            raise InputError(f"{line}: tags such as {event.tag!r} are not read; leave it out")
        if isinstance(event, yaml.ScalarEvent) and any(
            "\ud800" <= c <= "\udfff" for c in event.value
        ):
            raise InputError(f"{line}: holds half a letter, which is no text")
        values += isinstance(event, yaml.NodeEvent)
        if values > MAX_YAML_VALUES:
            raise InputError(f"{line}: more than {MAX_YAML_VALUES} values")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise InputError(f"{where}: nested more than {MAX_YAML_DEPTH} levels deep")


def parse_yaml(text: str, where: str) -> Any:
    """The value of YAML text; refuses anchors, tags, doubled keys, and what is deep or large.

    A date is text.

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

    def whole(loader: Loader, node: yaml.ScalarNode) -> int:
        try:
            value = loader.construct_yaml_int(node)
        except ValueError:  # thousands of digits
            value = None
        if value is None or value.bit_length() > MAX_YAML_BITS:
            line = node.start_mark.line + 1
            raise InputError(f"{where}, line {line}: a number too long to be read")
        return value

    # YAML 1.1's dates are left out: no option takes one, and some that look like one are none.
    Loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    # YAML 1.1 reads 1e-4 as text; a learning rate is a number.
    number = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_constructor("tag:yaml.org,2002:int", whole)
    if len(text.encode()) > MAX_YAML_BYTES:
        raise InputError(f"{where}: more than {MAX_YAML_BYTES} bytes of YAML")
    try:
        _refuse_tricks(text, where)
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        said = " ".join(str(getattr(error, "problem", error)).split())
        raise InputError(f"{where}{line}: not YAML: {said}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: no such file, not text, not YAML, or not a mapping.
    """
    try:
        if "\0" in str(path):
            raise InputError(f"{str(path)!r}: cannot be the name of a file")
        with path.open("rb") as file:  # a device tells no size and may have no end
            data = file.read(MAX_YAML_BYTES + 1)
        if len(data) > MAX_YAML_BYTES:
            raise InputError(f"{path}: more than {MAX_YAML_BYTES} bytes of YAML")
        value = parse_yaml(data.decode("utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a mapping of options, got {type(value).__name__}")
    return value
