"""A private Ray of one machine: reachable from this machine only, with a token, gone afterwards.

Source of the settings: Ray 2.60, `ray/_private/services.py` and `ray/_private/worker.py`.
"""

import fcntl
import importlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines import guard

OBJECT_STORE_BYTES = 256 << 20
# Ray puts `r/session_<date>_<microseconds>_<pid>/sockets/plasma_store` below our folder, at most
# 68 bytes; a unix socket's path may have 107.
LONGEST_FOLDER = 107 - 68
PREFIX = "polymode-ray-"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's coming behaviour, asked for now so that it prints no FutureWarning.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_DEDUP_LOGS": "0",
}
GPU_DEVICES = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg", "kfd")  # CUDA, Jetson, WSL, ROCm


def cpus() -> int:
    """Cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def gpus() -> int:
    """GPUs that torch can use here.  Imports torch, but not where the kernel shows no GPU."""
    if sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in GPU_DEVICES):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


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


def import_path() -> Path | None:
    """The checkout that this process imports polymode from; None if that is where Python looks."""
    folder = Path(__file__).resolve().parent.parent
    return None if folder.name in ("site-packages", "dist-packages") else folder


def connect(path: Path | None = None, **settings: Any) -> None:
    """Connect this process to Ray, quietly, with its signals left as they are.

    Ray puts the folder that this process runs in first on its workers' import path, where a folder
    named `core` would be imported in place of ours.  That is switched off.

    Args:
        path: folder to put first on the workers' import path instead.
        settings: of `ray.init`.
    """
    import ray
    from ray.job_config import JobConfig

    config: Any = JobConfig(_py_driver_sys_path=[str(path)] if path else [])
    config._runtime_env_has_working_dir = lambda: True  # Ray adds no folder where there is one
    on_stop = signal.getsignal(signal.SIGTERM)
    heed_environment()
    ray.init(logging_level=logging.ERROR, log_to_driver=False, job_config=config, **settings)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_stop)  # Ray has put its own there


def heed_environment() -> None:
    """Have Ray read its settings anew: it keeps those that it found when it was first imported."""
    inner: Any = importlib.import_module("ray._raylet")
    inner.Config.initialize("")
    inner.AuthenticationTokenLoader.instance().reset_cache()


def is_drained() -> bool:
    """Whether Ray has been told that the machine of this worker will be taken away soon.

    Asked as often as one likes: Ray is asked once a second.
    """
    import ray

    return ray.get_runtime_context().get_node_id() in _draining(int(time.monotonic()))


def is_any_drained() -> bool:
    """Whether some machine of the running Ray will be taken away soon."""
    return bool(_draining(int(time.monotonic())))


@lru_cache(maxsize=1)
def _draining(second: int) -> frozenset[str]:
    """The machines that Ray drains, by their hexadecimal names."""
    inner: Any = importlib.import_module("ray._private.worker")
    return frozenset(inner.global_worker.gcs_client.get_draining_nodes())


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
