"""State dicts of guided-diffusion and improved-diffusion, and of what is built on them.

Shapes determine width, multipliers, blocks, where attention is, how the level enters, how sizes
change, classes, learned variances and the image condition; flags that contradict them are refused.
The flags, with the original's defaults, determine the rest: heads, the order of attention's rows,
the size of images, the chain.
Source: github.com/openai/guided-diffusion and improved-diffusion, script_util.py and unet.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from core.errors import InputError
from core.parts.registry import Spec
from core.weights.flags import Flags
from core.weights.translation import Described, ratio

MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}
UPSAMPLERS = {512: MULTIPLIERS[256], 256: MULTIPLIERS[256], 64: MULTIPLIERS[64]}
RESIDUAL = {
    "in_layers.norm": "in_layers.0", "in_layers.conv": "in_layers.2",
    "emb_layers": "emb_layers.1", "out_layers.norm": "out_layers.0",
    "out_layers.conv": "out_layers.3", "skip": "skip_connection",
}  # fmt: skip
ATTENTION = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}
REST = {
    "level_embedding.linear1": "time_embed.0", "level_embedding.linear2": "time_embed.2",
    "condition_embedding.label": "label_emb", "conv_in": "input_blocks.0.0",
    "conv_out.norm": "out.0", "conv_out.conv": "out.2",
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """The architecture that the shapes of a state dict determine."""

    width: int
    multipliers: tuple[float, ...]
    blocks: int
    attention: tuple[int, ...]
    scale_shift: bool
    residual: bool
    classes: int
    inputs: int
    outputs: int
    dims: int


def is_guided(names: Mapping[str, Any]) -> bool:
    """Whether a state dict has the names of this family."""
    return "time_embed.0.weight" in names and any(n.startswith("input_blocks.") for n in names)


def look(shapes: Mapping[str, tuple[int, ...]], source: str) -> Seen:
    """Read the architecture off names and shapes.

    Raises:
        InputError: not a state dict of this family, or too much of it is missing.
    """
    count = _output_blocks(shapes, source)
    sizes = [_channels(shapes, i, source) for i in range(count)]
    upsampling = {i: way for i in range(count) if (way := _upsampling(shapes, i))}
    # Output blocks go from coarse to fine; the last of a resolution, but for the finest, doubles.
    each = min(upsampling) + 1 if upsampling else count
    firsts = [depth * each for depth in reversed(range(count // each))]  # finest resolution first
    attends = [
        any(f"output_blocks.{first + j}.1.qkv.weight" in shapes for j in range(each))
        for first in firsts
    ]
    width = shapes["time_embed.0.weight"][1]
    emb_outputs = shapes.get("output_blocks.0.0.emb_layers.1.weight", (0,))[0]
    return Seen(
        width=width,
        multipliers=tuple(ratio(sizes[first], width) for first in firsts),
        blocks=each - 1,
        attention=tuple(2**depth for depth, yes in enumerate(attends) if yes),
        scale_shift=emb_outputs == 2 * sizes[0],
        residual="residual" in upsampling.values(),
        classes=shapes.get("label_emb.weight", (0,))[0],
        inputs=shapes["input_blocks.0.0.weight"][1],
        outputs=shapes["out.2.weight"][0],
        dims=len(shapes["input_blocks.0.0.weight"]) - 2,
    )


def _output_blocks(shapes: Mapping[str, tuple[int, ...]], source: str) -> int:
    """The number of output blocks of a state dict that has what `look` reads.

    Raises:
        InputError: it has not.
    """
    anchors = ("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight")
    missing = [name for name in anchors if name not in shapes]
    numbers = [int(m[1]) for n in shapes if (m := re.match(r"output_blocks\.(\d{1,4})\.", n))]
    count = 1 + max(numbers, default=-1)
    if count < 2 and any(name.startswith("input_blocks.") for name in shapes):
        raise InputError(
            f"{source}: has no output_blocks: a classifier, not a network that denoises; "
            "give the diffusion model's file"
        )
    if missing or count < 2:
        raise InputError(
            f"{source}: not a state dict of guided-diffusion or improved-diffusion: no "
            f"{', '.join(missing) or 'output_blocks'}; give --format if it is of another kind"
        )
    if any(len(shapes[name]) < 2 or 0 in shapes[name] for name in anchors):
        raise InputError(f"{source}: {', '.join(anchors)}: expected matrices; give the whole file")
    return count


def _upsampling(shapes: Mapping[str, tuple[int, ...]], block: int) -> str:
    """How an output block doubles the size: "conv", "residual" or "" for not at all."""
    layers = [f"output_blocks.{block}.{layer}" for layer in (1, 2)]
    if any(f"{layer}.in_layers.0.weight" in shapes for layer in layers):
        return "residual"
    return "conv" if any(f"{layer}.conv.weight" in shapes for layer in layers) else ""


def _channels(shapes: Mapping[str, tuple[int, ...]], block: int, source: str) -> int:
    for name in ("out_layers.3.weight", "out_layers.3.bias", "out_layers.0.weight"):
        found = shapes.get(f"output_blocks.{block}.0.{name}")
        if found:
            return found[0]
    raise InputError(
        f"{source}: missing: output_blocks.{block}.0.out_layers.3.weight; give the whole file"
    )


def describe(shapes: Mapping[str, tuple[int, ...]], flags: Flags, source: str) -> Described:
    """The network and its chain, from shapes and flags.

    Raises:
        InputError: flags that contradict the shapes or each other, all of them.
    """
    seen = look(shapes, source)
    given = flags.given
    larger = "large_size" in given or "small_size" in given
    upsamples = larger or (seen.inputs == 6 and seen.outputs in (3, 6))
    channels = seen.inputs // 2 if upsamples else seen.inputs
    learned = seen.outputs == 2 * channels
    size = _size(seen, flags, upsamples)
    problems = [*_contradictions(seen, flags, size, learned, upsamples)]
    if seen.outputs not in (channels, 2 * channels) or (upsamples and seen.inputs % 2):
        problems.append(
            f"the network makes {seen.outputs} channels of {seen.inputs}; expected as many, or "
            "twice as many for a learned variance"
        )
    if problems:
        raise InputError("\n".join([f"{source}: its shapes and the flags disagree", *problems]))
    steps = flags["diffusion_steps"]
    rescaled = flags["rescale_timesteps"]
    meaning = "core/x0" if flags["predict_xstart"] else "core/eps"
    level = {"level": "index", "chain": steps, "unit": 1000 / steps if rescaled else 1.0}
    return Described(
        size=(channels, *[size] * seen.dims),
        outputs=2 if learned else 1,
        network=_network(seen, flags),
        process=_process(flags["noise_schedule"], steps),
        parameterization=Spec(meaning, level),
        classes=seen.classes,
        image=channels if upsamples else 0,
        factor=max(2, size // flags["small_size"]) if upsamples else 4,
        chain=steps,
        notes=() if given else flags.assumed(),
    )


def _network(seen: Seen, flags: Flags) -> dict[str, Any]:
    options: dict[str, Any] = {
        "dims": seen.dims,
        "width": seen.width,
        "multipliers": list(seen.multipliers),
        "blocks": seen.blocks,
        "attention": list(seen.attention),
        "adaptive": "scale_shift" if seen.scale_shift else "shift",
        "resample": "residual" if seen.residual else "conv",
        "halved": "last_two" if seen.dims == 3 else "all",
        "group_channels": None,
        "dropout": flags["dropout"],
    }
    if flags["num_head_channels"] > 0:
        return options | {"head_channels": flags["num_head_channels"]}
    return options | {"heads": flags["num_heads"]}


def _process(schedule: str, steps: int) -> Spec:
    if schedule == "cosine":
        return Spec("core/cosine_table", {"steps": steps})
    ends = {"beta_start": 0.1 / steps, "beta_end": 20 / steps}  # 1e-4 and 0.02 at a thousand
    return Spec("core/beta_table", {"steps": steps, **ends})


def _size(seen: Seen, flags: Flags, upsamples: bool) -> int:
    """Side of an image: by the flags, or the one for which the original has these multipliers."""
    name = "large_size" if upsamples else "image_size"
    if name in flags.given:
        return flags.given[name]
    known = [side for side, usual in MULTIPLIERS.items() if usual == seen.multipliers]
    return known[0] if known and not upsamples else flags[name]


def _contradictions(
    seen: Seen, flags: Flags, size: int, learned: bool, upsamples: bool
) -> list[str]:
    """Flags that contradict the shapes, or that our network does not support."""
    seen_flags = {
        "num_channels": seen.width,
        "num_res_blocks": seen.blocks,
        "use_scale_shift_norm": seen.scale_shift,
        "resblock_updown": seen.residual,
        "class_cond": bool(seen.classes),
        "learn_sigma": learned,
        "channel_mult": ",".join(f"{m:g}" for m in seen.multipliers),
    }
    found = [
        f"--{name} {flags.given[name]}: the file has {value}"
        for name, value in seen_flags.items()
        if name in flags.given and flags.given[name] not in (value, "")
    ]
    usual = (UPSAMPLERS if upsamples else MULTIPLIERS).get(size)
    name = "large_size" if upsamples else "image_size"
    if name in flags.given and not flags["channel_mult"] and usual != seen.multipliers:
        found.append(
            f"--{name} {size} means multipliers {usual or 'that the original does not know'}: the "
            f"file has {seen.multipliers}; give --channel_mult"
        )
    if "attention_resolutions" in flags.given:
        sides = flags.given["attention_resolutions"].split(",")
        factors = {size // int(side) for side in sides}
        depths = {2**depth for depth in range(len(seen.multipliers))}
        if factors & depths != set(seen.attention):
            found.append(
                f"--attention_resolutions {','.join(sides)} of {size} means attention at factors "
                f"{sorted(factors)}: the file has it at {sorted(seen.attention)}"
            )
    if flags["num_heads_upsample"] not in (-1, flags["num_heads"]):
        found.append("--num_heads_upsample: other heads on the way up are not supported")
    if flags["noise_schedule"] not in ("linear", "cosine"):
        found.append(
            f"--noise_schedule: expected linear or cosine, got {flags['noise_schedule']!r}"
        )
    return found


def naming(ours: Mapping[str, tuple[int, ...]]) -> Any:
    """Which tensor of the original each of ours is."""
    attends = {name.split(".attention.")[0] for name in ours if ".attention." in name}
    middle = {"first.residual": 0, "first.attention": 1, "second.residual": 2}

    def place(block: str, part: str) -> str:
        way, _, number = block.partition(".")
        if way == "middle":
            return f"middle_block.{middle[f'{number}.{part}']}"
        if way == "down":  # input_blocks.0 is the first convolution
            return f"input_blocks.{int(number) + 1}.{1 if part == 'attention' else 0}"
        last = 2 if block in attends else 1
        index = {"residual": 0, "attention": 1, "resample": last}[part]
        return f"output_blocks.{number}.{index}"

    def theirs(name: str) -> tuple[str, ...]:
        stem, _, kind = name.rpartition(".")
        if stem in REST:
            return (f"{REST[stem]}.{kind}",)
        way, number, part, *inner = stem.split(".")
        where = place(f"{way}.{number}", part)
        last = ".".join(inner)
        if part == "attention":
            last = ATTENTION[last]
        elif last == "conv":  # a change of size without a residual block
            last = "op" if way == "down" else "conv"
        else:
            last = RESIDUAL[last]
        return (f"{where}.{last}.{kind}",)

    return theirs


def joining(it: Described, flags: Flags) -> Any:
    """How a tensor of the original becomes ours: attention's rows in our order, as matrices."""

    def ours(name: str, parts: tuple[Tensor, ...]) -> Tensor:
        (value,) = parts
        if ".attention." not in name or ".norm." in name:
            return value
        if name.endswith(".weight"):  # a convolution over one position
            value = value.reshape(value.shape[:2])
        if ".qkv." not in name or flags["use_new_attention_order"]:
            return value
        c = len(value) // 3
        heads = it.network.get("heads") or max(1, c // it.network["head_channels"])
        return reordered(value, heads)

    return ours


def reordered(rows: Shaped[Tensor, " n *rest"], heads: int) -> Shaped[Tensor, " n *rest"]:
    """Rows (head, q k v, d) as (q k v, head, d)."""
    split = rows.reshape(heads, 3, -1, *rows.shape[1:])
    return torch.transpose(split, 0, 1).reshape(rows.shape)
