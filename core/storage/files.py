"""Files that are whole or absent, whatever happens while they are written."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import InputError, StorageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BLOCK = 4096
# Letters after these show in another order than they have.
TURNING = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
PATIENCE = 60.0  # seconds to wait for another process that writes to the same folder


def sync(path: Path) -> None:
    """Have the disk hold what `path`, a file or a folder, is now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # else it is a folder of a file system that can sync none, and all is done
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(folder: Path, name: str) -> Path:
    """The path below `folder` that `name`, read from a file, means; it need not exist.

    Raises:
        InputError: it leads out of the folder, by a link too, or can be the name of no file.
    """
    place = PurePosixPath(name)
    strange = any(unicodedata.category(c) in ("Cc", "Cs") or c in TURNING for c in name)
    if strange or not place.parts or place.is_absolute() or ".." in place.parts:
        raise InputError(f"{name!r}: expected the name of a file below {folder}, relative to it")
    try:
        found = (folder / place).resolve()
        with suppress(FileNotFoundError):
            found.lstat()
    except (OSError, RuntimeError) as error:  # a name too long, or links that go in a circle
        raise InputError(f"{name!r}: cannot be a file below {folder}: {error}") from error
    if not found.is_relative_to(folder.resolve()):
        raise InputError(f"{name!r}: leads out of {folder}")
    return folder / place


def create_folder(path: Path) -> None:
    """Make `path` and what is missing above it; the disk holds each name when this returns."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def remove(doomed: list[Path]) -> None:
    """Remove files and folders of one parent; a half-removed one's name begins with ``.del-``.

    The new names are on the disk before any content goes: a power cut cannot leave a folder with
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
    """Be the only process that writes to a folder while the block lasts.

    The kernel frees the lock when its holder dies, so that whatever unfinished thing is found
    under it belongs to no living process.

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
    """Put `data` into a new file; the disk holds it when this returns."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Put `text` at `path` in one step: a reader sees the old file or the new one, whole."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with waiting.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(waiting, path)
    except OSError:
        with suppress(OSError):
            waiting.unlink()
        raise
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Put `value` as JSON at `path` in one step.

    Raises:
        ValueError: a number in it is not finite.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def room_for(size: int) -> int:
    """What a file of so many bytes takes on a disk, in blocks of the usual size."""
    return -(-size // BLOCK) * BLOCK


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, or of the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def not_written(path: Path, error: OSError, *, needed: int, remains: str) -> StorageError:
    """The one line that says why `path` could not be written.

    Args:
        path: what was to be written.
        error: why it was not.
        needed: bytes that it takes, about.
        remains: what is whole nevertheless, as a sentence.
    """
    try:
        free = f"{free_bytes(path.parent):,} are free"
    except OSError:
        free = "its disk cannot be asked for what is free"
    mend = "make room" if error.errno in NO_ROOM else "mend that"
    said = StorageError(
        f"{path}: cannot be written: {error.strerror or error}; it needs about {needed:,} bytes, "
        f"{free}; {remains}; {mend} and run the same command again"
    )
    said.errno = error.errno
    return said


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """`out`, made and found writable; if the block fails, what it made and left empty is removed.

    Raises:
        InputError: it cannot be made or written to.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
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
        create_folder(out)
        probe = out / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{out}: cannot write there: {error.strerror}; choose another output folder"
        ) from error
    return out
