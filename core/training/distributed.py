"""Processes that train together: who computes what, and how they agree.

The same function runs in every process, started by ``torchrun``, inside a process group that
exists already (a Ray worker's), or alone.  Each section in which processes wait for each other
begins with `agree`, so that one which failed, ran out of memory or was told to stop says so there
and none waits for it in vain.
"""

import atexit
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch import distributed as group

from core.errors import InputError

T = TypeVar("T")
BUCKET = 25 * 2**20  # bytes of gradients that travel together: torch's own choice for DDP


class PeerError(RuntimeError):
    """Another process of the group failed; its own message says why."""


class Flags(NamedTuple):
    """What a process has to say to the others; of several the largest counts.

    Args:
        failed: it cannot go on.
        spoiled: it found weights that are not finite.
        memory: it ran out of memory.
        stop: it was asked to stop: a signal's number, or 1.
    """

    failed: int = 0
    spoiled: int = 0
    memory: int = 0
    stop: int = 0


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is.

    Args:
        rank: from 0; the first one writes.
        size: how many there are.
        device: where what they exchange has to lie.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes for all."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's share of `count` things: neighbours, shares that differ by at most one."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def agree(self, flags: Flags) -> Flags:
        """The largest of every process's flags.

        Raises:
            PeerError: another process failed and this one did not.
        """
        if self.size == 1:
            return flags
        told = torch.tensor(flags, dtype=torch.int64, device=self.device)
        group.all_reduce(told, op=group.ReduceOp.MAX)
        heard = Flags(*told.tolist())
        if heard.failed and not flags.failed:
            raise PeerError("another process of this run failed; its own message says why")
        return heard

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each."""
        if self.size > 1:
            here = value.to(self.device)
            group.all_reduce(here)
            value = here.to(value.device)
        return value

    def same(self, value: int | float) -> float:
        """The first process's value, in all."""
        return float(self.total(torch.tensor(float(value if self.first else 0.0)).double()))

    def add_up(self, gradients: Sequence[Tensor]) -> None:
        """Replace each by its sum over all processes, in buckets of some 25 MB."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for place, gradient in enumerate(gradients):
            bucket.append(gradient)
            full = sum(g.numel() * g.element_size() for g in bucket) >= BUCKET
            if full or place == len(gradients) - 1 or gradients[place + 1].dtype != gradient.dtype:
                whole = torch.cat([g.flatten() for g in bucket])
                group.all_reduce(whole)
                parts = whole.split([g.numel() for g in bucket])
                for one, part in zip(bucket, parts, strict=True):
                    one.copy_(part.view_as(one))
                bucket = []

    def together(self, do: Callable[[], T]) -> T:
        """What `do` gives, once every process has done it.

        Raises:
            PeerError: another process failed in it, and has given up.
        """
        done = do()
        self.agree(Flags())
        return done

    def give_up(self) -> None:
        """Tell the others, who are waiting to agree or will be, that this process has failed."""
        with suppress(RuntimeError):  # they may be gone themselves
            self.agree(Flags(failed=1))


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The processes that this one belongs to, found from its group or ``RANK`` and ``WORLD_SIZE``.

    A group that exists already is used and left alone.  One that is made here lasts as long as the
    process: another made at the same address could meet the one before while it ends.

    Args:
        device: what this process computes on; GPUs talk by NCCL, CPUs by Gloo.

    Raises:
        InputError: the variables make no sense, or the others cannot be reached.
    """
    if not (group.is_available() and group.is_initialized()):
        if _number("WORLD_SIZE", 1) == 1:
            yield World(device=device)
            return
        _meet("nccl" if device.type == "cuda" else "gloo")
    yield World(group.get_rank(), group.get_world_size(), device)


def _meet(backend: str) -> None:
    """Make the group of this process and those that were started with it."""
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
    atexit.register(_part)


def _part() -> None:
    if group.is_initialized():
        # What is referred to still, by a cycle of frames, ends with the interpreter instead, and
        # there Gloo's threads abort the process.
        gc.collect()
        group.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.lstrip("-").isdigit():
        raise InputError(f"{name}: expected a number, got {text!r}; unset it to train alone")
    return int(text)
