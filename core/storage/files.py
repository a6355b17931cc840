"""Atomic files: whole or absent, whatever happens while they are written."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import InputError, StorageError, brief

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BLOCK = 4096
# Bidirectional controls: letters after these are shown in another order than they have.
BIDIRECTIONAL = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
PATIENCE = 60.0  # seconds to wait for another process that writes to the same folder


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # the others come from file systems that cannot sync a folder
    finally:
        os.close(handle)


class NotRegular(OSError):
    """A pipe, a device or a socket in the place of a file: reading it may never end."""


def open_regular(path: Path) -> BufferedReader:
    """A regular file, opened for reading.

    Raises:
        NotRegular: it is none.
        OSError: there is none, it is a folder, or it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # no pipe is waited for
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return open(handle, "rb")  # the caller closes it
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise NotRegular(errno.EINVAL, "not a regular file", str(path))


class Unusable(ValueError):
    """A file that is not read: no regular one, or larger than expected; the message says which."""


def read_at_most(path: Path, largest: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: there is none, or it cannot be read now.
        Unusable: it is not a regular file, or of more than `largest` bytes.
    """
    try:
        with open_regular(path) as file:
            data = file.read(largest + 1)
    except NotRegular as error:
        raise Unusable("not a regular file") from error
    if len(data) > largest:
        raise Unusable(f"more than {largest} bytes")
    return data


def digest(path: Path) -> str:
    """sha256 of a regular file's bytes, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_problem(name: str) -> str:
    """The clause that says why a record cannot hold a file's name; empty where it can."""
    if any(unicodedata.category(c) == "Cs" for c in name):
        return "its name is not UTF-8"
    if any(c in "\n\r" for c in name):
        return "its name holds a line break"
    if any(unicodedata.category(c) == "Cc" for c in name):
        return "its name holds a control character"
    return "its name holds a mark that reorders text" if set(name) & set(BIDIRECTIONAL) else ""


def inside(folder: Path, name: str) -> Path:
    """The path below `folder` of a name that was read from a file; it need not exist.

    Raises:
        InputError: it leads out of the folder, also by a link, or is not a valid file name.
    """
    relative = PurePosixPath(name)
    if name_problem(name) or not relative.parts or relative.is_absolute() or ".." in relative.parts:
        raise InputError(
            f"{brief(name)}: expected the name of a file below {folder}, relative to it"
        )
    try:
        found = (folder / relative).resolve()
        with suppress(FileNotFoundError):
            found.lstat()
    except (OSError, RuntimeError) as error:  # a name too long, or links that go in a circle
        raise InputError(f"{brief(name)}: cannot be a file below {folder}: {error}") from error
    if not found.is_relative_to(folder.resolve()):
        raise InputError(f"{brief(name)}: leads out of {folder}")
    return folder / relative


def create_folder(path: Path) -> None:
    """Make `path` and its missing parents; each name is synced when this returns."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def remove(doomed: list[Path]) -> None:
    """Remove files and folders of one parent; a half-removed one's name begins with ``.del-``.

    The new names are synced before any content is removed: a power cut cannot leave a folder with
    its old name and half of its files.
    """
    renamed = []
    for path in doomed:
        hidden = path.with_name(f".del-{path.name.lstrip('.')}-{os.urandom(4).hex()}")
        path.rename(hidden)
        renamed.append(hidden)
    if renamed:
        sync(renamed[0].parent)
    for path in renamed:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def hold(folder: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a folder while the block lasts.

    The kernel frees the lock when its holder dies, so that unfinished files found under the lock
    belong to no living process.

    Yields:
        Whether the file system has locks; without them others may be writing too.

    Raises:
        StorageError: another process held the folder for a minute.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        held, deadline = False, time.monotonic() + PATIENCE
        while not held:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StorageError(
                        f"{folder}: another process has been writing there for {PATIENCE:.0f} "
                        "seconds; end it, or choose another output folder"
                    ) from error
                time.sleep(0.02)
            except OSError:  # some network file systems have no locks
                break
        yield held
    finally:
        # Closing is not enough where a child of this process was forked while it held the lock.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` into a new file and sync it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replaced(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """A temporary path beside `path`; what the block writes there then replaces `path` atomically.

    The new file is flushed to the disk before it is renamed (fsync), and its folder after.  If the
    block fails, or the process dies, the old file stays as it was.

    Args:
        path: of the file to write; its folder exists.
        suffix: that the temporary name ends in, for libraries that choose a format by it.
    """
    # A name of its own length, since `path` may have the longest name that there can be.
    waiting = path.with_name(f".{os.urandom(8).hex()}.tmp{suffix}")
    try:
        yield waiting
        move(waiting, path)
    except BaseException:
        with suppress(OSError):
            waiting.unlink(missing_ok=True)
        raise


def move(source: Path, target: Path) -> None:
    """Rename a file to `target` on the same disk, its content and its new name synced (fsync).

    A file that is already there is replaced atomically.
    """
    sync(source)
    os.replace(source, target)
    sync(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` at `path` atomically: a reader sees the old file or the new one, whole."""
    with replaced(path) as waiting:
        waiting.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON at `path` atomically.

    Raises:
        ValueError: a number in it is not finite.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def room_for(size: int) -> int:
    """Size on disk of a file of so many bytes, in whole blocks."""
    return -(-size // BLOCK) * BLOCK


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, or of its nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def not_written(path: Path, error: OSError, *, needed: int, remains: str) -> StorageError:
    """The error of one line that states why `path` could not be written.

    Args:
        path: file or folder that was to be written.
        error: the cause.
        needed: approximate number of bytes.
        remains: a clause about the files that are still whole.
    """
    try:
        free = f"{free_bytes(path.parent):,} are free"
    except OSError:
        free = "its free space is unknown"
    remedy = "make room" if error.errno in NO_ROOM else "fix the cause"
    failure = StorageError(
        f"{path}: cannot be written: {error.strerror or error}; it needs about {needed:,} bytes, "
        f"{free}; {remains}; {remedy} and run the same command again"
    )
    failure.errno = error.errno
    return failure


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """`out`, made and found writable; if the block fails, what it made and left empty is removed.

    Raises:
        InputError: it cannot be made or written to.
    """
    made: list[Path] = []
    with suppress(OSError):  # of a path that cannot be looked at, which `make_folder` refuses
        made += [folder for folder in (out, *out.parents) if not folder.exists()]
    make_folder(out)
    try:
        yield out
    except BaseException:
        with suppress(OSError):  # a folder that holds something stays
            for folder in made:
                folder.rmdir()
        raise


def make_folder(out: Path) -> Path:
    """`out`, made and found writable.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        os.fsencode(out).decode("utf-8")
    except UnicodeDecodeError as error:
        shown = os.fsencode(out).decode("utf-8", "backslashreplace")
        raise InputError(
            f"{shown}: a name that is not UTF-8; choose another output folder"
        ) from error
    try:
        for turn in range(4):
            create_folder(out)
            probe = out / f".probe-{os.getpid()}"
            try:
                probe.touch()
            except FileNotFoundError:  # another process of this run has failed and removed it
                if turn == 3:
                    raise
            else:
                probe.unlink()
                break
    except OSError as error:
        raise InputError(
            f"{out}: cannot write there: {error.strerror}; choose another output folder"
        ) from error
    return out
