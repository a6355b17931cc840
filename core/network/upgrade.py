"""Checkpoints of earlier formats under the names and options of today's networks."""

import re
from collections.abc import Callable
from dataclasses import replace

from core.storage import formats
from core.storage.checkpoint import Checkpoint

RESIDUAL = {
    "norm1": "in_layers.norm", "conv1": "in_layers.conv", "level": "emb_layers",
    "norm2": "out_layers.norm", "conv2": "out_layers.conv",
}  # fmt: skip
# Network -> pairs of (a name's pattern in format 1, its name since).
FORMER: dict[str, tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = {
    "core/unet": (
        (r"level\.", "level_embedding."),
        (r"told\.", "condition_embedding."),
        (r"enter\.", "conv_in."),
        (r"norm\.", "conv_out.norm."),
        (r"leave\.", "conv_out.conv."),
        (
            rf"((?:down|middle|up)\..+\.)({'|'.join(RESIDUAL)})\.",
            lambda found: f"{found[1]}{RESIDUAL[found[2]]}.",
        ),
    ),
    "core/transformer": (
        (r"level\.", "level_embedding."),
        (r"told\.", "condition_embedding."),
        (r"enter\.", "patch_embedding."),
        (r"last\.", "modulation."),
        (r"leave\.", "linear_out."),
        (r"(block\.\d+\.)level\.", r"\1modulation."),
        (r"(block\.\d+\.)enter\.", r"\1mlp_in."),
        (r"(block\.\d+\.)leave\.", r"\1mlp_out."),
        (r"(block\.\d+\.)cross\.", r"\1cross_out."),
    ),
}
# Network -> options that format 1 did not have, with the values that keep what it computed.
FORMER_OPTIONS = {"core/unet": {"group_channels": None}}


def renamed(network: str, name: str) -> str:
    """Today's name of a weight; today's names, and those of other networks, stay.

    Args:
        network: full name of the part.
        name: of a tensor in its state dict.
    """
    for pattern, now in FORMER.get(network, ()):
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", now, name, count=1)
    return name


def upgraded(saved: Checkpoint) -> Checkpoint:
    """The checkpoint in today's format: what it computes, and the order of its weights, stay.

    The optimizer's tensors are numbered in the order of the weights, so that a run resumes.
    """
    match saved.state:
        case {"request": {"network": {"name": str(network)}} as request} if _is_earlier(saved):
            pass
        case _:
            return saved
    options = FORMER_OPTIONS.get(network, {}) | request["network"]
    request = {**request, "network": options}
    state = {**saved.state, "format": formats.CHECKPOINT_STATE, "request": request}
    tensors = dict(saved.tensors)
    for group in ("model", "ema"):
        if group in tensors:
            tensors[group] = {renamed(network, k): v for k, v in tensors[group].items()}
    if "averages" in tensors:  # <width>/<name>
        tensors["averages"] = {
            f"{width}/{renamed(network, name)}": value
            for key, value in tensors["averages"].items()
            for width, _, name in [key.partition("/")]
        }
    return replace(saved, state=state, tensors=tensors)


def _is_earlier(saved: Checkpoint) -> bool:
    return saved.state.get("format", 1) < formats.CHECKPOINT_STATE
