"""A stranger's plug-in: its own distribution, installed beside ours, used in every way ours are."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.parts.registry import Registry
from core.testing.contract import check_part

POLYMODE = Path(sys.executable).with_name("polymode")

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "polymode-dots"
version = "1.0"

[project.entry-points."polymode.plugins"]
dots = "dots:PLUGIN"

[tool.setuptools]
packages = ["dots"]
"""
TABLE = '''
"""Dots: a plug-in that polymode has never heard of."""

from core.parts.registry import Plugin, Verb, dataset, network, task

PLUGIN = Plugin(
    name="dots",
    summary="Vectors of two numbers.",
    parts=(
        network("mlp", "dots.parts:MLP", "Two layers"),
        dataset("ring", "dots.parts:Ring", "Points of a ring"),
        task("generate", "dots.parts:Generate", "Free points"),
    ),
    verbs=(
        Verb(
            name="radius",
            request="dots.asked:RadiusRequest",
            result="dots.asked:RadiusResult",
            target="dots.radius:radius",
            summary="Mean distance of draws from the centre",
        ),
    ),
    commands="dots.command:app",
)
'''
ASKED = '''
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RadiusRequest:
    """Measure draws.

    Args:
        samples: folder that `sample` wrote.
        scale: what is multiplied.
    """

    samples: Path
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RadiusResult:
    """What was measured."""

    radius: Path
'''
RADIUS = """
from dots.asked import RadiusResult


def radius(request, out, *, machine, emit):
    from safetensors.torch import load_file

    draws = load_file(request.samples / "samples.safetensors")["samples"]
    (out / "radius.txt").write_text(str(request.scale * draws.norm(dim=-1).mean().item()))
    return RadiusResult(radius=out / "radius.txt")
"""
COMMAND = '''
from core.commands import domain

app = domain("Points.")


@app.command("norm")
def norm(x: float, y: float) -> None:
    """Print the distance of a point from the centre."""
    print((x * x + y * y) ** 0.5)
'''
PARTS = '''
import math

import torch
from torch import nn

from core.network.conditioning import check
from core.task import Example, Figure


class MLP(nn.Module):
    """Two layers.

    Args:
        width: hidden units.
    """

    def __init__(self, channels, outputs, conditions, *, width: int = 32):
        super().__init__()
        check(conditions, (), names=())  # it takes none
        self.layers = nn.Sequential(
            nn.Linear(channels + 1, width), nn.SiLU(), nn.Linear(width, outputs)
        )

    def forward(self, x, level, condition=None):
        return self.layers(torch.cat([x, level[:, None] / 100], dim=1))


class Ring:
    """Points of the unit circle."""

    def __init__(self, split):
        self.split, self.shift = split, 0.0 if split == "train" else 0.5

    def __len__(self):
        return 64

    def __getitem__(self, index):
        angle = 2 * math.pi * (index + self.shift) / 64
        return {"point": torch.tensor([math.cos(angle), math.sin(angle)])}

    def source(self, index):
        return f"{self.split} {index}"

    def name(self, index):
        return f"point {index}"

    def digest(self):
        return "ring-1"


class Generate:
    """Draw points."""

    def __init__(self):
        self.channels, self.conditions, self.reference = 2, {}, "truth"
        self.reads = {"point": "2"}
        self.figures = {"radius": Figure("radius error", "", "lower")}

    def prepare(self, batch):
        return Example(batch["point"])

    def finish(self, x0, batch):
        return x0

    def score(self, results, batch):
        def error(x):
            return {"radius": (x.norm(dim=-1) - batch["point"].norm(dim=-1)).abs()}

        return {"truth": error(batch["point"]), "draws": error(results[:, 0])}

    def show(self, results, batch, titles):
        return []
'''
JOB = """
name: dots
steps:
  train:
    run: train
    request:
      {task: dots/generate, dataset: dots/ring, network: {name: dots/mlp, width: 16}, steps: 20,
       batch: 8}
  sample:
    run: sample
    inputs: {checkpoint: train.checkpoint}
    request: {count: 4, grid: {name: core/uniform_log_snr, steps: 4}}
  evaluate:
    run: evaluate
    inputs: {samples: sample.samples}
  measure:
    run: dots/radius
    matrix: {scale: [1, 3]}
    inputs: {samples: sample.samples}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The plug-in built from its pyproject.toml and installed into a folder of its own."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "dots").mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "dots" / "__init__.py").write_text(TABLE)
    (source / "dots" / "parts.py").write_text(PARTS)
    (source / "dots" / "asked.py").write_text(ASKED)
    (source / "dots" / "radius.py").write_text(RADIUS)
    (source / "dots" / "command.py").write_text(COMMAND)
    install = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
        "--no-build-isolation", "--disable-pip-version-check", "--target", site, source,
    ]  # fmt: skip
    subprocess.run(install, check=True, capture_output=True)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def polymode(environment, *arguments):
    done = subprocess.run(
        [POLYMODE, *map(str, arguments)], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_it_is_listed_and_shown(environment):
    assert "dots/mlp" in polymode(environment, "list", "network").stdout
    assert "dots/radius" in polymode(environment, "list").stdout
    assert "width: int = 32" in polymode(environment, "show", "network", "dots/mlp").stdout
    assert "scale: float = 1.0" in polymode(environment, "show", "verb", "dots/radius").stdout


CONTRACT = """
from core.parts.registry import installed
from core.testing.contract import check_part

