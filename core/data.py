"""Datasets as the core sees them: items by index, stacked into batches; classes in range."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Shaped, jaxtyped
from torch import Tensor

from core.errors import InputError
from core.parts.config import configure
from core.parts.registry import Spec, installed
from core.task import Degrading, Example, Item, Reading, Task


@runtime_checkable
class Dataset(Protocol):
    """A map from index to named tensors; the same index always gives the same item."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...

    def source(self, index: int) -> str:
        """The name of the item's origin; items of one source are not independent."""
        ...

    def name(self, index: int) -> str:
        """A title for the item."""
        ...

    def digest(self) -> str:
        """SHA-256 of the data, for the record of a run."""
        ...


@runtime_checkable
class Surveyed(Protocol):
    """A dataset of the user's files that lists what it found there, and what it leaves out."""

    def notes(self) -> Sequence[str]:
        """A line for each of them, for whoever trains on it."""
        ...


def notes_of(dataset: Dataset) -> Sequence[str]:
    """The notes of a surveyed dataset about its files; none of any other dataset."""
    whole = dataset.dataset if isinstance(dataset, _Degraded) else dataset
    return whole.notes() if isinstance(whole, Surveyed) else ()


@dataclass(frozen=True)
class _Degraded:
    """A dataset whose items its task degrades."""

    dataset: Dataset
    task: Degrading

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        return self.task.degrade(self.dataset[index], index)

    def source(self, index: int) -> str:
        return self.dataset.source(index)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def digest(self) -> str:
        return self.dataset.digest()


def open_dataset(spec: Spec, split: str, task: Task) -> Dataset:
    """A split of the dataset, its items degraded where the task does that.

    Raises:
        InputError: an option is wrong, the data cannot be used, or the first item lacks a tensor
            that the task reads, or has it in another shape.
    """
    dataset: Dataset = configure("dataset", spec)(split)
    if not isinstance(dataset, Dataset):
        methods = ("__len__", "__getitem__", "source", "name", "digest")
        missing = [name for name in methods if not hasattr(dataset, name)]
        raise InputError(
            f"dataset {spec.name} has no {', '.join(missing)}; a dataset has {', '.join(methods)}, "
            "as core.data.Dataset describes them"
        )
    if isinstance(task, Reading) and len(dataset):
        _check_read(task, dataset[0], spec.name)
    return _Degraded(dataset, task) if isinstance(task, Degrading) else dataset


def _check_read(task: Reading, item: Item, dataset: str) -> None:
    """Refuse an item without the tensors that a task reads.

    Raises:
        InputError: a tensor is missing, or has another shape.
    """
    found = ", ".join(f"{name} ({' '.join(map(str, value.shape))})" for name, value in item.items())
    wrong = []
    with jaxtyped("context"):  # an axis has one size in all tensors
        for name, shape in task.reads.items():
            if name not in item:
                wrong.append(f"{name!r}, which is not there")
            elif not isinstance(item[name], cast(type, Shaped[Tensor, shape])):
                wrong.append(f"{name!r} of shape ({shape})")
    if wrong:
        raise InputError(
            f"task {part_name('task', task)} reads {', and '.join(wrong)}; an item of dataset "
            f"{dataset} has {found}; choose another dataset or its options"
        )


def part_name(kind: str, built: object) -> str:
    """The full name of the part that an object was built from; its class if that is none."""
    made = type(built)
    target = f"{made.__module__}:{made.__qualname__}"
    names = (name for name, part in installed().names(kind) if part.target == target)
    return next(names, made.__qualname__)


def collate(dataset: Dataset, indices: list[int]) -> dict[str, Shaped[Tensor, " b ..."]]:
    """The items of `indices` stacked by name."""
    return stack([dataset[index] for index in indices])


def stack(items: list[Item]) -> dict[str, Shaped[Tensor, " b ..."]]:
    """The tensors of each name in one, with the items as a new first axis."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def check_classes(example: Example, task: Task, name: Callable[[int], str]) -> None:
    """Refuse a class that the task does not have, before a network looks it up.

    Args:
        example: a batch.
        task: its `conditions` give the number of classes.
        name: of the item at a position in the batch.

    Raises:
        InputError: a class below 0 or not below the number of classes, or one that is no integer.
    """
    labels, classes = example.condition.get("class"), task.conditions.get("class")
    if labels is None or classes is None:
        return
    if labels.is_floating_point():
        raise InputError(f"class: expected integers, got {labels.dtype}; choose another dataset")
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        position = int(wrong[0, 0])
        raise InputError(
            f"{name(position)}: class: expected 0 to {classes - 1}, since the task has {classes} "
            f"classes, got {int(labels[position])}; raise task.classes or choose another dataset"
        )


# --- splits and caches ---------------------------------------------------------------------------

T = TypeVar("T")


def problems_of_split(split: str) -> list[str]:
    """A line for what is no split of a dataset; none for ``train`` and ``test``."""
    known = split in ("train", "test")
    return [] if known else [f"split: expected train or test, got {split!r}"]


def check_split(split: str) -> None:
    """Refuse what is no split of a dataset.

    Raises:
        InputError: neither ``train`` nor ``test``.
    """
    if problems := problems_of_split(split):
        raise InputError(problems[0])


def place_of(digest: str) -> float:
    """The place of a hexadecimal digest in [0, 1): uniform over contents, below a fraction test."""
    return int(digest[:13], 16) / 16**13


def split_of(
    items: Sequence[T], split: str, test_fraction: float, *, key: Callable[[T], str]
) -> list[T]:
    """The items of one split, in their order; items of one key are on one side.

    Adding items moves no other to the other side.

    Args:
        items: of both splits.
        split: ``train`` or ``test``.
        test_fraction: approximate fraction of the keys in ``test``; 0 for none, 1 for all.
        key: hexadecimal digest of what keeps an item on its side: its content, its patient.
    """
    test = split == "test"
    return [item for item in items if (place_of(key(item)) < test_fraction) == test]


class Cache(Generic[T]):
    """Values by key up to a number of bytes; the least recently used are dropped.

    The newest stays, however large.

    Args:
        most: bytes that are kept.

    Attributes:
        held: bytes that are kept now.
    """

    def __init__(self, most: int) -> None:
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._most, self.held = most, 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> T | None:
        """The value of a key, as used now; None where it is not kept."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def keep(self, key: Hashable, value: T, size: int) -> T:
        """`value`, kept as one of so many bytes."""
        if key in self._values:
            self.held -= self._values.pop(key)[1]
        self._values[key] = value, size
        self.held += size
        while len(self._values) > 1 and self.held > self._most:
            self.held -= self._values.popitem(last=False)[1][1]
        return value
