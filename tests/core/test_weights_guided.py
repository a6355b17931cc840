"""Weights of guided-diffusion's family: our network says what the original's code said.

References and weights: tests/core/reference/README.md.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core import checkpoint
from core.config import bind, configure
from core.errors import InputError
from core.model import load_model, network_of, objective_of
from core.process.gaussian import over
from core.request import TrainRequest
from core.weights import guided
from core.weights.architecture import skeleton
from core.weights.flags import Flags, flags_of, parse_flags
from core.weights.importing import import_weights
from core.weights.published import PUBLISHED

HERE = Path(__file__).parent / "reference"
sys.path.insert(0, str(HERE))
from recipe import numbers, weights  # noqa: E402

NETWORKS = [
    "guided_conditional_64",
    "guided_unconditional_256",
    "guided_upsampler",
    "improved_additive",
]
WITHIN = 1e-5  # of the largest value: float32 through some hundred layers


def stored(name):
    """The arrays of a reference, and what is said of them."""
    arrays = np.load(HERE / f"{name}.npz")
    return arrays, json.loads(str(arrays["about"]))


def state_dict(about):
    return {key: torch.from_numpy(value) for key, value in weights(about["shapes"]).items()}


def imported(tmp_path, state, **options):
    """The folder, the request, the task and the network of an import."""
    torch.save(state, tmp_path / "weights.pt")
    import_weights(tmp_path / "weights.pt", tmp_path / "run", **options)
    return tmp_path / "run"


def network_in(folder):
    saved = checkpoint.load(folder, groups=("ema",))
    request = bind(TrainRequest, saved.state["request"])
    task = configure("task", request.task)()
    network = network_of(request, task, objective_of(request).outputs)
    network.load_state_dict(saved.tensors["ema"])
    return network.eval(), request, task


def difference(ours, theirs):
    theirs = torch.as_tensor(theirs)
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_says_what_the_original_said(name, tmp_path):
    arrays, about = stored(name)
    kind = about["package"].replace("_", "-")
    folder = imported(tmp_path, state_dict(about), flags=about["flags"], kind=kind)
    network, request, task = network_in(folder)
    x = torch.from_numpy(2 * numbers("x", tuple(about["x"])))
    batch = {"image": x}
    if "class" in task.conditions:
        batch["class"] = torch.tensor([7, 993][: len(x)])
    if "image" in task.conditions:
        shape = (*x.shape[:2], x.shape[2] // 4, x.shape[3] // 4)
        batch["low"] = torch.from_numpy(numbers("low_res", shape))
    meaning = configure("parameterization", request.parameterization)()
    steps = request.parameterization.options["chain"]
    t = (torch.tensor(about["indices"], dtype=torch.float64) + 1) / steps
    said = network(x, meaning.level(t, t, t).float(), task.prepare(batch).condition)
    assert difference(said, arrays["output"]) < WITHIN


@torch.no_grad()
def test_the_model_estimates_and_steps_as_the_original(tmp_path):
    """From end to end: process, level, parameterization; the chain of 4000, times rescaled."""
    arrays, about = stored("improved_additive")
    folder = imported(tmp_path, state_dict(about), flags=about["flags"], kind="improved-diffusion")
    model = load_model(folder)
    x = torch.from_numpy(2 * numbers("x", tuple(about["x"])))
    u = torch.tensor(about["indices"], dtype=torch.float64) / 4000
    t = u + 1 / 4000
    said = model.denoise(x, t)
    a, b, _ = model.process.posterior_coefficients(t, u)
    mean = over(a, x) * x + over(b, x) * said.x0
    for ours, theirs in ((said.x0, arrays["x0"]), (mean, arrays["mean"])):
        for one, other in zip(ours, theirs, strict=True):  # sizes differ from time to time
            assert difference(one, other) < WITHIN


@torch.no_grad()
@pytest.mark.parametrize("nested", [True, False])
def test_features_of_a_segmentation_checkpoint_are_the_extractor_s(nested, tmp_path):
    """Its loader's activations at step 50, of a plain state dict and of one as trainers save it."""
    arrays, about = stored("segmentation")
    state = state_dict(about)
    if nested:
        other = {f"module.{key}": value + 1 for key, value in state.items()}
        state = {f"module.{key}": value for key, value in state.items()}
        state = {"model": other, "ema": state, "step": 7}
    folder = imported(tmp_path, state, flags=about["flags"], kind="ddpm-segmentation")
    network, request, _ = network_in(folder)
    process = configure("process", request.process)()
    t = torch.tensor([51 / 1000], dtype=torch.float64)
    x0, noise = (torch.from_numpy(numbers(key, tuple(about["x"]))) for key in ("x0", "noise"))
    taken = {}
    for block in (5, 12):
        network.up[block].register_forward_hook(
            lambda module, given, made, block=block: taken.update({block: made})
        )
    network(process.diffuse(x0, t, noise).float(), torch.tensor([50.0]))
    assert difference(taken[5], arrays["block_5"]) < WITHIN
    assert difference(taken[12][:, :, ::4, ::4], arrays["block_12"]) < WITHIN
