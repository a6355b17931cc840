"""Data-parallel processes: each computes a shard of every batch; gradients are summed.

The same function runs in every process, started by ``torchrun``, inside a process group that
exists already (a Ray worker's), or alone.  Each section in which processes wait for each other
begins with an all-reduce of `Status`: a process that failed, ran out of memory or is to stop
reports it there, and none waits for it in vain.
"""

import atexit
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as group

from core.errors import InputError

T = TypeVar("T")
Number = TypeVar("Number", int, float)
BUCKET = 25 * 2**20  # bytes of gradients that travel together: torch's own choice for DDP


class PeerError(RuntimeError):
    """Another process of the group failed; its own message says why."""


class Status(NamedTuple):
    """The state that a process reports to the others; all-reduced by the maximum.

    Args:
        failed: it cannot continue.
        not_finite: it found weights that are not finite.
        out_of_memory: it ran out of memory.
        stop: it was asked to stop: a signal's number, or `NO_SIGNAL`.
    """

    failed: int = 0
    not_finite: int = 0
    out_of_memory: int = 0
    stop: int = 0


@dataclass(frozen=True)
class World:
    """The processes of a run, and this one's rank among them.

    Args:
        rank: from 0; the first one writes.
        size: number of processes.
        device: where tensors that are exchanged must be.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes for all."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """This rank's slice of `count` items: contiguous; sizes differ by at most one."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def all_reduce_max(self, status: Status) -> Status:
        """Field by field, the largest of all processes.

        Raises:
            PeerError: another process failed and this one did not.
        """
        if self.size == 1:
            return status
        values = torch.tensor(status, dtype=torch.int64, device=self.device)
        group.all_reduce(values, op=group.ReduceOp.MAX)
        reduced = Status(*values.tolist())
        if reduced.failed and not status.failed:
            raise PeerError("another process of this run failed; its own message says why")
        return reduced

    def all_reduce_sum(self, value: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """The sum over all processes, the same bits in each."""
        if self.size == 1:
            return value
        total = value.to(self.device)
        group.all_reduce(total)
        return total.to(value.device)

    def broadcast(self, value: Number) -> Number:
        """The first process's value, in all; an int is sent as int64, a float as float64."""
        if self.size == 1:
            return value
        dtype = torch.int64 if isinstance(value, int) else torch.float64
        sent = torch.tensor(value, dtype=dtype, device=self.device)
        group.broadcast(sent, src=0)
        return type(value)(sent.item())

    def all_reduce_gradients(self, gradients: Sequence[Float[Tensor, "..."]]) -> None:
        """Replace each by its sum over all processes, in buckets of some 25 MB."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for index, gradient in enumerate(gradients):
            bucket.append(gradient)
            full = sum(g.numel() * g.element_size() for g in bucket) >= BUCKET
            last = index == len(gradients) - 1
            if full or last or gradients[index + 1].dtype != gradient.dtype:
                flat = torch.cat([g.flatten() for g in bucket])
                group.all_reduce(flat)
                pieces = flat.split([g.numel() for g in bucket])
                for one, piece in zip(bucket, pieces, strict=True):
                    one.copy_(piece.view_as(one))
                bucket = []

    def barrier_after(self, do: Callable[[], T]) -> T:
        """The result of `do`, returned once every process has done it.

        Raises:
            PeerError: `do` failed in another process.
        """
        result = do()
        self.all_reduce_max(Status())
        return result

    def report_failure(self) -> None:
        """Have the others, at their next all-reduce of `Status`, raise `PeerError`."""
        with suppress(RuntimeError):  # they may be gone themselves
            self.all_reduce_max(Status(failed=1))


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """The processes that this one belongs to, found from its group or ``RANK`` and ``WORLD_SIZE``.

    A group that exists already is used and left alone.  One that is made here lasts as long as the
    process: another made at the same address could meet the one before while it ends.

    Args:
        device: the device of this process; GPUs communicate by NCCL, CPUs by Gloo.

    Raises:
        InputError: the variables make no sense, or the others cannot be reached.
    """
    if not (group.is_available() and group.is_initialized()):
        if _number("WORLD_SIZE", 1) == 1:
            yield World(device=device)
            return
        _initialize("nccl" if device.type == "cuda" else "gloo")
    yield World(group.get_rank(), group.get_world_size(), device)


def _initialize(backend: str) -> None:
    """Initialize the group of this process and those that were started with it."""
    rank, size = _number("RANK", -1), _number("WORLD_SIZE", 1)
    if not 0 <= rank < size:
        raise InputError(
            f"RANK={os.environ.get('RANK')}, WORLD_SIZE={size}: expected a rank from 0 to "
            f"{size - 1}; start by torchrun, or unset WORLD_SIZE to train alone"
        )
    try:
        group.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"WORLD_SIZE={size}: the other processes cannot be reached: {error}; "
            "start by torchrun, or unset WORLD_SIZE to train alone"
        ) from error
    atexit.register(_destroy)


def _destroy() -> None:
    if group.is_initialized():
        # A group that a cycle of frames still refers to is destroyed with the interpreter, where
        # Gloo's threads abort the process; so cycles are collected first.
        gc.collect()
        group.destroy_process_group()


def _number(name: str, default: int) -> int:
    """The whole number in an environment variable."""
    text = os.environ.get(name, str(default))
    if not text.lstrip("-").isdigit():
        raise InputError(f"{name}: expected a number, got {text!r}; unset it to train alone")
    return int(text)
