"""A training shared by two workers of Ray is the training of one, up to the order of sums."""

import io
import os
import threading
import time
from contextlib import suppress

import psutil
import pytest
from processes import command_of, started_by
from safetensors.torch import load_file

from core.parts.config import ConfigError
from pipelines.job.file import parse
from pipelines.job.plan import plan
from pipelines.run.display import Display
from pipelines.run.execute import locally, on_ray
from pipelines.store import results

REQUEST = {
    "task": {"name": "image2image/sr3", "scale": 4},
    "dataset": {"name": "image2image/photos", "size": 32},
    "network": {
        "name": "core/unet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [],
        "middle_attention": False,
    },
    "process": "core/vp_linear", "weighting": "core/v", "steps": 50, "batch": 4,
}  # fmt: skip


def done(run, root, retries=0, **changes):
    """The step trained by two workers or, locally, by one; how it ended and what was shown."""
    step = {"run": "train", "workers": 2, "retries": retries, "request": {**REQUEST, **changes}}
    steps, shown = plan(parse({"name": "two", "steps": {"train": step}}), root), io.StringIO()
    with Display(["train"], stream=shown) as display:
        outcome = run(steps, display)["train"]
    return outcome, steps[0].folder, shown.getvalue()


def weights(folder, step=50):
    found = sorted(folder.glob(f"checkpoints/step-{step:08d}/*.safetensors"))
    return {path.name: load_file(path) for path in found}


@pytest.mark.slow
def test_two_workers_train_what_one_trains(ray_here, tmp_path):
    """Gradients of each half of a batch are added: the bound is what the job promises."""
    outcome, folder, shown = done(on_ray, tmp_path / "two")
    assert outcome.state == "done", shown
    _, alone, _ = done(locally, tmp_path / "one")
    one, two = weights(alone), weights(folder)
    assert one.keys() == two.keys()
    assert one
    for name, tensors in one.items():
        for key, tensor in tensors.items():
            difference = (tensor.double() - two[name][key].double()).abs().max()
            assert difference <= 1e-5, (name, key)
    assert not list(folder.glob(".together"))
    assert results.inspect(folder, folder_key(folder), verify=True).state == "whole"


def folder_key(folder):
    return results.read_json(folder / results.REQUEST)["key"]


@pytest.mark.torture
def test_a_refusal_in_a_worker_is_said_as_one(ray_here, tmp_path):
    """Found by the workers alone: no photograph is that large."""
    outcome, _, _ = done(
        on_ray, tmp_path, retries=2, dataset={"name": "image2image/photos", "size": 4096}
    )
    assert outcome.refused, outcome.cause
    assert outcome.attempts == 1
    assert "4096" in outcome.cause
    assert "\n" not in outcome.cause


@pytest.mark.torture
def test_a_killed_worker_costs_an_attempt_and_changes_no_bit(ray_here, tmp_path):
    steps = 300
    _, whole, _ = done(on_ray, tmp_path / "whole", steps=steps)
    killed = []

    def kill():
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            begun = list((tmp_path / "killed").glob("train-*/checkpoints/step-*/MANIFEST.json"))
            with suppress(psutil.NoSuchProcess):  # others of Ray's end at any moment
                now = started_by(os.getpid())
                ours = [p for p in now if "TrainWorker" in " ".join(command_of(p))]
                if begun and ours:
                    ours[-1].kill()
                    killed.append(ours[-1].pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome, folder, shown = done(on_ray, tmp_path / "killed", retries=1, steps=steps)
    killer.join()
    assert killed
    assert outcome.state == "done", shown
    assert outcome.attempts == 2
    assert "resuming from step" in shown
    one, two = weights(whole, steps), weights(folder, steps)
    assert one
    for name, tensors in one.items():
        for key, tensor in tensors.items():
            assert tensor.equal(two[name][key]), (name, key)


def test_what_one_process_does_has_no_workers():
    step = {"run": "sample", "workers": 2, "request": {"checkpoint": "x"}}
    with pytest.raises(ConfigError, match=r"steps\.s\.workers: sample runs in one process"):
        parse({"name": "j", "steps": {"s": step}})
