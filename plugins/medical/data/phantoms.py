"""Head-like phantoms that need no download."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from core.data import problems_of_split
from core.errors import InputError
from core.process.noise import derive, generator
from plugins.medical.data.slices import FINER
from plugins.medical.operators.ellipses import random_head, rasterised


class Phantoms:
    """Head-like phantoms of ellipses whose measurements are known in closed form.

    An item holds ``image`` (1, size, size), values [0, 1] mapped to [-1, 1], and ``pixel``, its
    pixel spacing in millimetres; a test item also ``fine`` (1, 2 size, 2 size), whose means over
    2x2 are the image.  The splits have seeds of their own.

    Args:
        size: side of the image, in pixels.
        side: field of view, in millimetres.
        count: number of phantoms of a split.
        seed: of all phantoms.
    """

    def __init__(
        self, split: str, *, size: int = 128, side: float = 256.0, count: int = 1000, seed: int = 0
    ) -> None:
        problems = problems_of_split(split)
        if not 8 <= size <= 1024:
            problems.append(f"size: expected 8 to 1024, got {size}")
        if not side > 0:
            problems.append(f"side: expected more than 0, got {side:g}")
        if count < 1:
            problems.append(f"count: expected at least 1, got {count}")
        if problems:
            raise InputError("\n".join(problems))
        self._split, self._size, self._side, self._count = split, size, side, count
        self._seed = derive(seed, "phantoms", split)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        drawn, image = self._drawn(index)
        spacing = torch.tensor(self._side / self._size)
        item = {"image": (2 * image - 1).float()[None], "pixel": spacing}
        if self._split == "test":
            size = self._size * FINER
            fine = rasterised(drawn, size, size, self._side / size, finer=FINER)
            item["fine"] = (2 * fine - 1).float()[None].clamp(-1, 1)
        return item

    def phantom(self, index: int) -> Float[Tensor, " n 6"]:
        """The ellipses of an item, in millimetres: rows as of `operators.ellipses`."""
        return self._drawn(index)[0]

    def _drawn(self, index: int) -> tuple[Tensor, Tensor]:
        """Its ellipses and their image in [0, 1]."""
        if not 0 <= index < self._count:
            raise IndexError(f"item {index} of {self._count}")
        random = generator(self._seed, index)
        drawn = random_head(random, self._side)
        while True:
            image = rasterised(drawn, self._size, self._size, self._side / self._size)
            if image.min() >= 0 and image.max() <= 1:
                return drawn, image
            drawn[2:, 0] /= 2  # ellipses overlap: lower the contrast of all but the skull

    def source(self, index: int) -> str:
        """The phantom itself: each is independent."""
        return self.name(index)

    def name(self, index: int) -> str:
        """A title for people, as ``test phantom 3``."""
        return f"{self._split} phantom {index}"

    def digest(self) -> str:
        """SHA-256 of the options."""
        options = (1, self._split, self._size, self._side, self._count, self._seed)
        return hashlib.sha256(repr(options).encode()).hexdigest()
