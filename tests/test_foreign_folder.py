"""Commands called from a folder that holds packages of our names: none of theirs is imported.

``core``, ``plugins`` and ``pipelines`` are names that a user's project may have too.  Each foreign
package here leaves a mark and raises when it is imported.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
POLYMODE = [str(Path(sys.executable).with_name("polymode"))]
MODULE = [sys.executable, "-m", "polymode"]
PACKAGES = ("core", "plugins", "pipelines")
JOB = """
name: blank
steps:
  train:
    run: train
    request:
      task: {name: core/generate, channels: 1}
      dataset: {name: core/blank, shape: [1, 8, 8], count: 4}
      network: {name: core/transformer, width: 8, depth: 1, heads: 1}
      steps: 1
      batch: 2
"""
# Each documented command is asked for its help, through the entry point, and its words are parsed.
# A script lies in a folder of its own, as a console script does.
SCRIPT = """
import json, sys, typer
from core.parts.registry import installed
from pipelines import cli

def called(words):
    sys.argv = ["polymode", *words]
    try:
        cli.main()
    except SystemExit as end:
        return end.code

for words in json.load(open(sys.argv[1])):
    command, names = typer.main.get_command(cli.app), []
    plugins = installed().plugins
    if words[0] in plugins:
        names.append(words.pop(0))
        command = typer.main.get_command(installed().load_commands(names[0]))
    names.append(words.pop(0))
    assert called([*names, "--help"]) == 0, names
    command = command.commands[names[-1]]
    command.make_parser(typer.Context(command)).parse_args(words)
"""


@pytest.fixture
def folder(tmp_path):
    """A project of somebody else's."""
    for name in PACKAGES:
        package = tmp_path / "project" / name
        package.mkdir(parents=True)
        mark = f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\n"
        (package / "__init__.py").write_text(f"{mark}raise ImportError('foreign {name}')\n")
    yield tmp_path / "project"
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()


def called(folder, *command):
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents():
    return [ROOT / "README.md", *(f for p in PACKAGES for f in (ROOT / p).rglob("README.md"))]


def documented():
    """The words after ``polymode`` of every command in a code block of a README."""
    for file in documents():
        for block in re.findall(r"^```(?:bash)?\n(.*?)^```", file.read_text(), re.M | re.S):
            begun = ""
            for line in re.sub(r"\\\n", " ", block).splitlines():
                begun += re.sub(r"(^|\s)#.*", "", line) + " "
                try:
                    words = shlex.split(begun)
                except ValueError:  # a quotation that ends on a later line
                    continue
                if words[:1] == ["polymode"]:
                    yield words[1:]
                begun = ""


@pytest.mark.slow
def test_every_documented_command_is_ours_and_parses(folder, tmp_path):
    commands = list(documented())
    assert len(commands) > 40
    assert {"upscale", "train-prior"} <= {words[1] for words in commands if len(words) > 1}
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "all.py").write_text(SCRIPT)
    called(folder, sys.executable, tmp_path / "bin" / "all.py", tmp_path / "commands.json")


def test_no_document_runs_a_module_that_a_folder_could_hide():
    for file in documents():
        assert not re.search(r"-m (core|plugins|pipelines)\b", file.read_text()), file


@pytest.mark.parametrize("command", [POLYMODE, MODULE], ids=["script", "module"])
def test_both_entry_points_run_ours(folder, command):
    assert "core/unet" in called(folder, *command, "list", "network")
    assert "--checkpoint" in called(folder, *command, "image2image", "upscale", "--help")


@pytest.mark.slow
def test_ray_workers_import_ours_and_work_in_the_callers_folder(folder):
    (folder / "job.yaml").write_text(JOB)
    called(folder, *POLYMODE, "run", "job.yaml", "--out", "runs", "--cpus", "1")
    assert list(folder.glob("runs/store/train-*/checkpoints/step-*"))
