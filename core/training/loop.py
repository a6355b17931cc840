"""The training loop: one optimiser step at a time; the caller logs, saves and stops."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor, nn

from core.errors import InputError
from core.network.conditioning import null_condition
from core.network.ema import ExponentialAverage, PowerAverage, WeightAverage, by_width
from core.objective.denoising import Draw, Objective
from core.objective.times import Adaptive
from core.process.noise import Noise, derive
from core.task import Example
from core.training.distributed import Status, World
from core.training.precision import computing
from core.training.replay import Replay
from core.training.stopping import ShouldStop, Stopped

SKIPPED_IN_A_ROW = 100  # at most; a run that skips more steps in a row makes no progress

OUT_OF_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "CUDNN_STATUS_NOT_SUPPORTED",  # cuDNN has no memory left for its workspace
    "std::bad_alloc",
)


@dataclass(frozen=True)
class Step:
    """The report of one optimiser step.

    Args:
        step: steps taken so far, this one included.
        loss: mean over the batch, before the step.
        gradient: norm of the gradient before clipping.
        lr: learning rate used.
        seconds: it took.
        skipped: it was not finite, or overflowed in fp16; no weight changed.
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
    """Everything that training changes, and so a checkpoint holds.

    Args:
        network: being trained.
        objective: the loss; its times may adapt.
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

    def tensors(self) -> dict[str, dict[str, Shaped[Tensor, "..."]]]:
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

    def load(self, groups: Mapping[str, Mapping[str, Shaped[Tensor, "..."]]]) -> None:
        """Restore the state that `tensors` returned."""
        self.network.load_state_dict(groups["model"])
        self.average.load(dict(groups["ema"]))
        load_optimizer(self.optimizer, groups["optimizer"])
        for power in self.powers:
            start = f"{power.width}/"
            power.load({name: groups["averages"][start + name] for name in power.weights})
        if isinstance(self.objective.times, Adaptive):
            self.objective.times.load(groups["times"])
        if self.scaler is not None:
            saved = {name: groups["scaler"][name].item() for name in SCALER}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **saved})


SCALER = ("scale", "_growth_tracker")  # the entries of a scaler's state that change


@dataclass(frozen=True)
class Execution:
    """How a step is computed; its result does not depend on this, up to rounding.

    Args:
        world: the data-parallel processes.
        micro_batch: samples computed at once in each of them; its whole shard by default.
        precision: number format of the network's arithmetic.
        should_stop: whether a stop is requested.
        notify: receives notes for the user.
        replay: of the network's calls by CUDA graphs.
    """

    world: World = field(default_factory=World)
    micro_batch: int | None = None
    precision: str = "fp32"
    should_stop: ShouldStop = lambda: 0
    notify: Callable[[str], None] = lambda text: None
    replay: Replay | None = None


class NotFinite(RuntimeError):
    """The loss or its gradient is not finite; the weights are those before the step."""


class OutOfMemory(InputError):
    """Not even one sample at a time fits into memory."""


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, decay: str) -> float:
    """The rate of step `step` (from 0): linear up to `peak`, then flat or a half cosine."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (1 + math.cos(math.pi * min(1.0, done))) / 2


