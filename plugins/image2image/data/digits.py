"""Handwritten digits inside scikit-learn: a small set of real images with classes."""

import hashlib
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data import check_split

TRAIN = 1297  # the first so many, in the file's order; the other 500 are the test set
TOP = 16  # pixels are counts of 0 to 16


@cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 8, 8), 0 to 16, and classes (n,) of the whole set, in the file's order."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return found.images.astype(np.uint8), found.target.astype(np.int64)


class Digits:
    """Handwritten digits of 8x8 pixels: 1297 to train, 500 to test; no download.

    An item holds ``image`` (1, 8, 8) in [-1, 1], -1 for paper, and ``class``, 0 to 9.  The split is
    by position in the file.
    """

    def __init__(self, split: str) -> None:
        check_split(split)
        pixels, targets = _read()
        part = slice(None, TRAIN) if split == "train" else slice(TRAIN, None)
        self._first = part.start or 0
        self._pixels, self._targets = pixels[part], targets[part]

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = torch.from_numpy(self._pixels[index].astype(np.float32))[None] * (2 / TOP) - 1
        return {"image": image, "class": torch.tensor(int(self._targets[index]))}

    def source(self, index: int) -> str:
        """The item itself: the writers are not known."""
        return f"digit {self._first + index}"

    def name(self, index: int) -> str:
        """Title of the item, such as ``digit 1300, a 7``; numbered as in the file, from 0."""
        return f"{self.source(index)}, a {self._targets[index]}"

    def digest(self) -> str:
        """SHA-256 of pixels and classes."""
        whole = hashlib.sha256(self._pixels.tobytes())
        whole.update(self._targets.tobytes())
        return whole.hexdigest()
