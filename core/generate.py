"""Unconditional, class-conditional and super-resolving generation, as of published networks.

`Blank` is a dataset of zeros: sampling needs the shapes and classes of items, not their values.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.results.sheet import to_bytes
from core.task import Batch, Example, Figure, Item, Method, Panel, Scores

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Samples in [-1, 1] like those of the data: signals, images or volumes.

    A batch holds ``image`` (b, channels, *space); ``class`` (b,) where there are classes; and
    ``low`` (b, image, *smaller) where the condition is an image, which is enlarged to the size of
    the sample.  Without ``low``, block means of the data are used.

    Scores compare distributions of values, not positions: a sample with its pixels shuffled scores
    the same.  They detect weights or schedules that were read wrongly; they do not measure image
    quality.  With `core/blank` the data are zeros, and the first figure is the distance of a
    sample's values from mid-grey.

    Source: the image condition, Dhariwal and Nichol 2021, arXiv:2105.05233, section 6.

    Args:
        channels: of a sample.
        classes: number of classes; 0 for none.
        image: channels of the image condition; 0 for none.
        factor: ratio of the sample's size to the image condition's.
    """

    channels: int = 3
    classes: int = 0
    image: int = 0
    factor: int = 4

    reference: ClassVar[str] = "mid-grey"
    figures: ClassVar[Mapping[str, Figure]] = {
        "values": Figure("distance of value distributions", "", "lower"),
        "outside": Figure("values outside [-1, 1]", "%", "lower"),
    }

    def __post_init__(self) -> None:
        if self.channels < 1 or self.classes < 0 or self.factor < 2:
            raise InputError(
                "generate: expected channels >= 1, classes >= 0 and factor >= 2, got "
                f"{self.channels}, {self.classes} and {self.factor}"
            )
        if self.image not in (0, self.channels):
            raise InputError(
                f"generate: image: expected 0 or the {self.channels} channels of a sample, got "
                f"{self.image}"
            )

    @property
    def conditions(self) -> Mapping[str, int]:
        """Channels of the image condition and number of classes, where there are any."""
        named = {"image": self.image, "class": self.classes}
        return {name: number for name, number in named.items() if number}

    @property
    def reads(self) -> Mapping[str, str]:
        """The image, and the class where there are classes."""
        return {"image": f"{self.channels} *space"} | ({"class": ""} if self.classes else {})

    def prepare(self, batch: Batch) -> Example:
        """The samples, with their classes and the enlarged image condition.

        Raises:
            InputError: the dataset gives no classes, or samples of other channels.
        """
        x0, condition = batch["image"], {}
        if x0.shape[1] != self.channels:
            raise InputError(
                f"image: expected {self.channels} channels, got {x0.shape[1]}; "
                "choose another dataset or its options"
            )
        if self.image:
            mode = LINEAR[x0.ndim - 2]
            condition["image"] = F.interpolate(self.low(batch), x0.shape[2:], mode=mode)
        if self.classes:
            if "class" not in batch:
                raise InputError(
                    f"class: expected one of {self.classes} classes for each item, the dataset has "
                    "none; use core/blank with classes, or a dataset with labels"
                )
            condition["class"] = batch["class"]
        return Example(x0, condition)

    def low(self, batch: Batch) -> Float[Tensor, " b c *smaller"]:
        """The smaller image that comes with the data, or block means of theirs."""
        if "low" in batch:
            return batch["low"]
        x0 = batch["image"]
        return F.interpolate(x0, [max(1, s // self.factor) for s in x0.shape[2:]], mode="area")

    def finish(self, x0: Float[Tensor, " b *shape"], batch: Batch) -> Float[Tensor, " b *shape"]:
        """The draws, not clipped to [-1, 1]: values outside are scored."""
        return x0

    def score(self, results: Float[Tensor, " b k c *space"], batch: Batch) -> Scores:
        """Distance between the values of an item's draws and the item's, and values out of range.

        The first is the Wasserstein-1 distance of the two distributions of values, int |F_a^-1 -
        F_b^-1|, averaged over channels.  The reference is a sample that is 0 everywhere.
        """
        truth, draws = batch["image"].double().flatten(2), results.double().flatten(3)
        drawn = draws.transpose(1, 2).flatten(2).sort(-1).values  # b c (k n)
        data = truth.repeat_interleave(draws.shape[1], dim=-1).sort(-1).values
        apart = (drawn - data).abs().flatten(1).mean(1)
        outside = (drawn.abs() > 1).double().flatten(1).mean(1)
        return {
            "mid-grey": Method(
                "baseline", {"values": truth.abs().flatten(1).mean(1), "outside": outside * 0}
            ),
            "samples": Method("draw", {"values": apart, "outside": 100 * outside}),
        }

    def show(
        self, results: Float[Tensor, " b k c *space"], batch: Batch, titles: list[str]
    ) -> list[Panel]:
        """The image condition and up to eight draws, if they are images; else nothing."""
        if results.ndim != 5:
            return []
        given = self.low(batch) if self.image else None
        panels = []
        for i, title in enumerate(titles):
            images = {} if given is None else {"given": to_bytes(given[i])}
            for k, draw in enumerate(results[i, :8]):
                images[f"sample {k + 1}"] = to_bytes(draw)
            panels.append(Panel(title, images))
        return panels


class Blank:
    """Items of zeros, with a shape and a class and no data.

    Args:
        shape: of an item: channels, then space.
        count: number of items in each split.
        classes: item i has class i mod `classes`; 0 for none.
        first: class of the first item.
    """

    def __init__(
        self,
        split: str,
        *,
        shape: tuple[int, ...] = (3, 64, 64),
        count: int = 64,
        classes: int = 0,
        first: int = 0,
    ) -> None:
        if not 2 <= len(shape) <= 4 or min(shape) < 1 or count < 1 or classes < 0:
            raise InputError(
                "blank: expected a shape of channels and one to three sizes, count >= 1 and "
                f"classes >= 0, got {shape}, {count} and {classes}"
            )
        if not 0 <= first < max(1, classes):
            raise InputError(f"first: expected one of the {classes} classes, from 0, got {first}")
        self.split, self.shape, self.count = split, tuple(shape), count
        self.classes, self.first = classes, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        item = {"image": torch.zeros(self.shape)}
        if self.classes:
            item["class"] = torch.tensor((self.first + index) % self.classes)
        return item

    def source(self, index: int) -> str:
        """A name for each item: none shares a source with another."""
        return f"blank {self.split} {index}"

    def name(self, index: int) -> str:
        """A title for the item."""
        label = f", class {(self.first + index) % self.classes}" if self.classes else ""
        return f"blank {index}{label}"

    def digest(self) -> str:
        """SHA-256 of the options, which determine the items."""
        options = repr((self.split, self.shape, self.count, self.classes, self.first))
        return hashlib.sha256(options.encode()).hexdigest()
