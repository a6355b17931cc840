"""The private Ray while it runs: what it sends, shows, opens and leaves for others to read."""

import http.client
import os
import re
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from processes import command_of, started_with_token

from core.errors import InputError
from pipelines.cluster import guard, submit
from pipelines.cluster.joined import joined
from pipelines.cluster.private import private_ray

pytestmark = pytest.mark.usefixtures("ray_here")

CALLS = (  # one of each service of Ray's
    "CoreWorkerService/GetCoreWorkerStats",
    "InternalKVGcsService/InternalKVKeys",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "ReporterService/GetTraceback",
)


@pytest.fixture
def folder(ray_here):
    return Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent


@pytest.fixture
def processes(folder):
    """Those of this Ray; others of this process may run at the same time."""
    found = started_with_token(os.getpid(), str(folder / "token"))
    assert {"raylet", "gcs_server", "ray::DashboardAgent"} <= {p.name() for p in found}
    return found


def test_no_usage_statistics_leave(folder):
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()
    reports = [p for p in folder.rglob("usage_stats.json") if '"success": true' in p.read_text()]
    assert reports == []


def test_there_is_no_dashboard_and_no_process_that_serves_none(processes):
    import ray

    assert not ray._private.worker._global_node.webui_url
    for process in processes:
        words = " ".join(command_of(process))
        assert not re.search(r"dashboard/dashboard\.py|monitor\.py", words), words


@pytest.mark.slow
def test_every_port_requires_the_token_and_none_serves_metrics(processes):
    """By HTTP, and by calls of Ray's services, each of which some port has; without a token."""
    called: dict[tuple[str, int], set[str]] = {}
    for process in (psutil.Process(), *processes):
        with suppress(psutil.NoSuchProcess):  # an idle worker may end meanwhile
            for port in _ports(process):
                called[process.name(), port] = {_get(port), *map(partial(_call, port), CALLS)}
    assert len(called) >= 6
    for port, answers in called.items():
        assert answers <= {"401", "no HTTP", "UNAUTHENTICATED", "UNIMPLEMENTED"}, (port, answers)
        assert answers & {"401", "UNAUTHENTICATED"}, (port, answers)


def _ports(process):
    heard = process.net_connections("inet")
    return {c.laddr.port for c in heard if c.status == psutil.CONN_LISTEN}


def _get(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except (OSError, http.client.HTTPException):
        return "no HTTP"


def _call(port, method):
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=10)
        except grpc.RpcError as error:
            code = error.code().name
            return "UNIMPLEMENTED" if code == "UNAVAILABLE" else code  # HTTP alone
    return "answered"


def test_rays_port_of_agents_is_left_to_a_head_on_this_machine(processes):
    """Without an agent at 52365, or at the port that it was told, a head takes no jobs."""
    (agent,) = (p for p in processes if p.name() == "ray::DashboardAgent")
    deadline = time.monotonic() + 30
    while len(_ports(agent)) < 2 and time.monotonic() < deadline:  # of Ray's services, and of HTTP
        time.sleep(0.1)
    assert len(_ports(agent)) == 2
    assert 52365 not in _ports(agent)


def test_everything_it_writes_lies_in_a_folder_that_only_this_user_may_enter(folder, processes):
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert session.is_relative_to(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()
    open_files = {
        Path(file.path)
        for process in processes
        if "ray" in " ".join(command_of(process))
        for file in process.open_files()
    }
    logs = {file for file in open_files if file.suffix in (".log", ".out", ".err")}
    assert logs
    assert all(file.is_relative_to(folder) for file in logs)


def test_the_token_is_in_no_log_and_in_no_runtime_environment(folder):
    token = (folder / "token").read_bytes()
    files = [path for path in (folder / "r").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if token in path.read_bytes()] == []
    import ray

    assert token.decode() not in str(ray.get_runtime_context().runtime_env)
    commands = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    assert not any(token.decode() in " ".join(command) for command in commands)


def test_who_looks_whether_a_folder_is_left_over_is_no_user_of_it(tmp_path):
    """Or a command that is started again at once would be ended with what a killed one left."""
    look = "import sys, time; f = open(sys.argv[1]); print(flush=True); time.sleep(60)"
    (tmp_path / "alive").touch()
    (tmp_path / "log").touch()
    started = [
        subprocess.Popen([sys.executable, "-c", look, tmp_path / name], stdout=subprocess.PIPE)
        for name in ("alive", "log")
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        assert guard.users_of(tmp_path) == {started[1].pid}
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("other", ["private", "joined", "asked"])
def test_another_ray_is_refused_and_the_first_goes_on(tmp_path, other):
    import ray

    blocks = {
        "private": partial(private_ray, tmp_path, cpus=1, gpus=0),
        "joined": partial(joined, "auto"),
        "asked": partial(submit._client, "127.0.0.1:1"),
    }
    with pytest.raises(InputError, match="connected to a Ray already"), blocks[other]():
        pass
    assert ray.get(ray.put(4)) == 4
