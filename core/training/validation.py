"""The loss on held-out items during training: the best step, and early stopping.

Items, times and noise follow from the request, so that two validations differ by the weights alone.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from core.data import Dataset, check_classes, collate
from core.objective.denoising import Objective
from core.process.noise import Noise
from core.results.metrics import Interval, interval
from core.task import Task
from core.training.distributed import Status, World
from core.training.loop import NotFinite
from core.training.precision import computing

CONFIDENCE = 0.95


@dataclass(frozen=True)
class HeldOut:
    """The held-out items that a validation uses, and how.

    Args:
        dataset: none of its items were trained on.
        items: indices of those used.
        task: makes examples of them.
        objective: its loss; a fresh one, since times that have learned would change the measure.
        seed: of times and noise.
        precision: number format of the network's arithmetic.
    """

    dataset: Dataset
    items: tuple[int, ...]
    task: Task
    objective: Objective
    seed: int
    precision: str


@dataclass(frozen=True)
class ValidationState:
    """The results of validation so far: plain values, saved with every checkpoint.

    Args:
        loss: of the last validation, with its interval; None before the first.
        step: of the last validation.
        best: the lowest mean so far.
        best_step: its step.
        stale: validations since without improvement.
    """

    loss: Interval | None = None
    step: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0

    def updated(self, step: int, loss: Interval) -> "ValidationState":
        """The state with the loss of one more step."""
        if self.best is None or loss.mean < self.best:
            return ValidationState(loss, step, loss.mean, step, 0)
        return replace(self, loss=loss, step=step, stale=self.stale + 1)


def evenly_spaced(count: int, number: int) -> tuple[int, ...]:
    """`number` of `count` indices, evenly spaced; all if there are fewer."""
    number = min(count, number)
    return tuple(i * count // number for i in range(number))


@torch.no_grad()
def validate(
    held_out: HeldOut,
    network: nn.Module,
    weights: Mapping[str, Shaped[Tensor, "..."]],
    micro_batch: int,
    world: World,
) -> Interval:
    """The mean loss of some weights with its bootstrap interval over sources.

    It is computed on a temporary copy of the network.

    Args:
        held_out: the items.
        network: the architecture.
        weights: of the copy.
        micro_batch: items computed at once.
        world: processes that the items are distributed over.
    """
    copy = deepcopy(network).eval()
    copy.load_state_dict(weights)
    shard, losses = world.shard(len(held_out.items)), torch.zeros(len(held_out.items)).double()
    for first in range(shard.start, shard.stop, micro_batch):
        piece = slice(first, min(first + micro_batch, shard.stop))
        losses[piece] = _losses(held_out, copy, piece).double().cpu()
    world.all_reduce_max(Status())
    losses = world.all_reduce_sum(losses)  # each rank filled its shard of a vector of zeros
    if not losses.isfinite().all():
        raise NotFinite("the loss on held-out items is not finite; lower the learning rate")
    sources = [held_out.dataset.source(index) for index in held_out.items]
    return interval(losses.tolist(), sources, confidence=CONFIDENCE)


def _losses(held_out: HeldOut, network: nn.Module, piece: slice) -> Float[Tensor, " b"]:
    """The weighted losses of some of the items."""
    objective, device = held_out.objective, next(network.parameters()).device
    batch = collate(held_out.dataset, list(held_out.items[piece]))
    example = held_out.task.prepare({name: value.to(device) for name, value in batch.items()})
    indices = held_out.items[piece]
    check_classes(example, held_out.task, lambda i: held_out.dataset.name(indices[i]))
    # Stratified times depend on the whole set: each piece is cut from the one draw for all items.
    noise = Noise.of(held_out.seed, "validate", each=held_out.items)
    t, weight, eps = objective.draw(example.x0, noise, piece)
    with computing(held_out.precision, device):
        each = objective.loss(network, example.x0, t, eps, example.condition, example.mask)
    return weight.to(each) * each
