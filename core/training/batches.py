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
from torch import Tensor

from core.data import Dataset, collate, stack
from core.errors import InputError
from core.process.noise import derive


def order(seed: int, length: int, batch: int, *, start: int = 0) -> Iterator[tuple[int, list[int]]]:
    """Endless (step, indices): every epoch a new permutation, batches running across its end.

    A pure function of (seed, step), so that a resumed run sees what an undisturbed one does.

    Raises:
        InputError: nothing to draw from.
    """
    if length < 1:
        raise InputError("the dataset is empty; nothing to train on")
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
    dataset: Dataset, wanted: Iterator[tuple[int, list[int]]], *, workers: int = 0
) -> Generator[tuple[int, dict[str, Tensor]]]:
    """The batches of (step, indices), read in this process or ahead by `workers` others.

    The same items and the same bits whatever their number: an item is a function of its index, and
    workers deliver in order.  Workers use one thread each and end with the iterator.
    """
    if workers == 0:
        for step, indices in wanted:
            yield step, collate(dataset, indices)
        return
    from torch.utils.data import DataLoader

    steps: deque[int] = deque()

    def indices_of() -> Iterator[list[int]]:
        for step, indices in wanted:
            steps.append(step)
            yield indices

    loader = DataLoader(
        _Items(dataset),
        batch_sampler=_Once(indices_of()),
        num_workers=workers,
        collate_fn=_stack_or_refusal,
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
        failure = error.with_traceback(None)  # it holds the reader, and that its workers
    del reader
    raise failure


@dataclass(frozen=True)
class _Items(torch.utils.data.Dataset[Mapping[str, Tensor] | InputError]):
    """A dataset as torch's loader wants it.

    An item that is refused is delivered as its refusal: the loader would add a traceback.
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
    """Lists of indices, as a sampler that is gone through once."""

    indices: Iterator[list[int]]

    def __iter__(self) -> Iterator[list[int]]:
        return self.indices


def _stack_or_refusal(
    items: list[Mapping[str, Tensor] | InputError],
) -> dict[str, Tensor] | InputError:
    whole: list[Mapping[str, Tensor]] = []
    for item in items:
        if isinstance(item, InputError):
            return item
        whole.append(item)
    return stack(whole)


def _prepare_worker(worker: int) -> None:
    """One thread; and of signals only those that its parent sends.

    Ctrl-C and a scheduler's SIGTERM reach every process of a group; whether to stop, and when, is
    decided by the one that reads from this worker.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()


def _obey_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
