"""Configurations that plug-ins ship are good requests, and the demo job trains what they say."""

from pathlib import Path

import pytest

from core.config import bind, plain
from core.request import TrainRequest
from core.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "plugins").glob("*/configs/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parts[-3]}/{p.name}")
def test_a_configuration_is_a_training_request(path):
    assert plain(bind(TrainRequest, read_yaml(path)))["steps"] > 0


def test_the_demo_job_trains_the_demo_configuration():
    job = read_yaml(ROOT / "pipelines" / "jobs" / "demo.yaml")
    config = read_yaml(ROOT / "plugins" / "image2image" / "configs" / "demo.yaml")
    resolved = [
        plain(bind(TrainRequest, options)) for options in (job["steps"]["train"]["request"], config)
    ]
    assert resolved[0] == resolved[1]
