"""Datasets as the core sees them, and their order as a pure function of (seed, step)."""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive


@runtime_checkable
class Dataset(Protocol):
    """A map from index to named tensors; the same index always gives the same item."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Tensor]: ...

    def source(self, index: int) -> str:
        """What the item was taken from; items of one source are not independent."""
        ...

    def name(self, index: int) -> str:
        """A title for the item."""
        ...

    def digest(self) -> str:
        """SHA-256 of the data, for the record of a run."""
        ...


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


def collate(dataset: Dataset, indices: list[int]) -> dict[str, Tensor]:
    """The items of `indices` stacked by name."""
    items = [dataset[index] for index in indices]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
