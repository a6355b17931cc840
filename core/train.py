"""The training loop: one optimiser step at a time; the caller logs, saves and stops."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.ema import Average, Follower, PowerAverage, by_width
from core.objective.denoising import Objective
from core.objective.times import Adaptive
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


@dataclass(frozen=True)
class Learner:
    """All that changes while a network is trained: what a checkpoint has to hold.

    Args:
        network: what is trained.
        objective: what is minimised; its times may learn.
        optimizer: of the network's parameters.
        average: the exponential average of the weights.
        powers: power-function averages, for snapshots.
    """

    network: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    average: Average
    powers: tuple[PowerAverage, ...] = ()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Groups of named tensors."""
        groups = {
            "model": self.network.state_dict(),
            "ema": self.average.weights,
            "optimizer": optimizer_tensors(self.optimizer),
        }
        if self.powers:
            groups["averages"] = by_width(self.powers)
        if isinstance(self.objective.times, Adaptive):
            groups["times"] = self.objective.times.tensors()
        return groups

    def load(self, groups: dict[str, dict[str, Tensor]]) -> None:
        """Take over what `tensors` gave."""
        self.network.load_state_dict(groups["model"])
        self.average.load(groups["ema"])
        load_optimizer(self.optimizer, groups["optimizer"])
        for power in self.powers:
            start = f"{power.width}/"
            power.load({name: groups["averages"][start + name] for name in power.weights})
        if isinstance(self.objective.times, Adaptive):
            self.objective.times.load(groups["times"])


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


def without_condition(example: Example, noise: Noise, share: float) -> Example:
    """The example with the whole condition of about `share` of its samples replaced by zeros.

    One draw from each sample's stream; none if share is 0.
    Source: Ho and Salimans 2022, arXiv:2207.12598, algorithm 1.
    """
    if share == 0:
        return example
    kept = noise.uniform() >= share

    def dropped(value: Tensor) -> Tensor:
        keep = kept.to(value.device).reshape(-1, *[1] * (value.ndim - 1))
        return torch.where(keep, value, 0)  # keeps the dtype: a condition may be a class

    condition = {name: dropped(value) for name, value in example.condition.items()}
    return replace(example, condition=condition)


def fit(
    learner: Learner,
    batches: Iterable[tuple[int, Any]],
    prepare: Callable[[int, Any], tuple[Example, Noise]],
    rate: Callable[[int], float],
    *,
    clip: float = 1.0,
) -> Iterator[Step]:
    """Take one optimiser step per batch and report it.

    Args:
        learner: what is changed by every step.
        batches: step numbers, from 0, and what `prepare` makes examples of.
        prepare: the examples of a step and the noise streams of its draws.
        rate: the learning rate of a step.
        clip: largest norm of the gradient.

    Raises:
        NotFinite: the loss or the gradient is not finite; nothing was changed by that step.
    """
    network, objective, optimizer = learner.network, learner.objective, learner.optimizer
    averages: Sequence[Follower] = (learner.average, *learner.powers)
    parameters = [p for p in network.parameters() if p.requires_grad]
    network.train()
    for number, batch in batches:
        start = time.perf_counter()
        example, noise = prepare(number, batch)
        t, weight, eps = objective.draw(example.x0, noise)
        each = objective.loss(network, example.x0, t, eps, example.condition, example.mask)
        loss = (weight.to(each) * each).mean()
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
        if isinstance(objective.times, Adaptive):
            objective.times.seen(objective.process, t, each)
        for average in averages:
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
