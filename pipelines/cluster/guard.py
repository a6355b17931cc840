"""Ends what was started in a folder and removes it, once the process that made it is gone.

Ray's processes watch each other, but its agents outlive a killed driver by a minute or more: they
first report the death to a server that is dead too.  This one runs beside the driver, in a session
of its own, so that a signal to the driver's group does not reach it.  Standard library only.

python guard.py FOLDER PID     waits until standard input ends or PID is no longer the parent
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOOK = 0.5  # seconds between two looks at the parent
PATIENCE = 5.0  # seconds in which processes that are told to end have to be gone


def start(folder: Path) -> subprocess.Popen[bytes]:
    """A guard of this process and of everything that has a file open below `folder`."""
    command = [sys.executable, "-I", "-S", __file__, str(folder), str(os.getpid())]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def dismiss(guard: subprocess.Popen[bytes]) -> None:
    """Have the guard do its work now, and wait for it."""
    assert guard.stdin is not None
    guard.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        guard.wait(PATIENCE + 5)


@contextmanager
def temporary(prefix: str, parent: Path) -> Iterator[Path]:
    """A new folder below `parent` that is removed at the end, after a kill of this process too."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))  # mode 0700
    watching = start(folder)
    try:
        yield folder
    finally:
        dismiss(watching)


def users_of(folder: Path) -> set[int]:
    """Processes of this user that have a file open below `folder`, this one apart.

    Every process of Ray has its log there, and whatever a worker starts inherits it.  A command
    that starts meanwhile opens ``alive`` to see whether this folder is left over; it is no user.
    Where there is no ``/proc`` none are found.
    """
    below, found = f"{folder}/", set[int]()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            for handle in (process / "fd").iterdir():
                path = os.readlink(handle)
                if path.startswith(below) and path != f"{below}alive":
                    found.add(int(process.name))
                    break
    return found - {os.getpid()}


def end(folder: Path, *, spare: int = 0) -> None:
    """End the users of `folder`, `spare` apart, and remove it."""
    deadline = time.monotonic() + PATIENCE
    while (left := users_of(folder) - {spare}) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _watch(folder: Path, parent: int) -> None:
    while os.getppid() == parent:
        if select.select([sys.stdin], [], [], LOOK)[0] and not os.read(0, 1):
            break
    end(folder, spare=parent)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]), int(sys.argv[2]))
