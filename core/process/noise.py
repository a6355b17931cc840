"""Draws without a global seed: each sample has a stream of its own.

Sample i depends on seed i alone, whatever the batch, the device or the order.  Seeds of training
draws are derived from (seed, step, index), so that resuming needs one integer.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def derive(*keys: int | str) -> int:
    """A 63-bit seed that depends on every one of `keys` and on their order.

    Neighbouring keys give unrelated seeds; `seed + i` would give overlapping runs of them.
    """
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


@runtime_checkable
class Source(Protocol):
    """What stochastic solvers draw from."""

    def like(self, x: Tensor) -> Tensor:
        """A fresh standard normal draw in the shape of `x`."""
        ...

    def between(self, x: Tensor, start: float, end: float) -> Tensor:
        """The increment of a Brownian motion from clock e^start to e^end, scaled to variance 1.

        Solvers ask for successive intervals that do not overlap, in the shape of `x`.
        """
        ...


class Noise:
    """Streams of standard normal and uniform draws, one per sample.

    Draws are made on the CPU and then moved: CPU and GPU generators give different numbers for
    one seed.

    Args:
        seeds: one for each sample of the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    @classmethod
    def of(cls, *keys: int | str, each: Iterable[int | str]) -> "Noise":
        """One stream for every entry of `each`, seeded by (keys, entry)."""
        return cls([derive(*keys, one) for one in each])

    def __len__(self) -> int:
        return len(self._streams)

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """A normal draw with the shape, dtype and device of `x`, whose batch is this noise's."""
        return self.normal(x.shape[1:], x.dtype).to(x.device)

    def between(
        self, x: Float[Tensor, " b *shape"], start: float, end: float
    ) -> Float[Tensor, " b *shape"]:
        """A fresh draw: increments over intervals that do not overlap are independent."""
        return self.like(x)

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, " b *shape"]:
        """A normal draw (b, *shape) on the CPU."""
        rows = [torch.randn(tuple(shape), generator=s, dtype=dtype) for s in self._streams]
        return torch.stack(rows)

    def uniform(self) -> Float64[Tensor, " b"]:
        """A uniform draw in [0, 1) for each sample, on the CPU."""
        draws = [torch.rand((), generator=s, dtype=torch.float64) for s in self._streams]
        return torch.stack(draws)


class Brownian:
    """One Brownian path for each sample, the same whatever the steps that look at it.

    More steps then refine a sample rather than draw another.  The clock runs over log-time: W(e^c).
    Unit cells of c have independent increments; within a cell the path is bridged by halving, to
    2^-`depth` of a cell, each node from a seed of its own, so that any interval may be asked for
    in any order.  Some `depth` draws in the size of the sample an interval.
    Source: Levy's construction, as in Li et al. 2020, arXiv:2001.01328, algorithm 3.

    Args:
        seeds: one for each sample of the batch.
        depth: halvings of a cell; below its last interval increments are interpolated.
    """

    LOWEST = -64  # W(e^-64) is taken to be 0: nothing that a float could show

    def __init__(self, seeds: Sequence[int], *, depth: int = 20) -> None:
        self._seeds, self._depth = tuple(seeds), depth
        self._fresh = Noise([derive("fresh", seed) for seed in seeds])
        self._last: tuple[tuple[object, ...], Tensor] | None = None

    def __len__(self) -> int:
        return len(self._seeds)

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """A draw beside the path, in order of asking."""
        return self._fresh.like(x)

    def between(
        self, x: Float[Tensor, " b *shape"], start: float, end: float
    ) -> Float[Tensor, " b *shape"]:
        """The path's increment over (start, end), scaled to variance 1.

        Raises:
            ValueError: the interval is empty, or ends at no finite clock.
        """
        if not start < end < math.inf:
            raise ValueError(f"expected start < end < inf, got {start} and {end}")
        if end <= self.LOWEST:
            raise ValueError(f"expected an end above {self.LOWEST}, got {end}")
        shape, dtype = x.shape[1:], torch.float64
        start = max(start, float(self.LOWEST))
        first, last = math.floor(start), math.floor(end)
        total = torch.zeros(x.shape, dtype=dtype)
        for cell in range(first, last):
            total += self._cell(cell, shape)
        total -= self._inside(first, start, shape)
        total += self._inside(last, end, shape)
        return (total / math.sqrt(math.exp(end) - math.exp(start))).to(x)

    def _draw(self, shape: torch.Size, *keys: int) -> Tensor:
        return Noise([derive(seed, *keys) for seed in self._seeds]).normal(shape, torch.float64)

    def _cell(self, cell: int, shape: torch.Size) -> Tensor:
        """W(e^(cell + 1)) - W(e^cell)."""
        return math.sqrt(math.exp(cell + 1) - math.exp(cell)) * self._draw(shape, cell)

    def _inside(self, cell: int, at: float, shape: torch.Size) -> Tensor:
        """W(e^at) - W(e^cell) for a clock inside the cell."""
        key = (cell, at, shape)
        if self._last is not None and self._last[0] == key:  # where the interval before ended
            return self._last[1]
        low, high = float(cell), float(cell + 1)
        left, right = torch.zeros(len(self._seeds), *shape, dtype=torch.float64), None
        if at > low:
            right = self._cell(cell, shape)
            node = 1
            for level in range(self._depth + 1):
                # The last bridge goes to the point itself, whichever it is.
                middle = (low + high) / 2 if level < self._depth else at
                a, m, b = math.exp(low), math.exp(middle), math.exp(high)
                share = (m - a) / (b - a)
                spread = math.sqrt(max((m - a) * (b - m) / (b - a), 0.0))
                between = torch.lerp(left, right, share)
                between = between + spread * self._draw(shape, cell, node)
                if middle == at:
                    left = between
                    break
                if at < middle:
                    high, right, node = middle, between, 2 * node
                else:
                    low, left, node = middle, between, 2 * node + 1
        self._last = (key, left)
        return left
