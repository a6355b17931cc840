"""Joining a running Ray: a real head with our token, on loopback."""

import os
import subprocess
from pathlib import Path

import psutil
import pytest
from ray_head import PYTHON, answers, call, job_file
from stray_plugin import STRAY
from toy_jobs import POLYMODE

from core.errors import InputError
from pipelines.cluster import code, joined

pytestmark = pytest.mark.torture  # a head of Ray's own, started and ended: minutes


def test_a_job_runs_on_a_ray_that_was_running_and_leaves_it_running(head, tmp_path):
    here = {"PYTHONPATH": str(Path(__file__).parents[1])}
    words = ["run", job_file(tmp_path), "--out", tmp_path / "runs"]
    joining_it = [*words, "--address", head["address"]]
    first = call(head, *joining_it, command=POLYMODE, **here)
    assert first.returncode == 0, first.stderr
    (made,) = tmp_path.glob("runs/store/b-*/made.txt")
    assert made.read_text() == "5"
    assert first.stdout.strip() == str(made.parent)  # not below the folder that it was called in
    assert first.stderr.splitlines()[0] == f"joining the Ray at {head['address']}"
    again = call(head, *joining_it, command=POLYMODE, **here)
    assert "nothing to do" in again.stderr
    assert answers(int(head["dashboard"].partition(":")[2]))
    assert not list(tmp_path.glob("runs/toys/.seen-*"))


def test_a_step_that_fits_on_no_machine_of_the_cluster_is_refused(head, tmp_path):
    job = job_file(tmp_path, {"a": {"run": "make", "cpus": 3}, "b": {"run": "make", "gpus": 1}})
    words = ["run", job, "--out", tmp_path / "runs", "--address", head["address"]]
    done = call(head, *words, command=POLYMODE, PYTHONPATH=str(Path(__file__).parents[1]))
    assert done.returncode == 2
    assert "steps.a: requires 3 CPUs" in done.stderr
    assert "steps.b: requires 1 GPU, the cluster has 0" in done.stderr
    words[0] = "plan"
    asked = call(head, *words, command=POLYMODE, PYTHONPATH=str(Path(__file__).parents[1]))
    assert asked.returncode == 2
    assert asked.stderr == done.stderr.replace(f"joining the Ray at {head['address']}\n", "")
    assert [line.split()[0] for line in asked.stdout.splitlines()] == ["a", "b"]


def test_a_head_on_loopback_alone_is_joined_where_it_is(head, tmp_path):
    """Though Ray itself would look for it at the machine's outer address."""
    words = ["plan", job_file(tmp_path), "--out", tmp_path / "runs", "--address", head["address"]]
    here = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = call(head, *words, command=POLYMODE, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=None, **here)
    assert done.returncode == 0, done.stderr


SEEN = """
import sys
from pathlib import Path
import ray
from pipelines.cluster.joined import joined

def seen():
    import os
    import core, stray
    from core.parts.registry import installed
    return core.__file__, stray.__file__, sorted(installed().plugins), os.getcwd()

if __name__ == "__main__":
    with joined(sys.argv[1], Path(sys.argv[2])) as machines:
        for said in (machines[0].cpus, *ray.get(ray.remote(seen).remote())):
            print(said)
"""


def test_the_code_and_a_strangers_plugin_travel_with_their_metadata(head, tmp_path):
    source, place = tmp_path / "source", tmp_path / "installed"
    (source / "stray").mkdir(parents=True)
    (source / "pyproject.toml").write_text(STRAY)
    (source / "stray" / "__init__.py").write_text(
        "from core.parts.registry import Plugin\nPLUGIN = Plugin('stray', 'Of a stranger.', ())\n"
    )
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([PYTHON, *pip, place, source], check=True, capture_output=True)
    script = tmp_path / "seen.py"
    script.write_text(SEEN)
    done = call(head, script, head["address"], tmp_path, command=[PYTHON], PYTHONPATH=str(place))
    assert done.returncode == 0, done.stderr
    cpus, core, stray, plugins, folder = done.stdout.splitlines()
    there = str(head["place"] / "r")
    assert core.startswith(there)
    assert stray.startswith(there)
    assert float(cpus) == 2
    assert "stray" in plugins
    assert "image2image" in plugins
    assert folder == os.getcwd()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "no token for the cluster there"),
        ({"token": "0" * 64}, "use the token and the GCS port that its head was started with"),
        ({"mode": 0o644}, "others can read this token; run: chmod 600"),
        ({"address": "127.0.0.1:1"}, "nothing listens at 127.0.0.1:1"),
        ({"address": "head"}, "expected HOST:PORT"),
        ({"ray": "2.55.0"}, "install the same Ray and Python on both sides"),
    ],
)
def test_a_ray_that_cannot_be_joined_is_refused_in_one_sentence(head, tmp_path, spoil, said):
    token, changes = tmp_path / "token", {}
    token.write_text(
        spoil.get("token") or Path(head["environment"]["RAY_AUTH_TOKEN_PATH"]).read_text()
    )
    token.chmod(spoil.get("mode", 0o600))
    changes["RAY_AUTH_TOKEN_PATH"] = spoil.get("RAY_AUTH_TOKEN_PATH", str(token))
    code = "import ray, sys\nfrom toy_verbs import TOYS\nfrom pipelines.job.file import VERBS\n"
    code += f"VERBS.update(TOYS)\nray.__version__ = {spoil.get('ray')!r} or ray.__version__\n"
    code += "from pipelines.cli import main\nmain()"
    changes["PYTHONPATH"] = str(Path(__file__).parents[1])
    words = ["run", job_file(tmp_path), "--out", tmp_path / "runs"]
    words += ["--address", spoil.get("address", head["address"])]
    done = call(head, *words, command=[PYTHON, "-c", code], **changes)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in done.stderr


