"""The loss on held-out items while a network is trained: which step was best, and when to end.

Items, times and noise follow from the request, so that two validations differ by the weights alone.
"""

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.data import Dataset, check_classes, collate
from core.objective.denoising import Objective
from core.process.noise import Noise
from core.results.metrics import Mean, interval
from core.task import Task
from core.training.distributed import Status, World
from core.training.loop import NotFinite
from core.training.precision import computing

CONFIDENCE = 0.95


@dataclass(frozen=True)
class HeldOut:
    """What is measured on.

    Args:
        dataset: none of its items were trained on.
        items: indices of those used.
        task: makes examples of them.
        objective: its loss; a fresh one, since times that have learned would change the measure.
        seed: of times and noise.
        precision: what the network computes in.
    """

    dataset: Dataset
    items: tuple[int, ...]
    task: Task
    objective: Objective
    seed: int
    precision: str


@dataclass(frozen=True)
class Standing:
    """How validation stands: plain values, saved with every checkpoint.

    Args:
        loss: of the last validation, with its interval; None before the first.
        step: of the last validation.
        best: the lowest mean so far.
        best_step: where it was.
        stale: validations since without improvement.
    """

    loss: Mean | None = None
    step: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0

    def after(self, step: int, loss: Mean) -> "Standing":
        """The standing once `step` has been measured."""
        if self.best is None or loss.mean < self.best:
            return Standing(loss, step, loss.mean, step, 0)
        return replace(self, loss=loss, step=step, stale=self.stale + 1)


def spread(count: int, wanted: int) -> tuple[int, ...]:
    """`wanted` of `count` indices, all if there are fewer, spread evenly over them."""
    wanted = min(count, wanted)
    return tuple(place * count // wanted for place in range(wanted))


@torch.no_grad()
def validate(
    held_out: HeldOut, network: nn.Module, weights: dict[str, Tensor], micro: int, world: World
) -> Mean:
    """The mean loss of some weights with its interval, sources redrawn first.

    A copy of the network is made for it, and gone afterwards.

    Args:
        held_out: what to measure on.
        network: its shape.
        weights: put in the place of its own.
        micro: items computed at once.
        world: processes that share the items.
    """
    copy = deepcopy(network).eval()
    copy.load_state_dict(weights)
    part, losses = world.shard(len(held_out.items)), torch.zeros(len(held_out.items)).double()
    for first in range(part.start, part.stop, micro):
        piece = slice(first, min(first + micro, part.stop))
        losses[piece] = _losses(held_out, copy, piece).double().cpu()
    world.all_reduce_max(Status())
    losses = world.all_reduce_sum(losses)
    if not losses.isfinite().all():
        raise NotFinite("the loss on held-out items is not finite; lower the learning rate")
    sources = [held_out.dataset.source(index) for index in held_out.items]
    return interval(losses.tolist(), sources, confidence=CONFIDENCE)


def _losses(held_out: HeldOut, network: nn.Module, piece: slice) -> Tensor:
    """The weighted losses of some of the items."""
    objective, device = held_out.objective, next(network.parameters()).device
    batch = collate(held_out.dataset, list(held_out.items[piece]))
    example = held_out.task.prepare({name: value.to(device) for name, value in batch.items()})
    indices = held_out.items[piece]
    check_classes(example, held_out.task, lambda i: held_out.dataset.name(indices[i]))
    # Times look at the whole set, so each piece is cut from the same draw for all of it.
    noise = Noise.of(held_out.seed, "validate", each=held_out.items)
    t, weight, eps = objective.draw(example.x0, noise, piece)
    with computing(held_out.precision, device):
        each = objective.loss(network, example.x0, t, eps, example.condition, example.mask)
    return weight.to(each) * each
