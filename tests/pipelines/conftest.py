"""Toy verbs are imported by name, here and in workers."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)

from processes import started_with_token  # noqa: E402
from ray_head import head  # noqa: E402, F401  (a fixture)


@pytest.fixture(autouse=True)
def _toys_on_the_path(monkeypatch):
    """Other processes find the toys as they would find a user's plug-in."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory):
    """A private Ray of two cores; afterwards neither processes nor files of it are left."""
    environment = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])
    environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    handler = signal.getsignal(signal.SIGTERM)
    from pipelines.cluster.private import private_ray

    with private_ray(tmp_path_factory.mktemp("ray"), cpus=2, gpus=0):
        assert signal.getsignal(signal.SIGTERM) is handler
        token = os.environ["RAY_AUTH_TOKEN_PATH"]
        yield
    assert os.environ == environment
    assert not Path(token).parent.exists()
    deadline = time.monotonic() + 15
    while (left := started_with_token(os.getpid(), token)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
