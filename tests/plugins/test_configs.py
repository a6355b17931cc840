"""Configurations that plug-ins ship are good requests, and the demo job trains what they say."""

from pathlib import Path

import pytest

from core.parts.config import bind, plain
from core.parts.yaml_file import read_yaml
from core.request import TrainRequest
from pipelines.job.file import read

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "plugins").glob("*/configs/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parts[-3]}/{p.name}")
def test_a_configuration_is_a_training_request(path):
    assert plain(bind(TrainRequest, read_yaml(path)))["steps"] > 0


@pytest.mark.parametrize(
    ("job", "step", "config"),
    [
        ("demo", "train", "image2image/configs/demo"),
        ("demo", "digits-train", "segmentation/configs/demo"),
        ("purify", "prior", "image2image/configs/digits"),
    ],
)
def test_a_job_trains_the_configuration_that_it_says(job, step, config):
    found = read(ROOT / "pipelines" / "jobs" / f"{job}.yaml")
    config = read_yaml(ROOT / "plugins" / f"{config}.yaml")
    (request,) = [plain(one.request) for one in found.steps if one.name == step]
    assert request == plain(bind(TrainRequest, config))
