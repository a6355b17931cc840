"""A message repeats no value of a million characters, wherever in a job it stands."""

import json

import pytest
from commands import call
from toy_verbs import polymode

LONG = "x" * 900_000
STEP = {"run": "make", "request": {"number": 1}}
JOBS = {
    "a value": {"a": {**STEP, "request": {"number": LONG}}},
    "a list": {"a": {**STEP, "request": {"number": [LONG]}}},
    "an option": {"a": {**STEP, "request": {LONG: 1}}},
    "a part": {"a": {"run": "learn", "request": {"network": LONG}}},
    "a part that is none": {"a": {"run": "learn", "request": {"network": {"nmae": LONG}}}},
    "a verb": {"a": {"run": LONG}},
    "a step": {LONG: STEP},
    "a request": {"a": {"run": "make", "request": LONG}},
    "memory": {"a": {**STEP, "memory": LONG}},
    "an input": {"a": {"run": "add", "inputs": {"left": LONG}}},
    "a result": {"a": STEP, "b": {"run": "add", "inputs": {"left": f"a.{LONG}"}}},
    "an input's name": {"a": STEP, "b": {"run": "add", "inputs": {LONG: "a.made"}}},
    "a matrix": {"a": {"run": "make", "matrix": {LONG: [1, 2]}}},
    "a matrix's value": {"a": {"run": "make", "matrix": {"number": LONG}}},
    "steps": LONG,
    "a search": {"a": {"run": "sweep", "request": {"space": {"lr": {LONG: 1}}}}},
}


@pytest.mark.parametrize("place", JOBS)
def test_a_long_value_is_cut(tmp_path, place):
    (tmp_path / "job.yaml").write_text(json.dumps({"name": "long", "steps": JOBS[place]}))
    done = call(polymode, "plan", "job.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert max(map(len, done.stderr.splitlines())) < 4200
    assert len(done.stderr) < 20_000


def test_a_long_setting_is_cut(tmp_path):
    (tmp_path / "job.yaml").write_text(json.dumps({"name": "long", "steps": {"a": STEP}}))
    for words in (f"steps.a.request.number={LONG}", LONG, f"{LONG}=1", f"steps.a.run.x={LONG}"):
        done = call(polymode, "plan", "job.yaml", "--set", words, cwd=tmp_path)
        assert done.returncode == 2
        assert len(done.stderr) < 20_000
    done = call(polymode, "plan", "job.yaml", "--cpus", LONG, cwd=tmp_path)
    assert (done.returncode, len(done.stderr) < 5000) == (2, True)
    done = call(polymode, "plan", LONG, cwd=tmp_path)
    assert (done.returncode, len(done.stderr) < 5000) == (2, True)
