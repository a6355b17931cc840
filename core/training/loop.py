"""The training loop: one optimiser step at a time; the caller logs, saves and stops."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.network.ema import ExponentialAverage, PowerAverage, WeightAverage, by_width
from core.objective.denoising import Draw, Objective
from core.objective.times import Adaptive
from core.process.noise import Noise, derive
from core.task import Example
from core.training.distributed import Status, World
from core.training.precision import computing
from core.training.stopping import Asked, Stopped

SKIPPED_IN_A_ROW = 100  # after so many a run that leaves bad steps out is going nowhere

OUT_OF_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "CUDNN_STATUS_NOT_SUPPORTED",  # cuDNN's word for no memory left for its workspace
    "std::bad_alloc",
)


@dataclass(frozen=True)
class Step:
    """What one step did.

    Args:
        step: steps taken so far, this one included.
        loss: mean over the batch, before the step.
        gradient: norm of the gradient before clipping.
        lr: learning rate used.
        seconds: it took.
        skipped: it was not finite, or overflowed in fp16, and changed nothing.
        micro_batch: samples computed at once in each process.
    """

    step: int
    loss: float
    gradient: float
    lr: float
    seconds: float
    skipped: bool = False
    micro_batch: int = 0


@dataclass(frozen=True)
class Learner:
    """All that changes while a network is trained: what a checkpoint has to hold.

    Args:
        network: what is trained.
        objective: what is minimised; its times may learn.
        optimizer: of the network's parameters.
        average: the exponential average of the weights.
        powers: power-function averages, for snapshots.
        scaler: of the loss, for fp16.
    """

    network: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    average: ExponentialAverage
    powers: tuple[PowerAverage, ...] = ()
    scaler: torch.amp.GradScaler | None = None

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
        if self.scaler is not None:
            state = self.scaler.state_dict()
            groups["scaler"] = {name: torch.tensor(state[name]) for name in SCALER}
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
        if self.scaler is not None:
            saved = {name: groups["scaler"][name].item() for name in SCALER}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **saved})


SCALER = ("scale", "_growth_tracker")  # what of a scaler's state changes


@dataclass(frozen=True)
class Execution:
    """How a step is computed; what it means does not depend on this, but for rounding.

    Args:
        world: the processes that share each batch.
        micro_batch: samples computed at once in each of them; its whole share by default.
        precision: what the network computes in.
        asked: whether to stop.
        say: told of what the user should know.
    """

    world: World = field(default_factory=World)
    micro_batch: int | None = None
    precision: str = "fp32"
    asked: Asked = lambda: 0
    say: Callable[[str], None] = lambda text: None


class NotFinite(RuntimeError):
    """The loss or its gradient is not a finite number; the weights before it are untouched."""


class OutOfMemory(InputError):
    """One sample at a time is still too much for the machine."""


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, decay: str) -> float:
    """The rate of step `step` (from 0): linear up to `peak`, then flat or a half cosine."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (1 + math.cos(math.pi * min(1.0, done))) / 2


def without_condition(
    example: Example, noise: Noise, share: float, part: slice | None = None
) -> Example:
    """The example with the whole condition of about `share` of its samples replaced by zeros.

    One draw from each sample's stream; none if share is 0.
    Source: Ho and Salimans 2022, arXiv:2207.12598, algorithm 1.

    Args:
        example: a batch, or the part of it that is computed here.
        noise: the streams of the whole batch.
        share: of the samples, from 0 to 1.
        part: which of the batch the example is.
    """
    if share == 0:
        return example
    kept = noise.uniform()[part or slice(None)] >= share

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
    skip: bool = False,
    execution: Execution | None = None,
) -> Generator[Step]:
    """Take one optimiser step per batch and report it.

    Args:
        learner: what is changed by every step.
        batches: step numbers, from 0, and what `prepare` makes examples of.
        prepare: the examples of a step that are this process's part, and the noise streams of
            the whole batch's draws.
        rate: the learning rate of a step.
        clip: largest norm of the gradient.
        skip: leave a step that is not finite out, rather than raise.
        execution: how it is computed.

    Raises:
        NotFinite: the loss or the gradient is not finite; nothing was changed by that step.
        OutOfMemory: not even one sample at a time fits.
        Stopped: it was asked to; nothing was changed by the step it was in.
    """
    how = execution or Execution()
    optimizer, scaler, micro = learner.optimizer, learner.scaler, how.micro_batch
    skipped = 0
    learner.network.train()
    for number, batch in batches:
        start = time.perf_counter()
        share = _drawn(learner.objective, *prepare(number, batch), how.world, number)
        seen, micro = _gradients(learner, share, micro, how)
        loss = float((seen.weight * seen.loss).sum()) / share.batch
        if scaler is not None:
            scaler.unscale_(optimizer)
        gradient = nn.utils.clip_grad_norm_(learner.network.parameters(), clip).item()
        lr, finite = rate(number), math.isfinite(loss) and math.isfinite(gradient)
        # Too large for fp16 is no fault of the run: the scaler's next scale is half of this one.
        overflow = scaler is not None and math.isfinite(loss) and scaler.get_scale() > 1
        if finite:
            for group in optimizer.param_groups:
                group["lr"] = lr
            _step(learner, seen, number)
        elif not (skip or overflow) or skipped == SKIPPED_IN_A_ROW:
            raise NotFinite(
                f"step {number + 1}: loss {loss}, gradient {gradient}, lr {lr:.3g}; "
                "lower the learning rate or look at the data"
            )
        if scaler is not None:
            scaler.update()
        skipped = 0 if finite else skipped + 1
        seconds = time.perf_counter() - start
        yield Step(number + 1, loss, gradient, lr, seconds, not finite, micro)


