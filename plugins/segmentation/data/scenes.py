"""Scenes of real handwritten digits with the class of each pixel: labels that are exact."""

import hashlib
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from core.crops import FAR, check_options
from core.errors import InputError
from core.process.noise import derive, generator

TRAIN = 1297  # digits of scikit-learn's file, from the first; the other 500 are for testing
TOP = 16  # ink of a cell, 0 to 16
CELLS = 8  # a side
SCALES = (1.5, 3.0)  # pixels of a cell, least and most
COVERED = 0.5  # ink from which a pixel is the digit's
TRIES = 20  # to place a digit clear of others


class Placed(NamedTuple):
    """A digit of a scene.

    Args:
        number: in scikit-learn's file, from 0.
        top: its first row in the scene.
        left: its first column.
        side: in pixels.
    """

    number: int
    top: int
    left: int
    side: int


@cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    """Ink (n, 8, 8) in [0, 1] and classes (n,) of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return (found.images / TOP).astype(np.float32), found.target.astype(np.int64)


class DigitsScene:
    """Handwritten digits on uneven, noisy paper, with the class of each pixel; no download.

    An item holds ``image`` (3, size, size) in [-1, 1] and ``labels`` (size, size): 0 for paper, k
    for the k-th of `digits`.  Scenes to train and to test have different digits.

    Args:
        size: side of a scene in pixels.
        count: scenes of the split.
        digits: that are in scenes.
        most: digits of a scene at most, at least one; fewer where they find no room.
        noise: standard deviation of each pixel, of a range of 2.
        seed: random seed of the scenes.
    """

    def __init__(
        self,
        split: str,
        *,
        size: int = 64,
        count: int = 2000,
        digits: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
        most: int = 6,
        noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        check_options(
            split,
            {
                "size": (size, int(CELLS * SCALES[1]), 4096),
                "count": (count, 1, FAR),
                "most": (most, 1, 100),
                "noise": (noise, 0.0, 1.0),
                "seed": (seed, 0, FAR),
            },
        )
        if not digits or len(set(digits)) < len(digits) or not set(digits) <= set(range(10)):
            raise InputError(f"digits: expected some of 0 to 9, each once, got {list(digits)}")
        self._options = (split, size, count, tuple(digits), most, noise, seed)
        self._split, self._size, self._count = split, size, count
        self._most, self._noise = most, noise
        self._key = derive("digits_scene", split, seed)
        _, classes = _read()
        side = np.arange(len(classes)) < TRAIN
        side = side if split == "train" else ~side
        self._numbers = np.flatnonzero(side & np.isin(classes, digits))
        self._label = {digit: k for k, digit in enumerate(digits, start=1)}

    def __len__(self) -> int:
        return self._count

    def placed(self, index: int) -> list[Placed]:
        """The digits of a scene; none overlaps another."""
        return self._placed(generator(self._key, self._checked(index)))

    def __getitem__(
        self, index: int
    ) -> dict[str, Float[Tensor, "3 size size"] | Int64[Tensor, "size size"]]:
        random = generator(self._key, self._checked(index))
        placed = self._placed(random)
        ink, classes = _read()
        # Paper: a colour that changes evenly over the scene.
        paper = random.uniform(-0.6, 0.6, 3)[:, None, None]
        slope = random.uniform(-0.2, 0.2, (3, 2))
        at = np.linspace(-1, 1, self._size)
        image = paper + slope[:, :1, None] * at[:, None] + slope[:, 1:, None] * at
        # Ink: all darker or all lighter than the paper, where there is more room.
        towards = -np.sign(paper.mean())
        labels = np.zeros((self._size, self._size), np.int64)
        for number, top, left, side in placed:
            covered = enlarged(ink[number], side)
            colour = paper + towards * random.uniform(0.5, 1.0, 3)[:, None, None]
            rows, columns = slice(top, top + side), slice(left, left + side)
            image[:, rows, columns] += covered * (colour - image[:, rows, columns])
            labels[rows, columns][covered >= COVERED] = self._label[int(classes[number])]
        image = np.clip(image + random.normal(0, self._noise, image.shape), -1, 1)
        return {
            "image": torch.from_numpy(image.astype(np.float32)),
            "labels": torch.from_numpy(labels),
        }

    def _placed(self, random: np.random.Generator) -> list[Placed]:
        found: list[Placed] = []
        for _ in range(int(random.integers(1, self._most + 1))):
            number = int(random.choice(self._numbers))
            side = round(CELLS * random.uniform(*SCALES))
            for _ in range(TRIES):
                top, left = (int(random.integers(self._size - side + 1)) for _ in range(2))
                one = Placed(number, top, left, side)
                if not any(_overlap(one, other) for other in found):
                    found.append(one)
                    break
        return found

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(f"item {index} of {self._count}")
        return index

    def source(self, index: int) -> str:
        """The scene itself; scenes of one split share digits."""
        return f"{self._split} scene {index}"

    def name(self, index: int) -> str:
        """Title of the item, such as ``train scene 3``."""
        return self.source(index)

    def digest(self) -> str:
        """SHA-256 of the options and of scikit-learn's digits."""
        ink, classes = _read()
        whole = hashlib.sha256(repr(self._options).encode())
        whole.update(ink.tobytes())
        whole.update(classes.tobytes())
        return whole.hexdigest()


def enlarged(ink: np.ndarray, side: int) -> np.ndarray:
    """The ink (8, 8) of a digit on a grid of `side` pixels, by bilinear interpolation."""
    values = torch.from_numpy(ink)[None, None].double()
    found = functional.interpolate(values, size=(side, side), mode="bilinear", align_corners=False)
    return found[0, 0].numpy()


def _overlap(one: Placed, other: Placed) -> bool:
    return (
        abs(2 * (one.top - other.top) + one.side - other.side) < one.side + other.side
        and abs(2 * (one.left - other.left) + one.side - other.side) < one.side + other.side
    )
