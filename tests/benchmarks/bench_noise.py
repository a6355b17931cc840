"""Time of draws with a stream for each sample, beside one `torch.randn` of the same size.

pytest tests/benchmarks/bench_noise.py -m benchmark -s
python tests/benchmarks/bench_noise.py

4,000 samples of two numbers, as points of the plane are, and 16 of 3 x 64 x 64.  A Brownian
interval is one of 64 even steps of log-SNR from -8 to 8, the next one each time.  Medians of rounds
in which all are timed in turn, and as a ratio to `torch.randn`.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch

from core.process.noise import Brownian, Noise

SIZES = ((4000, 2), (16, 3, 64, 64))
CLOCKS = [-8 + i / 4 for i in range(65)]


def draws(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    x, seeds = torch.zeros(shape), range(shape[0])

    def brownian(streams) -> Callable[[], object]:
        def intervals() -> Iterator[tuple[Brownian, float, float]]:
            while True:
                path = Brownian(seeds, streams=streams)
                yield from ((path, *pair) for pair in pairwise(CLOCKS))

        steps = intervals()

        def step() -> None:
            path, start, end = next(steps)
            path.between(x, start, end)

        return step

    generators, counters = Noise(seeds), Noise(seeds, streams="counter")
    return {
        "torch.randn": lambda: torch.randn(shape),
        "Noise.like, generator": lambda: generators.like(x),
        "Noise.like, counter": lambda: counters.like(x),
        "Brownian.between, generator": brownian("generator"),
        "Brownian.between, counter": brownian("counter"),
    }


def medians(shape: tuple[int, ...], rounds: int = 24) -> dict[str, float]:
    """Seconds a draw."""
    timed, seconds = draws(shape), {}
    for number in range(rounds + 2):
        for name, draw in timed.items():
            begun = time.perf_counter()
            draw()
            if number > 1:
                seconds.setdefault(name, []).append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report() -> dict[tuple[int, ...], dict[str, float]]:
    """Print the table; seconds by size and name."""
    found = {shape: medians(shape) for shape in SIZES}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {sys.platform}")
    for shape, seconds in found.items():
        for name, value in seconds.items():
            ratio = value / seconds["torch.randn"]
            print(f"{shape!s:16} {name:28} {1e3 * value:9.3f} ms {ratio:8.1f} x")
    return found


@pytest.mark.benchmark
def bench_noise() -> None:
    """Counters are at least ten times as fast as generators for many small samples."""
    seconds = report()[SIZES[0]]
    for name in ("Noise.like", "Brownian.between"):
        assert seconds[f"{name}, counter"] < seconds[f"{name}, generator"] / 10


if __name__ == "__main__":
    report()
