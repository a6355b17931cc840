"""Weights of guided-diffusion's family: our network says what the original's code said.

References and weights: tests/core/weights/reference/README.md.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.model import load_model
from core.network.upgrade import LABEL
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.gaussian import over
from core.storage import checkpoint
from core.weights import openai
from core.weights.flags import Flags, flags_of, parse_flags
from core.weights.importing import import_weights
from core.weights.published import PUBLISHED
from core.weights.translation import Described, skeleton

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


def difference(ours, theirs):
    theirs = torch.as_tensor(theirs)
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_says_what_the_original_said(name, tmp_path):
    arrays, about = stored(name)
    kind = about["package"].replace("_", "-")
    folder = imported(tmp_path, state_dict(about), flags=about["flags"], kind=kind)
    model = load_model(folder)
    network, request, task = model.network, model.request, model.task
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    model = load_model(folder)
    network, request = model.network, model.request
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


# --- what shapes and flags say -------------------------------------------------------------------


def edited(name, change):
    state = state_dict(stored(name)[1])
    change(state)
    return state


def small_state():
    """The additive one: quick to make, and its chain is told by flags alone."""
    about = stored("improved_additive")[1]
    return state_dict(about), about["flags"]


@pytest.mark.slow
def test_every_tensor_is_accounted_for(tmp_path):
    state, flags = small_state()
    del state["input_blocks.3.0.op.weight"], state["middle_block.1.proj_out.bias"]
    state["output_blocks.2.3.weight"] = torch.zeros(3, 5)
    with pytest.raises(InputError) as caught:
        imported(tmp_path, state, flags=flags, kind="improved-diffusion")
    for words in (
        "missing: input_blocks.3.0.op.weight",
        "missing: middle_block.1.proj_out.bias",
        "left over: output_blocks.2.3.weight 3x5",
    ):
        assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_shapes_that_differ_are_listed(tmp_path):
    state, flags = small_state()
    state["middle_block.1.qkv.weight"] = torch.zeros(96, 128, 1)
    state["out.0.bias"] = torch.zeros(31)
    with pytest.raises(InputError) as caught:
        imported(tmp_path, state, flags=flags, kind="improved-diffusion")
    assert "out.0.bias 31: expected 32 for conv_out.norm.bias" in str(caught.value)
    assert "middle_block.1.qkv.weight 96x128x1: expected 384x128" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--num_channels 128", "--num_channels 128: the file has 32"),
        ("--num_res_blocks 3", "--num_res_blocks 3: the file has 2"),
        ("--use_scale_shift_norm True", "--use_scale_shift_norm True: the file has False"),
        ("--resblock_updown True", "--resblock_updown True: the file has False"),
        ("--class_cond True", "--class_cond True: the file has False"),
        ("--learn_sigma True", "--learn_sigma True: the file has False"),
        ("--channel_mult 1,2,2", "--channel_mult 1,2,2: the file has 1,2,3,4"),
        ("--image_size 256", "--image_size 256 means multipliers"),
        ("--image_size 64 --attention_resolutions 8", "means attention at factors [8]"),
        ("--num_heads_upsample 2", "--num_heads_upsample"),
        ("--noise_schedule quadratic", "expected linear or cosine, got 'quadratic'"),
    ],
)
def test_flags_that_contradict_the_file_are_refused(flags, words):
    shapes = {k: tuple(v) for k, v in stored("improved_additive")[1]["shapes"].items()}
    with pytest.raises(InputError) as caught:
        openai.describe(shapes, Flags(parse_flags(flags)), "x.pt")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--foo 3", "--foo: the originals have no such flag"),
        ("num_heads 3", "expected a flag such as --image_size, got 'num_heads'"),
        ("--num_heads", "--num_heads: has no value"),
        ("--num_heads x", "--num_heads: expected a whole number, got 'x'"),
        ("--learn_sigma perhaps", "--learn_sigma: expected True or False"),
        ("--attention_resolutions 16,a", "whole numbers with commas"),
        ("--diffusion_steps 1", "--diffusion_steps"),
        ("--image_size 0", "--image_size"),
        ("'", "cannot be split"),
    ],
)
def test_flags_that_make_no_sense_are_refused(text, words):
    with pytest.raises(InputError) as caught:
        parse_flags(text)
    assert words in str(caught.value)


def test_flags_are_read_as_the_original_reads_them():
    """Its argparse: later ones win, = is allowed, those of training are taken and have no say."""
    found = parse_flags("--image_size=64 --learn_sigma yes --lr 1e-4 --image_size 32 --dropout 0.3")
    assert found == {"image_size": 32, "learn_sigma": True, "dropout": 0.3}


def test_where_the_two_packages_differ_one_has_to_be_named():
    """Only times rescaled to a thousand tell them apart, and only in other chains."""
    assert flags_of({}, "", residual=False)["rescale_timesteps"] is False
    assert flags_of({}, "improved-diffusion", residual=False)["rescale_timesteps"] is True
    longer = {"diffusion_steps": 4000}
    assert flags_of(longer, "", residual=True).package == "guided-diffusion"
    with pytest.raises(InputError, match="add --format"):
        flags_of(longer, "", residual=False)


@pytest.mark.parametrize(
    ("steps", "schedule", "name", "ends"),
    [
        (1000, "linear", "core/beta_table", (1e-4, 0.02)),
        (4000, "linear", "core/beta_table", (2.5e-5, 0.005)),  # as guided-diffusion scales them
        (4000, "cosine", "core/cosine_table", None),
    ],
)
def test_the_chain_is_the_one_of_the_flags(steps, schedule, name, ends):
    shapes = {k: tuple(v) for k, v in stored("improved_additive")[1]["shapes"].items()}
    flags = Flags({"diffusion_steps": steps, "noise_schedule": schedule})
    process = openai.describe(shapes, flags, "x.pt").process
    assert (process.name, process.options["steps"]) == (name, steps)
    if ends:
        found = (process.options["beta_start"], process.options["beta_end"])
        assert found == pytest.approx(ends, rel=1e-12)


# The README's rows, by hand: multipliers, attention at factors, heads, classes, T, unit, picture.
ROWS = {
    "64x64_diffusion": ((1, 2, 3, 4), (2, 4, 8), {"head_channels": 64}, 1000, 1000, 1.0, 0),
    "512x512_diffusion": (
        (0.5, 1, 1, 2, 2, 4, 4), (16, 32, 64), {"head_channels": 64}, 1000, 1000, 1.0, 0,
    ),
    "64_256_upsampler": ((1, 1, 2, 2, 4, 4), (8, 16, 32), {"heads": 4}, 1000, 1000, 1.0, 3),
    "128_512_upsampler": (
        (1, 1, 2, 2, 4, 4), (16, 32), {"head_channels": 64}, 1000, 1000, 1.0, 3,
    ),
    "lsun_cat": ((1, 1, 2, 2, 4, 4), (8, 16, 32), {"head_channels": 64}, 0, 1000, 1.0, 0),
    "cifar10_uncond_50M_500K": ((1, 2, 2, 2), (2, 4), {"heads": 4}, 0, 4000, 0.25, 0),
    "lsun_uncond_100M_1200K_bs128": ((1, 1, 2, 2, 4, 4), (16,), {"heads": 1}, 0, 1000, 1.0, 0),
    "upsample_cond_500K": ((1, 1, 2, 2, 4, 4), (16, 32), {"heads": 4}, 1000, 4000, 1.0, 3),
}  # fmt: skip


# Counted in the original's own networks of those flags.
PARAMETERS = {
    "64x64_diffusion": 295904454,
    "512x512_diffusion": 558997638,
    "64_256_upsampler": 311795910,
    "128_512_upsampler": 308835270,
    "lsun_cat": 552814086,
    "cifar10_uncond_50M_500K": 52546438,
    "lsun_uncond_100M_1200K_bs128": 113676678,
    "upsample_cond_500K": 279792390,
}


@pytest.mark.parametrize("name", ROWS)
def test_a_published_checkpoint_s_flags_fit_the_network_they_make(name):
    """Shapes as our network of that width would have them, under the original's names."""
    multipliers, attention, heads, classes, steps, unit, image = ROWS[name]
    package, line = PUBLISHED[name]
    flags = Flags(parse_flags(line), package)
    network = {
        "width": flags["num_channels"], "multipliers": multipliers, "attention": attention,
        "blocks": flags["num_res_blocks"], "resample": "residual" if flags["resblock_updown"]
        else "conv", "adaptive": "scale_shift" if flags["use_scale_shift_norm"] else "shift",
    }  # fmt: skip
    size = flags["large_size" if image else "image_size"]
    meant = Described(
        size=(3, size, size), outputs=2, network=network | heads, process=Spec("core/beta_table"),
        parameterization=Spec("core/eps"), classes=classes, image=image, factor=4,
    )  # fmt: skip
    ours = skeleton(meant)
    naming = openai.naming(ours)
    sizes = dict(ours)
    if classes:  # theirs has no row for no class
        sizes[LABEL] = (classes, *ours[LABEL][1:])
    shapes = {naming(key)[0]: shape for key, shape in sizes.items()}
    found = openai.describe(shapes, flags, name)
    assert found.size == meant.size
    assert (found.classes, found.image, found.outputs) == (classes, image, 2)
    assert tuple(found.network["attention"]) == attention
    assert {key: found.network.get(key) for key in heads} == heads
    assert found.parameterization.options == {"level": "index", "chain": steps, "unit": unit}
    assert skeleton(found) == ours
    assert sum(map(math.prod, sizes.values())) == PARAMETERS[name]


