"""Random numbers as a function of a key and a counter: many small streams drawn in one pass.

Philox encrypts a counter of four 32-bit words with a key of two.  A stream has no state but the
counter, so that the draws of all samples are one computation on arrays, and any of them can be
computed alone.
Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3, SC '11, section 3.3.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt64
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
WORD, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)

Words = np.uint64 | UInt64[np.ndarray, "..."]


def philox(counter: Sequence[Words], key: Sequence[Words]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: four random words for every counter.

    Args:
        counter: four words, each below 2^32; arrays that broadcast.
        key: two words, each below 2^32, that broadcast over the counter.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2  # 32 x 32 bits, exact in 64
        c0, c1 = (second >> HALF) ^ c1 ^ k0, second & WORD
        c2, c3 = (first >> HALF) ^ c3 ^ k1, first & WORD
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


class Counters:
    """One stream a sample, the state of which is the number of draws made.

    Args:
        seeds: one for each sample, the key of its stream; modulo 2^64.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._keys = np.array([seed % 2**64 for seed in seeds], np.uint64)
        self._draws = np.zeros(len(self._keys), np.uint64)

    def __len__(self) -> int:
        return len(self._keys)

    def part(self, which: slice) -> "Counters":
        """Some of the streams; their numbers of draws are views, and so shared."""
        chosen = Counters(())
        chosen._keys, chosen._draws = self._keys[which], self._draws[which]
        return chosen

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Float[Tensor, " b *shape"]:
        """The next standard normal draw of every stream; the same in every precision."""
        return normal_of(self._next(shape)).to(dtype)

    def uniform(self, shape: Sequence[int]) -> Float64[Tensor, " b *shape"]:
        """The next uniform draw in [0, 1) of every stream."""
        return torch.from_numpy((self._next(shape) >> np.uint64(11)) * 2.0**-53)

    def node(self, shape: Sequence[int], *, cell: int, node: int) -> Float64[Tensor, " b *shape"]:
        """A standard normal draw that belongs to a node of a Brownian path, in any order."""
        place = (np.uint64(node), np.uint64(cell % 2**32), np.uint64(1))
        return normal_of(self._bits(shape, place))

    def _next(self, shape: Sequence[int]) -> np.ndarray:
        draws = self._draws[:, None].copy()
        self._draws += np.uint64(1)
        return self._bits(shape, (draws & WORD, draws >> HALF, np.uint64(0)))

    def _bits(self, shape: Sequence[int], place: tuple[Words, Words, Words]) -> np.ndarray:
        """64 random bits for every element; a block of four words serves two elements."""
        count = int(np.prod(shape, dtype=np.int64))
        block = np.arange((count + 1) // 2, dtype=np.uint64)[None]
        key = self._keys[:, None]
        words = philox((block, *place), (key & WORD, key >> HALF))
        pairs = [(high << HALF) | low for high, low in (words[:2], words[2:])]
        bits = np.stack(np.broadcast_arrays(*pairs), axis=-1).reshape(len(self), -1)
        return bits[:, :count].reshape(len(self), *shape)


def normal_of(bits: UInt64[np.ndarray, "..."]) -> Float64[Tensor, "..."]:
    """Standard normal numbers from 64 random bits each, by the inverse distribution function.

    (k + 1/2) / 2^52 of the upper 52 bits k is exact and never 0 or 1: |z| <= 8.2.  `ndtri` takes
    one element after the other, so that no result depends on its place in memory.
    """
    uniform = ((bits >> np.uint64(12)) + 0.5) * 2.0**-52
    return torch.special.ndtri(torch.from_numpy(uniform))
