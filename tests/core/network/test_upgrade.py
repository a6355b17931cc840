"""Checkpoints of format 1, written by the code of commit 259b982 (`format_1/make.py`)."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.errors import InputError
from core.model import load_model
from core.network.conditioning import null_condition
from core.network.ema import reconstruct
from core.network.unet import UNet
from core.network.upgrade import renamed, upgraded
from core.parts.config import bind
from core.request import Machine, TrainRequest
from core.runs import train
from core.storage import checkpoint, formats, tensor_file

FOLDER = Path(__file__).with_name("format_1")
MACHINE = Machine(threads=1, device="cpu", save_seconds=1e9)
# One rounding of a sum, where another machine adds in another order, grows to this at most.
ROUNDING = 1e-5


@pytest.fixture(params=["unet", "transformer", "classes"])
def run(request, tmp_path):
    """A copy of the run and the outputs that the code of its time computed."""
    folder = shutil.copytree(FOLDER / request.param, tmp_path / "run")
    return folder, load_file(folder / "outputs.safetensors")


def is_output(network, outputs, kind):
    given = {"class": torch.tensor([2, 0])} if network.condition_embedding.label else None
    with torch.no_grad():
        found = network(outputs["x"], outputs["level"], given)
    return float((found - outputs[kind]).abs().max()) < ROUNDING


def trained_request(saved):
    return bind(TrainRequest, upgraded(saved).request, at="checkpoint.request")


def test_a_checkpoint_of_format_1_computes_what_it_did(run):
    folder, outputs = run
    assert is_output(load_model(folder).network, outputs, "ema")
    assert is_output(load_model(folder, ema=False).network, outputs, "model")


@pytest.mark.slow
def test_a_run_of_format_1_resumes_and_its_averages_span_both_formats(run):
    """Also the optimizer's state, by the order of weights, and snapshots of both kinds of names."""
    folder, outputs = run
    notes = []
    wanted = trained_request(checkpoint.load(folder))
    train(wanted, folder, machine=MACHINE, emit=lambda event: notes.append(str(event)))
    assert any("step 2" in note for note in notes)
    assert checkpoint.load(folder).state["format"] == formats.CHECKPOINT_STATE
    assert is_output(load_model(folder).network, outputs, "resumed")
    assert is_output(load_model(folder, ema_width=0.2).network, outputs, "wide")


def test_no_class_of_format_1_is_what_guidance_took_for_it_then(tmp_path):
    """That is class 0, whose output `outputs.safetensors` has for the second sample."""
    outputs = load_file(FOLDER / "classes" / "outputs.safetensors")
    folder = shutil.copytree(FOLDER / "classes", tmp_path / "run")
    given = null_condition({"class": torch.tensor([2, 1])}, torch.tensor([False, True]))
    with torch.no_grad():
        found = load_model(folder).network(outputs["x"], outputs["level"], given)
    assert float((found - outputs["ema"]).abs().max()) < ROUNDING


def test_a_checkpoint_of_format_2_gets_a_row_for_no_class_and_nothing_else():
    """Format 2 had the names of today; the moments of the new row begin at zero."""
    first = checkpoint.load(FOLDER / "classes")
    network = first.request["network"]["name"]
    weights = {renamed(network, name): value for name, value in first.tensors["ema"].items()}
    moments = first.tensors["optimizer"]
    second = replace(
        first,
        state={**first.state, "format": 2},
        tensors={"ema": weights, "optimizer": moments},
    )
    found = upgraded(second)
    label = found.tensors["ema"].pop("condition_embedding.label.weight")
    assert torch.equal(label, weights["condition_embedding.label.weight"][[0, 1, 2, 0]])
    assert all(torch.equal(value, weights[k]) for k, value in found.tensors["ema"].items())
    grown = {k for k, v in found.tensors["optimizer"].items() if v.shape != moments[k].shape}
    assert grown == {"4.exp_avg", "4.exp_avg_sq"}
    for name in grown:
        after, before = found.tensors["optimizer"][name], moments[name]
        assert torch.equal(after[:3], before)
        assert not after[3].any()
    assert found.request["network"]["null"] == "zero"


