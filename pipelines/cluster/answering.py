"""Asks for Ray's head at an address, in a process of its own.

Ray's own waiting hears no signal, ends after minutes or never, and prints its attempts.

python -P answering.py ADDRESS SECONDS    prints where it answers; ended by SIGALRM if nowhere
"""

import importlib
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

SECONDS = 15  # until nobody is taken to answer, once Ray is imported
LOOPBACK, RESOLVED = "loopback", "resolved"


class Unanswered(Exception):
    """No head of Ray's answers; the message is Ray's, or nothing."""


def answers_on_loopback_alone(address: str, environment: dict[str, str]) -> bool:
    """Whether the head at `address` listens on loopback alone; Ray looks at the outer address.

    Args:
        address: ``host:port``, or ``auto``.
        environment: of the process that asks, with the token.

    Raises:
        Unanswered: none answers in a quarter of a minute, or not to this token.
    """
    done = subprocess.run(
        [sys.executable, "-P", __file__, address, str(SECONDS)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    said = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode:
        raise Unanswered("" if done.returncode == -signal.SIGALRM else said)
    return said == LOOPBACK


def _ask(address: str, seconds: int) -> str:
    services: Any = importlib.import_module("ray._private.services")
    inner: Any = importlib.import_module("ray._raylet")
    signal.alarm(seconds)  # ends this process, whatever Ray waits for
    if address == "auto":
        address = services.get_ray_address_from_environment(address, None)
    resolved = services.canonicalize_bootstrap_address(address)
    alone = resolved != address and not _listens(resolved)
    client = inner.GcsClient(address=address if alone else resolved)
    client.internal_kv_keys(b"", None, timeout=seconds)
    return LOOPBACK if alone else RESOLVED


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=3):
        return True
    return False


if __name__ == "__main__":
    try:
        print(_ask(sys.argv[1], int(sys.argv[2])))
    except Exception as error:  # noqa: BLE001  (whatever Ray raises is the answer)
        print(f"{type(error).__name__}: {' '.join(str(error).split())}")
        sys.exit(1)
