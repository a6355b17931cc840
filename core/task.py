"""What a plug-in's task tells the core: examples to learn from, results to score and to show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Example:
    """What a batch becomes for the core.

    Args:
        x0: what is diffused (b, *shape), of about unit range.
        condition: what the network is given beside it, by name.
        mask: 1 where the error counts, in the shape of `x0`; None for everywhere.
    """

    x0: Tensor
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None


@dataclass(frozen=True)
class Figure:
    """How a score is read.

    Args:
        label: its name in tables.
        unit: "dB", "mm", ... or "".
        better: which way is better.
    """

    label: str
    unit: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class Panel:
    """Pictures to be seen side by side.

    Args:
        title: of the row.
        images: label -> uint8 (h, w, 3) or (h, w).
    """

    title: str
    images: Mapping[str, np.ndarray]


Scores = Mapping[str, Mapping[str, Tensor]]


@runtime_checkable
class Task(Protocol):
    """The seam between a domain and the core.

    Attributes:
        channels: of what is diffused.
        conditions: channels of each condition, by name.
        figures: how each score is read, by the names `score` uses.
        reference: the method that others are compared with, one of `score`'s.
    """

    channels: int
    conditions: Mapping[str, int]
    figures: Mapping[str, Figure]
    reference: str

    def prepare(self, batch: Batch) -> Example:
        """What to diffuse and what to condition on; a pure function of the batch."""
        ...

    def finish(self, x0: Tensor, batch: Batch) -> Tensor:
        """A draw (b, *shape) of the diffused variable as the task's result, one for each item."""
        ...

    def score(self, results: Tensor, batch: Batch) -> Scores:
        """Method -> figure -> one number per item, for results (b, draws, *shape)."""
        ...

    def show(self, results: Tensor, batch: Batch, titles: list[str]) -> list[Panel]:
        """What to look at, a panel per item."""
        ...
