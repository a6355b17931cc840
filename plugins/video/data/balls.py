"""Discs that move and bounce: the smallest world in which motion can be predicted."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.crops import FAR, check_options
from core.process.noise import derive, generator
from plugins.video.data.motion import Bounces, moving


class BouncingBalls:
    """White discs on black that move with constant speed and bounce at the edges; no download.

    An item holds ``clip`` (1, t, size, size) in [-1, 1] and ``centre`` (balls, t, 2), (row, column)
    as fractions of the frame, -1 to 1.  The value of a pixel is about the area of it that a disc
    covers.  Discs do not meet: they lie over each other.

    Args:
        size: side of a frame in pixels.
        frames: of a clip.
        count: clips of the split.
        balls: of a clip.
        diameter: of a disc in pixels; at most `size` - 1.
        slowest: speed in pixels a frame, least.
        fastest: speed in pixels a frame, most.
        bounces: elastic, or at a new random speed and direction.
        seed: random seed of the clips.
    """

    def __init__(
        self,
        split: str,
        *,
        size: int = 16,
        frames: int = 12,
        count: int = 20000,
        balls: int = 1,
        diameter: float = 6.0,
        slowest: float = 0.7,
        fastest: float = 1.8,
        bounces: Bounces = "elastic",
        seed: int = 0,
    ) -> None:
        check_options(
            split,
            {
                "size": (size, 4, 1024),
                "frames": (frames, 1, 4096),
                "count": (count, 1, FAR),
                "balls": (balls, 1, 100),
                "diameter": (diameter, 1.0, size - 1),
                "slowest": (slowest, 0.0, size),
                "fastest": (fastest, slowest, size),
                "seed": (seed, 0, FAR),
            },
        )
        self._split, self._size, self._frames, self._count = split, size, frames, count
        self._number, self._diameter = balls, diameter
        self._bounces: Bounces = bounces
        self._speeds = (slowest, fastest)
        self._key = derive("video/bouncing_balls", split, seed)
        self._options = (split, size, frames, count, balls, diameter, self._speeds, bounces, seed)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Float[Tensor, "..."]]:
        if not 0 <= index < self._count:
            raise IndexError(f"item {index} of {self._count}")
        random = generator(self._key, index)
        radius = self._diameter / 2
        room = np.full(2, self._size - self._diameter)
        middles = np.arange(self._size) + 0.5
        covered, centres = np.zeros((self._frames, self._size, self._size)), []
        for _ in range(self._number):
            centre = moving(random, self._frames, room, self._speeds, self._bounces) + radius
            down = (middles - centre[:, :1])[:, :, None]
            right = (middles - centre[:, 1:])[:, None, :]
            disc = np.clip(radius + 0.5 - np.hypot(down, right), 0, 1)
            covered = np.maximum(covered, disc)
            centres.append(centre / (self._size / 2) - 1)
        clip = torch.from_numpy((2 * covered - 1).astype(np.float32))[None]
        return {"clip": clip, "centre": torch.from_numpy(np.stack(centres).astype(np.float32))}

    def source(self, index: int) -> str:
        """The clip itself."""
        return f"{self._split} clip {index}"

    def name(self, index: int) -> str:
        """Title of the item, such as ``test clip 3``."""
        return self.source(index)

    def digest(self) -> str:
        """SHA-256 of the options, which determine the clips."""
        return hashlib.sha256(repr(self._options).encode()).hexdigest()
