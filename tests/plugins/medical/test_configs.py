"""Configurations: the demo trains for a few steps, and the job trains what the demo states."""

from pathlib import Path

import pytest

from core import runs
from core.parts.config import bind, configure, plain
from core.parts.registry import Spec
from core.parts.yaml_file import read_yaml
from core.request import TrainRequest
from pipelines.job.file import read
from plugins.medical.inference.reconstruct import prior_of

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "plugins" / "medical" / "configs"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "demo-mri"])
def test_the_demo_trains(tmp_path, name):
    request = {**read_yaml(CONFIGS / f"{name}.yaml"), "steps": 2, "warmup": 1, "batch": 2}
    runs.train(bind(TrainRequest, request), tmp_path)
    task = Spec("medical/mri" if name.endswith("mri") else "medical/ct")
    model = prior_of(tmp_path, task)
    assert model.step == 2
    assert model.shape == (model.task.channels, 64, 64)


@pytest.mark.parametrize("job", ["demo", "medical"])
@pytest.mark.parametrize(("step", "name"), [("ct-train", "demo"), ("mri-train", "demo-mri")])
def test_jobs_train_the_demo(job, step, name):
    steps = {one.name: one for one in read(ROOT / "pipelines" / "jobs" / f"{job}.yaml").steps}
    trained, stated = steps[step].request, read_yaml(CONFIGS / f"{name}.yaml")
    assert plain(bind(TrainRequest, trained)) == plain(bind(TrainRequest, stated))


@pytest.mark.parametrize("kind", ["", "-mri"])
def test_the_reference_differs_from_the_demo_in_data_and_size_alone(kind):
    """A demo that trains another method would say nothing of the reference."""
    demo, reference = (read_yaml(CONFIGS / f"{name}{kind}.yaml") for name in ("demo", "reference"))
    for name in ("process", "times"):
        assert demo[name] == reference[name]
    channels = 2 if kind else 1
    for request in (demo, reference):
        assert configure("task", Spec.parse(request["task"]))().channels == channels


@pytest.mark.parametrize("kind", ["", "-mri"])
def test_the_reference_learns_a_range_of_spacings_that_its_network_is_given(kind):
    reference = read_yaml(CONFIGS / f"reference{kind}.yaml")
    least, most = reference["dataset"]["pixel_range"]
    assert most >= 3 * least
    assert configure("task", Spec.parse(reference["task"]))().conditions == {"vector": 1}
