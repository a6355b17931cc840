"""The files in `pipelines/deploy`: whole, safe, and of the versions that the tests run on."""

import json
import re
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipelines.cluster import deadlines

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "pipelines" / "deploy"
LOCK = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = sorted(path.name for path in DEPLOY.iterdir())


def _text(name):
    return (DEPLOY / name).read_text()


def _code(name):
    """Without comments."""
    return re.sub(r"(^|\s)#.*", "", _text(name))


@pytest.fixture(scope="module")
def rayjob():
    job, claim = yaml.safe_load_all(_text("rayjob.yaml"))
    return job, claim


def _pods(job):
    spec = job["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]["spec"]


def test_the_files_are_these():
    assert FILES == ["Dockerfile", "cluster.yaml", "rayjob.yaml", "slurm.sh"]


def test_the_job_of_kuberay_is_whole(rayjob):
    job, claim = rayjob
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["shutdownAfterJobFinishes"] is True
    waits = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
    assert int(waits) == deadlines.JOB
    for pod in _pods(job):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["terminationGracePeriodSeconds"] > int(waits)
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        claims = [
            v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        ]
        assert [c["claimName"] for c in claims] == [claim["metadata"]["name"]]
    assert "--out /runs" in spec["entrypoint"]
    assert "--address auto" in spec["entrypoint"]


def test_the_cluster_of_ssh_fits_rays_own_schema():
    schema = json.loads(
        (Path(find_spec("ray").origin).parent / "autoscaler" / "ray-schema.json").read_text()
    )
    jsonschema.validate(yaml.safe_load(_text("cluster.yaml")), schema)


def test_versions_are_those_of_the_lock(rayjob):
    job, _ = rayjob
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == LOCK["ray"]
    images = {pod["containers"][0]["image"] for pod in _pods(job)}
    assert images == {f"polymode:{PROJECT['version']}", f"polymode:{PROJECT['version']}-gpu"}
    assert f'ray.__version__ == "{LOCK["ray"]}"' in _text("cluster.yaml")
    assert f"Written for Ray {LOCK['ray']}." in _text("slurm.sh")
    docker = _text("Dockerfile")
    assert f"ARG TORCH=torch=={LOCK['torch']}" in docker
    assert set(re.findall(r"polymode:([\d.]+)", docker)) == {PROJECT["version"]}
    (python,) = re.findall(r"FROM python:([\d.]+)", docker)
    assert PROJECT["requires-python"] == f">={python}"


@pytest.mark.parametrize("name", FILES)
def test_no_file_opens_a_dashboard_or_holds_a_token(name):
    text = _text(name)
    assert "0.0.0.0" not in text
    assert "dashboard-host=" not in text.replace("dashboard-host=127.0.0.1", "")
    assert "RAY_AUTH_MODE=disabled" not in text
    assert not re.search(r"\b[0-9a-f]{32,}\b", text)


@pytest.mark.parametrize("name", ["Dockerfile", "cluster.yaml", "slurm.sh"])
def test_every_ray_wants_a_token_and_sends_no_statistics(name):
    starts = re.split(r"\n\n|\n  - ", _code(name)) if name == "cluster.yaml" else [_code(name)]
    starts = [part for part in starts if "ray start" in part] or starts
    for part in starts:
        assert "RAY_AUTH_MODE=token" in part
        assert "RAY_USAGE_STATS_ENABLED=0" in part


def test_the_image_has_no_data_and_no_root():
    lines = _code("Dockerfile").replace("\\\n", " ").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    known = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "polymode.py"}
    assert {name for names in copied for name in names} == known | {"core", "plugins", "pipelines"}
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    last = max(i for i, line in enumerate(lines) if line.startswith("RUN"))
    assert users == ["polymode"]
    assert lines.index("USER polymode") > last
    extras = re.search(r"'\.\[([\w,]+)\]'", _code("Dockerfile"))[1].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    assert "cluster" in extras


# --- Slurm: the script with stand-ins for its commands ---------------------------------------

# One function, which bash reads whole before a signal can come: a trap that runs while
# bash 5.2 reads a `$(` fails with a syntax error of its own.
SRUN = """#!/bin/bash
step() {
echo "$@" > "$PLACE/called"
stat -c %a "$RAY_AUTH_TOKEN_PATH" "$(dirname "$RAY_AUTH_TOKEN_PATH")" > "$PLACE/modes"
cp "$RAY_AUTH_TOKEN_PATH" "$PLACE/token"
trap 'echo told > "$PLACE/told"; exit 143' TERM
touch "$PLACE/ready"
for ((i = 0; i < TENTHS; i++)); do sleep 0.1; done
exit "$STATUS"
}
step "$@"
"""


def _slurm(tmp_path, *, tenths=0, status=0, stop=False):
    place, tools = tmp_path / "place", tmp_path / "tools"
    for folder in (place, tools):
        folder.mkdir()
    for name, text in {
        "srun": SRUN,
        "scontrol": '#!/bin/bash\necho "$@" >> "$PLACE/control"\necho first\necho second\n',
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), "PLACE": str(place),
        "TENTHS": str(tenths), "STATUS": str(status), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2",
    }  # fmt: skip
    words = ["bash", str(DEPLOY / "slurm.sh"), "job.yaml", "--out", "/shared/two words"]
    process = subprocess.Popen(words, env=environment)
    if stop:
        while not (place / "ready").exists():
            assert process.poll() is None
        process.terminate()
    return process.wait(30), place


def test_slurms_signal_reaches_the_run_and_requeues_it(tmp_path):
    status, place = _slurm(tmp_path, tenths=200, stop=True)
    assert status == 0
    assert (place / "told").exists()
    assert (place / "control").read_text().splitlines()[-1] == "requeue 7"
    assert not (tmp_path / ".polymode" / "slurm-7").exists()


@pytest.mark.parametrize("wanted", [0, 1])
def test_slurm_runs_the_job_on_all_machines_with_a_token_of_its_own(tmp_path, wanted):
    status, place = _slurm(tmp_path, status=wanted)
    assert status == wanted
    assert (place / "modes").read_text().split() == ["600", "700"]
    assert re.fullmatch(r"[0-9a-f]{64}", (place / "token").read_text())
    called = (place / "called").read_text()
    assert "ray symmetric-run --address first:6379 --min-nodes 2" in called
    assert called.rstrip().endswith(
        "-- polymode run --address auto job.yaml --out /shared/two words"
    )
    assert "requeue" not in (place / "control").read_text()
    header = re.findall(r"^#SBATCH (--[\w-]+(?:=\S+)?)", _text("slurm.sh"), re.MULTILINE)
    assert {"--signal=B:TERM@120", "--requeue", "--exclusive"} <= set(header)


@pytest.mark.parametrize("name", ["Dockerfile", "cluster.yaml"])
def test_every_plugin_with_requirements_of_its_own_is_installed(name):
    plugins = set(PROJECT["entry-points"]["polymode.plugins"])
    needed = {plugin for plugin in plugins if PROJECT["optional-dependencies"].get(plugin)}
    (installed,) = re.findall(r"'\.\[([\w,]+)\]'", _text(name))
    assert needed | {"cluster"} == set(installed.split(","))


def test_the_image_has_every_file_that_a_wheel_is_built_of():
    copied = " ".join(line for line in _text("Dockerfile").splitlines() if line.startswith("COPY"))
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    needed = {*build["targets"]["wheel"]["only-include"], "pyproject.toml", PROJECT["readme"]}
    assert needed <= set(copied.split())
