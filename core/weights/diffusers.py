"""Folders of diffusers' `UNet2DModel`, read and written without diffusers.

A folder holds ``config.json`` and ``diffusion_pytorch_model.safetensors``, and its scheduler's
``scheduler_config.json``; or these in ``unet`` and ``scheduler`` beside ``model_index.json``.
Source: github.com/huggingface/diffusers 0.42, models/unets/unet_2d.py, unet_2d_blocks.py and
schedulers/scheduling_ddpm.py.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from core.errors import InputError
from core.parts.registry import Spec
from core.weights.translation import Described, Weights, ratio

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

# UNet2DModel's options, with its defaults.
MODEL: dict[str, Any] = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False,
    "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2,
    "mid_block_scale_factor": 1, "downsample_padding": 1, "downsample_type": "conv",
    "upsample_type": "conv", "dropout": 0.0, "act_fn": "silu", "attention_head_dim": 8,
    "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default", "add_attention": True, "class_embed_type": None,
    "num_class_embeds": None, "num_train_timesteps": None,
}  # fmt: skip


def _whole(value: Any, least: int = 1, most: int = 2**24) -> bool:
    return type(value) is int and least <= value <= most


def _fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


# Options with the one value that our U-Net supports, and those with several.
FIXED: dict[str, Any] = {
    "center_input_sample": False, "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1, "class_embed_type": None,
}  # fmt: skip
CHOICES: dict[str, list[Any]] = {
    "freq_shift": [0, 1], "flip_sin_to_cos": [True, False], "downsample_padding": [1, 0],
    "downsample_type": ["conv", "resnet"], "upsample_type": ["conv", "resnet"],
    "act_fn": ["silu", "swish"], "resnet_time_scale_shift": ["default", "scale_shift"],
    "add_attention": [True, False],
}  # fmt: skip
NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sample_size": (
        lambda v: (
            v is None or _whole(v) or (type(v) is list and len(v) == 2 and all(map(_whole, v)))
        ),
        "null, a size or two",
    ),
    "in_channels": (_whole, "a number of channels"),
    "out_channels": (_whole, "a number of channels"),
    "block_out_channels": (
        lambda v: type(v) is list and 0 < len(v) <= 16 and all(map(_whole, v)),
        "channels at each resolution, at most 16",
    ),
    "layers_per_block": (lambda v: _whole(v, most=64), "a number of blocks, at most 64"),
    "dropout": (_fraction, "a fraction below 1"),
    "attention_head_dim": (lambda v: v is None or _whole(v), "null or channels of a head"),
    "norm_num_groups": (_whole, "a number of groups"),
    "norm_eps": (lambda v: _fraction(v) and v > 0, "a small number above 0"),
    "num_class_embeds": (lambda v: v is None or _whole(v), "null or a number of classes"),
}
# The options of its schedulers that a network's training depends on, with their defaults.
CHAIN: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02,
    "beta_schedule": "linear", "trained_betas": None, "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False, "variance_type": "fixed_small",
}  # fmt: skip
# Schedulers that train on that chain and differ in how they sample.
SCHEDULERS = (
    "DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler", "DDPMParallelScheduler",
    "DDIMParallelScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
)  # fmt: skip
PREDICTIONS = {"epsilon": "core/eps", "sample": "core/x0", "v_prediction": "core/v"}
SHAPES = {"linear": "linear", "scaled_linear": "sqrt_linear", "sigmoid": "sigmoid"}
# Block type -> whether it attends, and how it changes size: None for the config's own option.
DOWN = {
    "DownBlock2D": (False, "conv"),
    "ResnetDownsampleBlock2D": (False, "residual"),
    "AttnDownBlock2D": (True, None),
}
UP = {
    "UpBlock2D": (False, "conv"),
    "ResnetUpsampleBlock2D": (False, "residual"),
    "AttnUpBlock2D": (True, None),
}
TYPES = {"conv": "conv", "resnet": "residual"}
# Attention's names before 0.15.
FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def is_folder(place: Path) -> bool:
    """Whether a folder looks like one of diffusers'."""
    return any((place / name).is_file() for name in ("config.json", "unet/config.json"))


def files_of(place: Path) -> tuple[Path, Path, Path | None]:
    """The config, the weights and the scheduler's config of a folder.

    Raises:
        InputError: no weights in it.
    """
    unet = place / "unet" if (place / "unet" / "config.json").is_file() else place
    weights = [unet / name for name in WEIGHTS if (unet / name).is_file()]
    if not weights:
        raise InputError(f"{unet}: has a config and none of {', '.join(WEIGHTS)}; get one of them")
    names = ("scheduler/scheduler_config.json", "scheduler_config.json")
    schedulers = [p for base in (place, unet.parent) for n in names if (p := base / n).is_file()]
    return unet / "config.json", weights[0], schedulers[0] if schedulers else None