for kind, name in (("network", "mlp"), ("dataset", "ring"), ("task", "generate")):
    check_part(installed(), kind, f"dots/{name}")
"""


@pytest.mark.slow
def test_its_parts_keep_the_contract(environment):
    subprocess.run([sys.executable, "-c", CONTRACT], env=environment, check=True)


def test_the_example_of_the_page_keeps_the_contract(tmp_path, monkeypatch):
    """Files are the Python blocks of `plugins/README.md`, by the path in their first line."""
    page = (Path(__file__).parents[1] / "plugins" / "README.md").read_text()
    blocks = re.findall(
        r"```python\n# example/(\S+)\n(.*?)```", page.replace("dots", "example"), re.S
    )
    assert [name for name, _ in blocks] == ["__init__.py", "parts.py"]
    (tmp_path / "example").mkdir()
    for name, text in blocks:
        (tmp_path / "example" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    plugin = importlib.import_module("example").PLUGIN
    for part in plugin.parts:
        check_part(Registry([plugin]), part.kind, f"example/{part.name}")


def test_its_commands_stand_under_the_one_command(environment):
    assert "Vectors of two numbers." in polymode(environment, "--help").stdout
    assert polymode(environment, "dots", "norm", "3", "4").stdout == "5.0\n"


@pytest.mark.slow
def test_its_network_trains(environment, tmp_path):
    done = polymode(
        environment, "train", "--set", "task=dots/generate", "--set", "dataset=dots/ring",
        "--set", "network.name=dots/mlp", "--set", "steps=5", "--set", "batch=4", "-o", tmp_path,
    )  # fmt: skip
    assert Path(done.stdout.strip()) == tmp_path / "checkpoints"


@pytest.mark.slow
def test_it_runs_inside_a_ray_worker(environment, tmp_path):
    (tmp_path / "dots.yaml").write_text(JOB)
    done = polymode(environment, "run", tmp_path / "dots.yaml", "--out", tmp_path / "runs")
    assert "evaluate" in done.stderr
    assert list((tmp_path / "runs" / "store").glob("evaluate-*/metrics.json"))
    once, thrice = (
        float(path.read_text())
        for scale in (1, 3)
        for path in (tmp_path / "runs" / "store").glob(f"measure-scale_{scale}-*/radius.txt")
    )
    assert thrice == 3 * once  # the same draws, one product
    assert once > 0