def drop_conditions(
    example: Example, noise: Noise, probability: float, part: slice | None = None
) -> Example:
    """The example with each sample marked as having no condition with some probability.

    One draw from each sample's stream; none if the probability is 0.
    Source: Ho and Salimans 2022, arXiv:2207.12598, algorithm 1.

    Args:
        example: a batch, or the part of it that is computed here.
        noise: the streams of the whole batch.
        probability: from 0 to 1, p_uncond of the paper.
        part: the positions of the example in the batch.
    """
    if probability == 0:
        return example
    dropped = noise.uniform()[part or slice(None)] < probability
    return replace(example, condition=null_condition(example.condition, dropped))


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
        learner: changed by every step.
        batches: step numbers, from 0, and batches for `prepare`.
        prepare: the examples of this process's shard of a step, and the noise streams of the whole
            batch.
        rate: the learning rate of a step.
        clip: largest norm of the gradient.
        skip: skip a step that is not finite, rather than raise.
        execution: processes, micro-batches and precision.

    Raises:
        NotFinite: the loss or the gradient is not finite; that step changed nothing.
        OutOfMemory: not even one sample at a time fits.
        Stopped: a stop was requested; the step it was in changed nothing.
    """
    how = execution or Execution()
    optimizer, scaler, micro = learner.optimizer, learner.scaler, how.micro_batch
    skipped = 0
    learner.network.train()
    for number, batch in batches:
        start = time.perf_counter()
        local = _local_batch(learner.objective, *prepare(number, batch), how.world, number)
        batch_losses, micro = _gradients(learner, local, micro, how)
        loss = float((batch_losses.weight * batch_losses.loss).sum()) / local.batch
        if scaler is not None:
            scaler.unscale_(optimizer)
        gradient = nn.utils.clip_grad_norm_(learner.network.parameters(), clip).item()
        lr, finite = rate(number), math.isfinite(loss) and math.isfinite(gradient)
        # An fp16 overflow is expected now and then: the scaler halves its scale after it.
        overflow = scaler is not None and math.isfinite(loss) and scaler.get_scale() > 1
        if finite:
            for group in optimizer.param_groups:
                group["lr"] = lr
            _step(learner, batch_losses, number)
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
class _LocalBatch:
    """This rank's shard of a step's batch, with its times and noise."""

    example: Example
    draw: Draw
    seeds: Sequence[int]  # of each sample's streams
    shard: slice
    batch: int  # samples in all processes
    step: int

    def __len__(self) -> int:
        return len(self.example.x0)


@dataclass(frozen=True)
class _BatchLosses:
    """Times, weights and losses of the whole batch."""

    t: Float64[Tensor, " b"]
    weight: Float64[Tensor, " b"]
    loss: Float64[Tensor, " b"]


def _local_batch(
    objective: Objective, example: Example, noise: Noise, world: World, step: int
) -> _LocalBatch:
    shard = world.shard(len(noise))
    draw = objective.draw(example.x0, noise, shard)
    return _LocalBatch(example, draw, noise.seeds[shard], shard, len(noise), step)


def _gradients(
    learner: Learner, local: _LocalBatch, micro: int | None, how: Execution
) -> tuple[_BatchLosses, int]:
    """Accumulate the gradient of the whole batch's mean loss in the network's parameters.

    When memory runs out in any process, all repeat the step with half the micro-batch.  The same
    draws are reused, so the gradient is unchanged.  Also returns the micro-batch used.
    """
    largest = -(-local.batch // how.world.size)
    micro = min(micro or largest, largest)
    while True:
        learner.optimizer.zero_grad(set_to_none=True)
        losses, status = _attempt(learner, local, micro, how)
        status = how.world.all_reduce_max(status)
        if status.not_finite:
            raise NotFinite(f"step {local.step}: weights are not finite; lower the learning rate")
        if status.stop:
            learner.optimizer.zero_grad(set_to_none=True)
            raise Stopped(local.step, status.stop)
        if not status.out_of_memory:
            break
        micro = _smaller(micro, local.step, how)
    # Each rank fills its shard of a table of zeros, so that the sum over ranks gathers it.
    table = torch.zeros(3, local.batch, dtype=torch.float64)
    table[:, local.shard] = torch.stack([local.draw.t, local.draw.weight, losses.double()]).cpu()
    gradients = [p.grad for p in learner.network.parameters() if p.grad is not None]
    how.world.all_reduce_gradients(gradients)
    return _BatchLosses(*how.world.all_reduce_sum(table)), micro


def _attempt(
    learner: Learner, local: _LocalBatch, micro: int, how: Execution
) -> tuple[Tensor, Status]:
    """Accumulate this rank's part of the gradient, `micro` samples at a time; its losses."""
    losses: list[Tensor] = []
    nothing = local.example.x0.new_zeros(len(local))
    try:
        for first in range(0, len(local), micro):
            if number := how.should_stop():
                return nothing, Status(stop=number)
            losses.append(_backward(learner, local, slice(first, first + micro), how))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return torch.cat(losses), Status()
    # Below the handler, where the traceback and the activations it refers to are freed.
    losses.clear()
    if local.example.x0.is_cuda:
        torch.cuda.empty_cache()
    return nothing, Status(out_of_memory=1)


def _backward(learner: Learner, local: _LocalBatch, piece: slice, how: Execution) -> Tensor:
    """The losses of some samples; their term of the batch's gradient is added to the network's."""
    example, draw, device = local.example, local.draw, local.example.x0.device
    condition = {name: value[piece] for name, value in example.condition.items()}
    mask = None if example.mask is None else example.mask[piece]
    # Gradients of a replayed call lie in the graph's memory: they are not accumulated.
    whole = len(draw.t[piece]) == len(local)
    network = how.replay.next_step() if how.replay and whole else learner.network
    # Dropout draws from the global stream, which is therefore seeded by the step.
    with (
        _stream(device, derive(local.seeds[piece][0], "network")),
        computing(how.precision, device),
    ):
        each = learner.objective.loss(
            network, example.x0[piece], draw.t[piece], draw.eps[piece], condition, mask
        )
    loss = (draw.weight[piece].to(each) * each).sum() / local.batch
    (loss if learner.scaler is None else learner.scaler.scale(loss)).backward()
    return each.detach()


def _smaller(micro: int, step: int, how: Execution) -> int:
    """Half the micro-batch, with a note for the user."""
    if micro == 1:
        raise OutOfMemory(
            f"step {step + 1}: out of memory with one sample at a time; lower the network's width "
            "or the size of the samples, use precision bf16, or a machine with more memory"
        )
    smaller = micro // 2
    how.notify(
        f"step {step + 1}: out of memory with {micro} samples at once; repeating it with {smaller}"
    )
    return smaller


def _step(learner: Learner, losses: _BatchLosses, number: int) -> None:
    """Update the weights, their averages, and times that adapt."""
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
        objective.times.update(objective.process, losses.t, losses.loss)
    averages: Sequence[WeightAverage] = (learner.average, *learner.powers)
    for average in averages:
        average.update(learner.network, number)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, for which torch has several messages."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


@contextmanager
def _stream(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global streams in the block; their states are restored after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            here = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[here].manual_seed(seed)
        yield


# --- the optimizer's state ----------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Shaped[Tensor, "..."]]:
    """The optimizer's state as named tensors: ``<parameter>.<entry>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{entry}": torch.as_tensor(value)
        for number, values in state.items()
        for entry, value in values.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Shaped[Tensor, "..."]]
) -> None:
    """Restore the state that `optimizer_tensors` returned."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, entry = name.split(".", 1)
        states.setdefault(int(number), {})[entry] = value.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
