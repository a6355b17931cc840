"""The same steps on Ray: same files, private, and nothing left.  One cluster for all tests."""

import importlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import toy_verbs
from processes import started_by
from toy_jobs import POLYMODE, STEPS, planned
from toy_verbs import TOYS

from pipelines.run.display import Display
from pipelines.run.execute import locally, on_ray
from pipelines.store import results


def _done(root, display, run, settings=()):
    return run(planned(root, settings=settings), display, verbs=TOYS)


@pytest.fixture
def display():
    with open(os.devnull, "w") as nowhere, Display([*STEPS], stream=nowhere) as shown:
        yield shown


def test_ray_and_this_process_give_the_same_files(ray_here, tmp_path, display):
    outcomes = {
        "here": _done(tmp_path / "here", display, locally),
        "ray": _done(tmp_path / "ray", display, on_ray),
    }
    assert {o.state for run in outcomes.values() for o in run.values()} == {"done"}
    timed = ("events.jsonl", "env.json", "request.json", "MANIFEST.json")
    files = {
        run: {
            name: (tmp_path / run / name).read_bytes()
            for name in results.files_below(tmp_path / run)
            if not name.endswith(timed)
        }
        for run in ("here", "ray")
    }
    assert files["here"] == files["ray"]
    assert any(name.endswith("machine.txt") for name in files["ray"])  # threads and device too
    assert {o.state for o in _done(tmp_path / "ray", display, on_ray).values()} == {"hit"}


def test_a_failed_branch_a_dead_worker_and_retries(ray_here, tmp_path, display):
    steps = {
        "dies": {"run": "make", "request": {"fail": "die"}},
        "after": {"run": "add", "inputs": {"left": "dies.made"}},
        "third": {"run": "make", "request": {"fail": "2"}, "retries": 2},
        "refuses": {"run": "make", "request": {"fail": "refuse"}, "retries": 2},
    }
    with Display([*steps], stream=open(os.devnull, "w")) as shown:
        outcomes = on_ray(planned(tmp_path, steps), shown, verbs=TOYS)
    states = {name: (o.state, o.attempts) for name, o in outcomes.items()}
    assert states == {
        "dies": ("failed", 1), "after": ("not run", 0), "third": ("done", 3),
        "refuses": ("failed", 1),
    }  # fmt: skip
    assert "its worker process died" in outcomes["dies"].cause
    assert outcomes["refuses"].refused
    assert outcomes["refuses"].cause == "number: 13 is unlucky"


def test_a_step_whose_code_a_worker_cannot_import_is_refused_with_its_module(
    ray_here, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "only_here.py").write_text(Path(toy_verbs.__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path / "here")  # of this process alone
    only_here = importlib.import_module("only_here")
    steps = {"a": {"run": "make", "retries": 2}, "b": {"run": "add", "inputs": {"left": "a.made"}}}
    verbs = {**TOYS, "make": only_here.TOYS["make"]}
    with Display([*steps], stream=open(os.devnull, "w")) as shown:
        outcome = on_ray(planned(tmp_path, steps), shown, verbs=verbs)["a"]
    assert (outcome.state, outcome.attempts, outcome.refused) == ("failed", 1, True)
    assert "cannot import the code of this step (No module named 'only_here')" in outcome.cause
    assert "\x1b" not in outcome.cause


def test_ray_listens_on_loopback_alone(ray_here):
    started = [psutil.Process(), *started_by(os.getpid())]
    assert {"gcs_server", "raylet"} <= {p.name() for p in started}
    heard: set[tuple[str, str]] = set()
    for p in started:
        with suppress(psutil.NoSuchProcess):  # an idle worker may end meanwhile
            heard |= {
                (p.name(), connection.laddr.ip)
                for connection in p.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }
    assert {address for _, address in heard} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert len(heard) >= 3


@pytest.mark.slow
def test_the_token_is_for_this_user_alone_and_wanted_of_others(ray_here):
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert len(token.read_text()) == 64
    import ray

    address = ray.get_runtime_context().gcs_address
    code = (
        "import sys, ray\nfrom ray._raylet import GcsClient\n"
        "print(GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None, timeout=5))"
    )
    said = {}
    for name, path in {"mine": token, "other": token.parent / "other"}.items():
        if name == "other":
            path.write_text("0" * 64)
        said[name] = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, check=False,
            env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(path)}, timeout=60,
        )  # fmt: skip
    assert said["mine"].returncode == 0
    assert said["other"].returncode != 0
    assert "uthenticat" in said["other"].stderr or "token" in said["other"].stderr


def test_a_plugin_on_the_python_path_is_seen_by_workers(ray_here):
    import ray

    @ray.remote
    def seen():
        import toy_verbs

        return toy_verbs.__file__, os.getcwd()

    file, folder = ray.get(seen.remote())
    assert file == str(Path(__file__).parents[1] / "toy_verbs.py")
    assert folder == os.getcwd()  # so that relative paths in requests mean the same


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_stop_leaves_no_process_and_says_nothing_of_ray(tmp_path, number, status):
    """The whole command in its own process, stopped while a step runs."""
    job = tmp_path / "job.yaml"
    slow = {"a": {"run": "make", "request": {"seconds": 60}}}
    job.write_text(json.dumps({"name": "toys", "steps": slow}))
    command = [*POLYMODE, "run", str(job), "--out", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("runs/store/a-*/tries.txt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    started = started_by(process.pid)
    assert len(started) >= 3
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, "")
    assert err.splitlines()[0] == "starting Ray on this machine"
    if number == signal.SIGTERM:  # typer takes the other's message
        assert err.splitlines()[-1] == "stopped; run the same command again to resume"
    assert "ray" not in err.lower().replace("starting ray on this machine", "")
    _, left = psutil.wait_procs(started, timeout=20)
    assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []
    assert not list(tmp_path.glob("runs/store/a-*/MANIFEST.json"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("until", ["", "gcs_server", "raylet"])
def test_a_stop_while_ray_starts_has_its_own_status(tmp_path, number, status, until):
    """While Ray is imported, and when one and two of its processes are there."""
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"name": "toys", "steps": {"a": {"run": "make"}}}))
    command = [*POLYMODE, "run", str(job), "--out", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "starting Ray on this machine\n"
    while until and until not in {p.name() for p in started_by(process.pid)}:
        assert process.poll() is None
        time.sleep(0.02)
    started = started_by(process.pid)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert (process.returncode, err) == (
        status,
        "stopped; run the same command again to resume\n",
    )
    _, left = psutil.wait_procs(started, timeout=20)
    assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []


def test_a_gpu_that_is_not_there_is_refused_before_ray_starts(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"name": "t", "steps": {"a": {"run": "make", "gpus": 1}}}))
    command = [*POLYMODE, "run", str(job), "--out", str(tmp_path / "runs")]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=hidden)
    assert done.returncode == 2
    assert done.stderr == (
        "error: steps.a: requires 1 GPU, this machine has 0; "
        "set steps.a.gpus=0 or run on a machine with one\n"
    )
    assert not (tmp_path / "runs" / "t").exists()
