"""Draws without a global seed: each sample has a stream of its own.

Sample i depends on seed i alone, whatever the batch, the device or the order.  Seeds of training
draws are derived from (seed, step, index), so that resuming needs one integer.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from core.errors import InputError


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
        self.seeds = tuple(seeds)
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def part(self, which: slice) -> "Noise":
        """Some of the samples; their streams go on from where they are, and are shared."""
        chosen = Noise(())
        chosen.seeds, chosen._streams = self.seeds[which], self._streams[which]
        return chosen

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

    def uniform_like(self, x: Shaped[Tensor, " b *shape"]) -> Float64[Tensor, " b *shape"]:
        """Uniform draws in [0, 1), one for each element of `x`, on its device."""
        shape = tuple(x.shape[1:])
        rows = [torch.rand(shape, generator=s, dtype=torch.float64) for s in self._streams]
        return torch.stack(rows).to(x.device)


class _Bracket(NamedTuple):
    """An interval of clocks, the path at both ends, and the number of the node that halves it."""

    low: float
    high: float
    node: int
    left: Tensor
    right: Tensor


class Brownian:
    """One Brownian path for each sample, the same whatever the steps that look at it.

    More steps then refine a sample rather than draw another, and float32 and float64 see one path.
    The clock runs over log-time: W(e^c).  Unit cells of c have independent increments; within a
    cell the path is bridged by halving, each node from a seed of its own, so that any interval may
    be asked for in any order.  An interval costs at most `depth` + 2 draws in the size of the
    sample, fewer where the last one ended near by, and one more for every whole cell it spans:
    20 to 30 times the time of one fresh draw, and the memory of `depth` samples in float64.
    Source: Levy's construction, as in Li et al. 2020, arXiv:2001.01328, algorithm 3.

    Args:
        seeds: one for each sample of the batch.
        depth: halvings of a cell; intervals shorter than 2^-depth of one are interpolated, and
            their increments not independent.
    """

    LOWEST = -64  # W(e^-64) is taken to be 0: nothing that a float could show

    def __init__(self, seeds: Sequence[int], *, depth: int = 14) -> None:
        self._seeds, self._depth = tuple(seeds), depth
        self._fresh = Noise([derive("fresh", seed) for seed in seeds])
        # What was asked last: its cell and shape, the brackets that led there, and the answer.
        self._cell_of_path: tuple[int, torch.Size] | None = None
        self._path: list[_Bracket] = []
        self._last: tuple[float, torch.Size, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._seeds)

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """A draw beside the path, in order of asking."""
        return self._fresh.like(x)

    def between(
        self, x: Float[Tensor, " b *shape"], start: float, end: float
    ) -> Float[Tensor, " b *shape"]:
        """The path's increment over (start, end), scaled to variance 1.

        Args:
            x: whose shape, dtype and device the increment takes.
            start: log of the clock; -inf is the beginning of the path.
            end: log of the clock.

        Raises:
            InputError: the interval is empty, or ends at no finite clock.
        """
        if not start < end < math.inf:
            raise InputError(f"Brownian: expected start < end < inf, got {start} and {end}")
        if end <= self.LOWEST:
            raise InputError(f"Brownian: expected an end above {self.LOWEST}, got {end}")
        shape = x.shape[1:]
        start = max(start, float(self.LOWEST))
        first, last = math.floor(start), math.floor(end)
        total = -self._inside(first, start, shape)
        for cell in range(first, last):
            total = total + self._cell(cell, shape)
        total = total + self._inside(last, end, shape)
        return (total / math.sqrt(math.exp(end) - math.exp(start))).to(x)

    def _draw(self, shape: torch.Size, *keys: int) -> Tensor:
        # In float32, a fifth of the time of float64: a sum over the nodes hides the grain.
        return Noise([derive(seed, *keys) for seed in self._seeds]).normal(shape).double()

    def _cell(self, cell: int, shape: torch.Size) -> Tensor:
        """W(e^(cell + 1)) - W(e^cell)."""
        if self._cell_of_path == (cell, shape):
            return self._path[0].right
        return math.sqrt(math.exp(cell + 1) - math.exp(cell)) * self._draw(shape, cell)

    def _inside(self, cell: int, at: float, shape: torch.Size) -> Tensor:
        """W(e^at) - W(e^cell) for a clock inside the cell."""
        if self._last is not None and self._last[:2] == (at, shape):  # where the one before ended
            return self._last[2]
        if at == cell:
            value = torch.zeros(len(self._seeds), *shape, dtype=torch.float64)
        else:
            value = self._bridged(cell, at, shape)
        self._last = (at, shape, value)
        return value

    def _bridged(self, cell: int, at: float, shape: torch.Size) -> Tensor:
        if self._cell_of_path != (cell, shape):
            right = self._cell(cell, shape)
            self._path = [_Bracket(cell, cell + 1, 1, torch.zeros_like(right), right)]
            self._cell_of_path = (cell, shape)
        path = self._path
        while not path[-1].low < at < path[-1].high:
            path.pop()
        while len(path) <= self._depth:
            low, high, node, left, right = path[-1]
            middle = (low + high) / 2
            value = self._bridge(path[-1], middle, cell, shape)
            if middle == at:
                return value
            if at < middle:
                path.append(_Bracket(low, middle, 2 * node, left, value))
            else:
                path.append(_Bracket(middle, high, 2 * node + 1, value, right))
        return self._bridge(path[-1], at, cell, shape)

    def _bridge(self, bracket: _Bracket, at: float, cell: int, shape: torch.Size) -> Tensor:
        """The path at a clock inside a bracket, given its ends."""
        a, m, b = math.exp(bracket.low), math.exp(at), math.exp(bracket.high)
        share = (m - a) / (b - a)
        spread = math.sqrt(max((m - a) * (b - m) / (b - a), 0.0))
        mean = torch.lerp(bracket.left, bracket.right, share)
        return mean + spread * self._draw(shape, cell, bracket.node)
