"""A running Ray of our own, as somebody's cluster would be: a head on loopback, with a token."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from pipelines.cluster import connection
from pipelines.cluster.private import OBJECT_STORE_BYTES

PYTHON = Path(sys.executable)
COMMAND = str(PYTHON.with_name("polymode"))
ADD = {"run": "add", "inputs": {"left": "a.made"}}
STEPS = {"a": {"run": "make", "request": {"number": 4}}, "b": ADD}


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def head(tmp_path_factory):
    """A head of two cores; its addresses and the environment of who may use it."""
    place = Path(tempfile.mkdtemp(prefix="polymode-head-"))  # short: sockets lie in it
    token = place / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        **connection.QUIET,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Its workers find the toys as they would find a plug-in that is installed on the cluster.
        "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    for _ in range(3):  # on a busy machine Ray gives up on its own processes after 30 seconds
        process, gcs, dashboard = _start_head(place, environment)
        if process.poll() is None:
            break
    else:
        raise AssertionError((place / "said.txt").read_text())
    yield {
        "address": f"127.0.0.1:{gcs}", "dashboard": f"127.0.0.1:{dashboard}", "place": place,
        "environment": environment, "pid": process.pid,
    }  # fmt: skip
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    _, left = psutil.wait_procs(started, timeout=20)
    for other in left:
        other.kill()
    shutil.rmtree(place)


def _start_head(place, environment):
    """Its process, which has ended if it did not come up, and the ports of GCS and dashboard."""
    gcs, dashboard = _free_port(), _free_port()
    command = [str(PYTHON.with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", f"--temp-dir={place}/r", "--disable-usage-stats"]
    command += [f"--dashboard-agent-listen-port={_free_port()}"]  # another Ray may have the usual
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
    with (place / "said.txt").open("w") as said:
        process = subprocess.Popen(
            command, env=environment, stdout=said, stderr=said, cwd="/", start_new_session=True
        )
    while process.poll() is None:
        if answers(dashboard) and "--block" in (place / "said.txt").read_text():
            break
        time.sleep(0.5)
    return process, gcs, dashboard


def answers(port):
    import requests

    try:
        return requests.get(f"http://127.0.0.1:{port}/api/version", timeout=2).status_code == 401
    except requests.RequestException:
        return False


def call(head, *words, command=(COMMAND,), **changes):
    environment = {**head["environment"], **changes}
    return subprocess.run(
        [*command, *map(str, words)], capture_output=True, text=True, check=False,
        env={k: v for k, v in environment.items() if v is not None}, timeout=200,
    )  # fmt: skip


def job_file(folder, steps=STEPS):
    file = folder / "job.yaml"
    file.write_text(json.dumps({"name": "toys", "steps": steps}))
    return file