def describe(config: Mapping[str, Any], scheduler: Mapping[str, Any] | None) -> Described:
    """The network and its chain, from the two configs.

    Raises:
        InputError: values that our network does not support, all of them by name.
    """
    problems = _unsupported(config) + _chain_problems(scheduler or {})
    if problems:
        raise InputError("\n".join(["cannot be imported:", *problems]))
    chain = _chain(scheduler or {})
    given = MODEL | {k: v for k, v in config.items() if not k.startswith("_")}
    channels, out = given["in_channels"], given["out_channels"]
    outputs = 2 if out == 2 * channels else 1
    if out not in (channels, 2 * channels) or (outputs == 2) != chain.learned:
        raise InputError(
            f"cannot be imported:\nout_channels: {out} of in_channels {channels} with "
            f"variance_type {'learned_range' if chain.learned else 'fixed'}; expected as many "
            "channels, or twice as many with learned_range"
        )
    size = given["sample_size"]
    sides = (32, 32) if size is None else (size, size) if isinstance(size, int) else tuple(size)
    notes = () if size is not None else ("config has no sample_size; assuming 32",)
    if scheduler is None:
        notes += ("no scheduler_config.json; assuming DDPM's chain of 1000 linear betas",)
    return Described(
        size=(channels, *sides),
        outputs=outputs,
        network=_network(given),
        process=chain.process,
        parameterization=Spec(chain.parameterization, {"level": "index", "chain": chain.steps}),
        classes=given["num_class_embeds"] or 0,
        chain=chain.steps,
        guidance=_guidance(scheduler or {}),
        notes=notes,
    )


def _unsupported(config: Mapping[str, Any]) -> list[str]:
    """Options of a model's config that our network does not support, a sentence each."""
    given = MODEL | {k: v for k, v in config.items() if not k.startswith("_")}
    found = [f"{name}: not an option of UNet2DModel" for name in sorted(set(given) - set(MODEL))]
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        found.append(f"_class_name: expected UNet2DModel, got {json.dumps(kind)[:80]}")
    supported = {name: [value] for name, value in FIXED.items()} | CHOICES
    supported["attn_norm_num_groups"] = [None, given["norm_num_groups"]]
    for name, values in supported.items():
        if not any(_same(given[name], value) for value in values):
            listed = " or ".join(json.dumps(value) for value in values)
            found.append(f"{name}: expected {listed}, got {json.dumps(given[name])[:80]}")
    for name, (fits, expected) in NUMBERS.items():
        if not fits(given[name]):
            found.append(f"{name}: expected {expected}, got {json.dumps(given[name])[:80]}")
    lists = [given[key] for key in ("block_out_channels", "down_block_types", "up_block_types")]
    if not all(isinstance(value, list) and len(value) == len(lists[0]) for value in lists):
        found.append("block_out_channels, down_block_types, up_block_types: expected equally many")
    return found or _unsupported_blocks(given)


def _same(a: Any, b: Any) -> bool:
    """Equal in JSON: 1 and 1.0 are, 1 and true are not."""
    return a == b and (type(a) is bool) == (type(b) is bool)


def _unsupported_blocks(given: Mapping[str, Any]) -> list[str]:
    """Problems of the blocks: their types, their order, how they change size."""
    down, up, sizes = (
        given[key] for key in ("down_block_types", "up_block_types", "block_out_channels")
    )
    if any(kind not in tuple(DOWN) for kind in down) or any(kind not in tuple(UP) for kind in up):
        return [
            f"down_block_types, up_block_types: expected some of {', '.join((*DOWN, *UP))}, got "
            f"{json.dumps([*down, *up])[:200]}"
        ]
    found = []
    attends = [DOWN[kind][0] for kind in down]
    if attends != [UP[kind][0] for kind in reversed(up)]:
        found.append("up_block_types: expected attention where down_block_types has it")
    ways = _ways(given)
    if len(ways) > 1:
        found.append(
            "down_block_types, up_block_types, downsample_type, upsample_type: sizes change in "
            f"different ways, {' and '.join(sorted(ways))}; expected one"
        )
    dim = given["time_embedding_dim"]
    if dim not in (None, 4 * sizes[0]):
        found.append(f"time_embedding_dim: expected null or {4 * sizes[0]}, got {json.dumps(dim)}")
    groups, head = given["norm_num_groups"], given["attention_head_dim"]
    uneven = sorted({c for c in sizes if c % groups})
    if uneven:
        found.append(f"norm_num_groups: {groups} does not divide {uneven}")
    attending = {c for c, yes in zip(sizes, attends, strict=True) if yes}
    attending |= {sizes[-1]} if given["add_attention"] else set()
    if head and (uneven := sorted(c for c in attending if c % head)):
        found.append(f"attention_head_dim: {head} does not divide {uneven}")
    return found


