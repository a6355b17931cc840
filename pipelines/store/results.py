"""Content-addressed results: one folder per step and key, its manifest written last.

A folder without a manifest is unfinished and is entered again; one whose files do not match its
manifest is damaged and is moved aside.  Only a folder whose manifest is whole is ever a hit, and
the manifest appears by one rename after every file it lists is on disk.
"""

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from core.errors import InputError, brief
from core.storage import files, json_file
from core.training.stopping import FILE as STOP

FORMAT = 1
MANIFEST, REQUEST, RESULT, ENVIRONMENT = "MANIFEST.json", "request.json", "result.json", "env.json"
LOG, EVENTS = "log.txt", "events.jsonl"
# A waiting second process may still write an event after the commit, and a stop may come late.
UNLISTED = {MANIFEST, EVENTS, STOP}
LARGEST_MANIFEST = 2**28  # bytes: some two million files
KEY_DIGITS = 16
FOLDER = re.compile(rf"([a-z0-9][a-z0-9_-]*)-([0-9a-f]{{{KEY_DIGITS}}})")  # step and key
LOCKS, IN_USE = ".locks", ".in-use"


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a result's folder.

    Args:
        state: nothing, a start, a whole result, one that does not match its manifest, or one that
            cannot be read now: whether that is whole is not known.
        what: what is damaged, or cannot be read and why.
        unlisted: of a whole result, names of files there that its manifest does not list.
    """

    state: Literal["absent", "unfinished", "whole", "damaged", "unreadable"]
    what: str = ""
    unlisted: tuple[str, ...] = ()


def folder_of(root: Path, step: str, key: str) -> Path:
    """Where the result of `step` with `key` lies in the store `root`."""
    return root / f"{step}-{key[:KEY_DIGITS]}"


def files_below(folder: Path, *, strict: bool = True) -> list[str]:
    """Relative names of all files below `folder`, sorted, with ``/`` between parts.

    Args:
        folder: where they are.
        strict: raise the error of a folder that cannot be listed, instead of leaving its files out.

    Raises:
        OSError: `strict`, and a folder there cannot be listed.
    """
    walk = os.walk(folder, onerror=_raise if strict else None)
    found = (Path(at, name) for at, _, names in walk for name in names)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _raise(error: OSError) -> None:
    raise error


# --- writing ---------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if there is none, it cannot be read or it is not whole."""
    try:
        value = json_file.read(path)
    except (OSError, json_file.NotJson):
        return None
    return value if isinstance(value, dict) else None


def begin(
    folder: Path,
    key: str,
    identity: Mapping[str, Any],
    step: str,
    code: Mapping[str, str] | None = None,
    named: Mapping[str, str] | None = None,
) -> None:
    """Make `folder` and write in it what will be made there; keep what an earlier start left.

    Args:
        folder: of the result.
        key: of the result.
        identity: what `key` is the hash of.
        step: its name.
        code: digests of the modules that make it, which are not in its identity.
        named: paths of the files and folders whose contents are in it, by dotted option.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.tmp"):
        left.unlink()
    started = datetime.now(UTC).isoformat(timespec="microseconds")
    document = {"format": FORMAT, "step": step, "key": key, "started": started}
    document |= {"identity": identity, "named": dict(named or {}), "code": dict(code or {})}
    files.write_json(folder / REQUEST, document)


def commit(folder: Path, key: str) -> None:
    """Make what lies in `folder` the result of `key`: all files on disk, then the manifest.

    Raises:
        InputError: a file there is a link out of the folder or has a name that no result may have.
    """
    listed: dict[str, tuple[int, str]] = {}
    for name in files_below(folder):
        if name not in UNLISTED:
            files.inside(folder, name)
            files.sync(folder / name)
            listed[name] = (folder / name).stat().st_size, files.digest(folder / name)
    for at, _, _ in os.walk(folder, topdown=False):
        files.sync(Path(at))
    files.write_json(folder / MANIFEST, {"format": FORMAT, "key": key, "files": listed})
    files.sync(folder.parent)


def set_aside(folder: Path) -> Path:
    """Rename a damaged folder so that it is kept but never taken for a result; its new name."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = folder.with_name(f"damaged-{folder.name}-{stamp}")
    os.replace(folder, aside)
    return aside


