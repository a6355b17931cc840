"""Checkpoints of earlier formats under the names and options of today's networks."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor

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
# Format -> network -> options that it did not have, with the values that keep what it computed.
FORMER_OPTIONS = {
    1: {
        "core/unet": {"group_channels": None, "null": "zero"},
        "core/transformer": {"null": "zero"},
    },
    2: {name: {"null": "zero"} for name in ("core/unet", "core/transformer", "core/mlp")},
}
LABEL = "condition_embedding.label.weight"
WEIGHTS = {"model", "ema", "averages"}  # groups of a checkpoint whose tensors are a network's
LABEL_NUMBER = 4  # among the parameters: behind the two linear layers of the level's embedding


@runtime_checkable
class Extending(Protocol):
    """A network that can start from the weights of a smaller one, such as one of images."""

    def extended(
        self, weights: Mapping[str, Shaped[Tensor, "..."]]
    ) -> dict[str, Shaped[Tensor, "..."]]:
        """Its own weights, those of the smaller network in their places; its own as they are."""
        ...


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


def with_null_class(name: str, value: Shaped[Tensor, "..."], rows: int) -> Shaped[Tensor, "..."]:
    """The tensor `value`, of an embedding of classes with a row for no class.

    Up to format 2 no class was class 0, in training and in guidance, so the new row is a copy of
    that of class 0: guidance computes what it did.

    Args:
        name: of the tensor.
        value: the tensor.
        rows: of the embedding today, the classes and one more.
    """
    if name == LABEL and value.ndim == 2 and len(value) == rows - 1:
        return torch.cat([value, value[:1]])
    return value


def upgraded(saved: Checkpoint) -> Checkpoint:
    """The checkpoint in today's format: what it computes, and the order of its weights, stay.

    The optimizer's tensors are numbered in the order of the weights, so that a run resumes.
    """
    match saved.state:
        case {"request": {"network": {"name": str(network)}} as request} if _is_earlier(saved):
            pass
        case _:
            return saved
    number = saved.state.get("format", 1)
    options = FORMER_OPTIONS[number].get(network, {}) | request["network"]
    request = {**request, "network": options}
    state = {**saved.state, "format": formats.CHECKPOINT_STATE, "request": request}
    tensors = {
        group: {_key(network, key): value for key, value in named.items()}
        if group in WEIGHTS
        else dict(named)
        for group, named in saved.tensors.items()
    }
    if network in FORMER_OPTIONS[2]:
        _add_null_class(tensors)
    return replace(saved, state=state, tensors=tensors)


def _key(network: str, key: str) -> str:
    width, slash, name = key.rpartition("/")  # <width>/<name> in averages
    return f"{width}{slash}{renamed(network, name)}"


def _add_null_class(tensors: dict[str, dict[str, Tensor]]) -> None:
    """Give the embedding of classes, if there is one, and its moments a row for no class."""
    labelled = False
    for group in WEIGHTS & tensors.keys():
        for key, value in tensors[group].items():
            name = key.rpartition("/")[2]
            if name == LABEL and value.ndim == 2:
                tensors[group][key] = with_null_class(name, value, len(value) + 1)
                labelled = True
    for key, value in tensors.get("optimizer", {}).items() if labelled else ():
        if key.startswith(f"{LABEL_NUMBER}.") and value.ndim == 2:  # a step's count has no axes
            tensors["optimizer"][key] = torch.cat([value, torch.zeros_like(value[:1])])


def _is_earlier(saved: Checkpoint) -> bool:
    return saved.state.get("format", 1) < formats.CHECKPOINT_STATE
