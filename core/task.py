"""What a plug-in's task tells the core: examples to learn from, results to score and to show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
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
class Clip:
    """Frames to be played.

    Args:
        frames: uint8 (t, h, w, 3) or (t, h, w).
        rate: frames a second.
    """

    frames: np.ndarray
    rate: float = 8.0


@dataclass(frozen=True)
class Volume:
    """Slices to be leafed through, along any axis, in a window of values.

    Args:
        voxels: uint8 or uint16 (d, h, w).
        low: value that 0 stands for, in `unit`.
        high: value that the greatest number of the type stands for.
        unit: "HU", "mm", ... or "".
        spacing: size of a voxel along d, h and w, in any one unit.
        window: centre and width shown at first, in `unit`; None for the whole range.
    """

    voxels: np.ndarray
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cloud:
    """Points to be turned.

    Args:
        points: float (n, 3): x to the right, y up, z towards the viewer.
        colours: uint8 (n, 3); None for colours by height.
    """

    points: np.ndarray
    colours: np.ndarray | None = None


@dataclass(frozen=True)
class Panel:
    """What is to be seen side by side; views of one kind are played, leafed and turned together.

    Every label is text, shown as such.

    Args:
        title: of the row.
        images: label -> uint8 (h, w, 3) or (h, w).
        clips: label -> frames.
        volumes: label -> slices.
        clouds: label -> points.
    """

    title: str
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    clips: Mapping[str, Clip] = field(default_factory=dict)
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    clouds: Mapping[str, Cloud] = field(default_factory=dict)


Scores = Mapping[str, Mapping[str, Tensor]]
"""Method -> figure -> one number for each item; a method may lack figures that do not fit it."""


def is_drawn(method: str) -> bool:
    """Whether a method's name, as `Task.score` gives it, is that of draws: not a baseline's."""
    return method in ("samples", "one sample") or method.startswith("mean of ")


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


@runtime_checkable
class Degrading(Protocol):
    """A task that adds to each item of a dataset what its examples are made of: a mask, a file.

    It is done where items are read, in as many processes as read ahead.
    """

    def degrade(self, item: Batch, index: int) -> Batch:
        """The item and more; a function of the item and its index alone."""
        ...


@runtime_checkable
class ShownTogether(Protocol):
    """A task whose samples are seen in one picture, such as points in a scatter plot."""

    def show_together(self, results: Float[Tensor, " b k *shape"], batch: Batch) -> Panel:
        """One panel of all results."""
        ...


@runtime_checkable
class Correcting(Protocol):
    """A task that knows what was measured: every estimate is brought to agree with it."""

    def correct(self, x0: Tensor, batch: Batch) -> Tensor:
        """The estimate (b, *shape) of the diffused variable, or the nearest that agrees."""
        ...
