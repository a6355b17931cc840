"""Pixels of polygons, ellipses and run lengths, as the programs that draw them fill them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

FINER = 5  # COCO rounds vertices to a fifth of a pixel
FARTHEST = 1e6  # of a coordinate, in pixels


class Area(NamedTuple):
    """Pixels in a rectangle of an image.

    Args:
        top: first row of the rectangle.
        left: its first column.
        inside: which of its pixels are meant.
    """

    top: int
    left: int
    inside: Bool[np.ndarray, "h w"]

    def paint(self, values: np.ndarray, value: int) -> None:
        """Set the pixels of an image (h, w) to a value."""
        high, wide = self.inside.shape
        part = values[self.top : self.top + high, self.left : self.left + wide]
        part[self.inside] = value


def points_of(values: Sequence[object]) -> Float[np.ndarray, "n 2"]:
    """Vertices x, y from x0, y0, x1, y1, ...

    Raises:
        ValueError: fewer than three, not in pairs, or not numbers that a pixel's place can be.
    """
    numbers = [number(value) for value in values]
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"a polygon of {len(numbers)} numbers; expected x, y of 3 points or more")
    return np.array(numbers).reshape(-1, 2)


def number(value: object) -> float:
    """A coordinate in pixels.

    Raises:
        ValueError: not a number, or beyond any image.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number, got {type(value).__name__}")
    found = float(value)
    if not abs(found) <= FARTHEST:  # NaN too
        raise ValueError(f"a coordinate of {found:g} pixels; expected at most {FARTHEST:g}")
    return found


def polygon(points: Float[np.ndarray, "n 2"], size: tuple[int, int]) -> Area:
    """Pixels whose centres are in a polygon, by the even-odd rule, as COCO and CVAT fill it.

    The pixel in row i and column j covers [j, j + 1] x [i, i + 1].  Vertices are rounded to fifths
    of a pixel, and edges to that grid.
    Source: COCO API, `rleFrPoly` of maskApi.c, whose pixels these are.

    Args:
        points: x, y of its vertices in pixels.
        size: height and width of the image.
    """
    high, wide = size
    grid = np.trunc(points * FINER + 0.5)
    left = int(np.clip(grid[:, 0].min() // FINER, 0, wide))
    right = int(np.clip(grid[:, 0].max() // FINER + 1, left, wide))
    top = int(np.clip(grid[:, 1].min() // FINER, 0, high))
    bottom = int(np.clip(grid[:, 1].max() // FINER + 1, top, high))
    # Each edge that passes a column's centre changes inside to outside from its row on.
    changes = np.zeros((bottom - top + 1, right - left), np.int32)
    for start, end in zip(grid, np.roll(grid, -1, 0), strict=True):
        columns, v = _crossings(start, end, left, right)
        rows = np.ceil((v + 0.5) / FINER - 0.5).clip(top, bottom).astype(int)
        np.add.at(changes, (rows - top, columns - left), 1)
    return Area(top, left, np.cumsum(changes, 0)[:-1] % 2 == 1)


def _crossings(
    start: np.ndarray, end: np.ndarray, left: int, right: int
) -> tuple[np.ndarray, np.ndarray]:
    """Columns whose centres an edge passes, and its row there, on the finer grid."""
    # A centre lies between the finer columns `before` and `before` + 1.
    low, high = sorted((start[0], end[0]))
    columns = np.arange(
        max(left, math.ceil((low - FINER // 2) / FINER)),
        min(right, math.floor((high - 1 - FINER // 2) / FINER) + 1),
    )
    before = FINER * columns + FINER // 2
    dx, dy = np.abs(end - start)
    if dx >= dy:  # a row for each finer column
        (x, y), (_, y1) = (start, end) if start[0] <= end[0] else (end, start)
        slope = (y1 - y) / max(dx, 1)
        at = [np.trunc(y + slope * (u - x) + 0.5) for u in (before, before + 1)]
        return columns, np.minimum(*at)
    (x, y), (x1, _) = (start, end) if start[1] <= end[1] else (end, start)
    slope = (x1 - x) / dy  # a column for each finer row
    if slope == 0:
        return columns[:0], before[:0].astype(float)

    def passed(t: np.ndarray) -> np.ndarray:
        u = np.trunc(x + slope * t + 0.5)
        return u > before if slope > 0 else u <= before

    # The first row beyond the centre: by the line's equation, corrected for rounding.
    t = np.ceil((before + 0.5 - x) / slope)
    t += np.where(passed(t), 0, 1)
    t -= np.where(passed(t - 1), 1, 0)
    return columns, y + t - 1


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float, size: tuple[int, int]
) -> Area:
    """Pixels whose centres are in an ellipse, turned clockwise."""
    (x, y), far = centre, max(radii)
    top, bottom = (int(np.clip(v, 0, size[0])) for v in (y - far - 1, y + far + 2))
    left, right = (int(np.clip(v, 0, size[1])) for v in (x - far - 1, x + far + 2))
    down = np.arange(top, bottom)[:, None] + 0.5 - y
    across = np.arange(left, right) + 0.5 - x
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    along, beside = c * across + s * down, c * down - s * across
    rx, ry = (max(radius, 1e-9) for radius in radii)
    return Area(top, left, (along / rx) ** 2 + (beside / ry) ** 2 <= 1)


def turned(
    points: Float[np.ndarray, "n 2"], centre: tuple[float, float], degrees: float
) -> Float[np.ndarray, "n 2"]:
    """Points turned clockwise about a centre, y pointing down."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (points - centre) @ np.array([[c, s], [-s, c]]) + centre


def runs(counts: Sequence[object], pixels: int) -> Bool[np.ndarray, " pixels"]:
    """Pixels from the lengths of runs, outside first.

    Raises:
        ValueError: not whole numbers from 0 that add to the number of pixels.
    """
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in counts):
        raise ValueError("run lengths that are not whole numbers from 0")
    if (total := sum(counts)) != pixels:  # type: ignore[arg-type]
        raise ValueError(f"run lengths of {total} pixels in all, expected {pixels}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, np.array(counts, dtype=np.int64))


def decompressed(text: str) -> list[int]:
    """The run lengths in COCO's string.

    Five bits a character, the lowest first, of which the highest continues; from the third run on
    the difference to the last run of its kind.
    Source: COCO API, `rleFrString` of maskApi.c.

    Raises:
        ValueError: a character that is none of the code's, or a run that does not end.
    """
    found: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError(f"a compressed run with the character {letter!r}")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        found.append(value + found[-2] if len(found) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("a compressed run that does not end")
    return found
