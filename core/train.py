"""The training loop: one optimiser step at a time; the caller logs, saves and stops."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.ema import Average
from core.objective.denoising import Denoising
from core.process.noise import Noise
from core.task import Example


@dataclass(frozen=True)
class Step:
    """What one step did.

    Args:
        step: steps taken so far, this one included.
        loss: mean over the batch, before the step.
        gradient: norm of the gradient before clipping.
        lr: learning rate used.
        seconds: it took.
    """

    step: int
    loss: float
    gradient: float
    lr: float
    seconds: float


class NotFinite(RuntimeError):
    """The loss or its gradient is not a finite number; the weights before it are untouched."""


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, decay: str) -> float:
    """The rate of step `step` (from 0): linear up to `peak`, then flat or a half cosine."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (1 + math.cos(math.pi * min(1.0, done))) / 2


def fit(
    network: nn.Module,
    objective: Denoising,
    optimizer: torch.optim.Optimizer,
    average: Average,
    batches: Iterable[tuple[int, Any]],
    prepare: Callable[[int, Any], tuple[Example, Noise]],
    rate: Callable[[int], float],
    *,
    clip: float = 1.0,
) -> Iterator[Step]:
    """Take one optimiser step per batch and report it.

    Args:
        network: what is trained, in training mode.
        objective: the loss.
        optimizer: of the network's parameters.
        average: of the network's weights.
        batches: step numbers, from 0, and what `prepare` makes examples of.
        prepare: the examples of a step and the noise streams of its draws.
        rate: the learning rate of a step.
        clip: largest norm of the gradient.

    Raises:
        NotFinite: the loss or the gradient is not finite; nothing was changed by that step.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    network.train()
    for number, batch in batches:
        start = time.perf_counter()
        example, noise = prepare(number, batch)
        t, eps = objective.draw(example.x0, noise)
        loss = objective.loss(network, example.x0, t, eps, example.condition, example.mask).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradient = nn.utils.clip_grad_norm_(parameters, clip)
        lr = rate(number)
        if not (math.isfinite(loss.item()) and math.isfinite(gradient.item())):
            raise NotFinite(
                f"step {number + 1}: loss {loss.item()}, gradient {gradient.item()}, lr {lr:.3g}; "
                "lower the learning rate or look at the data"
            )
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        average.update(network, number)
        yield Step(number + 1, loss.item(), gradient.item(), lr, time.perf_counter() - start)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: ``<parameter>.<what>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{what}": torch.as_tensor(value)
        for number, values in state.items()
        for what, value in values.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Take over what `optimizer_tensors` gave."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, what = name.split(".", 1)
        states.setdefault(int(number), {})[what] = value.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
