"""Processes that a test or a command started, and that they are gone in time."""

from contextlib import suppress

import psutil

GONE_WITHIN = 10.0  # seconds after the death of what started them


def started_by(pid: int) -> list[psutil.Process]:
    """Children and children's children that are alive."""
    alive: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
    return alive


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing of one that has ended, also where nobody has waited for it."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a ZombieProcess is one
        return []


def started_with_token(pid: int, token: str) -> list[psutil.Process]:
    """Those of them that belong to the Ray whose token is in that file, not to another.

    Ray's agents write their titles over their environment, so they are found by who started them.
    """
    found: set[psutil.Process] = set()
    for process in started_by(pid):
        with suppress(psutil.NoSuchProcess):  # an idle worker may end meanwhile
            if process.environ().get("RAY_AUTH_TOKEN_PATH") == token:
                found |= {process, *started_by(process.pid)}
    return list(found)


def check_gone(processes: list[psutil.Process]) -> None:
    """Fail if any of them is alive after ten seconds."""
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN)
    left: list[str] = []
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                left.append(process.name())
    assert left == []
