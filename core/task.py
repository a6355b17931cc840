"""The interface of a plug-in's task: examples to train on, results to score and to show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

Item = Mapping[str, Shaped[Tensor, "..."]]
"""Named tensors of an item of a dataset."""

Batch = Mapping[str, Shaped[Tensor, "..."]]
"""The same of several items, stacked along a new first axis."""


@dataclass(frozen=True)
class Example:
    """Training example: `x0`, condition and loss mask.

    Args:
        x0: the variable that is diffused, of about unit range.
        condition: further inputs of the network, by name.
        mask: 1 where the error counts; None for everywhere.
    """

    x0: Float[Tensor, " b *shape"]
    condition: Mapping[str, Shaped[Tensor, " b ..."]] = field(default_factory=dict)
    mask: Float[Tensor, " b *shape"] | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of merit, as a report shows it.

    Args:
        label: its name in tables.
        unit: "dB", "mm", ... or "".
        better: the direction of improvement; of a figure with a `best`, from the usual side.
        best: the value that is best, such as 1 of a misfit in units of the noise; None where
            there is always a better one.
    """

    label: str
    unit: str
    better: Literal["higher", "lower"]
    best: float | None = None

    def goodness(self, value: float) -> float:
        """A number that is larger for a better value: its own sign, or nearness to the best."""
        if self.best is not None:
            return -abs(value - self.best)
        return value if self.better == "higher" else -value


@dataclass(frozen=True)
class Clip:
    """A video clip.

    Args:
        frames: uint8 (t, h, w, 3) or (t, h, w).
        rate: frames a second.
    """

    frames: np.ndarray
    rate: float = 8.0


@dataclass(frozen=True)
class Volume:
    """A volume, shown slice by slice along any axis, in a window of values.

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
    """A point cloud, to be rotated.

    Args:
        points: float (n, 3): x to the right, y up, z towards the viewer.
        colours: uint8 (n, 3); None for colours by height.
    """

    points: np.ndarray
    colours: np.ndarray | None = None


@dataclass(frozen=True)
class Panel:
    """Views of one item side by side; those of one kind are played, scrolled and rotated together.

    Labels are shown as plain text.

    Args:
        title: of the row.
        note: a paragraph on how to read it.
        images: label -> uint8 (h, w, 3) or (h, w).
        whole: label -> the whole image of which `images` are crops, of the same type; reports show
            it reduced, and the crops beside it at one pixel each.
        clips: label -> frames.
        volumes: label -> slices.
        clouds: label -> points.
    """

    title: str
    note: str = field(default="", kw_only=True)
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    whole: Mapping[str, np.ndarray] = field(default_factory=dict)
    clips: Mapping[str, Clip] = field(default_factory=dict)
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    clouds: Mapping[str, Cloud] = field(default_factory=dict)


Kind = Literal["baseline", "draw", "mean", "model", "floor"]
"""What a method is: one without the model; one draw of it, or the mean of several; the model itself
without a draw, as in a likelihood; or what the data score against themselves."""


@dataclass(frozen=True)
class Method:
    """Figures of one method, of each item.

    Args:
        kind: what the method is.
        figures: by name, one number for each item; figures that do not fit the method are left out.
    """

    kind: Kind
    figures: Mapping[str, Shaped[Tensor, "..."]]  # (b,), which `check_scores` requires


Scores = Mapping[str, Method]
"""The methods that a task compares, by name."""


@runtime_checkable
class Task(Protocol):
    """The seam between a domain and the core.

    Attributes:
        channels: of the diffused variable.
        conditions: channels of each condition, by name.
        figures: labels, units and directions, by the names `score` uses.
        reference: the method that others are compared with, one of `score`'s.
    """

    channels: int
    conditions: Mapping[str, int]
    figures: Mapping[str, Figure]
    reference: str

    def prepare(self, batch: Batch) -> Example:
        """The diffused variable and its conditions; a pure function of the batch."""
        ...

    def finish(self, x0: Float[Tensor, " b *shape"], batch: Batch) -> Shaped[Tensor, " b *result"]:
        """A draw of the diffused variable as the task's result, one for each item."""
        ...

    def score(self, results: Shaped[Tensor, " b draws *result"], batch: Batch) -> Scores:
        """The figures of each method, the reference among them."""
        ...

    def show(
        self, results: Shaped[Tensor, " b draws *result"], batch: Batch, titles: list[str]
    ) -> list[Panel]:
        """A panel for each item."""
        ...


@runtime_checkable
class Reading(Protocol):
    """A task that states the tensors it reads of an item, so that another dataset is refused.

    Attributes:
        reads: the shape of each tensor of an item, by name, as jaxtyping writes shapes: "3 h w";
            "" of a single number.  An axis with one name in two shapes has one size.  Tensors that
            a task can do without are not among them.
    """

    reads: Mapping[str, str]


@runtime_checkable
class Degrading(Protocol):
    """A task that adds a degradation to each item of a dataset: a mask, a compressed file.

    It does so where items are read, in the worker processes.
    """

    def degrade(self, item: Item, index: int) -> Item:
        """The item with its degradation; a function of the item and its index alone."""
        ...


@runtime_checkable
class ShownTogether(Protocol):
    """A task whose samples are seen in one picture, such as points in a scatter plot."""

    def show_together(self, results: Float[Tensor, " b k *shape"], batch: Batch) -> Panel:
        """One panel of all results."""
        ...


@runtime_checkable
class Correcting(Protocol):
    """A task with measurements: every estimate is made consistent with them."""

    def correct(self, x0: Float[Tensor, " b *shape"], batch: Batch) -> Float[Tensor, " b *shape"]:
        """The consistent estimate of the diffused variable that is nearest to `x0`."""
        ...
