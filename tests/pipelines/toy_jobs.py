"""Jobs of toy verbs: read, planned, done in this process or by the command in another."""

import io
import json
import sys
from pathlib import Path

import pytest
from commands import call
from toy_verbs import TOYS, polymode, toys

from core.parts.config import ConfigError
from pipelines.job.file import parse
from pipelines.job.plan import plan
from pipelines.run.display import Display
from pipelines.run.execute import locally

STEPS = {
    "a": {"run": "make", "request": {"number": 3}, "cpus": 2},
    "b": {"run": "make", "request": {"number": 4, "scale": 0.5}},
    "sum": {"run": "add", "inputs": {"left": "a.made", "right": "b.made"}},
    "other": {"run": "add", "inputs": {"left": "a.made"}},
    "page": {"run": "report", "request": {"title": "hi"}, "inputs": {"A": "a", "Sum": "sum"}},
}
POLYMODE = [sys.executable, str(Path(__file__).with_name("toy_verbs.py"))]


def planned(root, steps=STEPS, settings=()):
    job = parse({"name": "toys", "steps": steps}, settings, verbs=TOYS, registry=toys())
    return plan(job, root, verbs=TOYS, registry=toys())


def done(root, steps=STEPS, settings=()):
    """Outcomes by step, and what was shown."""
    found, shown = planned(root, steps, settings), io.StringIO()
    with Display([p.step.name for p in found], stream=shown) as display:
        return locally(found, display, verbs=TOYS), shown.getvalue()


def job(steps, name="toys", **more):
    return parse({"name": name, "steps": steps, **more}, verbs=TOYS, registry=toys())


def problems(steps, **more):
    with pytest.raises(ConfigError) as caught:
        job(steps, **more)
    return caught.value.problems


def toy(tmp_path, *words, steps=STEPS, name="toys"):
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"name": name, "steps": steps}))
    return call(polymode, words[0], job, *words[1:], cwd=tmp_path)
