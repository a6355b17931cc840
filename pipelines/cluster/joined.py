"""A running Ray of one or more machines, joined for the time of a job.

Its machines share the folder for results; the code travels from here.
Source of the settings: Ray 2.60, `ray/_private/worker.py` and `ray/_private/authentication`.
"""

import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import InputError, brief
from core.training import stopping
from pipelines.cluster import answering, connection, deadlines, failures, guard
from pipelines.cluster.code import unpack
from pipelines.job.resources import Resources
from pipelines.store import results

FOLDER = "POLYMODE_FOLDER"  # where the command was called, for workers of a cluster
TOKEN = "~/.ray/auth_token"  # where Ray looks for it
CODE = "polymode-code-"  # begins the names of folders with code on its way
HEAD = "the GCS of its head, as in `ray start --head --port`"
PATIENCE = 5.0  # seconds until nobody is taken to listen at an address
HEARD_SECONDS = 5.0  # a training step reports progress more often


@contextmanager
def joined(address: str, out: Path | None = None) -> Iterator[list[Resources]]:
    """Make this process a driver of the Ray at `address`; what each of its machines has.

    Our code and every plug-in travel there; nothing is installed.  Workers start in this process's
    working folder if they have it, so that relative paths mean the same.

    Args:
        address: ``host:port`` of its head, or ``auto`` for the one that runs on this machine.
        out: an existing folder for results, which all its machines must mount; None where nothing
            is to be done there, and then no code travels.

    Raises:
        InputError: nobody listens there, the token is not its own, its versions are others, or one
            of its machines does not see `out`; or this process is part of another Ray.
    """
    connection.check_unconnected()
    temporary = connection.temporary_folder()
    settings = {**connection.QUIET, **check_answers(address)}
    settings["RAY_TMPDIR"] = str(temporary)  # TMPDIR may be relative or not in ASCII
    with guard.temporary(CODE, temporary) as code, connection.environment(settings):
        environment: dict[str, Any] = {
            "env_vars": {FOLDER: os.getcwd()},
            "worker_process_setup_hook": "pipelines.cluster.joined.enter",
        }
        if out is None:
            environment = {}
        elif "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # else it came with `submit`
            environment["py_modules"] = [str(path) for path in unpack(code)]
        try:
            _connect(address, environment)
            if out is not None:
                _check_shared(out)
            yield [_resources(node) for node in alive()]
        finally:
            connection.disconnect()


@contextmanager
def stopped_gently(folders: Sequence[Path]) -> Iterator[None]:
    """When a stop ends the block, have steps that train write a checkpoint, and wait for it.

    Signals do not reach other machines; files in a shared folder do.

    Args:
        folders: where such steps write; those without recent events are left alone.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        told = [folder / stopping.FILE for folder in folders if _is_running(folder)]
        for file in told:
            file.touch()
        deadline = time.monotonic() + deadlines.CLUSTER
        while any(f.exists() and _is_running(f.parent) for f in told) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.2)  # who obeys removes the file, its checkpoint written
        for file in told:
            file.unlink(missing_ok=True)
        raise


def _is_running(folder: Path) -> bool:
    """Whether its lock is held, or, where machines see no locks, it has recent events."""
    if not folder.exists() or (folder / results.MANIFEST).exists():
        return False
    try:
        with (folder.parent / ".locks" / folder.name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return time.time() - (folder / results.EVENTS).stat().st_mtime < HEARD_SECONDS
    except BlockingIOError:
        return True
    except OSError:
        return False


def enter() -> None:
    """Go to the folder that the job was started in; called in each new worker of a cluster."""
    with suppress(OSError):
        os.chdir(os.environ[FOLDER])


def credentials() -> dict[str, str]:
    """The settings by which Ray shows its token, unless the user has set them.

    Raises:
        InputError: there is no token, or others on this machine can read it.
    """
    if os.environ.get("RAY_AUTH_MODE") == "disabled" or os.environ.get("RAY_AUTH_TOKEN"):
        return {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token")}
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser(TOKEN))
    if not path.is_file():
        raise InputError(
            f"{path}: no token for the cluster there; copy the one that its head was started with, "
            "readable by you alone, or name it by RAY_AUTH_TOKEN_PATH"
        )
    if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
        raise InputError(f"{path}: others can read this token; run: chmod 600 {path}")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def check_answers(address: str) -> dict[str, str]:
    """The settings by which Ray reaches the head at `address`, with its token.

    Raises:
        InputError: there is no token, nobody listens there, or no head of Ray's with this token.
    """
    found = credentials()
    if address != "auto":
        check_listens(address, HEAD)
    return {**found, **_reached(address, tuple(found.items()))}


@cache  # a job asks before it writes anything, and again when it joins
def _reached(address: str, found: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The settings for a head that listens on loopback alone, if it does."""
    environment = {**os.environ, **connection.QUIET, **dict(found)}
    try:
        alone = answering.answers_on_loopback_alone(address, environment)
    except answering.Unanswered as error:
        raise InputError(_refusal(address, str(error))) from error
    return connection.ON_LOOPBACK if alone else {}


