"""A private Ray of one machine: reachable from this machine only, with a token, gone afterwards.

Source of the settings: Ray 2.60, `ray/_private/services.py` and `ray/_private/worker.py`.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from core.errors import InputError
from pipelines.cluster import deadlines, guard
from pipelines.cluster.connection import (
    ON_LOOPBACK,
    QUIET,
    bare,
    check_unconnected,
    connect,
    disconnect,
    environment,
    import_path,
    load,
    patient,
)
from pipelines.cluster.failures import without_colours

OBJECT_STORE_BYTES = 256 << 20
# Ray puts `r/session_<date>_<microseconds>_<pid>/sockets/plasma_store` below our folder, at most
# 68 bytes; a unix socket's path may have 107.
LONGEST_FOLDER = 107 - 68
PREFIX = "polymode-ray-"


class NotStarted(Exception):
    """The private Ray has not started within its time, as on a machine with much other work."""


@contextmanager
def private_ray(
    place: Path, *, cpus: int, gpus: int, tell: Callable[[str], None] = lambda text: None
) -> Iterator[None]:
    """Start Ray for this process and its workers; stop it and remove its files at the end.

    It listens on loopback alone, requires of every caller a token that only this user can read,
    has no dashboard, serves no metrics, reports nothing to anyone and prints nothing.

    Args:
        place: an existing folder; Ray's files lie in it if its path suits Ray, otherwise in the
            system's folder for temporary files.
        cpus: logical cores of all steps together.
        gpus: GPUs of all steps together.
        tell: called with a sentence when it is tried again, with a longer limit.

    Raises:
        InputError: no folder suits Ray, or this process is part of another.
        NotStarted: it did not start within the longest limit.
    """
    check_unconnected()
    parent = _suitable(place)
    _sweep(parent)
    with ExitStack() as stack:
        for seconds in deadlines.RAY_STARTS:
            try:
                stack.enter_context(_started(parent, cpus, gpus, seconds))
                break
            except (RuntimeError, TimeoutError, ConnectionError, NotStarted) as error:
                first = (
                    without_colours(str(error)).strip().splitlines() or [type(error).__name__]
                )[0]
                said = f"Ray did not start within {seconds:.0f} seconds ({first})"
                if seconds == deadlines.RAY_STARTS[-1]:
                    raise NotStarted(said) from error
                tell(f"{said}; trying again for up to {deadlines.RAY_STARTS[-1]:.0f}")
        yield


@contextmanager
def _started(parent: Path, cpus: int, gpus: int, seconds: float) -> Iterator[None]:
    """A Ray below `parent`, if it starts within `seconds`.

    Raises:
        NotStarted: it does not.
        RuntimeError: it does not, for another reason that Ray names.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # mode 0700
    with (folder / "alive").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        with environment(_environment(folder, _token(folder), seconds)):
            watching = guard.start(folder)
            try:
                load()
                with patient(seconds), bare():
                    _connect_here(folder, cpus, gpus)
                yield
            finally:
                disconnect()
                guard.dismiss(watching)
                shutil.rmtree(folder, ignore_errors=True)


def _connect_here(folder: Path, cpus: int, gpus: int) -> None:
    """Start Ray with its files in `folder`, and connect to it."""
    try:
        connect(
            import_path(),
            address="local",
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder / "r"),  # Ray opens its folder to all users; ours stays shut
        )
    except Exception as error:
        if type(error) is Exception:  # so Ray says that its node timed out during startup
            raise NotStarted(str(error)) from error
        raise


def _suitable(place: Path) -> Path:
    """The first of `place` and the folders for temporary files in which Ray can have its sockets.

    Raises:
        InputError: there is none.
    """
    places = (place.resolve(), Path(tempfile.gettempdir()), Path("/tmp"))
    for parent in places:
        if _suits(parent):
            return parent
    most = LONGEST_FOLDER - len(f"/{PREFIX}12345678")
    raise InputError(
        f"Ray needs a folder for its sockets: writable, in ASCII and of at most {most} letters; "
        f"found {', '.join(dict.fromkeys(map(str, places)))}; set TMPDIR to one, or use --local"
    )


def _suits(parent: Path) -> bool:
    short = len(os.fsencode(parent)) + len(f"/{PREFIX}12345678") <= LONGEST_FOLDER
    return short and str(parent).isascii() and parent.is_absolute() and os.access(parent, os.W_OK)


def _token(folder: Path) -> Path:
    """A new token in a file that only this user can read.  Ray's own would be readable by all."""
    path = folder / "token"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def _environment(folder: Path, token: Path, seconds: float) -> dict[str, str]:
    return {
        **QUIET,
        **ON_LOOPBACK,
        "RAY_TMPDIR": str(folder),  # before TMPDIR, which may be relative or not in ASCII
        "RAY_gcs_server_port_wait_time_s": f"{seconds:.0f}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # Ray's server is on this machine: if it cannot be reached it is dead.  60 otherwise.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
        # Ray's agent would serve metrics by HTTP to whoever asks, without a token.
        "RAY_enable_metrics_collection": "0",
    }


def _sweep(parent: Path) -> None:
    """Remove what runs that were killed left behind: folders of ours whose lock nobody holds."""
    for left in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if left.is_symlink() or left.stat().st_uid != os.getuid():
                continue
            with (left / "alive").open() as alive:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
