"""Names of patients in file names and metadata appear in nothing that a job leaves (S14)."""

import json
import subprocess

import pytest
from ray_head import PYTHON, call
from stray_plugin import STRAY

pytestmark = pytest.mark.torture  # a head of Ray's own, started and ended: minutes


CANARIES = ("DOE^JANE", "MRN0042")
SCANS = '''
"""Scans whose files and metadata name patients; items are named by a hash instead."""

import hmac
import json
from pathlib import Path

import torch
from torch import nn

from core.parts.registry import Plugin, dataset, network, task
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
    done = call(head, *words, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert len(_found(data)) == 4
    assert list(out.glob("store/report-*/report.html"))
    assert _found(out) + _found(head["place"]) == []
    assert not any(canary in done.stdout + done.stderr for canary in CANARIES)
