"""Files in a folder of the user's, with one rule for links and hidden names."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from core.errors import InputError


class Found(NamedTuple):
    """Files in a folder and its subfolders.

    Args:
        files: sorted by their path below the folder.
        refused: paths that are links or no regular files, with the reason.
    """

    files: list[Path]
    refused: list[tuple[Path, str]]


def files_in(root: Path, *, contents: str, wanted: Callable[[Path], bool] = bool) -> Found:
    """The files below `root` whose names are wanted.

    Hidden files and folders are passed over.  No link is followed: one to a file inside the folder
    would give that file twice, one out of it files that are not in the folder.

    Args:
        root: the folder; itself it may be a link.
        contents: name of what the folder holds, for the errors.
        wanted: whether a path is reported; it is not opened.

    Raises:
        InputError: no such folder, or one that cannot be read.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root}: {what}; expected root to be the folder of your {contents}")
    found: list[Path] = []
    refused: list[tuple[Path, str]] = []
    for at, folders, names in os.walk(root, onerror=_refuse):
        seen = [Path(at, name) for name in folders if not name.startswith(".")]
        linked = [path for path in seen if path.is_symlink()]
        refused += [(path, "a link to a folder, not followed") for path in linked]
        folders[:] = [path.name for path in seen if path not in linked]
        for path in (Path(at, name) for name in names if not name.startswith(".")):
            if not wanted(path):
                continue
            if path.is_symlink():
                refused.append((path, "a link, not followed"))
            elif not path.is_file():
                refused.append((path, "a pipe, a socket or a device, not read"))
            else:
                found.append(path)
    return Found(sorted(found, key=lambda path: path.relative_to(root).as_posix()), sorted(refused))


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
