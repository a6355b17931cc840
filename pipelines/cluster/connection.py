"""This process made a driver of a Ray: quietly, and with nothing of the caller's folder imported.

Source of the settings: Ray 2.60, `ray/_private/services.py` and `ray/_private/worker.py`.
"""

import importlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.training.stopping import stop_signals

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's coming behaviour, chosen now so that it prints no FutureWarning.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_DEDUP_LOGS": "0",
}

# Off, Ray keeps an address of 127.0.0.1 and binds to it; on, it takes the machine's outer address
# instead and listens on every interface.  It acts on Linux too.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

# Parts of a node that serve clusters, web pages and drivers that print the logs of workers.
UNUSED = ("start_monitor", "start_api_server", "start_log_monitor")


def temporary_folder() -> Path:
    """The system's folder for temporary files, or ``/tmp`` where Ray takes no such path."""
    found = Path(tempfile.gettempdir())
    return found if found.is_absolute() and str(found).isascii() else Path("/tmp")


def import_path() -> Path | None:
    """The checkout that this process imports polymode from; None if that is where Python looks."""
    folder = Path(__file__).resolve().parents[2]
    return None if folder.name in ("site-packages", "dist-packages") else folder


def load() -> None:
    """Import Ray; signals act afterwards, since an import that is cut short cannot be repeated."""
    with signals_later():
        importlib.import_module("ray")


def check_unconnected() -> None:
    """Refuse to be part of two Rays: their settings and token are one for the whole process.

    A Ray that asks with another's token ends the process.

    Raises:
        InputError: this process is part of a Ray already.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        raise InputError(
            "this process is connected to a Ray already; disconnect it by ray.shutdown() first"
        )


def disconnect() -> None:
    """End this process's part in Ray, if it has one."""
    if "ray" in sys.modules:
        load()
        sys.modules["ray"].shutdown()


def connect(path: Path | None = None, **settings: Any) -> None:
    """Connect this process to Ray, quietly, with its signals left as they are.

    Ray puts the folder that this process runs in first on its workers' import path, where a folder
    named `core` would be imported in place of ours.  That is switched off.

    Args:
        path: folder to put first on the workers' import path instead.
        settings: of `ray.init`.
    """
    load()
    import ray
    from ray.job_config import JobConfig

    config: Any = JobConfig(_py_driver_sys_path=[str(path)] if path else [])
    config._runtime_env_has_working_dir = lambda: True  # Ray adds no folder where there is one
    heed_environment()
    utils: Any = importlib.import_module("ray._private.utils")
    theirs, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, job_config=config, **settings)
    finally:
        utils.set_sigterm_handler = theirs


@contextmanager
def signals_later() -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGHUP act at the end of the block.

    Inside Ray's waiting, and inside an import, whatever a handler raises comes out as something
    else, as an exit with status 1.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in stop_signals()
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set these variables while the block lasts; afterwards all are as they were before."""
    before = dict(os.environ)
    try:
        os.environ.update(settings)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def patient(seconds: float) -> Iterator[None]:
    """While the block lasts, have a Ray that starts wait `seconds` for its node, instead of 30.

    Ray's limit is a number in its code (`Node.__init__`); it asks for the node again and again.
    """
    services: Any = importlib.import_module("ray._private.services")
    ask, deadline = services.get_node, time.monotonic() + seconds

    def get_node(*place: Any) -> Any:
        while True:
            try:
                return ask(*place)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = ask


@contextmanager
def bare() -> Iterator[None]:
    """While the block lasts, a Ray that starts has no autoscaler, API server and log monitor.

    Each is a process that takes seconds to start, even without a dashboard; the first two serve
    metrics by HTTP to whoever asks, without a token.  Its agent listens on a port that is free, and
    not on Ray's one for all (52365), without which a head on this machine takes no jobs.
    """
    node: Any = importlib.import_module("ray._private.node").Node
    parameters: Any = importlib.import_module("ray._private.parameter").RayParams
    kept, make = {name: getattr(node, name) for name in UNUSED}, parameters.__init__

    def made(self: Any, *given: Any, **settings: Any) -> None:
        make(self, *given, **settings)
        self.dashboard_agent_listen_port = 0

    for name in UNUSED:
        setattr(node, name, lambda self, **settings: None)
    parameters.__init__ = made
    try:
        yield
    finally:
        parameters.__init__ = make
        for name, method in kept.items():
            setattr(node, name, method)


def heed_environment() -> None:
    """Have Ray read its settings again: it keeps those that it found when it was first imported."""
    inner: Any = importlib.import_module("ray._raylet")
    inner.Config.initialize("")
    inner.AuthenticationTokenLoader.instance().reset_cache()
    constants: Any = importlib.import_module("ray._private.ray_constants")
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(
        constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not constants.IS_WINDOWS_OR_OSX
    )
