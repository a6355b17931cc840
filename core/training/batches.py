"""The order of training data as a pure function of (seed, step), and its batches, read ahead."""

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.utils.data
from jaxtyping import Shaped
from torch import Tensor

from core.data import Dataset, collate, stack
from core.errors import InputError
from core.process.noise import derive


def order(seed: int, length: int, batch: int, *, start: int = 0) -> Iterator[tuple[int, list[int]]]:
    """Endless (step, indices): every epoch a new permutation; batches run across its end.

    A pure function of (seed, step), so that a resumed run sees the same batches.

    Raises:
        InputError: nothing to draw from.
    """
    if length < 1:
        raise InputError("the dataset is empty: expected at least one item to train on")
    epoch, permutation = -1, np.empty(0, dtype=np.int64)
    step = start
    while True:
        indices = []
        for position in range(step * batch, (step + 1) * batch):
            if position // length != epoch:
                epoch = position // length
                draw = np.random.Generator(np.random.PCG64(derive(seed, "order", epoch)))
                permutation = draw.permutation(length)
            indices.append(int(permutation[position % length]))
        yield step, indices
        step += 1


def batches(
    dataset: Dataset, schedule: Iterator[tuple[int, list[int]]], *, workers: int = 0
) -> Generator[tuple[int, dict[str, Shaped[Tensor, "..."]]]]:
    """The batches of (step, indices), read in this process or prefetched by `workers` others.

    The batches do not depend on the number of workers: an item is a function of its index, and
    workers deliver in order.  Workers use one thread each and end with the iterator.
    """
    if workers == 0:
        for step, indices in schedule:
            yield step, collate(dataset, indices)
        return
    from torch.utils.data import DataLoader

    steps: deque[int] = deque()

    def indices_of() -> Iterator[list[int]]:
        for step, indices in schedule:
            steps.append(step)
            yield indices

    loader = DataLoader(
        _Items(dataset),
        batch_sampler=_Once(indices_of()),
        num_workers=workers,
        collate_fn=_stack_or_error,
        worker_init_fn=_prepare_worker,
        generator=torch.Generator(),  # or it would draw from the global stream
    )
    reader = iter(loader)
    try:
        for batch in reader:
            if isinstance(batch, InputError):
                raise batch
            yield steps.popleft(), batch
        return
    except Exception as error:  # noqa: BLE001  (raised again below)
        failure = error.with_traceback(
            None
        )  # the traceback holds the reader, and the reader its workers
    del reader
    raise failure


@dataclass(frozen=True)
class _Items(torch.utils.data.Dataset[Mapping[str, Tensor] | InputError]):
    """A dataset for torch's loader.

    A refused item is delivered as its `InputError`: raised in a worker, it would get a traceback.
    """

    dataset: Dataset

    def __getitem__(self, index: int) -> Mapping[str, Tensor] | InputError:
        try:
            return self.dataset[index]
        except InputError as error:
            return InputError(str(error))

    def __len__(self) -> int:
        return len(self.dataset)


@dataclass(frozen=True)
class _Once:
    """Lists of indices, as a batch sampler for one pass."""

    indices: Iterator[list[int]]

    def __iter__(self) -> Iterator[list[int]]:
        return self.indices


def _stack_or_error(
    items: list[Mapping[str, Tensor] | InputError],
) -> dict[str, Tensor] | InputError:
    read: list[Mapping[str, Tensor]] = []
    for item in items:
        if isinstance(item, InputError):
            return item
        read.append(item)
    return stack(read)


def _prepare_worker(worker: int) -> None:
    """One thread, and no signals but the parent's.

    Ctrl-C, a scheduler's SIGTERM and a closed terminal's SIGHUP reach every process of a group; the
    process that reads from this worker decides whether and when to stop.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