def check_listens(address: str, what: str) -> None:
    """Refuse an address at which nobody listens, rather than wait for long.

    Args:
        address: ``host:port``.
        what: should listen there.

    Raises:
        InputError: it is no such address, or nobody does.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"address: expected HOST:PORT, got {brief(address)}")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"address: nothing listens at {address} ({error}); it has to be that of {what}"
        ) from error


def _connect(address: str, environment: dict[str, Any]) -> None:
    """Connect, or refuse in one sentence."""
    try:
        connection.connect(address=address, runtime_env=environment)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(_refusal(address, said)) from error


def _refusal(address: str, said: str) -> str:
    """A sentence of what Ray has said; of nothing where none answered in time."""
    if "Could not find any running Ray" in said:
        return (
            "address: no Ray runs on this machine; start one by `ray start --head`, or give "
            "HOST:PORT of a head"
        )
    if not said:
        return (
            f"address: what listens at {address} did not answer as Ray within "
            f"{answering.SECONDS} seconds; expected the port of {HEAD}"
        )
    if "ersion mismatch" in said:
        found = " ".join(line.strip() for line in said.splitlines() if "ersion" in line)
        why = f"{found}; install the same Ray and Python on both sides"
    elif "uthenticat" in said or "token" in said or said.startswith("ConnectionError"):
        why = "authentication failed; use the token and the GCS port that its head was started with"
    elif "node" in said and "find" in said:
        why = "this machine is not one of its; run this on one of them, or use `polymode submit`"
    else:
        why = failures.without_colours(said).strip().splitlines()[0]
    return f"address: the Ray at {address} cannot be joined: {why}"


def alive() -> list[dict[str, Any]]:
    """Ray's record of each machine that is alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _resources(node: dict[str, Any]) -> Resources:
    has = node["Resources"]
    return Resources(cpus=has.get("CPU", 0), gpus=has.get("GPU", 0), memory=int(has["memory"]))


def _check_shared(out: Path) -> None:
    """Refuse a folder for results that some machine of the cluster does not see."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    said = secrets.token_hex(8)
    probe = out / f".seen-{said}"
    probe.write_text(said)
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(_reads)
    try:
        asked = {
            node["NodeManagerAddress"]: remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(probe, said)
            for node in alive()
        }
        blind = sorted(host for host, sees in asked.items() if not ray.get(sees))
    finally:
        probe.unlink()
    if blind:
        raise InputError(
            f"{out}: not visible on {', '.join(blind)} of the cluster; give --out a folder on "
            "a file system that all its machines mount"
        )


def _reads(probe: Path, said: str) -> bool:
    return probe.exists() and probe.read_text() == said
