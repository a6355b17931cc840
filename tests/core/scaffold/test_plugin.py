"""A new plug-in is whole: it passes its own tests, and trains, draws, is scored and runs on Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call

from core.cli import main
from core.errors import InputError
from core.scaffold.plugin import write_plugin

POLYMODE = Path(sys.executable).with_name("polymode")
ROOT = Path(__file__).parents[3]
ROOMS = {"__init__", "__main__", "commands", "data", "evaluation", "inference", "io", "networks",
         "request", "tasks"}  # fmt: skip
LINES = 120  # of an author, for a network, a dataset and a task


def test_it_has_the_rooms_of_a_plugin(tmp_path):
    done = call(main, "new-plugin", "waves", "-o", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'waves'}\n")
    package = tmp_path / "waves" / "waves"
    assert {path.stem for path in package.glob("*.py")} == ROOMS
    assert {path.name for path in (package / "configs").iterdir()} == {"demo.yaml", "job.yaml"}
    written = [path for path in (tmp_path / "waves").rglob("*") if path.is_file()]
    assert {path.name for path in written if path.parent == tmp_path / "waves"} == {
        "README.md", "pyproject.toml",
    }  # fmt: skip
    assert not any("@NAME" in path.read_text() or "NAME" in path.name for path in written)
    main_file = (package / "__main__.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in main_file) <= 7


def test_an_author_writes_few_lines_for_a_network_a_dataset_and_a_task(tmp_path):
    package = write_plugin("waves", tmp_path) / "waves"
    texts = [(package / f"{room}.py").read_text() for room in ("networks", "data", "tasks")]
    assert sum(bool(line.strip()) for text in texts for line in text.splitlines()) <= LINES


@pytest.mark.parametrize("name", ["json", "core", "medical", "numpy"])
def test_a_name_that_something_has_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=r"name: .*; choose another"):
        write_plugin(name, tmp_path)


@pytest.mark.parametrize("name", ["", "a", "Waves", "2d", "my-waves", "../x", "class", "é", "a b",
                                  "_a", "a_", "x" * 41, "a\n", "a.b"])  # fmt: skip
def test_a_name_that_a_package_cannot_have_is_one_sentence(name, tmp_path):
    done = call(main, "new-plugin", "-o", tmp_path, "--", name)
    assert done.returncode == 2
    assert done.stderr.startswith("error: name: expected 2 to 40 small letters")
    assert "\n" not in done.stderr.strip()
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_written_over(tmp_path):
    (tmp_path / "waves").mkdir()
    (tmp_path / "waves" / "mine").write_text("mine")
    with pytest.raises(InputError, match="waves: is there already; choose another name or --out"):
        write_plugin("waves", tmp_path)
    assert [path.name for path in (tmp_path / "waves").iterdir()] == ["mine"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another --out"):
        write_plugin("waves", tmp_path / "file")


@pytest.fixture(scope="module")
def installed_plugin(tmp_path_factory):
    """The folder of a new plug-in that is installed into a folder of its own, and the variables."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    folder = write_plugin("waves", source)
    copy = tmp_path_factory.mktemp("copy")
    subprocess.run(["cp", "-r", folder, copy], check=True)  # where the build leaves its files
    install = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
        "--no-build-isolation", "--disable-pip-version-check", "--target", site, copy / "waves",
    ]  # fmt: skip
    subprocess.run(install, check=True, capture_output=True)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return folder, {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(environment, *arguments):
    done = subprocess.run(
        [*map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_passes_its_own_tests(installed_plugin):
    folder, environment = installed_plugin
    run(environment, sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", folder,
        folder / "tests")  # fmt: skip


def test_its_code_has_no_faults_that_a_linter_sees(installed_plugin):
    folder, environment = installed_plugin
    run(environment, sys.executable, "-m", "ruff", "check", "--extend-select", "I,B", folder)
    run(environment, sys.executable, "-m", "ruff", "format", "--check", folder)


@pytest.mark.slow
def test_it_trains_draws_is_scored_continues_a_file_and_runs_on_ray(installed_plugin, tmp_path):
    folder, environment = installed_plugin
    runs, demo = tmp_path / "runs", folder / "waves" / "configs" / "demo.yaml"
    run(environment, POLYMODE, "train", demo, "-o", runs / "train")
    run(environment, POLYMODE, "sample", "--set", f"checkpoint={runs / 'train'}", "--set",
        "count=16", "--set", "samples=4", "--set", "grid.steps=10",
        "-o", runs / "sample")  # fmt: skip
    run(environment, POLYMODE, "evaluate", "--set", f"samples={runs / 'sample'}", "-o",
        runs / "evaluate")  # fmt: skip
    found = json.loads((runs / "evaluate" / "metrics.json").read_text())
    means = {method: row["rmse"]["mean"] for method, row in found["methods"].items()}
    assert means["mean of draws"] < means["one draw"] < means["held"]
    half = tmp_path / "half.txt"
    half.write_text("".join(f"{0.5:.6f}\n" for _ in range(16)))
    whole = tmp_path / "whole.txt"
    run(environment, POLYMODE, "waves", "continue-signal", half, "--checkpoint", runs / "train",
        "-o", whole)  # fmt: skip
    assert whole.read_text().startswith(half.read_text())
    assert len(whole.read_text().split()) == 32
    job = folder / "waves" / "configs" / "job.yaml"
    run(environment, POLYMODE, "run", job, "--out", runs / "jobs")
    assert list((runs / "jobs" / "store").glob("report-*/report.html"))
    assert list((runs / "jobs" / "store").glob("spread-*/spread.json"))
