"""A private Ray of one machine: reachable from this machine only, with a token, gone afterwards.

Source of the settings: Ray 2.60, `ray/_private/services.py` and `ray/_private/worker.py`.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.cluster import guard
from pipelines.cluster.connection import QUIET, connect, import_path

OBJECT_STORE_BYTES = 256 << 20
# Ray puts `r/session_<date>_<microseconds>_<pid>/sockets/plasma_store` below our folder, at most
# 68 bytes; a unix socket's path may have 107.
LONGEST_FOLDER = 107 - 68
PREFIX = "polymode-ray-"


@contextmanager
def private_ray(place: Path, *, cpus: int, gpus: int) -> Iterator[None]:
    """Start Ray for this process and its workers; stop it and remove its files at the end.

    It listens on loopback alone, asks every caller for a token that only this user can read,
    has no dashboard, reports nothing to anyone and prints nothing.

    Args:
        place: an existing folder; Ray's files lie in it if the path is short enough for sockets,
            otherwise in the system's folder for temporary files.
        cpus: logical cores to share out.
        gpus: GPUs to share out.
    """
    parent = _short_enough(place)
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # mode 0700
    with (folder / "alive").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        before = dict(os.environ)
        os.environ.update(_environment(_token(folder)))
        watching = guard.start(folder)
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
            yield
        finally:
            with suppress(ImportError):
                import ray

                ray.shutdown()
            os.environ.clear()
            os.environ.update(before)
            guard.dismiss(watching)
            shutil.rmtree(folder, ignore_errors=True)


def _short_enough(place: Path) -> Path:
    """The first of `place` and the folders for temporary files in which sockets can be made."""
    for parent in (place.resolve(), Path(tempfile.gettempdir())):
        if len(os.fsencode(parent)) + len(f"/{PREFIX}12345678") <= LONGEST_FOLDER:
            return parent
    return Path("/tmp")


def _token(folder: Path) -> Path:
    """A new token in a file that only this user can read.  Ray's own would be readable by all."""
    path = folder / "token"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def _environment(token: Path) -> dict[str, str]:
    return {
        **QUIET,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # Ray's server is on this machine: if it cannot be reached it is dead.  60 otherwise.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
        # Off, Ray keeps a node address of 127.0.0.1 and binds to it; on, it takes the machine's
        # outer address instead and listens on every interface.  It acts on Linux too.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
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