def _ways(given: Mapping[str, Any]) -> set[str]:
    """How sizes change: by a convolution, or in residual blocks."""
    down, up = given["down_block_types"], given["up_block_types"]
    ways = {DOWN[kind][1] or TYPES[given["downsample_type"]] for kind in down[:-1]}
    return ways | {UP[kind][1] or TYPES[given["upsample_type"]] for kind in up[:-1]}


def _network(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of our network, of a config without problems."""
    sizes = given["block_out_channels"]
    head = given["attention_head_dim"]
    attends = [DOWN[kind][0] for kind in given["down_block_types"]]
    shifts = given["resnet_time_scale_shift"] == "scale_shift"
    return {
        "width": sizes[0],
        "multipliers": [ratio(c, sizes[0]) for c in sizes],
        "blocks": given["layers_per_block"],
        "attention": [2**depth for depth, yes in enumerate(attends) if yes],
        "middle_attention": given["add_attention"],
        # Without groups of its own, a scaled and shifted network's middle attention has no norm.
        "middle_norm": not shifts or given["attn_norm_num_groups"] is not None,
        **({"heads": 1} if head is None else {"head_channels": head}),
        "adaptive": "scale_shift" if shifts else "shift",
        "resample": next(iter(_ways(given)), "conv"),
        "downsample_padding": "both" if given["downsample_padding"] else "after",
        "groups": given["norm_num_groups"],
        "group_channels": None,
        "epsilon": float(given["norm_eps"]),
        "sine_first": not given["flip_sin_to_cos"],
        "frequency_shift": given["freq_shift"],
        "dropout": float(given["dropout"]),
    }


def _chain_options(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's class and options, defaults filled in."""
    given = {key: scheduler[key] for key in CHAIN if key in scheduler}
    return {"_class_name": scheduler.get("_class_name", "DDPMScheduler")} | CHAIN | given


def _chain_problems(scheduler: Mapping[str, Any]) -> list[str]:
    """Options of a scheduler that our processes do not have, a sentence each."""
    given = _chain_options(scheduler)
    betas, steps = given["trained_betas"], given["num_train_timesteps"]
    table = isinstance(betas, list) and all(type(beta) is float for beta in betas)
    shapes = (*SHAPES, "squaredcos_cap_v2")
    # Option, whether its value is supported, and the supported values.
    checks: list[tuple[str, bool, str]] = [
        ("_class_name", given["_class_name"] in SCHEDULERS, f"one of {', '.join(SCHEDULERS)}"),
        ("prediction_type", given["prediction_type"] in tuple(PREDICTIONS), ", ".join(PREDICTIONS)),
        ("num_train_timesteps", _whole(steps, 2, 10**6), "2 to a million"),
        (
            "trained_betas",
            betas is None or (table and len(betas) == steps),
            "null or num_train_timesteps numbers",
        ),
        (
            "beta_schedule",
            betas is not None or given["beta_schedule"] in shapes,
            f"{', '.join(shapes[:-1])} or {shapes[-1]}",
        ),
        ("variance_type", given["variance_type"] != "learned", "learned_range or a fixed one"),
    ]
    checks += [
        (end, type(given[end]) is float and 0 < given[end] < 1, "a number between 0 and 1")
        for end in ("beta_start", "beta_end")
    ]
    return [
        f"scheduler.{name}: expected {supported}, got {json.dumps(given[name])[:80]}"
        for name, fits, supported in checks
        if not fits
    ]


@dataclass(frozen=True)
class Chain:
    """The chain that a network was trained on.

    Args:
        process: as a process of ours.
        parameterization: full name of the meaning of the network's output.
        steps: of the chain.
        learned: whether the network has an output for the variance.
    """

    process: Spec
    parameterization: str
    steps: int
    learned: bool


def _chain(scheduler: Mapping[str, Any]) -> Chain:
    """The chain of a scheduler without problems."""
    given = _chain_options(scheduler)
    steps = given["num_train_timesteps"]
    zero = {"zero_terminal_snr": True} if given["rescale_betas_zero_snr"] else {}
    if given["trained_betas"] is not None:
        process = Spec("core/custom_table", {"betas": given["trained_betas"], **zero})
    elif given["beta_schedule"] == "squaredcos_cap_v2":
        process = Spec("core/cosine_table", {"steps": steps, **zero})
    else:
        ends = {end: given[end] for end in ("beta_start", "beta_end")}
        shape = SHAPES[given["beta_schedule"]]
        process = Spec("core/beta_table", {"steps": steps, **ends, "shape": shape, **zero})
    learned = given["variance_type"] == "learned_range"
    return Chain(process, PREDICTIONS[given["prediction_type"]], steps, learned)


def _guidance(scheduler: Mapping[str, Any]) -> Spec | None:
    """The guidance that a scheduler applies to x0: clipping, by default to [-1, 1], or none.

    Dynamic thresholding there caps its quantile by `sample_max_value`, 1 by default, which is
    clipping; with another cap it is taken without one.
    """
    clips = scheduler.get("_class_name", "DDPMScheduler").startswith(("DDPM", "DDIM"))
    most = scheduler.get("clip_sample_range", 1.0)
    if scheduler.get("thresholding") is True:
        ratio = scheduler.get("dynamic_thresholding_ratio", 0.995)
        if scheduler.get("sample_max_value", 1.0) != 1.0:
            return Spec("core/dynamic_threshold", {"quantile": ratio})
        most = 1.0
    elif not scheduler.get("clip_sample", clips):
        return None
    if type(most) not in (int, float) or not 0 < most < math.inf:
        most = 1.0
    return Spec("core/clip", {"low": -float(most), "high": float(most)})


# --- names -------------------------------------------------------------------------------------

RESIDUAL = {
    "in_layers.norm": "norm1", "in_layers.conv": "conv1", "emb_layers": "time_emb_proj",
    "out_layers.norm": "norm2", "out_layers.conv": "conv2", "skip": "conv_shortcut",
}  # fmt: skip
REST = {
    "level_embedding.linear1": "time_embedding.linear_1",
    "level_embedding.linear2": "time_embedding.linear_2",
    "condition_embedding.label": "class_embedding", "conv_in": "conv_in",
    "conv_out.norm": "conv_norm_out", "conv_out.conv": "conv_out",
}  # fmt: skip


def naming(blocks: int) -> Any:
    """Which tensors of a UNet2DModel each of ours is; `blocks` residual blocks a resolution."""

    def place(way: str, number: str, part: str) -> str:
        if way == "middle":
            at = {"first": 0, "second": 1}[number]
            return f"mid_block.{'attentions' if part == 'attention' else 'resnets'}.{at}"
        depth, at = divmod(int(number), blocks + 1)
        kinds = {"residual": f"resnets.{at}", "attention": f"attentions.{at}"}
        change = "downsamplers.0" if way == "down" else "upsamplers.0"
        return f"{way}_blocks.{depth}.{kinds.get(part, change)}"

    def theirs(name: str) -> tuple[str, ...]:
        stem, _, kind = name.rpartition(".")
        if stem in REST:
            return (f"{REST[stem]}.{kind}",)
        way, number, part, last = stem.split(".", 3)
        where = place(way, number, part)
        if part == "attention":
            split = {
                "qkv": ("to_q", "to_k", "to_v"), "out": ("to_out.0",), "norm": ("group_norm",),
            }  # fmt: skip
            return tuple(f"{where}.{one}.{kind}" for one in split[last])
        return (f"{where}.{'conv' if last == 'conv' else RESIDUAL[last]}.{kind}",)

    return theirs


def joined(name: str, parts: tuple[Shaped[Tensor, "..."], ...]) -> Shaped[Tensor, "..."]:
    """Our tensor made of theirs: queries, keys and values one below the other."""
    return torch.cat(parts)


def split(names: tuple[str, ...], value: Shaped[Tensor, "..."]) -> Weights:
    """Their tensors of ours: the inverse of `joined`."""
    return dict(zip(names, value.chunk(len(names)), strict=True))


def modern(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> Weights:
    """The tensors with today's names of attention's layers, which were others before 0.15."""
    found = {}
    for name, value in tensors.items():
        words = name.split(".")
        if len(words) > 2 and "attentions" in words and words[-2] in FORMER:
            name = ".".join([*words[:-2], FORMER[words[-2]], words[-1]])
        found[name] = value
    return found
