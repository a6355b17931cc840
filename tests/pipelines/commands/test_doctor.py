"""What `polymode doctor` says, held to machines that lack things."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.commands import doctor

POLYMODE = Path(sys.executable).with_name("polymode")
REQUIREMENTS = [
    "torch>=2.10",
    "numpy>=1.26",
    "ray[default]>=2.52",
    "pydicom>=3.0.2; extra == 'medical'",
    'trimesh>=4.5; extra == "pointcloud"',
    "ruff>=0.9; extra == 'dev'",
]
HERE = {"polymode": "1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "ray": "2.60.0"}


def _by_name(findings):
    return {finding.what: finding for finding in findings}


def test_a_machine_with_everything_is_usable():
    found = list(doctor.required_packages(REQUIREMENTS, HERE.get))
    assert [(f.what, f.state) for f in found] == [("polymode", "ok")]
    assert doctor.usable(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"numpy": None}, "pip install 'numpy>=1.26'"),
        ({"torch": "2.9.1+cu130"}, "pip install 'torch>=2.10'"),
        ({"ray": "2.6.0"}, "pip install 'ray>=2.52'"),  # as numbers, not as text
        ({"ray": None, "numpy": "1.9"}, "pip install 'numpy>=1.26' 'ray>=2.52'"),
    ],
)
def test_what_is_needed_and_missing_or_old_is_named_with_what_to_do(change, said):
    found = list(doctor.required_packages(REQUIREMENTS, {**HERE, **change}.get))
    assert [(f.state, f.todo) for f in found] == [("missing", said)]
    assert not doctor.usable(found)
    assert doctor.table(found)[-1] == "not usable yet: packages"


@pytest.mark.parametrize(
    ("requirement", "version", "meets"),
    [  # PEP 440's own examples of each operator
        ("x~=2.2", "2.3", True), ("x~=2.2", "3.0", False), ("x~=2.2.post3", "2.2", False),
        ("x~=1.4.5", "1.5", False), ("x<2,>=1", "2.0", False), ("x<2,>=1", "1.9", True),
        ("x!=1.1.*", "1.1.post1", False), ("x==3.1", "3.1.0", True), ("x==3.1", "3.1+cpu", True),
        ("x>1.7", "1.7.0.post1", False), ("x>=2.10", "2.10.0a0+git1", False),
        ("x>=2.10", "2.11.0.dev20260101", True), ("x>=1!1.0", "2.0", False),
        ("x>=1", "custom build", False), ("x", "custom build", True),
    ],
)  # fmt: skip
def test_versions_are_compared_as_pep_440_compares_them(requirement, version, meets):
    (found,) = doctor.required_packages([requirement], {"x": version, "polymode": "1.0"}.get)
    assert (found.state == "ok") == meets


@pytest.mark.parametrize(
    ("marker", "applies"),
    [
        ("python_version >= '3.11'", True),
        ("python_version < '3'", False),
        ("sys_platform == 'no such platform'", False),
    ],
)
def test_a_requirement_of_another_machine_is_not_one_here(marker, applies):
    (found,) = doctor.required_packages([f"x>=1; {marker}"], {"polymode": "1.0"}.get)
    assert (found.state == "missing") == applies
    extra = f"y; ({marker}) and extra == 'medical'"
    found = _by_name(doctor.optional_packages([f"x; {marker}", extra], ["medical"], HERE.get))
    assert found["extra medical"].found == ("y (not installed)" if applies else "all there")


def test_code_without_its_metadata_is_not_usable():
    (found,) = doctor.required_packages([], HERE.get)
    assert found.state == "missing"
    assert "pip install ." in found.todo


def test_extras_are_notes_and_those_of_developers_are_not_shown():
    had = {**HERE, "pydicom": "3.0.1", "trimesh": "4.6"}
    found = _by_name(
        doctor.optional_packages(REQUIREMENTS, ["medical", "pointcloud", "dev"], had.get)
    )
    assert set(found) == {"extra medical", "extra pointcloud", "pytorch3d"}
    assert (found["extra medical"].state, found["extra pointcloud"].state) == ("note", "ok")
    assert found["extra medical"].found == "pydicom>=3.0.2 (3.0.1)"
    assert "pip install 'polymode[medical]'" in found["extra medical"].todo
    assert found["pytorch3d"].state == "note"
    assert doctor.usable(list(found.values()))


@pytest.mark.parametrize(("free", "state"), [(0.5, "missing"), (5, "note"), (50, "ok")])
def test_room_on_the_disk(tmp_path, monkeypatch, free, state):
    usage = type("Usage", (), {"free": int(free * doctor.GIB), "total": 1 << 40})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage)
    assert _by_name(doctor.folders(tmp_path / "not" / "there"))["disk"].state == state


def test_a_folder_or_a_home_that_cannot_be_written(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    found = _by_name(doctor.folders(blocked / "runs"))
    assert (found["disk"].state, found["home"].state) == ("missing", "note")
    assert "--out" in found["disk"].todo
    assert "HOME" in found["home"].todo


def _doctor(*arguments, **environment):
    return subprocess.run(
        [POLYMODE, "doctor", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_on_this_machine(tmp_path):
    began = time.monotonic()
    done = _doctor("--json", "--out", str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert time.monotonic() - began < 20  # 5 on a machine that is not busy
    said = json.loads(done.stdout)
    found = {finding["what"]: finding for finding in said["findings"]}
    assert (done.returncode, said["usable"], done.stderr) == (0, True, "")
    assert {"python", "torch", "gpu", "cpu", "ray", "memory", "disk", "home"} <= found.keys()
    assert found["cpu"]["found"].startswith(f"{len(os.sched_getaffinity(0))} cores")
    assert found["gpu"]["found"] == "none"


def test_the_command_where_torch_is_broken(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
    done = _doctor("--out", str(tmp_path), PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    assert "missing  torch" in done.stdout
    assert "libcudart.so.13: cannot open" in done.stdout
    assert done.stdout.splitlines()[-1] == "not usable yet: torch"
