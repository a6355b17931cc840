"""Which frames of a clip are given, and which the model completes."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["future", "past", "hole", "sparse", "random", "none"]
KINDS: tuple[Kind, ...] = ("future", "past", "hole", "sparse", "random", "none")


class Frames(NamedTuple):
    """Frames of a longer clip, in rising order.

    Args:
        indices: in the clip, (k,).
        known: which of them are given, (k,).
    """

    indices: np.ndarray
    known: np.ndarray


def drawn(
    random: np.random.Generator,
    available: int,
    length: int,
    weights: Mapping[Kind, float],
    known: int | None = None,
) -> Frames:
    """`length` of the `available` frames, and a kind of them that is given.

    future: the first frames are given, those behind are completed.  past: the last.  hole: both
    ends.  random: any.  none: nothing.  In these, frames are neighbours.  sparse: the distance of
    frames is log-uniform from 1 to what the clip allows, and every g-th is given, g log-uniform.
    Source: blocks of past and future, Voleti et al. 2022, arXiv:2205.09853, section 3; random
    frames, Höppe et al. 2022, arXiv:2206.07696, section 3.2; log-uniform distances, Harvey et al.
    2022, arXiv:2205.11495, section 3.2 and appendix C.

    Args:
        random: draws.
        available: frames of the clip.
        length: frames that a model sees at once, at most `available`.
        weights: relative frequency of each kind.
        known: frames that are given, in kinds but sparse and none; random where None.
    """
    values = np.array([weights.get(kind, 0.0) for kind in KINDS])
    kind = KINDS[int(random.choice(len(KINDS), p=values / values.sum()))]
    if kind == "sparse":
        return _sparse(random, available, length)
    start = int(random.integers(available - length + 1))
    indices = start + np.arange(length)
    given = np.zeros(length, bool)
    if kind == "none" or length == 1:
        return Frames(indices, given)
    count = int(random.integers(1, length)) if known is None else known
    if kind == "future":
        given[:count] = True
    elif kind == "past":
        given[length - count :] = True
    elif kind == "random":
        given[random.choice(length, count, replace=False)] = True
    else:  # a hole somewhere, or in the middle where the number is stated
        hole = length - count
        first = count // 2 if known is not None else int(random.integers(count + 1))
        given[:] = True
        given[first : first + hole] = False
    return Frames(indices, given)


def _sparse(random: np.random.Generator, available: int, length: int) -> Frames:
    most = (available - 1) / (length - 1) if length > 1 else 1.0
    step = math.exp(random.uniform(0, math.log(most))) if most > 1 else 1.0
    width = step * (length - 1)
    start = random.uniform(0, available - 1 - width)
    indices = np.floor(start + step * np.arange(length) + 1e-9).astype(int)
    gap = round(math.exp(random.uniform(math.log(2), math.log(max(2, length - 1)))))
    given = (np.arange(length) - int(random.integers(min(gap, length)))) % gap == 0
    given[random.integers(length)] &= not given.all()  # something is left to complete
    return Frames(indices, given)
