"""A step takes options from a file; its key is that of what they come to, wherever they lay."""

import json
import re
from pathlib import Path

import pytest
from toy_verbs import TOYS, toys

from core.errors import InputError
from pipelines.job.file import read
from pipelines.job.plan import plan


def planned(folder, steps, settings=()):
    (folder / "job.yaml").write_text(json.dumps({"name": "x", "steps": steps}))
    job = read(folder / "job.yaml", settings, verbs=TOYS, registry=toys())
    return {p.step.name: p for p in plan(job, folder / "store", verbs=TOYS, registry=toys())}


def test_the_key_is_that_of_the_same_options_written_out(tmp_path):
    (tmp_path / "base.yaml").write_text("{number: 3, scale: 2.0}")
    (tmp_path / "other.yaml").write_text("from: base.yaml")
    whole = planned(tmp_path, {"a": {"run": "make", "request": {"number": 3, "scale": 0.5}}})
    for step in (
        {"run": "make", "request": {"from": "base.yaml", "scale": 0.5}},
        {"run": "make", "from": "other.yaml", "request": {"scale": 0.5}},
    ):
        assert planned(tmp_path, {"a": step})["a"].key == whole["a"].key
    alone = planned(
        tmp_path, {"a": {"run": "make", "from": "base.yaml"}}, ["steps.a.request.scale=0.5"]
    )
    assert alone["a"].key == whole["a"].key
    (tmp_path / "base.yaml").write_text("{number: 4}")
    assert planned(tmp_path, {"a": step})["a"].key != whole["a"].key


def test_what_a_matrix_varies_and_inputs_supply_is_not_taken(tmp_path):
    (tmp_path / "base.yaml").write_text("{number: 3, scale: 2.0}")
    steps = planned(
        tmp_path, {"a": {"run": "make", "from": "base.yaml", "matrix": {"number": [1, 2]}}}
    )
    assert {p.step.request["number"] for p in steps.values()} == {1, 2}
    assert {p.step.request["scale"] for p in steps.values()} == {2.0}
    (tmp_path / "add.yaml").write_text("{left: somewhere, plus: 5}")
    added = {"run": "add", "from": "add.yaml", "inputs": {"left": "a.made"}}
    both = planned(tmp_path, {"a": {"run": "make"}, "b": added})
    assert both["b"].step.request["plus"] == 5


def test_two_files_for_one_step_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"steps\.a\.from: given in request too; keep one"):
        planned(tmp_path, {"a": {"run": "make", "from": "x", "request": {"from": "y"}}})


def test_the_quick_look_of_the_demo_shortens_every_training():
    """The settings in the job's own head, as a reader would copy them."""
    path = Path(__file__).parents[3] / "pipelines/jobs/demo.yaml"
    settings = re.findall(r"--set (\S+)", path.read_text())
    lengths = [s.request["steps"] for s in read(path, settings).steps if s.run == "train"]
    assert lengths == [200, 200, 200, 200]
