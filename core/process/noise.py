"""Draws without a global seed: each sample has a stream of its own.

Sample i depends on seed i alone, whatever the batch, the device or the order.  Seeds of training
draws are derived from (seed, step, index), so that resuming needs one integer.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Literal, NamedTuple, Protocol, SupportsIndex, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from core.errors import InputError
from core.process.counter import Counters

STREAMS = {
    "fresh": "draws of a Brownian source beside its path",
    "likelihood": "probes and noise of a likelihood, by item",
    "network": "dropout of a training step, by the seed of its first sample",
    "order": "order of the items of an epoch",
    "points": "items of core/points",
    "rehearsal": "inputs of a rehearsal, before the first step",
    "rollback": "the seed of a run after its n-th rollback",
    "sample": "start and noise of a sample, by item and draw",
    "train": "times, noise and dropped conditions of a step, by its place in the batch",
    "validate": "times and noise of a validation, by item",
    "variance": "noise that measures the variance of an analytic sampler",
    "weights": "initial weights",
}
"""The core's names in `derive`, after the seed of a request.

One name with one seed is one stream, whoever asks.  A plug-in begins its own with its name, as
``"video/motion"``, so that no two have the same draws by accident.
"""


Key = SupportsIndex | str


def derive(*keys: Key) -> int:
    """A 63-bit seed that depends on every one of `keys` and on their order.

    Neighbouring keys give unrelated seeds; `seed + i` would give overlapping runs of them.
    """
    # An integer or a string of NumPy is the same key as Python's.
    plain = [key if isinstance(key, bool) else _plain(key) for key in keys]
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in plain)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def seed_of(seed: int, stream: str, item: Key, draw: int) -> int:
    """The seed of a draw of an item: it depends on (`seed`, `item`, `draw`) alone.

    Args:
        seed: of the request.
        stream: name of the stream, such as "sample".
        item: of the dataset.
        draw: its number.
    """
    return derive(seed, stream, f"{item}/{draw}")


def generator(seed: int, index: int = 0) -> np.random.Generator:
    """NumPy's draws for an index under a seed: every pair has a stream of its own.

    Philox is counter-based: neighbouring keys give unrelated streams.
    Source: Salmon et al. 2011, doi:10.1145/2063384.2063405.

    Args:
        seed: 0 to 2^64 - 1; of several keys `derive` makes one.
        index: of the item.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))


def _plain(key: object) -> object:
    if isinstance(key, Integral):
        return int(key)
    return str(key) if isinstance(key, str) else key


@runtime_checkable
class Source(Protocol):
    """The noise of a stochastic solver."""

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """A fresh standard normal draw in the shape of `x`."""
        ...

    def between(
        self, x: Float[Tensor, " b *shape"], start: float, end: float
    ) -> Float[Tensor, " b *shape"]:
        """The increment of a Brownian motion from clock e^start to e^end, scaled to variance 1.

        Solvers ask for successive intervals that do not overlap, in the shape of `x`.
        """
        ...


class Silence:
    """A source of zeros: the mean of what a solver does with its noise."""

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """Zeros in the shape of `x`."""
        return torch.zeros_like(x)

    def between(
        self, x: Float[Tensor, " b *shape"], start: float, end: float
    ) -> Float[Tensor, " b *shape"]:
        """Zeros in the shape of `x`."""
        return torch.zeros_like(x)


Streams = Literal["generator", "counter"]


