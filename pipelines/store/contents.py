"""Contents of the files and folders that requests name: what counts, and digests of it.

Every regular file counts by its name below the folder and its bytes, but for hidden ones, which no
dataset reads (`core.storage.folders`): an operating system or an editor leaves them anywhere.
Links are followed, since a reader may do so.  Neither the folder's own name nor times count.
Anything else there, such as a pipe, is refused by name: reading it may never end.

A file is read again only where its size, times or inode differ from those of its last reading.  The
digests are kept in the store, beside nothing that names a file: names may be patients'.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError
from core.storage import files, json_file

FOLDER = ".digests"  # in a store
# Times have a granularity, of 2 s on FAT, and a file server's clock is another.  A file that was
# written so shortly before it was read may be written again without its times showing it.
SETTLED = 10 * 10**9  # nanoseconds
WORTH_KEEPING = 2**20  # bytes read anew from which digests are written down
MOST_FILES, MOST_FOLDERS = 100_000, 64  # of one folder; of a store
FORMAT = 1

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_Stamp = list[int]  # size, times of writing and of changing the inode in nanoseconds, and inode


@dataclass(frozen=True, slots=True)
class Content:
    """What a file or folder holds.

    Args:
        digest: sha256 of a file's bytes; of a folder, of its files' names and digests.
        written: sha256 of the names, sizes and times of writing; another one after some file was
            written, even if it holds what it held before.
    """

    digest: str
    written: str


def content_of(path: Path, *, store: Path | None = None) -> Content:
    """What a file or a folder holds now.

    Args:
        path: a regular file, or a folder.
        store: where digests are kept from one call to the next; not made for them.

    Raises:
        InputError: something in it is neither a regular file nor a folder, or cannot be read.
    """
    found = list(_found(path))
    kept = _Kept(path, store)
    digests = [[name, kept.digest(name, at, status)] for name, at, status in found]
    kept.save()
    times = [[name, status.st_size, status.st_mtime_ns] for name, _, status in found]
    single = [digest for name, digest in digests if not name]
    return Content(single[0] if single else _sha256(digests), _sha256(times))


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


# --- what counts -----------------------------------------------------------------------------


def _found(root: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Every file that counts: its name below `root`, its path and status, sorted by name.

    The name of `root` itself is empty.

    Raises:
        InputError: all that is neither a file nor a folder or cannot be read, or the first of many.
    """
    status = _status(root)
    if isinstance(status, str):
        raise InputError(f"{root}: {status}")
    if not stat.S_ISDIR(status.st_mode):
        yield "", root, status
        return
    problems: list[str] = []
    found = sorted(_below(root, status, problems), key=lambda entry: entry[0])
    if problems:
        more = f"; and {len(problems) - 1} more" if problems[1:] else ""
        raise InputError(f"{problems[0]}{more}")
    yield from found


def _below(
    root: Path, status: os.stat_result, problems: list[str]
) -> Iterator[tuple[str, Path, os.stat_result]]:
    """The files below a folder, unsorted; `problems` gets what cannot be read."""
    linked = {(status.st_dev, status.st_ino)}  # links may go in circles

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    for at, folders, names in os.walk(root, followlinks=True, onerror=unreadable):
        seen = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in seen if _is_entered(os.path.join(at, name), linked)]
        for name in names:
            path = Path(at, name)
            if name.startswith("."):
                continue
            status_or_problem = _status(path)
            if isinstance(status_or_problem, str):
                problems.append(f"{path}: {status_or_problem}; move it out of {root}")
            else:
                yield path.relative_to(root).as_posix(), path, status_or_problem


def _is_entered(folder: str, linked: set[tuple[int, int]]) -> bool:
    """Whether a folder is looked into: one behind a link once, and `linked` knows it then."""
    if not os.path.islink(folder):
        return True
    with suppress(OSError):
        status = os.stat(folder)
        place = status.st_dev, status.st_ino
        new = place not in linked
        linked.add(place)
        return new
    return True  # `os.walk` says why it cannot


def _status(path: Path) -> os.stat_result | str:
    """The status of a regular file or a folder; of anything else, what is wrong with it."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        target = f"a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else ""
        return target or str(error.strerror)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    for is_of, kind in _KINDS:
        if is_of(status.st_mode):
            link = "a link to " if path.is_symlink() else ""
            return f"{link}{kind}, expected a regular file or a folder"
    return status


# --- digests ---------------------------------------------------------------------------------


def _stamp(status: os.stat_result) -> _Stamp:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(path: Path) -> tuple[str, _Stamp]:
    """The digest of a regular file, and the stamp that it had before and after it was read.

    Raises:
        InputError: it cannot be read, or is written meanwhile.
    """
    try:
        with files.open_regular(path) as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if _stamp(before) != _stamp(after):
        raise InputError(f"{path}: is being written; try again when that has ended")
    return digest, _stamp(after)


class _Kept:
    """Digests of the files of one folder, or of one file, from earlier calls.

    Args:
        root: the folder or file.
        store: where they are kept; nowhere if it is none or does not exist.
    """

    def __init__(self, root: Path, store: Path | None) -> None:
        self._root = os.path.abspath(root)
        self._at = store / FOLDER / f"{self._hidden('')}.json" if store is not None else None
        self._known = self._load()
        self._new: dict[str, list[int | str]] = {}
        self._read = 0

    def _hidden(self, name: str) -> str:
        return hashlib.sha256(os.fsencode(f"{self._root}\0{name}")).hexdigest()[:32]

    def _load(self) -> dict[str, list[int | str]]:
        if self._at is None:
            return {}
        with suppress(OSError, json_file.NotJson):
            document = json_file.read(self._at)
            if isinstance(document, dict) and document.get("format") == FORMAT:
                known = document.get("files")
                return known if isinstance(known, dict) else {}
        return {}

    def digest(self, name: str, path: Path, status: os.stat_result) -> str:
        """The digest of a file with that status: the one that is kept, or by reading it.

        Raises:
            InputError: it cannot be read, or is written meanwhile.
        """
        hidden = self._hidden(name)
        match self._known.get(hidden):
            case [*stamp, str(digest)] if stamp == _stamp(status):
                self._new[hidden] = [*stamp, digest]
                return digest
        began = time.time_ns()
        digest, stamp = _read(path)
        if max(stamp[1], stamp[2]) + SETTLED < began:
            self._new[hidden] = [*stamp, digest]
            self._read += stamp[0]
        return digest

    def save(self) -> None:
        """Keep the digests, if much was read anew and the store can be written."""
        if self._at is None or self._read < WORTH_KEEPING or len(self._new) > MOST_FILES:
            return
        folder = self._at.parent
        with suppress(OSError):  # a read-only store, or none
            folder.mkdir(exist_ok=True)
            files.write_json(self._at, {"format": FORMAT, "files": self._new})
            kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
            for old in kept[:-MOST_FOLDERS]:
                old.unlink(missing_ok=True)