def test_another_layout_of_norms_does_not_resume_a_run_of_format_1(tmp_path):
    folder = shutil.copytree(FOLDER / "unet", tmp_path / "run")
    saved = checkpoint.load(folder)
    wanted = trained_request(saved)
    assert wanted.network.options["group_channels"] is None
    options = {**wanted.network.options, "group_channels": 4}
    other = replace(wanted, network=replace(wanted.network, options=options))
    with pytest.raises(InputError, match=r"differs in network\.group_channels;"):
        train(other, folder, machine=MACHINE)


def test_the_weights_of_format_1_are_a_start_for_another_run(run, tmp_path):
    folder, outputs = run
    wanted = trained_request(checkpoint.load(folder))
    still = replace(wanted, start=folder, steps=1, lr=1e-30, ema=0.0, snapshots=0)
    train(still, tmp_path / "tuned", machine=MACHINE)
    assert is_output(load_model(tmp_path / "tuned").network, outputs, "ema")


def test_today_s_names_and_those_of_other_networks_stay(run):
    folder, _ = run
    saved = checkpoint.load(folder)
    network = saved.request["network"]["name"]
    for group in ("model", "ema"):
        for name in upgraded(saved).tensors[group]:
            assert renamed(network, name) == name
    assert all(renamed("third/party", name) == name for name in saved.tensors["model"])
    conditional = {"told.label.weight", "told.vector.0.bias"}
    assert {renamed(network, name) for name in conditional} == {
        "condition_embedding.label.weight",
        "condition_embedding.vector.0.bias",
    }


def test_a_checkpoint_of_today_is_left_alone():
    saved = checkpoint.load(FOLDER / "unet")
    today = upgraded(saved)
    assert upgraded(today) is today


@pytest.mark.parametrize("kind", ["conv", "residual", "pool"])
def test_every_name_of_a_u_net_of_format_1_is_known(kind):
    """Names as that code wrote them, spelled out here for one block of each kind."""
    former = {
        "level.linear1.weight", "enter.bias", "norm.weight", "leave.bias",
        "down.0.residual.norm1.weight", "down.0.residual.conv1.bias",
        "down.0.residual.level.weight", "down.0.residual.norm2.bias",
        "down.0.residual.conv2.weight", "up.0.residual.skip.weight", "down.0.cross.kv.bias",
        "middle.first.attention.norm.weight", "middle.first.attention.qkv.bias",
        "middle.second.residual.norm1.bias",
    } | {
        "conv": {"down.1.resample.conv.weight", "up.1.resample.conv.bias"},
        "residual": {"down.1.resample.norm1.weight", "up.1.resample.level.bias"},
        "pool": set(),
    }[kind]  # fmt: skip
    network = UNet(1, 1, {"sequence": 3}, width=4, multipliers=(1, 2), blocks=1,
                   attention=(1, 2), resample=kind, heads=1)  # fmt: skip
    assert {renamed("core/unet", name) for name in former} <= network.state_dict().keys()


def test_a_weight_of_two_names_in_two_snapshots_is_averaged_over_both(tmp_path):
    folder = shutil.copytree(FOLDER / "unet" / "averages", tmp_path / "averages")
    old = load_file(folder / "00000002.safetensors")
    new = {}
    for label, value in old.items():
        width, _, name = label.partition("/")
        new[f"{width}/{renamed('core/unet', name)}"] = value
    tensor_file.save(folder / "00000003.safetensors", new)
    step, found = reconstruct(folder, 0.07, until=3, network="core/unet")
    assert step == 3
    assert all(torch.isfinite(value).all() for value in found.values())
    assert {f"0.05/{name}" for name in found} == {n for n in new if n.startswith("0.05/")}
