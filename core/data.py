"""Datasets as the core sees them, and their order as a pure function of (seed, step)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.utils.data
from torch import Tensor

from core.parts.config import configure
from core.parts.registry import Spec
from core.task import Degrading, Task


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


@dataclass(frozen=True)
class _Degraded:
    """A dataset with what its task makes of each item."""

    dataset: Dataset
    task: Degrading

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        return self.task.degrade(self.dataset[index], index)

    def source(self, index: int) -> str:
        return self.dataset.source(index)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def digest(self) -> str:
        return self.dataset.digest()


def open_dataset(spec: Spec, split: str, task: Task) -> Dataset:
    """A split of the dataset, its items as `task` wants them.

    Raises:
        InputError: an option is wrong, or the data cannot be used.
    """
    dataset: Dataset = configure("dataset", spec)(split)
    return _Degraded(dataset, task) if isinstance(task, Degrading) else dataset


def collate(dataset: Dataset, indices: list[int]) -> dict[str, Tensor]:
    """The items of `indices` stacked by name."""
    return stack([dataset[index] for index in indices])


def stack(items: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
