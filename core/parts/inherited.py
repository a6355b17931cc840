"""Options that a request takes from another file: `from: FILE`, and its own laid over them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError, brief
from core.parts.yaml_file import read_yaml

FROM = "from"


def inherit(
    options: Mapping[str, Any],
    folder: Path,
    *,
    at: str = "",
    without: Iterable[str] = (),
    through: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """`options` without `from`, laid over those of the file that it names, and so on from there.

    Args:
        options: as YAML gives them.
        folder: where the file with `options` lies; a relative path in `from` starts there.
        at: dotted place of `options`, for the messages.
        without: dotted options that are not taken from the file.
        through: the files that led here, to find a circle.

    Raises:
        InputError: a file is missing, holds no options, or leads back to itself.
    """
    own = {name: value for name, value in options.items() if name != FROM}
    if FROM not in options:
        return own
    where, named = f"{at}.{FROM}" if at else FROM, options[FROM]
    if not isinstance(named, str) or not named or "\0" in named:
        raise InputError(
            f"{where}: expected the path of a YAML file of options, got {brief(named)}"
        )
    path = (folder / named).resolve()
    if path in through:
        way = " -> ".join(file.name for file in (*through[through.index(path) :], path))
        raise InputError(f"{where}: these files take options of each other in a circle: {way}")
    try:
        base = inherit(read_yaml(path), path.parent, through=(*through, path))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    for option in without:
        _remove(base, option.split("."))
    return merged(base, own)


def merged(base: Any, own: Any) -> Any:
    """`own` laid over `base`, mapping by mapping; another part keeps no options of the first."""
    if not isinstance(own, Mapping):
        return own
    if isinstance(base, str) and "name" not in own:  # a part without options
        base = {"name": base}
    if not isinstance(base, Mapping) or own.get("name", base.get("name")) != base.get("name"):
        return own
    return {**base, **{k: merged(base[k], v) if k in base else v for k, v in own.items()}}


def _remove(options: Any, keys: list[str]) -> None:
    for key in keys[:-1]:
        options = options.get(key) if isinstance(options, dict) else None
    if isinstance(options, dict):
        options.pop(keys[-1], None)
