"""Several draws of one thing: the loop over them, and their mean and standard deviation."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.progress import counter
from core.request import Emit, silent
from core.sampler.sample import Moment, Watch

Draw = Callable[[int, Watch], Tensor]
"""(number of the draw, watch) -> the draw; `watch` is to be called after each step."""


def each(
    draw: Draw, count: int, *, steps: int, first: int = 0, emit: Emit = silent
) -> Iterator[Float[Tensor, " *shape"]]:
    """The draws `first`, `first + 1`, ... one after the other; memory does not grow with `count`.

    Args:
        draw: makes one; it depends on its number alone.
        count: number of draws.
        steps: calls of `watch` in a draw, for the progress over all draws.
        first: number of the first one.
        emit: called with progress.
    """
    progress, done = counter(emit, count * steps, "step"), 0

    def watch(moment: Moment) -> None:
        nonlocal done
        done += 1
        progress(done)

    for number in range(first, first + count):
        yield draw(number, watch)


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation of draws.

    Args:
        mean: closer to the ground truth on average than any draw, and smoother.
        std: standard deviation by count - 1, element by element; 0 of a single draw.
        count: number of draws.
    """

    mean: Float[Tensor, " *shape"]
    std: Float[Tensor, " *shape"]
    count: int


def summary(draws: Iterable[Float[Tensor, " *shape"]]) -> Summary:
    """Mean and standard deviation of draws that are read one by one.

    Source: Welford 1962, Technometrics 4, 419.

    Raises:
        ValueError: no draws.
    """
    every = iter(draws)
    try:
        mean, count = next(every).clone(), 1
    except StopIteration:
        raise ValueError("expected at least one draw, got none") from None
    squares = torch.zeros_like(mean)
    for draw in every:
        count += 1
        apart = draw - mean
        mean += apart / count
        squares += apart * (draw - mean)
    return Summary(mean, (squares / max(1, count - 1)).sqrt(), count)