# --- reading ---------------------------------------------------------------------------------


def inspect(folder: Path, key: str, *, verify: bool = False) -> Found:
    """What `folder` holds for `key`: sizes are compared, and with `verify` contents too.

    Raises:
        InputError: it was written by a newer version in a format this one does not know.
    """
    try:
        return _inspect(folder, key, verify)
    except OSError as error:  # it says nothing of the bytes: what cannot be read may be whole
        name = error.filename if isinstance(error.filename, str) else ""
        name = os.path.relpath(name, folder) if Path(name).is_relative_to(folder) else MANIFEST
        return Found("unreadable", f"{name} cannot be read now: {error.strerror or error}")


def unreadable(folder: Path, found: Found) -> str:
    """The message about a result that cannot be read now."""
    return (
        f"{folder}: {found.what}, so whether it is whole is not known; make it readable, or name "
        "another folder with --out"
    )


def _inspect(folder: Path, key: str, verify: bool) -> Found:
    """`inspect`.

    Raises:
        OSError: something there cannot be read now.
    """
    if not stat.S_ISDIR(_mode(folder)):
        return Found("absent")
    if not _mode(folder / MANIFEST):
        request = _document(folder / REQUEST) if _mode(folder / REQUEST) else None
        if not isinstance(request, dict) or request.get("key") == key:
            return Found("unfinished")
        return Found("damaged", f"{REQUEST} belongs to another key")
    manifest = _document(folder / MANIFEST)
    if isinstance(manifest, str):
        return Found("damaged", f"{MANIFEST} is not readable: {manifest}")
    version, listed = manifest.get("format"), manifest.get("files")
    if isinstance(version, int) and version > FORMAT:
        raise InputError(
            f"{folder}: written by a newer polymode (store format {version}, this one knows "
            f"{FORMAT}); upgrade polymode, or name another folder with --out"
        )
    if version != FORMAT or manifest.get("key") != key or not isinstance(listed, dict):
        return Found("damaged", f"{MANIFEST} is not this result's")
    there = dict(_there(folder))
    for name, said in listed.items():
        if not verify and _is_of_size(there.get(name), name, said):
            continue
        if what := _mismatch(folder, name, said, verify):
            return Found("damaged", f"{name} {what}")
    if not {REQUEST, RESULT, ENVIRONMENT} <= listed.keys():
        return Found("damaged", f"{MANIFEST} lists no result")
    others = sorted(there.keys() - listed.keys() - UNLISTED)
    return Found("whole", unlisted=tuple(name for name in others if not _is_hidden(name)))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _is_of_size(entry: os.DirEntry[str] | None, name: str, said: Any) -> bool:
    """Whether a file of the folder itself, under a plain name, is as large as its manifest says.

    Of most files that is all there is to know; `_mismatch` says what is wrong with others.
    """
    if entry is None or not name.isprintable() or not entry.is_file(follow_symlinks=False):
        return False
    match said:
        case [int(size), str()]:
            return entry.stat(follow_symlinks=False).st_size == size
    return False


def _there(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files and links in a folder and its subfolders, by their names below it; no link is followed.

    Raises:
        OSError: a folder there cannot be listed.
    """
    waiting = [(os.fspath(folder), "")]
    while waiting:
        path, below = waiting.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{below}{entry.name}/"))
                else:
                    yield f"{below}{entry.name}", entry


def _mode(path: Path) -> int:
    """The kind of what is at `path`; 0 where there is nothing.

    Raises:
        OSError: that cannot be found out now.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _document(path: Path) -> dict[str, Any] | str:
    """The mapping in a JSON file that is there; or why it is none.

    Raises:
        OSError: it cannot be read now.
    """
    try:
        value = json_file.read(path, largest=LARGEST_MANIFEST)
    except json_file.NotJson as error:
        return str(error)
    return value if isinstance(value, dict) else "not a mapping"


# Errors of the system that say that a name can be no file, whatever happens later.
_NO_FILE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)


