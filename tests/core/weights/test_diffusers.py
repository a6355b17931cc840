"""Folders of diffusers: what UNet2DModel said, our network says; there and back loses no bit.

References and weights: tests/core/weights/reference/README.md.  `tests/parity` asks diffusers.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import InputError
from core.model import load_model
from core.storage import checkpoint
from core.weights import diffusers
from core.weights.exporting import export_weights
from core.weights.importing import import_weights

HERE = Path(__file__).parent / "reference"
sys.path.insert(0, str(HERE))
from folders import CHAINS, FOLDERS, INDICES  # noqa: E402
from recipe import numbers, weights  # noqa: E402

WITHIN = 1e-5  # of the largest value: float32 through some hundred layers
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def stored(name):
    arrays = np.load(HERE / f"diffusers_{name}.npz")
    return arrays, json.loads(str(arrays["about"]))


def state_dict(name):
    shapes = stored(name)[1]["shapes"]
    return {key: torch.from_numpy(value) for key, value in weights(shapes).items()}


def folder_of(place, name, *, pipeline=True, changes=None, chain=None, state=None):
    """The folder that diffusers would have saved."""
    unet, scheduler = (place / "unet", place / "scheduler") if pipeline else (place, place)
    for folder in (unet, scheduler):
        folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "UNet2DModel", "_diffusers_version": "0.1"} | FOLDERS[name]
    (unet / "config.json").write_text(json.dumps(config | (changes or {})))
    said = {"_class_name": "DDPMScheduler"} | CHAINS[name] | (chain or {})
    (scheduler / "scheduler_config.json").write_text(json.dumps(said))
    save_file(state or state_dict(name), unet / diffusers.WEIGHTS[0])
    return place


def difference(ours, theirs):
    theirs = torch.as_tensor(theirs)
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("pipeline", [True, False])
@pytest.mark.parametrize("name", FOLDERS)
def test_the_network_says_what_diffusers_said(name, pipeline, tmp_path):
    arrays, about = stored(name)
    import_weights(folder_of(tmp_path / "from", name, pipeline=pipeline), tmp_path / "run")
    network = load_model(tmp_path / "run").network
    x = torch.from_numpy(2 * numbers("x", tuple(about["x"])))
    condition = {"class": torch.tensor([2, 9])} if name == "rich" else {}
    said = network(x, torch.tensor(INDICES).float(), condition)
    assert difference(said, arrays["output"]) < WITHIN
    model = load_model(tmp_path / "run")
    steps = CHAINS[name].get("num_train_timesteps", 1000)
    t = (torch.tensor(INDICES, dtype=torch.float64) + 1) / steps
    for ours, theirs in zip(model.denoise(x, t, condition).x0, arrays["x0"], strict=True):
        # Their table of alphas is a float32 product of up to a thousand factors.
        assert difference(ours, theirs) < 2e-5


def test_attention_under_its_names_of_old_is_the_same(tmp_path):
    state = state_dict("ddpm")
    old = {}
    for name, value in state.items():
        for now, then in OLD.items():
            name = name.replace(f".{now}.", f".{then}.")
        old[name] = value
    assert len(old.keys() - state.keys()) == 4 * 2 * (2 + 3 + 1)
    import_weights(folder_of(tmp_path / "old", "ddpm", state=old), tmp_path / "a")
    import_weights(folder_of(tmp_path / "new", "ddpm"), tmp_path / "b")
    first, second = (checkpoint.load(tmp_path / run).tensors["model"] for run in "ab")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
def test_pickled_weights_of_a_folder_are_read_by_the_other_process(tmp_path):
    place = folder_of(tmp_path / "from", "rich")
    (place / "unet" / diffusers.WEIGHTS[0]).unlink()
    torch.save(state_dict("rich"), place / "unet" / diffusers.WEIGHTS[1])
    import_weights(place, tmp_path / "a")
    import_weights(folder_of(tmp_path / "safe", "rich"), tmp_path / "b")
    first, second = (checkpoint.load(tmp_path / run).tensors["ema"] for run in "ab")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("name", FOLDERS)
def test_there_and_back_loses_no_bit(name, tmp_path):
    place = folder_of(tmp_path / "from", name)
    import_weights(place, tmp_path / "a")
    export_weights(tmp_path / "a", tmp_path / "exported")
    before = load_file(place / "unet" / diffusers.WEIGHTS[0])
    after = load_file(tmp_path / "exported" / "unet" / diffusers.WEIGHTS[0])
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    import_weights(tmp_path / "exported", tmp_path / "b")
    first, second = (checkpoint.load(tmp_path / run) for run in "ab")
    assert first.state["request"] == second.state["request"]
    for group in ("model", "ema"):
        for key, value in first.tensors[group].items():
            assert torch.equal(value, second.tensors[group][key])
    config = json.loads((tmp_path / "exported" / "unet" / "config.json").read_text())
    meant = {"silu": "silu"}
    for key, value in FOLDERS[name].items():  # block types may differ where nothing changes size
        if not key.endswith("block_types"):
            assert config[key] == meant.get(value if isinstance(value, str) else "", value), key


@pytest.mark.parametrize(
    ("chain", "process", "options"),
    [
        ({"beta_schedule": "sigmoid"}, "core/beta_table", {"shape": "sigmoid"}),
        ({"rescale_betas_zero_snr": True}, "core/beta_table", {"zero_terminal_snr": True}),
        (
            {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
            "core/custom_table",
            {"betas": [0.1, 0.2, 0.3]},
        ),
        ({"prediction_type": "sample"}, "core/beta_table", {"steps": 1000}),
    ],
)
def test_a_chain_becomes_the_process_of_its_name_and_back(chain, process, options, tmp_path):
    place = folder_of(tmp_path / "from", "default", chain=chain)
    made = import_weights(place, tmp_path / "run")
    assert made.request.process.name == process
    found = made.request.process.options
    assert {key: list(found[key]) if key == "betas" else found[key] for key in options} == options
    export_weights(tmp_path / "run", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert {key: said[key] for key in chain} == chain


BAD = {
    "center_input_sample": True,
    "time_embedding_type": "fourier",
    "freq_shift": 2,
    "mid_block_type": None,
    "mid_block_scale_factor": 1.5,
    "downsample_padding": 2,
    "downsample_type": "fir",
    "act_fn": "gelu",
    "attn_norm_num_groups": 7,
    "norm_eps": 0,
    "resnet_time_scale_shift": "ada_group",
    "class_embed_type": "timestep",
    "dropout": 1.0,
    "sample_size": "large",
    "attention_head_dim": 0,
    "encoder_hid_dim": 3,
    "block_out_channels": 32,
}


def test_all_that_cannot_be_is_named_at_once(tmp_path):
    chain = {"beta_schedule": "laplace", "prediction_type": "flow", "variance_type": "learned"}
    chain["_class_name"] = "ScoreSdeVeScheduler"
    place = folder_of(tmp_path / "from", "default", changes=BAD, chain=chain)
    with pytest.raises(InputError) as caught:
        import_weights(place, tmp_path / "run")
    text = str(caught.value)
    assert [name for name in BAD if f"{name}: " not in text] == []
    assert [name for name in chain if f"scheduler.{name}: " not in text] == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name: expected UNet2DModel"),
        ({"down_block_types": ["CrossAttnDownBlock2D"] * 4}, "expected some of DownBlock2D"),
        ({"down_block_types": ["DownBlock2D"] * 4}, "attention where down_block_types has it"),
        ({"downsample_type": "resnet"}, "sizes change in different ways, conv and residual"),
        ({"time_embedding_dim": 100}, "time_embedding_dim: expected null or 128"),
        ({"norm_num_groups": 30}, "norm_num_groups: 30 does not divide"),
        ({"attention_head_dim": 5}, "attention_head_dim: 5 does not divide"),
        ({"out_channels": 6}, "variance_type"),
        ({"out_channels": 4}, "out_channels: 4 of in_channels 3"),
        ({"up_block_types": ["UpBlock2D"]}, "equally many"),
        ({"down_block_types": [[], {}, 1, None]}, "expected some of DownBlock2D"),
        ({"layers_per_block": 10**9}, "layers_per_block: expected a number of blocks, at most 64"),
        ({"layers_per_block": 3}, "missing: down_blocks.0.resnets.2.conv1.bias"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(changes, words, tmp_path):
    place = folder_of(tmp_path / "from", "default", changes=changes)
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        import_weights(place, tmp_path / "run")


def test_any_value_of_any_option_is_taken_or_refused():
    """A thousand configs with a strange value or two: described, or InputError; nothing else."""
    draw, values = random.Random(0), [
        None, True, False, 0, 1, -1, 2**40, 1.5, "x", "conv", "DownBlock2D", [], [1, 2], [None],
        [[1]], {}, float("nan"), float("inf"),
    ]  # fmt: skip
    taken = 0
    for _ in range(1000):
        config = dict(diffusers.MODEL) | FOLDERS[draw.choice(list(FOLDERS))]
        chain = dict(diffusers.CHAIN) | {"_class_name": "DDPMScheduler"}
        for side in draw.choices([config, config, chain], k=draw.choice([1, 1, 2])):
            side[draw.choice(list(side))] = draw.choice(values)
        try:
            diffusers.describe(config, chain)
            taken += 1
        except InputError:
            pass
    assert 20 < taken < 500


def test_every_tensor_is_accounted_for(tmp_path):
    state = state_dict("default")
    lost = state.pop("mid_block.attentions.0.to_k.bias")
    state["extra.weight"] = torch.zeros(2, 3)
    place = folder_of(tmp_path / "from", "default", state=state)
    with pytest.raises(InputError) as caught:
        import_weights(place, tmp_path / "run")
    assert "missing: mid_block.attentions.0.to_k.bias" in str(caught.value)
    assert "left over: extra.weight 2x3" in str(caught.value)
    del state["extra.weight"]
    state["mid_block.attentions.0.to_k.bias"] = lost[:-1]
    save_file(state, place / "unet" / diffusers.WEIGHTS[0])
    with pytest.raises(InputError, match=r"to_k\.bias 127"):
        import_weights(place, tmp_path / "run")
