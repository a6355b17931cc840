"""Joining a running Ray and submitting to it: a real head with our token, on loopback."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_execute import POLYMODE

from core.errors import InputError
from pipelines import cluster, joining, shipping, submit

pytestmark = pytest.mark.torture  # a head of Ray's own, started and ended: minutes

PYTHON = Path(sys.executable)
COMMAND = str(PYTHON.with_name("polymode"))
ADD = {"run": "add", "inputs": {"left": "a.made"}}
STEPS = {"a": {"run": "make", "request": {"number": 4}}, "b": ADD}


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head of two cores; its addresses and the environment of who may use it."""
    place = Path(cluster.tempfile.mkdtemp(prefix="polymode-head-"))  # short: sockets lie in it
    token = place / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        **cluster.QUIET,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
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
    cluster.shutil.rmtree(place)


def _start_head(place, environment):
    """Its process, which has ended if it did not come up, and the ports of GCS and dashboard."""
    gcs, dashboard = _free_port(), _free_port()
    command = [str(PYTHON.with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", f"--temp-dir={place}/r", "--disable-usage-stats"]
    command += [f"--object-store-memory={cluster.OBJECT_STORE_BYTES}"]
    with (place / "said.txt").open("w") as said:
        process = subprocess.Popen(
            command, env=environment, stdout=said, stderr=said, cwd="/", start_new_session=True
        )
    while process.poll() is None:
        if _answers(dashboard) and "--block" in (place / "said.txt").read_text():
            break
        time.sleep(0.5)
    return process, gcs, dashboard


def _answers(port):
    import requests

    try:
        return requests.get(f"http://127.0.0.1:{port}/api/version", timeout=2).status_code == 401
    except requests.RequestException:
        return False


def _call(head, *words, command=(COMMAND,), **changes):
    environment = {**head["environment"], **changes}
    return subprocess.run(
        [*command, *map(str, words)], capture_output=True, text=True, check=False,
        env={k: v for k, v in environment.items() if v is not None}, timeout=200,
    )  # fmt: skip


def _job(folder, steps=STEPS):
    file = folder / "job.yaml"
    file.write_text(json.dumps({"name": "toys", "steps": steps}))
    return file


def test_a_job_runs_on_a_ray_that_was_running_and_leaves_it_running(head, tmp_path):
    here = {"PYTHONPATH": str(Path(__file__).parent)}
    words = ["run", _job(tmp_path), "--out", tmp_path / "runs"]
    joining_it = [*words, "--address", head["address"]]
    first = _call(head, *joining_it, command=POLYMODE, **here)
    assert first.returncode == 0, first.stderr
    (made,) = tmp_path.glob("runs/store/b-*/made.txt")
    assert made.read_text() == "5"
    assert first.stdout.strip() == os.path.relpath(made.parent)
    assert first.stderr.splitlines()[0] == f"joining the Ray at {head['address']}"
    again = _call(head, *joining_it, command=POLYMODE, **here)
    assert "nothing to do" in again.stderr
    assert _answers(int(head["dashboard"].partition(":")[2]))
    assert not list(tmp_path.glob("runs/toys/.seen-*"))


def test_a_step_that_fits_on_no_machine_of_the_cluster_is_refused(head, tmp_path):
    job = _job(tmp_path, {"a": {"run": "make", "cpus": 3}, "b": {"run": "make", "gpus": 1}})
    words = ["run", job, "--out", tmp_path / "runs", "--address", head["address"]]
    done = _call(head, *words, command=POLYMODE, PYTHONPATH=str(Path(__file__).parent))
    assert done.returncode == 2
    assert "steps.a: wants 3 CPUs" in done.stderr
    assert "steps.b: wants 1 GPU, the cluster has 0" in done.stderr


SEEN = """
import sys
from pathlib import Path
import ray
from pipelines.joining import joined

def seen():
    import os
    import core, stray
    from core.registry import installed
    return core.__file__, stray.__file__, sorted(installed().plugins), os.getcwd()

if __name__ == "__main__":
    with joined(sys.argv[1], Path(sys.argv[2])) as machines:
        for said in (machines[0].cpus, *ray.get(ray.remote(seen).remote())):
            print(said)
"""
STRAY = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "polymode-stray"
version = "1.0"
[project.entry-points."polymode.plugins"]
stray = "stray:PLUGIN"
[tool.setuptools]
packages = ["stray"]
"""


def test_the_code_and_a_strangers_plugin_travel_with_their_metadata(head, tmp_path):
    source, place = tmp_path / "source", tmp_path / "installed"
    (source / "stray").mkdir(parents=True)
    (source / "pyproject.toml").write_text(STRAY)
    (source / "stray" / "__init__.py").write_text(
        "from core.registry import Plugin\nPLUGIN = Plugin('stray', 'Of a stranger.', ())\n"
    )
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([PYTHON, *pip, place, source], check=True, capture_output=True)
    script = tmp_path / "seen.py"
    script.write_text(SEEN)
    done = _call(head, script, head["address"], tmp_path, command=[PYTHON], PYTHONPATH=str(place))
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
        ({"token": "0" * 64}, "is the token the one that its head was started with"),
        ({"mode": 0o644}, "others can read this token; run: chmod 600"),
        ({"address": "127.0.0.1:1"}, "nobody listens at 127.0.0.1:1"),
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
    code = "import ray, sys\nfrom toy_verbs import TOYS\nfrom pipelines.job import VERBS\n"
    code += f"VERBS.update(TOYS)\nray.__version__ = {spoil.get('ray')!r} or ray.__version__\n"
    code += "from pipelines.cli import main\nmain()"
    changes["PYTHONPATH"] = str(Path(__file__).parent)
    words = ["run", _job(tmp_path), "--out", tmp_path / "runs"]
    words += ["--address", spoil.get("address", head["address"])]
    done = _call(head, *words, command=[PYTHON, "-c", code], **changes)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in done.stderr


BLIND = """
import os, sys
from pathlib import Path
from pipelines.joining import joined
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
    done = _call(head, script, head["address"], out, command=[PYTHON])
    assert done.stdout == (
        "/proc/self/fd/400: not seen by 127.0.0.1, of the cluster; name a folder that all its "
        "machines share with --out\n"
    )
    assert list(out.iterdir()) == []


def test_a_checkout_that_cannot_be_built_is_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "no"\n'
    )
    (tmp_path / "place").mkdir()
    with pytest.raises(InputError, match="could not be built to be sent to the cluster"):
        shipping._build("broken", tmp_path, tmp_path / "place")


# --- submitted jobs --------------------------------------------------------------------------

TINY = """
name: tiny
steps:
  train:
    run: train
    request:
      task: {name: image2image/sr3, scale: 4}
      dataset: {name: image2image/photos, size: 32}
      network: {name: core/unet, width: 8, multipliers: [1], blocks: 1, attention: [],
                middle_attention: false}
      steps: 400
      batch: 2
      warmup: 10
"""


def _until(head, job, states):
    """Wait for an end; what `status` says of the job."""
    address = head["dashboard"]
    deadline = time.monotonic() + 150
    while True:
        (found,) = [other for other in submit.jobs(address) if other.id == job]
        if found.state in states:
            return found
        assert time.monotonic() < deadline, submit.log(address, job)
        time.sleep(1)


def _submit(head, file, out, *settings):
    words = ["submit", file, "--address", head["dashboard"], "--out", out, *settings]
    done = _call(head, *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_job_without_a_token_or_with_another_is_refused(head, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    words = ["submit", file, "--address", head["dashboard"], "--out", tmp_path / "runs"]
    none = _call(head, *words, RAY_AUTH_MODE=None, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"))
    assert (none.returncode, none.stdout) == (2, "")
    assert "no token for the cluster there" in none.stderr
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("0" * 64)
    for changes in (
        {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")},
        {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": None},
    ):
        done = _call(head, *words, **changes)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert "refuses this token" in line
    assert "tiny" not in _call(head, "status", "--address", head["dashboard"]).stdout


def test_a_submitted_job_is_stopped_with_a_checkpoint_and_goes_on_with_the_same_bits(
    head, tmp_path, monkeypatch
):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, head["environment"][name])
    file, out, address = tmp_path / "tiny.yaml", tmp_path / "runs", head["dashboard"]
    file.write_text(TINY)
    job = submit.submit(file, [], address=address, out=out)
    deadline = time.monotonic() + 120
    while not list(out.glob("store/train-*/metrics.jsonl")):
        assert time.monotonic() < deadline, submit.log(address, job)
        time.sleep(0.1)
    began = time.monotonic()
    assert submit.stop(address, job).state == "STOPPED"
    assert time.monotonic() - began < joining.STOP_SECONDS  # it has obeyed, not been waited for
    (folder,) = out.glob("store/train-*")
    assert not (folder / "MANIFEST.json").exists()
    assert not (folder / "STOP").exists()
    assert list(folder.glob("checkpoints/*")), submit.log(address, job)
    again = _submit(head, file, out)  # by the command
    assert again != job
    ended = _until(head, again, {"SUCCEEDED", "FAILED"})
    assert (ended.state, ended.steps) == ("SUCCEEDED", {"train": "done"}), ended
    assert f"{again}  succeeded" in _call(head, "status", "--address", address).stdout
    log = _call(head, "logs", again, "train", "--address", address)
    assert (log.returncode, log.stderr) == (0, "")
    whole = tmp_path / "whole"
    words = ["run", file, "--local", "--out", whole]
    assert _call(head, *words).returncode == 0
    weights = {
        place: [path.read_bytes() for path in sorted(place.rglob("checkpoints/**/*.safetensors"))]
        for place in (out, whole)
    }
    assert weights[whole]
    assert weights[out][-1] == weights[whole][-1]


def test_what_is_asked_of_jobs_that_are_not_there(head, tmp_path):
    for words in (["logs", "nobody"], ["stop", "nobody"]):
        done = _call(head, *words, "--address", head["dashboard"])
        assert done.returncode == 2
        assert done.stderr.startswith("error: no job 'nobody' on this cluster; it has: ")
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY.replace("steps: 400", "stepz: 400"))
    words = ["submit", file, "--address", "127.0.0.1:1", "--out", "/runs"]
    assert "request.stepz: unknown option" in _call(head, *words).stderr  # before it asks anyone
    file.write_text(TINY)
    assert "nobody listens at 127.0.0.1:1" in _call(head, *words).stderr
    words = ["submit", file, "--address", head["dashboard"], "--out", "runs"]
    assert "expected an absolute path" in _call(head, *words).stderr


# --- names of patients -----------------------------------------------------------------------

CANARIES = ("DOE^JANE", "MRN0042")
SCANS = '''
"""Scans whose files and metadata name patients; items are named by a hash instead."""

import hmac
import json
from pathlib import Path

import torch
from torch import nn

from core.registry import Plugin, dataset, network, task
from core.task import Example, Figure, Panel

PLUGIN = Plugin(
    name="scans",
    summary="Of patients.",
    parts=(
        network("mlp", "scans:MLP", "One layer"),
        dataset("folder", "scans:Folder", "One number a file"),
        task("generate", "scans:Generate", "Numbers"),
    ),
)


class MLP(nn.Module):
    """One layer."""

    def __init__(self, channels, outputs, conditions):
        super().__init__()
        self.layer = nn.Linear(channels, outputs)

    def forward(self, x, level, condition=None):
        return self.layer(x)


class Folder:
    """Numbers in files.

    Args:
        root: the folder.
    """

    def __init__(self, split, *, root: Path):
        self.files = sorted(root.iterdir())
        self.scans = [json.loads(file.read_text()) for file in self.files]

    def __len__(self):
        return len(self.scans)

    def __getitem__(self, index):
        return {"value": torch.tensor([float(self.scans[index]["value"])])}

    def name(self, index):
        return hmac.digest(b"salt", self.files[index].name.encode(), "sha256").hex()[:10]

    def source(self, index):
        return self.name(index)

    def digest(self):
        return "scans"


class Generate:
    """Draw numbers."""

    def __init__(self):
        self.channels, self.conditions, self.reference = 1, {}, "truth"
        self.figures = {"error": Figure("error", "", "lower")}

    def prepare(self, batch):
        return Example(batch["value"])

    def finish(self, x0, batch):
        return x0

    def score(self, results, batch):
        return {"truth": {"error": batch["value"][:, 0]}, "draws": {"error": results[:, 0, 0]}}

    def show(self, results, batch, titles):
        return [Panel(title) for title in titles]
'''
SCANS_JOB = """
name: scans
steps:
  train:
    run: train
    request: {task: scans/generate, dataset: {name: scans/folder, root: ROOT}, network: scans/mlp,
              steps: 5, batch: 2}
  sample:
    run: sample
    inputs: {checkpoint: train.checkpoint}
    request: {count: 2, grid: {name: core/uniform_log_snr, steps: 2}}
  evaluate:
    run: evaluate
    inputs: {samples: sample.samples}
  report:
    run: report
    inputs: {training: train, evaluation: evaluate}
"""


def _found(folder):
    """Files below a folder whose names or bytes hold a canary."""
    return [
        str(path)
        for path in folder.rglob("*")
        if any(
            canary in path.name or (path.is_file() and canary.encode() in path.read_bytes())
            for canary in CANARIES
        )
    ]


def test_names_of_patients_stay_where_they_are(head, tmp_path):
    """In file names and in metadata; a dataset that names items by a hash gives none of it away."""
    source, site, data = tmp_path / "source", tmp_path / "site", tmp_path / "data"
    (source / "scans").mkdir(parents=True)
    data.mkdir()
    (source / "pyproject.toml").write_text(STRAY.replace("stray", "scans"))
    (source / "scans" / "__init__.py").write_text(SCANS)
    for i in range(4):
        name = f"{CANARIES[0]}-{CANARIES[1]}-{i}.json"
        (data / name).write_text(json.dumps({"patient": CANARIES[0], "value": i / 4}))
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([PYTHON, *pip, site, source], check=True, capture_output=True)
    job, out = tmp_path / "job.yaml", tmp_path / "runs"
    job.write_text(SCANS_JOB.replace("ROOT", str(data)))
    words = ["run", job, "--out", out, "--address", head["address"]]
    done = _call(head, *words, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert len(_found(data)) == 4
    assert list(out.glob("store/report-*/report.html"))
    assert _found(out) + _found(head["place"]) == []
    assert not any(canary in done.stdout + done.stderr for canary in CANARIES)


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
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    before = dict(os.environ)
    with pytest.raises(InputError), joining.joined("127.0.0.1:1", tmp_path):
        pass
    assert dict(os.environ) == before
