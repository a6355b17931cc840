"""Priors that the tests of commands and predictors draw with."""

import pytest

from core import runs
from core.parts.config import bind
from core.request import TrainRequest

SMALL = {
    "network": {"name": "core/unet", "width": 8, "multipliers": [1, 2], "blocks": 1,
                "attention": [], "middle_attention": False},
    "process": "core/edm", "parameterization": "core/edm", "weighting": "core/edm",
    "times": "core/log_normal", "steps": 3, "batch": 2, "warmup": 1,
}  # fmt: skip


@pytest.fixture
def small_training():
    """The request of a training of seconds, without task and dataset."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def priors(tmp_path_factory):
    """Priors of two modalities that have seen next to nothing."""
    root = tmp_path_factory.mktemp("priors")
    for kind, task in (("ct", {"name": "core/generate", "channels": 1}), ("mri", "medical/mri")):
        dataset = {"name": "medical/phantoms", "size": 16, "side": 32.0}  # pixels of 2 mm
        request = {"task": task, "dataset": dataset, **SMALL}
        runs.train(bind(TrainRequest, request), root / kind)
    return root