BLIND = """
import os, sys
from pathlib import Path
from pipelines.cluster.joined import joined
from core.errors import InputError

handle = os.open(sys.argv[2], os.O_RDONLY)
os.dup2(handle, 400)
try:
    with joined(sys.argv[1], Path("/proc/self/fd/400")):
        print("joined")
except InputError as error:
    print(error)
"""


def test_a_folder_that_the_machines_do_not_share_is_refused(head, tmp_path):
    """The folder is an open handle of the driver, which no other process has."""
    script, out = tmp_path / "blind.py", tmp_path / "out"
    script.write_text(BLIND)
    out.mkdir()
    done = call(head, script, head["address"], out, command=[PYTHON])
    assert done.stdout == (
        "/proc/self/fd/400: not visible on 127.0.0.1 of the cluster; give --out a folder on "
        "a file system that all its machines mount\n"
    )
    assert list(out.iterdir()) == []


def test_a_checkout_that_cannot_be_built_is_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "no"\n'
    )
    (tmp_path / "place").mkdir()
    with pytest.raises(InputError, match="could not be built to be sent to the cluster"):
        code._build("broken", tmp_path, tmp_path / "place")


def test_nothing_secret_is_in_what_a_job_tells_the_cluster(head):
    """Ray shows a job's environment to everyone who may look: the token must not be in it."""
    token = Path(head["environment"]["RAY_AUTH_TOKEN_PATH"]).read_text()
    found = [
        path
        for path in (head["place"] / "r").rglob("*")
        if path.is_file() and token.encode() in path.read_bytes()
    ]
    assert found == []


def test_the_head_listens_on_loopback_alone(head):
    heard = set()
    for process in psutil.Process(head["pid"]).children(recursive=True):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                heard.add(connection.laddr.ip)
    assert heard
    assert heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_joining_leaves_the_environment_as_it_was(monkeypatch, tmp_path):
    """And a Ray that this process is part of already, which other tests of this process may be."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(joined.connection, "disconnect", lambda: pytest.fail("was disconnected"))
    before = dict(os.environ)
    with pytest.raises(InputError), joined.joined("127.0.0.1:1", tmp_path):
        pass
    assert dict(os.environ) == before


def test_a_folder_is_done_by_a_ray_that_was_running(head, tmp_path):
    """The plug-in with the predictor travels there, as it is installed here."""
    about = tmp_path / "plugins" / "toy-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[polymode.plugins]\ntoy = toy_predictor:PLUGIN\n")
    (about / "RECORD").write_text("toy_predictor.py,,\ntoy-1.0.dist-info/METADATA,,\n"
                                  "toy-1.0.dist-info/entry_points.txt,,\n")  # fmt: skip
    module = Path(__file__).parents[1] / "toy_predictor.py"
    (tmp_path / "plugins" / module.name).write_bytes(module.read_bytes())
    (tmp_path / "texts").mkdir()
    for k in range(4):
        (tmp_path / "texts" / f"{k}.txt").write_text(f"text {k}" if k else "bad")
    (tmp_path / "word").write_text("say")
    words = ["apply", "toy/shout", tmp_path / "texts", "-o", tmp_path / "out", "--workers", "2"]
    words += ["--cpus", "1", "--set", f"checkpoint={tmp_path / 'word'}"]
    done = call(head, *words, "--address", head["address"], PYTHONPATH=str(about.parent))
    assert done.returncode == 1, done.stderr  # one is bad
    made = {p.name: p.read_text() for p in (tmp_path / "out" / "results").iterdir()}
    assert made == {f"{k}.loud": f"say TEXT {k}!" for k in (1, 2, 3)}
    assert "0.txt" in done.stderr
