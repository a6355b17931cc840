"""YAML from users: plain values only, within bounds, each fault with its line."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import InputError, brief

MAX_YAML_BYTES = 1 << 20
MAX_YAML_DEPTH = 32
MAX_YAML_BITS = 1024  # of an integer; about the range of a float
REPLACED = ("timestamp", "int", "float")
NUMBERS = {
    "int": re.compile(r"^[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+|0b[01]+)$"),
    "float": re.compile(
        r"^[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
        r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
}
MAX_YAML_VALUES = 20_000  # a million brackets would take seconds to read


class _Refused(Exception):
    """YAML that is not read: a message, and the line it is about."""

    def __init__(self, message: str, mark: Any) -> None:
        super().__init__(message)
        self.message = message
        self.line = mark.line + 1 if mark else None


@cache
def _loader() -> Any:
    """The loader's class; made once, when YAML is first read."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values within bounds; checks every event of the stream before it is used."""

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self._depth = self._values = 0

        def get_event(self) -> Any:
            event: Any = super().get_event()
            _check_event(event)
            self._values += isinstance(event, yaml.NodeEvent)
            self._depth += isinstance(event, yaml.CollectionStartEvent)
            self._depth -= isinstance(event, yaml.CollectionEndEvent)
            if self._values > MAX_YAML_VALUES:
                raise _Refused(f"more than {MAX_YAML_VALUES} values", event.start_mark)
            if self._depth > MAX_YAML_DEPTH:
                raise _Refused(f"nested more than {MAX_YAML_DEPTH} levels deep", event.start_mark)
            return event

    # YAML 1.1's dates are left out: no option is a date, and 2026-99-99 would be an error.  Numbers
    # are those of YAML 1.2: 1.1 reads 1:30 as 90, 1_0 as 10, 010 as 8, and 1e-4 as text.
    Loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if tag.rpartition(":")[2] not in REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, form in NUMBERS.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", form, list("-+.0123456789"))
    Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
    Loader.add_constructor("tag:yaml.org,2002:int", _integer)
    return Loader


def _check_event(event: Any) -> None:
    """Refuse anchors, aliases, tags and text that UTF-8 cannot hold."""
    import yaml

    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        message = "anchors and aliases are not read; write the value out"
        raise _Refused(message, event.start_mark)
    if getattr(event, "tag", None):
        message = f"tags such as {brief(event.tag)} are not read; leave it out"
        raise _Refused(message, event.start_mark)
    if isinstance(event, yaml.ScalarEvent) and any("\ud800" <= c <= "\udfff" for c in event.value):
        message = "contains an unpaired surrogate; save the file as UTF-8"
        raise _Refused(message, event.start_mark)


def _mapping(loader: Any, node: Any) -> dict[str, Any]:
    """A mapping whose keys are text and differ."""
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise _Refused(f"key {brief(key)} is not text", value_node.start_mark)
        if key in found:
            raise _Refused(f"{brief(key)} is given twice", value_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _integer(loader: Any, node: Any) -> int:
    """An integer of at most `MAX_YAML_BITS`."""
    try:
        value = loader.construct_yaml_int(node)
    except ValueError:  # Python reads no integer of thousands of digits
        value = None
    if value is None or value.bit_length() > MAX_YAML_BITS:
        message = f"the integer is too long; expected at most {MAX_YAML_BITS} bits"
        raise _Refused(message, node.start_mark)
    return value


def parse_yaml(text: str, where: str) -> Any:
    """The value of YAML text; refuses anchors, tags, doubled keys, and what is deep or large.

    A date is text, and so is ``1:30``, ``1_0`` or ``010``.

    Args:
        text: at most `MAX_YAML_BYTES`.
        where: file or option that it comes from, for the messages.

    Raises:
        InputError: any of these, or text that is not YAML.
    """
    import yaml

    Loader = _loader()
    if len(text.encode()) > MAX_YAML_BYTES:
        raise InputError(f"{where}: more than {MAX_YAML_BYTES} bytes of YAML")
    try:
        return yaml.load(text, Loader=Loader)
    except _Refused as refused:
        line = f", line {refused.line}" if refused.line else ""
        raise InputError(f"{where}{line}: {refused.message}") from refused
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise InputError(f"{where}{line}: not YAML: {problem}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: no such file, not text, not YAML, or not a mapping.
    """
    try:
        if "\0" in str(path):
            raise InputError(f"{brief(str(path))}: a file name cannot contain a null byte")
        with path.open("rb") as file:  # a device has no size and may never end
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
