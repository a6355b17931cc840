"""Square crops of images: which ones a split has, and how they are cut.

Item i depends on the options and on i alone.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data import problems_of_split
from core.errors import InputError
from core.process.noise import generator

# A photograph is drawn in proportion to its area, but none counts for more than this.
AREA_CAP = 512 * 512
FAR = 2**63 - 1


class Crop(NamedTuple):
    """Position of a crop.

    Args:
        photo: index of the photograph.
        top: first row.
        left: first column.
        turns: quarter turns after cropping.
        mirrored: whether left and right are exchanged before turning.
    """

    photo: int
    top: int
    left: int
    turns: int = 0
    mirrored: bool = False


def probabilities(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Cumulative probability of drawing each photograph (height, width)."""
    areas = np.minimum([high * wide for high, wide in sizes], AREA_CAP).cumsum(dtype=np.float64)
    return areas / areas[-1]


def draw(
    seed: int, i: int, size: int, sizes: Sequence[tuple[int, int]], cumulative: np.ndarray
) -> Crop:
    """The i-th random crop: a function of its arguments alone."""
    random = generator(seed, i)
    photo = int(np.searchsorted(cumulative, random.random(), side="right"))
    high, wide = sizes[photo]
    top, left = random.integers(high - size + 1), random.integers(wide - size + 1)
    return Crop(photo, int(top), int(left), int(random.integers(4)), bool(random.integers(2)))


def lay_out(high: int, wide: int, size: int, count: int) -> list[tuple[int, int]]:
    """Corners of `count` squares spread evenly over an image, overlapping only where necessary.

    Fewer are returned where the image has fewer positions.
    """
    grids = [(rows, math.ceil(count / rows)) for rows in range(1, count + 1)]
    rows, columns = min(
        grids,
        key=lambda g: (
            max(size * g[0] / high, 1) * max(size * g[1] / wide, 1),
            abs(math.log(high * g[1] / (wide * g[0]))),
        ),
    )
    cells = np.linspace(0, rows * columns - 1, count).round().astype(int).tolist()

    def start(cell: int, cells: int, length: int) -> int:
        middle = (2 * cell + 1) * length // (2 * cells)
        return min(max(middle - size // 2, 0), length - size)

    places = [(start(c // columns, rows, high), start(c % columns, columns, wide)) for c in cells]
    return list(dict.fromkeys(places))


def window(values: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """The crop of an array (..., h, w), turned and mirrored."""
    patch = values[..., crop.top : crop.top + size, crop.left : crop.left + size]
    if crop.mirrored:
        patch = patch[..., ::-1]
    return np.rot90(patch, crop.turns, axes=(-2, -1))


def cut(pixels: np.ndarray, crop: Crop, size: int) -> Float[Tensor, " 3 size size"]:
    """The crop of integer pixels (3, h, w), in [-1, 1]."""
    patch = np.ascontiguousarray(window(pixels, crop, size), dtype=np.float32)
    return torch.from_numpy(patch).mul_(2 / np.iinfo(pixels.dtype).max).sub_(1)


def recoloured(
    x: Float[Tensor, " 3 h w"], most: float, random: np.random.Generator
) -> Float[Tensor, " 3 h w"]:
    """The crop with another contrast, white balance and order of channels; grey stays grey.

    u <- g u^gamma of brightness u in [0, 1], log gamma and the channels' log g even in
    [-most, most]; g at most 1 / max(u), so that nothing is clipped that was not.

    Args:
        x: in [-1, 1].
        most: largest change, as a logarithm; 0.2 is a fifth.
        random: of the item.
    """
    gamma, order = math.exp(random.uniform(-most, most)), random.permutation(3)
    gains = torch.from_numpy(np.exp(random.uniform(-most, most, 3))).to(x)[:, None, None]
    u = ((x + 1) / 2).clamp(min=0) ** gamma
    if not bool((x[0] == x[1]).all() and (x[1] == x[2]).all()):
        u = u[torch.from_numpy(order)] * gains
        u = u / u.amax((1, 2), keepdim=True).clamp(min=1)
    return u * 2 - 1


def check_options(
    split: str, ranges: Mapping[str, tuple[float | int, float | int, float | int]]
) -> None:
    """Refuse what is no split, and values outside their ranges.

    Args:
        split: ``train`` or ``test``.
        ranges: (value, least, most) by the option's name.

    Raises:
        InputError: with a line for each.
    """
    problems = problems_of_split(split)
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            within = f"at least {least}" if most == FAR else f"{least} to {most}"
            problems.append(f"{name}: expected {within}, got {value}")
    if problems:
        raise InputError("\n".join(problems))


class Plan:
    """The crops of a split: random ones to train, evenly spread ones to test.

    Args:
        split: ``train`` or ``test``.
        names: names of the photographs.
        sizes: their heights and widths.
        size: side of the crops in pixels.
        count: number of crops to train; crops of each photograph to test.
        seed: random seed of the crops.
    """

    def __init__(
        self,
        split: str,
        names: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        size: int,
        count: int,
        seed: int,
    ) -> None:
        self.names, self.sizes, self.size, self.seed = tuple(names), tuple(sizes), size, seed
        self._cumulative = probabilities(self.sizes)
        self._length, self._fixed, self._numbers = count, list[Crop](), list[int]()
        if split == "test":
            for photo, (high, wide) in enumerate(self.sizes):
                places = lay_out(high, wide, size, count)
                self._fixed += [Crop(photo, top, left) for top, left in places]
                self._numbers += range(1, len(places) + 1)
            self._length = len(self._fixed)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Crop:
        if not 0 <= i < self._length:
            raise IndexError(f"item {i} of {self._length}")
        if self._fixed:
            return self._fixed[i]
        return draw(self.seed, i, self.size, self.sizes, self._cumulative)

    def source(self, i: int) -> str:
        """The photograph of item i."""
        return self.names[self[i].photo]

    def name(self, i: int) -> str:
        """``coffee, patch 3``; counted from 1, to test within each photograph."""
        return f"{self.source(i)}, patch {self._numbers[i] if self._numbers else i + 1}"

    def digest(self, photographs: Sequence[str]) -> str:
        """SHA-256 over the crops and the photographs' own digests."""
        drawn = [self.seed, self._length, AREA_CAP]
        crops = [tuple(crop) for crop in self._fixed] or drawn
        described = repr((self.size, crops, self.names, self.sizes, list(photographs)))
        return hashlib.sha256(described.encode()).hexdigest()
