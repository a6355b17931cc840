"""Noise of an image that depends on the place, so that a part of it has the whole image's."""

import torch
from jaxtyping import Float
from torch import Tensor

from core.process.noise import Key, Noise, derive

BLOCK = 1024  # rows of a stream


class RowNoise:
    """Standard normal draws of some rows of one image, the same whatever the other rows.

    Every 1024 rows have a stream of their own; that of the first is `Noise.of` these keys.

    Args:
        keys: of the stream.
        draw: number of the draw.
        height: rows of the whole image.
        top: the first row that is drawn.
    """

    def __init__(self, *keys: Key, draw: int, height: int, top: int = 0) -> None:
        self._keys, self._draw, self._height, self._top = keys, draw, height, top
        self._streams: dict[int, Noise] = {}

    def like(self, x: Float[Tensor, " 1 c h w"]) -> Float[Tensor, " 1 c h w"]:
        """A draw with the shape, dtype and device of `x`, whose rows begin at `top`."""
        top, bottom = self._top, self._top + x.shape[-2]
        parts = []
        for block in range(top // BLOCK, -(-bottom // BLOCK)):
            start = block * BLOCK
            rows = min(BLOCK, self._height - start)
            drawn = self._stream(block).like(x.new_empty(*x.shape[:2], rows, x.shape[-1]))
            parts.append(drawn[..., max(0, top - start) : bottom - start, :])
        return torch.cat(parts, dim=-2)

    def between(
        self, x: Float[Tensor, " 1 c h w"], start: float, end: float
    ) -> Float[Tensor, " 1 c h w"]:
        """A fresh draw, as that of `Noise`."""
        return self.like(x)

    def _stream(self, block: int) -> Noise:
        if block not in self._streams:
            keys = self._keys if block == 0 else (derive(*self._keys), "rows", block)
            self._streams[block] = Noise.of(*keys, each=[self._draw])
        return self._streams[block]