# --- one step -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Share:
    """This process's part of a step's batch, with all that is drawn for it."""

    example: Example
    draw: Draw
    seeds: Sequence[int]  # of each sample's streams
    part: slice
    batch: int
    step: int

    def __len__(self) -> int:
        return len(self.example.x0)


@dataclass(frozen=True)
class _Seen:
    """Times, weights and losses of the whole batch (b,), float64."""

    t: Tensor
    weight: Tensor
    loss: Tensor


def _drawn(objective: Objective, example: Example, noise: Noise, world: World, step: int) -> _Share:
    part = world.shard(len(noise))
    draw = objective.draw(example.x0, noise, part)
    return _Share(example, draw, noise.seeds[part], part, len(noise), step)


def _gradients(
    learner: Learner, share: _Share, micro: int | None, how: Execution
) -> tuple[_Seen, int]:
    """Put the gradient of the whole batch's mean loss into the network's parameters.

    When memory runs out, in any process, all begin the step anew with half as many samples at
    once: the draws are made, so that the gradient is the same.  Returns also how many it were.
    """
    largest = -(-share.batch // how.world.size)
    micro = min(micro or largest, largest)
    while True:
        learner.optimizer.zero_grad(set_to_none=True)
        losses, status = _attempt(learner, share, micro, how)
        status = how.world.all_reduce_max(status)
        if status.not_finite:
            raise NotFinite(f"step {share.step}: weights are not finite; lower the learning rate")
        if status.stop:
            learner.optimizer.zero_grad(set_to_none=True)
            raise Stopped(share.step, status.stop)
        if not status.out_of_memory:
            break
        micro = _smaller(micro, share.step, how)
    seen = torch.zeros(3, share.batch, dtype=torch.float64)
    seen[:, share.part] = torch.stack([share.draw.t, share.draw.weight, losses.double()]).cpu()
    gradients = [p.grad for p in learner.network.parameters() if p.grad is not None]
    how.world.all_reduce_gradients(gradients)
    return _Seen(*how.world.all_reduce_sum(seen)), micro


def _attempt(learner: Learner, share: _Share, micro: int, how: Execution) -> tuple[Tensor, Status]:
    """Add up this process's part of the gradient, `micro` samples at a time; its losses."""
    losses: list[Tensor] = []
    nothing = share.example.x0.new_zeros(len(share))
    try:
        for first in range(0, len(share), micro):
            if number := how.asked():
                return nothing, Status(stop=number)
            losses.append(_backward(learner, share, slice(first, first + micro), how))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return torch.cat(losses), Status()
    # Below the handler: the traceback, which holds what filled the memory, is gone.
    losses.clear()
    if share.example.x0.is_cuda:
        torch.cuda.empty_cache()
    return nothing, Status(out_of_memory=1)


def _backward(learner: Learner, share: _Share, piece: slice, how: Execution) -> Tensor:
    """The losses of some samples; their share of the batch's gradient is added to the network's."""
    example, draw, device = share.example, share.draw, share.example.x0.device
    condition = {name: value[piece] for name, value in example.condition.items()}
    mask = None if example.mask is None else example.mask[piece]
    # Dropout draws from the global stream, which therefore is the step's own.
    with (
        _stream(device, derive(share.seeds[piece][0], "network")),
        computing(how.precision, device),
    ):
        each = learner.objective.loss(
            learner.network, example.x0[piece], draw.t[piece], draw.eps[piece], condition, mask
        )
    loss = (draw.weight[piece].to(each) * each).sum() / share.batch
    (loss if learner.scaler is None else learner.scaler.scale(loss)).backward()
    return each.detach()


def _smaller(micro: int, step: int, how: Execution) -> int:
    """Half as many samples at once, told to the user."""
    if micro == 1:
        raise OutOfMemory(
            f"step {step + 1}: out of memory with one sample at a time; lower the network's width "
            "or the size of the samples, use precision bf16, or a machine with more memory"
        )
    smaller = micro // 2
    how.say(
        f"step {step + 1}: out of memory with {micro} samples at once; repeating it with {smaller}"
    )
    return smaller


def _step(learner: Learner, seen: _Seen, number: int) -> None:
    """Change the weights, their averages, and what times have learned."""
    try:
        if learner.scaler is None:
            learner.optimizer.step()
        else:
            learner.scaler.step(learner.optimizer)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"step {number + 1}: out of memory in the optimizer, which holds two numbers for each "
            "weight; use a smaller network, or a machine with more memory"
        ) from error
    objective = learner.objective
    if isinstance(objective.times, Adaptive):
        objective.times.update(objective.process, seen.t, seen.loss)
    averages: Sequence[WeightAverage] = (learner.average, *learner.powers)
    for average in averages:
        average.update(learner.network, number)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, which torch says in several ways."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


@contextmanager
def _stream(device: torch.device, seed: int) -> Iterator[None]:
    """The global streams follow from a seed in the block, and are as they were after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            here = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[here].manual_seed(seed)
        yield


# --- the optimizer's state ----------------------------------------------------------------------


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