def _mismatch(folder: Path, name: str, said: Any, verify: bool) -> str:
    """How the file differs from the manifest, or nothing.

    Raises:
        OSError: it cannot be read now.
    """
    try:
        path = files.inside(folder, name)
    except InputError as refused:
        if isinstance(cause := refused.__cause__, OSError) and cause.errno not in _NO_FILE:
            raise cause from None
        return "is no file of this result"
    match said:
        case [int(size), str(sha256)]:
            if not stat.S_ISREG(_mode(path)):
                return "is missing"
            if path.stat().st_size != size:
                return f"has {path.stat().st_size} bytes, not {size}"
            return "has changed" if verify and files.digest(path) != sha256 else ""
        case _:
            return f"is not described in {MANIFEST}"


def by_step(root: Path) -> dict[str, list[Path]]:
    """The folders of results in the store, finished or not, by the names of their steps."""
    found: dict[str, list[Path]] = {}
    with suppress(OSError):  # no store, or one that cannot be listed
        for path in root.iterdir():
            if match := FOLDER.fullmatch(path.name):
                found.setdefault(match[1], []).append(path)
    return found


def latest(folders: Iterable[Path]) -> dict[str, Any] | None:
    """The newest `request.json` of any of `folders`, finished or not."""
    read = (read_json(path / REQUEST) or {} for path in folders)
    found = [request for request in read if isinstance(request.get("identity"), dict)]
    return max(found, key=lambda request: str(request.get("started")), default=None)


def result_path(folder: Path, field: str) -> Path:
    """The file or folder that a finished step gave as `field`.

    Raises:
        InputError: the result has no such field, or it leads out of the folder.
    """
    result = read_json(folder / RESULT) or {}
    if not isinstance(result.get(field), str):
        raise InputError(f"{folder.name}: its result has no file or folder {brief(field)}")
    if result[field] == ".":  # the whole folder
        return folder
    try:
        return files.inside(folder, result[field])
    except InputError as error:
        raise InputError(f"{folder.name}: its result {brief(field)}: {error}") from error


# --- one at a time ---------------------------------------------------------------------------


@contextmanager
def locked(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the right to make `folder`, from checking to committing.

    The kernel frees it when the holder dies, however it dies.  It holds among processes of one
    machine; `waiting` is called once if another has it.
    """
    with _lock_file(folder.parent, folder.name) as file:
        told = False
        while not _taken(file, fcntl.LOCK_EX):
            if not told:
                waiting()
                told = True
            time.sleep(0.2)
        yield


@contextmanager
def in_use(root: Path) -> Iterator[None]:
    """Keep `removing` out of the store for as long as the block lasts; many may at once.

    Raises:
        InputError: unused results are being removed now.
    """
    with _lock_file(root, IN_USE) as file:
        if not _taken(file, fcntl.LOCK_SH):
            raise InputError(
                f"{root}: unused results are being removed; try again when that is done"
            )
        yield


@contextmanager
def removing(root: Path) -> Iterator[None]:
    """Have the store alone, with no run that may count on what lies there.

    Raises:
        InputError: a run is using it.
    """
    with _lock_file(root, IN_USE) as file:
        if not _taken(file, fcntl.LOCK_EX):
            raise InputError(f"{root}: a run is using it; try again when that has ended")
        yield


@contextmanager
def free(folder: Path) -> Iterator[bool]:
    """Whether nobody is making `folder`; if so, nobody begins to while the block lasts."""
    with _lock_file(folder.parent, folder.name) as file:
        yield _taken(file, fcntl.LOCK_EX)


@contextmanager
def _lock_file(root: Path, name: str) -> Iterator[TextIO]:
    place = root / LOCKS / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as file:
        try:
            yield file
        finally:
            # Closing is not enough where a child of this process was forked meanwhile.
            fcntl.flock(file, fcntl.LOCK_UN)


def _taken(file: TextIO, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
