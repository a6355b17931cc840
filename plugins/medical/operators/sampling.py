"""Sampling masks of k-space: columns, points of a grid, spokes."""

import math
from collections.abc import Callable
from functools import cache
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive
from plugins.medical.request import SamplingMask


def sampling_mask(
    kind: SamplingMask,
    height: int,
    width: int,
    *,
    acceleration: float = 4.0,
    centre: float = 0.08,
    seed: int = 0,
) -> Bool[Tensor, " h w"]:
    """A sampling mask of about height x width / acceleration frequencies.

    Args:
        kind: ``random`` and ``equispaced`` columns (phase encoding along x, as in fastMRI, Zbontar
            et al. 2018, arXiv:1811.08839), ``density``: points of variable density (Lustig et al.
            2007, Magn. Reson. Med. 58, 1182), ``poisson``: a variable-density Poisson disc,
            ``radial``: spokes, at the nearest points of the grid.
        height: of k-space.
        width: of k-space.
        acceleration: acceleration factor R.
        centre: fraction of the lines, or of each side, that is fully sampled in the centre.
        seed: of random patterns.

    Raises:
        InputError: an option out of its range, or a centre larger than the whole sample.
    """
    check(kind, acceleration, centre)
    random = np.random.Generator(np.random.PCG64(derive("mask", seed)))
    wanted = height * width / acceleration
    if kind in ("random", "equispaced"):
        columns = _columns(kind, width, acceleration, centre, random)
        mask = np.broadcast_to(columns, (height, width))
    else:
        high, wide = (max(1, round(side * centre)) for side in (height, width))
        inner = np.zeros((height, width), bool)
        top, left = height // 2 - high // 2, width // 2 - wide // 2
        inner[top : top + high, left : left + wide] = True
        if inner.sum() > wanted:
            raise InputError(
                f"centre: {centre:g} of each side is {inner.sum()} frequencies, more than the "
                f"{wanted:.0f} of acceleration factor {acceleration:g}; lower one of the two"
            )
        rows = (np.arange(height) - height // 2) / (height / 2)
        radius = np.hypot(rows[:, None], (np.arange(width) - width // 2) / (width / 2))
        points = {"density": _density, "poisson": _poisson, "radial": _radial}[kind]
        mask = points(radius, inner, wanted, random)
    return torch.from_numpy(np.array(mask))


def check(kind: str, acceleration: float, centre: float) -> None:
    """Refuse options out of their range, all at once.

    Raises:
        InputError: an unknown kind, or a number out of its range.
    """
    problems = []
    if kind not in get_args(SamplingMask):
        problems.append(f"mask: expected one of {', '.join(get_args(SamplingMask))}, got {kind!r}")
    if not acceleration >= 1:
        problems.append(f"acceleration: expected at least 1, got {acceleration:g}")
    if not 0 <= centre <= 1:
        problems.append(f"centre: expected 0 to 1, got {centre:g}")
    if problems:
        raise InputError("\n".join(problems))


def _columns(
    kind: SamplingMask, width: int, acceleration: float, centre: float, random: np.random.Generator
) -> np.ndarray:
    """Columns: those of the centre, and as many others as the acceleration factor leaves."""
    low = max(1, round(width * centre))
    wanted = round(width / acceleration)
    if low > wanted:
        raise InputError(
            f"centre: {centre:g} of {width} columns is {low}, more than the {wanted} of "
            f"acceleration factor {acceleration:g}; lower one of the two"
        )
    columns = np.zeros(width, bool)
    first = width // 2 - low // 2
    columns[first : first + low] = True
    others = np.flatnonzero(~columns)
    if kind == "random":
        columns[random.choice(others, wanted - low, replace=False)] = True
    elif wanted > low:
        step = len(others) / (wanted - low)
        at = (random.random() + np.arange(wanted - low)) * step
        columns[others[at.astype(int)]] = True
    return columns


def _density(
    radius: np.ndarray, inner: np.ndarray, wanted: float, random: np.random.Generator
) -> np.ndarray:
    """Points with probability (1 - r)^p, p so that there are as many as wanted."""
    draws, fall = random.random(radius.shape), (1 - radius / radius.max()).clip(0)

    def mask(power: float) -> np.ndarray:
        return inner | (draws < fall**power)

    return mask(_bisected(lambda power: mask(power).sum(), wanted, 0.0, 64.0))


def _poisson(
    radius: np.ndarray, inner: np.ndarray, wanted: float, random: np.random.Generator
) -> np.ndarray:
    """Points in random order, none within a distance of another that grows with the radius.

    Source: Bridson 2007, SIGGRAPH sketches (Poisson discs), here over all points of the grid.
    """
    order = random.permutation(radius.size)

    @cache
    def mask(slope: float) -> np.ndarray:
        """The points, or as many of them as show that there are more than wanted."""
        # Squared distances of the grid are whole numbers: discs are alike by their floor.
        squares = np.floor((slope * (0.3 + radius)) ** 2).astype(np.int64)
        margin = math.isqrt(int(squares.max()))
        chosen, free = inner.copy(), np.pad(~inner, margin)
        count = int(chosen.sum())
        outside: dict[int, np.ndarray] = {}  # of a disc, by its squared radius
        for row, column, square in zip(
            *(at.tolist() for at in np.unravel_index(order, radius.shape)),
            squares.ravel()[order].tolist(),
            strict=True,
        ):
            if not free[row + margin, column + margin]:
                continue
            chosen[row, column] = True
            count += 1
            if count > wanted:
                break
            near = math.isqrt(square)
            if (keep := outside.get(square)) is None:
                line = np.arange(-near, near + 1) ** 2
                keep = outside[square] = line[:, None] + line > square
            up, left = row + margin - near, column + margin - near
            free[up : up + 2 * near + 1, left : left + 2 * near + 1] &= keep
        return chosen

    return mask(_bisected(lambda slope: mask(slope).sum(), wanted, 0.0, 64.0, rounds=10))


def _radial(
    radius: np.ndarray, inner: np.ndarray, wanted: float, random: np.random.Generator
) -> np.ndarray:
    """Spokes through the middle, a golden angle apart, until there are as many as wanted.

    Source: Winkelmann et al. 2007, IEEE Trans. Med. Imaging 26, 68: 111.246 degrees.
    """
    height, width = radius.shape
    mask, angle = inner.copy(), random.random() * math.pi
    along = np.linspace(-1, 1, 4 * max(height, width))
    while mask.sum() < wanted:
        rows = np.round(height // 2 + along * math.sin(angle) * height / 2).astype(int)
        columns = np.round(width // 2 + along * math.cos(angle) * width / 2).astype(int)
        there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        mask[rows[there], columns[there]] = True
        angle += math.radians(111.24611797498)
    return mask


def _bisected(
    count: Callable[[float], float], wanted: float, low: float, high: float, rounds: int = 30
) -> float:
    """Where a falling count reaches a number."""
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) > wanted else (low, middle)
    return high
