"""The live prediction: features of an image kept once, and a linear classifier for each stroke.

Features are kept on a grid of at most `SHOWN` pixels of the image, and of labelled pixels at most
`MOST` are fitted, as many of each class as possible, so that a stroke costs under a second.
`polymode segmentation fit` reads every pixel.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from core.features import Features, Maps
from plugins.segmentation.heads import ridge
from plugins.segmentation.heads.pixels import Pixels, balanced, folds_of
from plugins.segmentation.heads.predicting import voted
from plugins.segmentation.heads.projection import corners, projected, sampled, stored
from plugins.segmentation.inference.tiles import Tile, maps_of, prepared, tiles_of
from plugins.segmentation.io.classes import IGNORE
from plugins.segmentation.request import Tiling

SHOWN = 2**19  # pixels of a prediction at most
MOST = 2000  # labelled pixels that are fitted, and kept of each image
FEW = 600  # the same of features with many channels, whose fit costs the cube of this number
MANY = 400  # channels


class Kept(NamedTuple):
    """Features of an image.

    Args:
        parts: of each tile, its maps, no finer than `step`.
        size: height and width of the image.
        step: pixels of the image along a side of a pixel of the prediction.
    """

    parts: tuple[tuple[Tile, Maps], ...]
    size: tuple[int, int]
    step: int

    @property
    def bytes(self) -> int:
        """That the maps take."""
        return stored([maps for _, maps in self.parts])

    @property
    def grid(self) -> tuple[Int64[Tensor, " y"], Int64[Tensor, " x"]]:
        """Rows and columns of the image's pixels that are predicted."""
        half = self.step // 2
        y, x = (torch.arange(0, n, self.step).add(half).clamp(max=n - 1) for n in self.size)
        return y, x


class Sample(NamedTuple):
    """Some labelled pixels of an image.

    Args:
        y: their rows.
        x: their columns.
        labels: their classes.
        features: of each.
    """

    y: Int64[Tensor, " n"]
    x: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    features: Float[Tensor, " n k"]


class Prediction(NamedTuple):
    """A predicted image, on the grid of its `Kept`.

    Args:
        labels: class of each pixel.
        uncertainty: entropy, 255 for the most that there can be.
        step: pixels of the image along a side of a pixel here.
    """

    labels: UInt8[Tensor, "h w"]
    uncertainty: UInt8[Tensor, "h w"]
    step: int


@torch.no_grad()
def kept(
    features: Features,
    image: Float[Tensor, " 3 h w"],
    tiling: Tiling,
    progress: Callable[[int, int], None],
) -> Kept:
    """The features of an image, which is read in tiles.

    Args:
        features: that are read.
        image: in [-1, 1].
        tiling: how it is cut.
        progress: called with the tiles read and their number.
    """
    image, size = prepared(features, image), (image.shape[-2], image.shape[-1])
    step = max(1, math.ceil(math.sqrt(size[0] * size[1] / SHOWN)))
    tiles, parts = list(tiles_of(size, tiling.tile, tiling.margin)), []
    progress(0, len(tiles))
    for tile in tiles:
        parts.append((tile, _coarse(maps_of(features, image, tile), step)))
        progress(len(parts), len(tiles))
    return Kept(tuple(parts), size, step)


