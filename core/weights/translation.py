"""A foreign network in our terms, and the account of every tensor between the two."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from core.errors import InputError
from core.network.upgrade import LABEL
from core.parts.config import bind, configure
from core.parts.registry import Spec
from core.request import TrainRequest

Weights = dict[str, Shaped[Tensor, "..."]]  # by name, as in a state dict
# Our name -> the names of the tensors that it is made of there, in order.
Naming = Callable[[str], tuple[str, ...]]
# Our name and those tensors -> our tensor.
Joining = Callable[[str, tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Described:
    """A network and its chain, as another program wrote them, in our terms.

    Args:
        size: of a sample: channels, then space.
        outputs: of the network for each channel: 2 where it learned variances.
        network: options of `core/unet`.
        process: the chain as a process.
        parameterization: the meaning of the network's output, and the level that it embeds.
        classes: their number; 0 for none.
        image: channels of the image condition; 0 for none.
        factor: how much smaller that image is.
        chain: steps of the chain.
        guidance: that its samples are drawn with there; None for none.
        notes: sentences for the user.
    """

    size: tuple[int, ...]
    outputs: int
    network: Mapping[str, Any]
    process: Spec
    parameterization: Spec
    classes: int = 0
    image: int = 0
    factor: int = 4
    chain: int = 1000
    guidance: Spec | None = Spec("core/clip")
    notes: tuple[str, ...] = field(default=())


def request_of(it: Described) -> TrainRequest:
    """The request whose checkpoint such a network would be, every option stated.

    Raises:
        InputError: the options do not fit the network.
    """
    task: dict[str, Any] = {"name": "core/generate", "channels": it.size[0]}
    dataset: dict[str, Any] = {"name": "core/blank", "shape": list(it.size)}
    if it.classes:
        task["classes"] = dataset["classes"] = it.classes
    if it.image:
        task |= {"image": it.image, "factor": it.factor}
    objective = {"name": "core/hybrid", "steps": it.chain} if it.outputs == 2 else "core/denoising"
    return bind(
        TrainRequest,
        {
            "task": task,
            "dataset": dataset,
            "network": Spec("core/unet", it.network),
            "process": it.process,
            "parameterization": it.parameterization,
            "objective": objective,
            "times": "core/uniform",
            "guidance": it.guidance,
        },
        at="imported",
    )


def skeleton(it: Described) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of our network, without their memory (the meta device).

    Raises:
        InputError: no network has these options.
    """
    request = request_of(it)
    task = configure("task", request.task)()
    build = configure("network", request.network, at="network")
    with torch.device("meta"):
        network = build(task.channels, it.outputs * task.channels, task.conditions)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def translated(
    ours: Mapping[str, tuple[int, ...]],
    given: Mapping[str, Shaped[Tensor, "..."]],
    naming: Naming,
    joining: Joining,
    *,
    source: str,
) -> Weights:
    """Our tensors, in float32, made of the given ones, all of which are used.

    Args:
        ours: names and shapes of ours.
        given: the other program's tensors.
        naming: names the tensors that each of ours is made of.
        joining: makes ours of them.
        source: the file they were read from, for errors.

    Raises:
        InputError: tensors are missing or left over, or have other shapes; all are listed.
    """
    sources = {name: naming(name) for name in ours}
    expected = {theirs for names in sources.values() for theirs in names}
    problems = [f"missing: {name}" for name in sorted(expected - given.keys())]
    problems += [
        f"left over: {name} {_sizes(given[name].shape)}" for name in sorted(given.keys() - expected)
    ]
    if problems:
        raise InputError(_report(source, "does not hold the tensors of this network", problems))
    made = {}
    for name, shape in ours.items():
        parts = tuple(given[theirs] for theirs in sources[name])
        try:
            value = joining(name, parts)
        except (RuntimeError, IndexError):  # sizes that cannot even be concatenated
            value = parts[0][:0]
        if name == LABEL:  # theirs has no row for no class
            shape = (shape[0] - 1, *shape[1:])
        if tuple(value.shape) == shape:
            value = with_mean_row(value) if name == LABEL else value
            made[name] = value.to(torch.float32).contiguous()
        else:
            found = " and ".join(
                f"{theirs} {_sizes(part.shape)}"
                for theirs, part in zip(sources[name], parts, strict=True)
            )
            problems.append(f"{found}: expected {_sizes(shape)} for {name}")
    if problems:
        raise InputError(_report(source, "has tensors of other shapes", problems))
    return made


def with_mean_row(label: Float[Tensor, " classes d"]) -> Float[Tensor, " rows d"]:
    """An embedding of classes with one row more for no class, the mean of the others.

    As far as its file tells, the network was never trained without a class; zeros may be far from
    all that it was trained with.
    """
    rows = label.to(torch.float32)
    return torch.cat([rows, rows.mean(0, keepdim=True)])


def ratio(channels: int, width: int) -> float:
    """The multiplier that gives exactly these channels: int(width * ratio)."""
    found = channels / width
    return found if int(width * found) == channels else math.nextafter(found, math.inf)


def _sizes(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _report(source: str, summary: str, problems: list[str]) -> str:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return (
        f"{source}: {summary}; give the flags or config that it was made with, or the whole file"
        f"{lines}"
    )