@pytest.mark.slow
def test_a_classifier_is_told_apart(tmp_path):
    def halve(state):
        for key in [key for key in state if key.startswith("output_blocks.")]:
            del state[key]

    with pytest.raises(InputError, match="a classifier"):
        imported(tmp_path, edited("improved_additive", halve))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"like": "lsun_caf"}, "did you mean 'lsun_cat'"),
        ({"kind": "diffusers"}, "requires the folder"),
        ({"entry": "ema"}, "has no mapping named 'ema'"),
    ],
)
def test_what_was_asked_wrongly_is_said(options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        imported(tmp_path, {"a": torch.zeros(2)}, **options)


@pytest.mark.slow
def test_other_tensors_are_no_network(tmp_path):
    with pytest.raises(InputError, match="not a state dict of guided-diffusion"):
        imported(tmp_path, {"a": torch.zeros(2)})


@pytest.mark.slow
def test_narrow_floats_become_float32_and_are_said(tmp_path):
    state, flags = small_state()
    torch.save({key: value.half() for key, value in state.items()}, tmp_path / "half.pt")
    made = import_weights(
        tmp_path / "half.pt", tmp_path / "run", flags=flags, kind="improved-diffusion"
    )
    assert "converted float16 to float32" in made.notes
    taken = checkpoint.load(tmp_path / "run").tensors["model"]
    assert taken["conv_in.weight"].dtype == torch.float32
    assert torch.equal(taken["conv_in.weight"], state["input_blocks.0.0.weight"].half().float())


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    state, flags = small_state()
    folder = imported(tmp_path, state, flags=flags, kind="improved-diffusion")
    with pytest.raises(InputError, match="choose another output folder"):
        imported(tmp_path, state, flags=flags, kind="improved-diffusion")
    assert load_model(folder).parameters == sum(value.numel() for value in state.values())
