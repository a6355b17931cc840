"""Where something else than Ray listens: a bounded wait, one sentence, signals heard."""

import json
import signal
import socket
import subprocess
import threading
import time
from http.server import HTTPServer, SimpleHTTPRequestHandler

import psutil
import pytest
from processes import command_of, started_by
from toy_jobs import POLYMODE

from core.errors import InputError
from pipelines.cluster import answering, code, joined, submit


@pytest.fixture
def token(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.setattr(answering, "SECONDS", 1)
    joined._reached.cache_clear()


@pytest.fixture
def silent():
    """The address of a listener that never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def page():
    """The address of a web server."""
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["silent", "page"])
def test_what_is_no_ray_is_refused_in_a_sentence(token, kind, request):
    address = request.getfixturevalue(kind)
    with pytest.raises(InputError, match="did not answer as Ray within 1 seconds; expected the"):
        joined.check_answers(address)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_wait_for_an_address(token, silent, tmp_path, number, status):
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"name": "toys", "steps": {"a": {"run": "make"}}}))
    command = [*POLYMODE, "run", str(job), "--out", str(tmp_path / "runs"), "--address", silent]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (
        asks := [p for p in started_by(process.pid) if "answering.py" in str(command_of(p))]
    ):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=5)
    assert process.returncode == status
    assert err == "stopped; run the same command again to resume\n"
    assert not psutil.wait_procs(asks, timeout=5)[1]
    assert not (tmp_path / "runs").exists()


def test_no_ray_on_this_machine_is_said_of_auto(token, monkeypatch):
    def none(address, environment):
        raise answering.Unanswered("ConnectionError: Could not find any running Ray instance. ...")

    monkeypatch.setattr(answering, "answers_on_loopback_alone", none)
    with pytest.raises(InputError, match="no Ray runs on this machine; start one by `ray start"):
        joined.check_answers("auto")


def test_a_dashboard_that_says_nothing_is_refused(silent, monkeypatch):
    monkeypatch.setattr(submit, "ANSWER_SECONDS", 0.2)
    with pytest.raises(InputError, match="did not answer within 0 seconds; it has to be that of"):
        submit._check_answers_http(f"http://{silent}")


def test_the_callers_folder_is_no_place_to_look_for_pip(tmp_path, monkeypatch):
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text("raise SystemExit('a foreign pip')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place").mkdir()
    with pytest.raises(InputError) as refused:
        code._build("toy", tmp_path / "nothing", tmp_path / "place")
    assert "foreign" not in str(refused.value)
