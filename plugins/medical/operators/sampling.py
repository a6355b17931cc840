"""Which frequencies of k-space are measured: columns, points of a grid, spokes."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive

Kind = Literal["random", "equispaced", "density", "poisson", "radial"]


def sampling_mask(
    kind: Kind,
    height: int,
    width: int,
    *,
    acceleration: float = 4.0,
    centre: float = 0.08,
    seed: int = 0,
) -> Bool[Tensor, " h w"]:
    """Which frequencies are measured, about height x width / acceleration of them.

    Args:
        kind: ``random`` and ``equispaced`` columns (phase encoding along x, as in fastMRI, Zbontar
            et al. 2018, arXiv:1811.08839), ``density``: points, rarer away from the middle (Lustig
            et al. 2007, Magn. Reson. Med. 58, 1182), ``poisson``: the same, no two of them near
            each other, ``radial``: spokes, at the nearest points of the grid.
        height: of k-space.
        width: of k-space.
        acceleration: how many times fewer frequencies than all.
        centre: share of the lines, or of each side, around the middle that is always measured.
        seed: of what is drawn.

    Raises:
        InputError: an option out of its range, or a centre that is more than all that is measured.
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
                f"{wanted:.0f} that an acceleration of {acceleration:g} leaves; make one smaller"
            )
        rows = (np.arange(height) - height // 2) / (height / 2)
        radius = np.hypot(rows[:, None], (np.arange(width) - width // 2) / (width / 2))
        points = {"density": _density, "poisson": _poisson, "radial": _radial}[kind]
        mask = points(radius, inner, wanted, random)
    return torch.from_numpy(np.ascontiguousarray(mask))


def check(kind: str, acceleration: float, centre: float) -> None:
    """Refuse options out of their range, all at once.

    Raises:
        InputError: a kind that there is not, or a number out of its range.
    """
    problems = []
    if kind not in get_args(Kind):
        problems.append(f"mask: expected one of {', '.join(get_args(Kind))}, got {kind!r}")
    if not acceleration >= 1:
        problems.append(f"acceleration: expected at least 1, got {acceleration:g}")
    if not 0 <= centre <= 1:
        problems.append(f"centre: expected 0 to 1, got {centre:g}")
    if problems:
        raise InputError("\n".join(problems))


def _columns(
    kind: Kind, width: int, acceleration: float, centre: float, random: np.random.Generator
) -> np.ndarray:
    """Columns: the middle ones, and as many others as make up the acceleration."""
    low = max(1, round(width * centre))
    wanted = round(width / acceleration)
    if low > wanted:
        raise InputError(
            f"centre: {centre:g} of {width} columns is {low}, more than the {wanted} that an "
            f"acceleration of {acceleration:g} leaves; make one smaller"
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
    """Points in random order, none within a distance of another that grows with the radius."""
    order = random.permutation(radius.size)
    rows, columns = np.unravel_index(order, radius.shape)

    def mask(slope: float) -> np.ndarray:
        reach = slope * (0.3 + radius)
        chosen, free = inner.copy(), ~inner
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if not free[row, column]:
                continue
            chosen[row, column] = True
            far = reach[row, column]
            near = math.floor(far)
            up, left = max(0, row - near), max(0, column - near)
            down = np.arange(up, min(radius.shape[0], row + near + 1)) - row
            across = np.arange(left, min(radius.shape[1], column + near + 1)) - column
            blocked = down[:, None] ** 2 + across**2 <= far**2
            free[up : up + len(down), left : left + len(across)] &= ~blocked
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
    """Where a falling count comes to what is wanted."""
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) > wanted else (low, middle)
    return high