class _Generators:
    """One torch generator for each sample."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._each = [torch.Generator().manual_seed(seed) for seed in seeds]

    def part(self, which: slice) -> "_Generators":
        chosen = _Generators(())
        chosen._each = self._each[which]
        return chosen

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.stack([torch.randn(shape, generator=s, dtype=dtype) for s in self._each])

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.stack(
            [torch.rand(shape, generator=s, dtype=torch.float64) for s in self._each]
        )


class Noise:
    """Streams of standard normal and uniform draws, one per sample.

    Draws are made on the CPU and then moved: CPU and GPU generators give different numbers for
    one seed.

    Args:
        seeds: one for each sample of the batch.
        streams: ``generator``, a torch generator for each sample; or ``counter``, other numbers
            with the same guarantees, drawn for all samples in one pass.  For 4,000 samples of two
            numbers they take 420 and 13 times as long as one `torch.randn`, for 16 images of
            3 x 64 x 64 1.2 and 12 times (`tests/benchmarks/bench_noise.py`).

    Raises:
        InputError: seeds that are not a sequence of integers.
    """

    def __init__(self, seeds: Iterable[SupportsIndex], *, streams: Streams = "generator") -> None:
        self.seeds = _checked(seeds)
        self._streams = (Counters if streams == "counter" else _Generators)(self.seeds)

    def part(self, which: slice) -> "Noise":
        """Some of the samples; their streams continue where they are, and are shared."""
        chosen = Noise(())
        chosen.seeds, chosen._streams = self.seeds[which], self._streams.part(which)
        return chosen

    @classmethod
    def of(cls, *keys: Key, each: Iterable[Key], streams: Streams = "generator") -> "Noise":
        """One stream for every entry of `each`, seeded by (keys, entry)."""
        return cls([derive(*keys, one) for one in each], streams=streams)

    def __len__(self) -> int:
        return len(self.seeds)

    def __repr__(self) -> str:
        return f"Noise({len(self)} samples)"

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """A normal draw with the shape, dtype and device of `x`.

        Raises:
            InputError: a batch of another size than this noise's.
        """
        _check_batch(len(self), x)
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
        return self._streams.normal(tuple(shape), dtype)

    def uniform(self) -> Float64[Tensor, " b"]:
        """A uniform draw in [0, 1) for each sample, on the CPU."""
        return self._streams.uniform(())

    def uniform_like(self, x: Shaped[Tensor, " b *shape"]) -> Float64[Tensor, " b *shape"]:
        """Uniform draws in [0, 1), one for each element of `x`, on its device.

        Raises:
            InputError: a batch of another size than this noise's.
        """
        _check_batch(len(self), x)
        return self._streams.uniform(tuple(x.shape[1:])).to(x.device)


def _checked(seeds: object) -> tuple[int, ...]:
    """Python's integers.

    Raises:
        InputError: not a sequence of integers.
    """
    found = tuple(seeds) if isinstance(seeds, Iterable) else None
    if found is None or not all(isinstance(seed, Integral) for seed in found):
        raise InputError(
            f"seeds: expected an integer for each sample, such as range(4), got {seeds!r}"
        )
    return tuple(int(seed) for seed in found)


def _check_batch(samples: int, x: Tensor) -> None:
    if x.ndim == 0 or len(x) != samples:
        raise InputError(
            f"noise: expected a batch of {samples} samples, one for each seed, got a tensor of "
            f"shape {tuple(x.shape)}; give the noise as many seeds as there are samples"
        )


class _Bracket(NamedTuple):
    """An interval of clocks, the path at both ends, and the number of the node that halves it."""

    low: float
    high: float
    node: int
    left: Float64[Tensor, " b *shape"]
    right: Float64[Tensor, " b *shape"]


class Brownian:
    """One Brownian path for each sample, the same whatever the steps that look at it.

    More steps then refine a sample rather than draw another, and float32 and float64 see one path.
    The clock runs over log-time: W(e^c).  Unit cells of c have independent increments; within a
    cell the path is bridged by halving, each node from a seed of its own, so that intervals may be
    taken in any order.  An interval costs at most `depth` + 2 draws in the size of the
    sample, fewer where the last one ended near by, and one more for every whole cell it spans:
    20 to 30 times the time of one fresh draw, and the memory of `depth` samples in float64.
    Source: Levy's construction, as in Li et al. 2020, arXiv:2001.01328, algorithm 3.

    Args:
        seeds: one for each sample of the batch.
        depth: halvings of a cell; intervals shorter than 2^-depth of one are interpolated, and
            their increments not independent.
        streams: as of `Noise`; ``counter`` is another path, drawn for all samples in one pass.

    Raises:
        InputError: seeds that are not a sequence of integers.
    """

    LOWEST = -64  # W(e^-64) is taken to be 0: nothing that a float could show

    def __init__(
        self, seeds: Iterable[SupportsIndex], *, depth: int = 14, streams: Streams = "generator"
    ) -> None:
        self._seeds, self._depth = _checked(seeds), depth
        self._counters = Counters(self._seeds) if streams == "counter" else None
        # A counter tells nodes from fresh draws by itself.
        fresh = self._seeds if self._counters else [derive("fresh", seed) for seed in self._seeds]
        self._fresh = Noise(fresh, streams=streams)
        # The last interval's end: its cell and shape, the brackets that led there, and W there.
        self._cell_of_path: tuple[int, torch.Size] | None = None
        self._path: list[_Bracket] = []
        self._last: tuple[float, torch.Size, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._seeds)

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """A draw beside the path; successive ones differ."""
        return self._fresh.like(x)

    def between(
        self, x: Float[Tensor, " b *shape"], start: float, end: float
    ) -> Float[Tensor, " b *shape"]:
        """The path's increment over (start, end), scaled to variance 1.

        Args:
            x: gives the increment's shape, dtype and device.
            start: log of the clock; -inf is the beginning of the path.
            end: log of the clock.

        Raises:
            InputError: the interval is empty, or ends at no finite clock; a batch of another size
                than this source's.
        """
        _check_batch(len(self), x)
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

    def _draw(self, shape: torch.Size, cell: int, node: int | None = None) -> Tensor:
        """The normal draw of a whole cell, or of one of its nodes, which count from 1."""
        if self._counters is not None:
            return self._counters.node(shape, cell=cell, node=node or 0)
        keys = (cell,) if node is None else (cell, node)
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
        # A Brownian bridge: the mean is linear in time, the variance (m - a)(b - m) / (b - a).
        mean = torch.lerp(bracket.left, bracket.right, (m - a) / (b - a))
        std = math.sqrt(max((m - a) * (b - m) / (b - a), 0.0))
        return mean + std * self._draw(shape, cell, bracket.node)


SourceName = Literal["fresh", "brownian", "counter", "counter_brownian"]


def source(name: SourceName, seeds: Iterable[SupportsIndex]) -> Noise | Brownian:
    """The source of a request: fresh draws or a Brownian path, from generators or counters."""
    streams: Streams = "counter" if name.startswith("counter") else "generator"
    return (Brownian if name.endswith("brownian") else Noise)(seeds, streams=streams)
