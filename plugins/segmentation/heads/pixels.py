"""Labelled pixels with their features, and the folds that are held out to stop what is learned."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from core.errors import InputError
from core.features import Maps
from core.process.noise import derive
from plugins.segmentation.heads.projection import sampled
from plugins.segmentation.io.classes import IGNORE

FOLDS = 5
BLOCK = 16  # pixels: side of the squares that are held out whole: neighbours are alike


class Pixels(NamedTuple):
    """Labelled pixels.

    Args:
        features: of each.
        labels: their classes, 0 to `classes - 1`.
        fold: which part each is held out with, 0 to `FOLDS - 1`; -1: it never is.
        classes: number of classes.
    """

    features: Float[Tensor, " n k"]
    labels: Int64[Tensor, " n"]
    fold: Int64[Tensor, " n"]
    classes: int

    @property
    def held(self) -> Bool[Tensor, " n"]:
        """Pixels of the first fold, for what holds out one."""
        return self.fold == 0

    @property
    def weights(self) -> Float[Tensor, " n"]:
        """Of each pixel: classes weigh alike, and the mean is 1."""
        counts = torch.bincount(self.labels, minlength=self.classes).clamp(min=1)
        weights = 1.0 / counts[self.labels]
        return weights / weights.mean()


def log_odds(counts: Int64[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """log(frequency x number of classes): what logits of classes that were alike lack.

    p(c | x) is proportional to p(x | c) p(c).  Source: Saerens et al. 2002, Neural Computation
    14, 21-41, eq. 2.4.
    """
    present = counts.clamp(min=1).double()
    return (present / present.sum() * len(counts)).log()


class Places(NamedTuple):
    """Labelled pixels, where they are.

    Args:
        image: number of the image of each.
        y: its row.
        x: its column.
        labels: its class, 0 to `classes - 1`.
        fold: the part that it is held out with, or -1.
        classes: number of classes.
    """

    image: Int64[Tensor, " n"]
    y: Int64[Tensor, " n"]
    x: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    fold: Int64[Tensor, " n"]
    classes: int


def places_of(
    masks: Sequence[UInt8[Tensor, "h w"]],
    classes: int,
    *,
    source: Sequence[int] | None = None,
    most: int = 40_000,
    seed: int = 0,
) -> Places:
    """The labelled pixels of images, at most `most`, as many of each class as possible.

    Args:
        masks: the classes of the images' pixels, `IGNORE` where there is none.
        classes: number of classes.
        source: the photograph that each is a tile of; by default each is one of its own.
        most: number of pixels; more are drawn at random, rare classes first.
        seed: random seed of that draw, and of the folds.

    Raises:
        InputError: no labelled pixel, or pixels of one class alone.
    """
    found = [_labelled(number, mask) for number, mask in enumerate(masks)]
    image, y, x, labels = (torch.cat(part) for part in zip(*found, strict=True))
    present = labels.unique().tolist()
    if not present:
        raise InputError("labels: no pixel has one; paint some pixels of each class")
    if len(present) == 1:
        raise InputError(
            f"labels: all {len(labels)} labelled pixels are of class {present[0]}; label some of "
            "another class too"
        )
    chosen = balanced(labels, most, seed)
    image, y, x, labels = image[chosen], y[chosen], x[chosen], labels[chosen]
    origin = image if source is None else torch.tensor(source)[image]
    return Places(image, y, x, labels, folds_of(origin, image, y, x, labels, seed), classes)


def with_features(places: Places, maps: Callable[[int], Maps]) -> Pixels:
    """The pixels with their features, one image after another.

    Args:
        places: of the pixels.
        maps: of an image, by its number; called once for each that has labelled pixels.
    """
    found = torch.zeros(0)
    for number in places.image.unique().tolist():
        mine = places.image == number
        part = sampled(maps(number), 0, places.y[mine], places.x[mine]).cpu()
        if not found.numel():
            found = torch.empty(len(places.labels), part.shape[1])
        found[mine] = part
    return Pixels(found, places.labels, places.fold, places.classes)


def _labelled(number: int, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, x = torch.nonzero(mask != IGNORE, as_tuple=True)
    return torch.full_like(y, number), y, x, mask[y, x].long()


def balanced(label: Int64[Tensor, " n"], most: int, seed: int) -> Int64[Tensor, " kept"]:
    """At most `most` positions, in order: each class gets an even part, or all that it has."""
    draw = torch.Generator().manual_seed(derive("segmentation/pixels", seed))
    groups = [torch.nonzero(label == one)[:, 0] for one in label.unique().tolist()]
    kept, left = [], most
    for rank, group in enumerate(sorted(groups, key=len)):
        part = min(len(group), left // (len(groups) - rank))
        kept.append(group[torch.randperm(len(group), generator=draw)[:part]])
        left -= part
    return torch.cat(kept).sort().values


def folds_of(
    source: Int64[Tensor, " n"],
    image: Int64[Tensor, " n"],
    y: Int64[Tensor, " n"],
    x: Int64[Tensor, " n"],
    label: Int64[Tensor, " n"],
    seed: int,
) -> Int64[Tensor, " n"]:
    """The fold of each pixel: whole photographs where there are enough of them, else squares.

    What is learned has to hold on other photographs; their own squares resemble those that are
    learned from.  A class is never held out whole: its pixels are then in no fold (-1).
    """
    apart = len(source.unique()) >= FOLDS
    groups = source[:, None] if apart else torch.stack([image, y // BLOCK, x // BLOCK], 1)
    unique, which = groups.unique(dim=0, return_inverse=True)
    draw = torch.Generator().manual_seed(derive("segmentation/held", seed))
    dealt = torch.empty(len(unique), dtype=torch.long)
    dealt[torch.randperm(len(unique), generator=draw)] = torch.arange(len(unique)) % FOLDS
    fold = dealt[which]
    for one in label.unique().tolist():
        mine = label == one
        if len(fold[mine].unique()) == 1:
            fold[mine] = -1
    return fold