def _coarse(maps: Maps, step: int) -> Maps:
    """Maps whose cells are averaged to `step` pixels, where they are finer."""
    most = [-(-side // step) for side in maps.area]
    values = []
    for value in maps.values:
        grid = (min(value.shape[-2], most[0]), min(value.shape[-1], most[1]))
        fine = grid != value.shape[-2:]
        values.append(F.adaptive_avg_pool2d(value, grid).cpu() if fine else value.cpu())
    return maps._replace(values=tuple(values))


def sample(found: Kept, mask: np.ndarray, *, seed: int = 0) -> Sample:
    """Labelled pixels of an image, as many of each class as possible.

    Args:
        found: features of the image.
        mask: class indices (h, w), `IGNORE` where there is none.
        seed: random seed of the pixels.
    """
    y, x = (torch.from_numpy(one) for one in np.nonzero(mask != IGNORE))
    labels = torch.from_numpy(mask[y.numpy(), x.numpy()].astype(np.int64))
    channels = sum(value.shape[1] for value in found.parts[0][1].values)
    if len(labels):
        chosen = balanced(labels, _most(channels), seed)
        y, x, labels = y[chosen], x[chosen], labels[chosen]
    features = torch.zeros(len(labels), channels)
    for tile, maps in found.parts:
        inside = _within(y, tile.rows) & _within(x, tile.columns)
        if bool(inside.any()):
            features[inside] = sampled(maps, 0, y[inside] - tile.top, x[inside] - tile.left)
    return Sample(y, x, labels, features)


def _most(channels: int) -> int:
    return MOST if channels <= MANY else FEW


def _within(at: Tensor, span: range) -> Tensor:
    return (at >= span.start) & (at < span.stop)


class Fitted(NamedTuple):
    """A linear classifier of the classes that have labels.

    Args:
        head: of as many classes as have labels.
        classes: the class of each of them.
    """

    head: ridge.Ridge
    classes: Int64[Tensor, " n"]


def fitted(samples: Mapping[int, Sample], *, seed: int = 0) -> Fitted | None:
    """A classifier of the labelled pixels of several images; None with fewer than two classes.

    Args:
        samples: of images, by their number.
        seed: random seed of the pixels that are fitted, and of the folds.
    """
    used = [one for one in samples.values() if len(one.labels)]
    labels = torch.cat([one.labels for one in used]) if used else torch.zeros(0)
    if len(labels.unique()) < 2:
        return None
    image = torch.cat([torch.full_like(s.labels, n) for n, s in samples.items() if len(s.labels)])
    y, x = torch.cat([one.y for one in used]), torch.cat([one.x for one in used])
    chosen = balanced(labels, _most(used[0].features.shape[1]), seed)
    features = torch.cat([one.features for one in used])[chosen]
    classes, index = labels[chosen].unique(return_inverse=True)
    at = image[chosen]
    fold = folds_of(at, at, y[chosen], x[chosen], index, seed)
    return Fitted(ridge.fit(Pixels(features, index, fold, len(classes))), classes)


@torch.no_grad()
def predicted(found: Kept, how: Fitted) -> Prediction:
    """The prediction of an image from its features."""
    y, x = found.grid
    weight, bias = how.head.first
    scores = torch.empty(len(bias), len(y), len(x))
    for tile, maps in found.parts:
        rows, columns = (torch.nonzero(_within(*one))[:, 0] for one in
                         ((y, tile.rows), (x, tile.columns)))  # fmt: skip
        part = _scores(maps, weight, y[rows] - tile.top, x[columns] - tile.left)
        scores[:, rows[:, None], columns] = part
    logits = how.head.after_first((scores + bias[:, None, None]).flatten(1).mT)
    result = voted(logits, (len(y), len(x)))
    uncertainty = result.uncertainty / math.log(len(bias))
    return Prediction(
        how.classes[result.labels.long()].to(torch.uint8),
        uncertainty.clamp(0, 1).mul(255).round().to(torch.uint8),
        found.step,
    )


def _scores(maps: Maps, weight: Tensor, y: Tensor, x: Tensor) -> Float[Tensor, " o y x"]:
    """A linear layer's outputs where some rows and columns of a tile cross."""
    found = projected(maps, weight)
    total = torch.zeros(len(weight), len(y), len(x))
    for value in found.values:
        down = corners(y, value.shape[-2], maps.area[0])
        right = corners(x, value.shape[-1], maps.area[1])
        one = torch.lerp(value[0][:, down.low], value[0][:, down.high], down.part[:, None])
        total += torch.lerp(one[:, :, right.low], one[:, :, right.high], right.part)
    return total
