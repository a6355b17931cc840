"""A new plug-in from the files beside this module: small, whole, and with tests that pass."""

import importlib.util
import keyword
import re
from importlib.resources import files as resources
from importlib.resources.abc import Traversable
from pathlib import Path

from core.errors import InputError
from core.parts.registry import installed

LONGEST = 40  # letters of a name
MARK = "@NAME@"  # in the files, where the plug-in's name goes
NAME = re.compile(r"[a-z][a-z0-9_]*[a-z0-9]")


def write_plugin(name: str, parent: Path) -> Path:
    """Write a plug-in into a new folder of its name; that folder.

    Args:
        name: of the plug-in and of its package.
        parent: of the folder; it is made if it is not there.

    Raises:
        InputError: a name that a package cannot have or something else has, or the folder is there.
    """
    _check_name(name)
    folder = parent / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise InputError(f"{folder}: is there already; choose another name or --out") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}; choose another --out") from (
            error
        )
    _copy(resources("core.scaffold") / "files", folder, name)
    return folder


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > LONGEST or keyword.iskeyword(name):
        raise InputError(
            f"name: expected 2 to {LONGEST} small letters, digits and underscores, of which the "
            f"first is a letter, and no word of Python, got {name!r}"
        )
    if name in installed().plugins:
        raise InputError(f"name: a plug-in named {name!r} is installed; choose another")
    if importlib.util.find_spec(name) is not None:
        raise InputError(f"name: Python has a module named {name!r} already; choose another")


def _copy(source: Traversable, target: Path, name: str) -> None:
    """Copy a folder of templates; ``package`` is named as the plug-in is."""
    for one in source.iterdir():
        if one.is_dir():
            inner = target / (name if one.name == "package" else one.name)
            inner.mkdir()
            _copy(one, inner, name)
        elif one.name.endswith(".txt"):
            text = one.read_text(encoding="utf-8").replace(MARK, name)
            stem = one.name.removesuffix(".txt").replace("NAME", name)
            (target / stem).write_text(text, encoding="utf-8")
