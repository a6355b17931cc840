"""Care of a store: are its results what their manifests say, and which does no record name."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError, StorageError
from core.storage import files
from pipelines.store import results

DAMAGED, HALF_REMOVED = "damaged-", ".del-"


def result_folders(root: Path) -> list[Path]:
    """The folders of results in the store, finished or not, by name.

    Raises:
        InputError: there is no store.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no store there; name the folder that `run` wrote with --out")
    return sorted(p for p in _folders(root) if results.FOLDER.fullmatch(p.name))


def _folders(root: Path) -> Iterator[Path]:
    """What a store may hold of ours: folders, and no links to folders elsewhere."""
    return (path for path in root.iterdir() if path.is_dir() and not path.is_symlink())


def _aside(path: Path) -> bool:
    """What was set aside ends with a time; a step may itself be called ``damaged``."""
    return path.name.startswith(DAMAGED) and re.search(r"-\d{8}T\d{12}$", path.name) is not None


def verify(folder: Path) -> results.Found:
    """What a result's folder holds, with every byte of it compared with the manifest."""
    manifest = results.read_json(folder / results.MANIFEST) or {}
    request = results.read_json(folder / results.REQUEST) or {}
    named = results.FOLDER.fullmatch(folder.name)
    for document, where in ((manifest, results.MANIFEST), (request, results.REQUEST)):
        key = document.get("key", "")
        if named and key and not str(key).startswith(named[2]):
            return results.Found("damaged", f"{where} belongs to another key")
    return results.inspect(folder, str(manifest.get("key", request.get("key"))), verify=True)


# --- what nobody names -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Unused:
    """A folder of the store that can go.

    Args:
        path: where it is.
        size: bytes of its files.
        why: one word or two.
    """

    path: Path
    size: int
    why: str


def named(out: Path) -> set[str]:
    """The results that the records in `out` name, each with all it was made from.

    Raises:
        InputError: a record cannot be read, so that nobody knows what it names.
    """
    kept: set[str] = set()
    for path in sorted(out.glob("*/plan.json")):
        steps = results.read_json(path)
        folders = [s.get("folder") if isinstance(s, dict) else None for s in (steps or {}).values()]
        found = [
            results.FOLDER.fullmatch(Path(f).name) if isinstance(f, str) else None for f in folders
        ]
        if steps is None or not all(found):
            raise InputError(
                f"{path}: cannot be read, so what it uses is not known; remove {path.parent} or "
                "run its job again"
            )
        kept |= {match[0] for match in found if match}
    return kept


def unused(out: Path) -> list[Unused]:
    """What lies in the store of `out` and no record names; what is not ours is left alone.

    Raises:
        InputError: there is no store, or a record cannot be read.
    """
    root, kept = out / "store", named(out)
    whole = {path: _state(path) for path in result_folders(root) if path.name not in kept}
    for path in _folders(root):
        if _aside(path):
            whole[path] = "damaged"
        elif path.name.startswith(HALF_REMOVED):
            whole[path] = "half removed"
    return [Unused(path=path, size=_size(path), why=whole[path]) for path in sorted(whole)]


def _state(folder: Path) -> str:
    return "unused" if (folder / results.MANIFEST).exists() else "unfinished"


def _size(folder: Path) -> int:
    """Bytes of the files below `folder`; links are not followed."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(at, name).lstat().st_size
    return total


def remove_unused(out: Path) -> Iterator[Unused]:
    """Remove what no record names, one folder after another, and report each.

    Each gets another name first, so that a kill leaves no half of a result behind.  Whatever a
    process is making is left alone.

    Raises:
        InputError: as `unused`, or a run is using the store.
        StorageError: a folder cannot be removed.
    """
    result_folders(out / "store")  # says so if there is none
    with results.removing(out / "store"):
        for found in unused(out):
            with results.free(found.path) as nobody_is_there:
                if not nobody_is_there:
                    continue
                try:
                    files.remove([found.path])
                except OSError as error:
                    raise StorageError(
                        f"{found.path}: cannot be removed: {error.strerror}; what comes after it "
                        "is still there"
                    ) from error
                yield found
