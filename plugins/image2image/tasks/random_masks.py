"""Random masks for training, after Palette; True is to be filled."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive, generator

LEAST, MOST = 0.1, 0.4  # fraction of an image that random holes cover
FREE_FORM = 0.6  # fraction of free-form holes among those for inpainting
SMALLEST = 16  # side of an image, in pixels
Kind = Literal["inpaint", "strokes", "boxes", "uncrop"]


def random_mask(
    seed: int, index: int, height: int, width: int, kind: Kind = "inpaint"
) -> Bool[Tensor, " h w"]:
    """The mask of training item `index`: a function of its arguments alone.

    ``strokes`` are free forms and ``boxes`` 1 to 5 rectangles, both covering 10 to 40 % of the
    image; ``inpaint`` is strokes in 60 % and boxes in 40 % of the items.  ``uncrop`` covers half
    of the image, along one side or around all four, each in half of the items.
    Source: Saharia et al. 2022 (Palette), arXiv:2111.05826, appendix B; the strokes are algorithm
    1 of Yu et al. 2019 (DeepFillv2), arXiv:1806.03589, drawn until they cover enough.

    Raises:
        InputError: a side below 16 pixels.
    """
    if min(height, width) < SMALLEST:
        raise InputError(
            f"random masks require images of at least {SMALLEST}x{SMALLEST} pixels, got "
            f"{width}x{height}"
        )
    # A key of its own: crops depend on (seed, index) too and must be independent of the mask.
    random = generator(derive("mask", kind, seed), index)
    if kind == "inpaint":
        kind = "strokes" if random.random() < FREE_FORM else "boxes"
    draw = {"strokes": _strokes, "boxes": _boxes, "uncrop": _uncrop}[kind]
    return torch.from_numpy(np.ascontiguousarray(draw(random, height, width)))


def _strokes(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Brush strokes until a random fraction is covered, or the next one would exceed `MOST`."""
    mask, wanted = np.zeros((height, width), bool), random.uniform(LEAST, MOST)
    while mask.mean() < wanted:
        ahead = mask | _stroke(random, height, width)
        if ahead.mean() <= MOST:
            mask = ahead
        elif mask.mean() >= LEAST:
            break
    return mask


def _stroke(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One brush stroke: a polyline of 4 to 12 segments, its vertices inside the image."""
    mask, side = np.zeros((height, width), bool), min(height, width)
    at = np.array([random.uniform(0, height - 1), random.uniform(0, width - 1)])
    radius = side * random.uniform(1 / 40, 1 / 12)
    for turn in range(random.integers(4, 13)):
        angle = math.pi * random.uniform(4 / 15, 8 / 15)
        angle = 2 * math.pi - angle if turn % 2 == 0 else angle
        length = side * random.uniform(0, 1 / 4)
        step = length * np.array([math.cos(angle), math.sin(angle)])
        then = np.clip(at + step, 0, (height - 1, width - 1))
        _line(mask, at, then, radius)
        at = then
    for axis in (0, 1):
        mask = np.flip(mask, axis) if random.random() < 0.5 else mask
    return mask


def _line(mask: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> None:
    """Set the pixels within `radius` of the segment."""
    low = np.floor(np.minimum(start, end) - radius).clip(0).astype(int)
    high = np.ceil(np.maximum(start, end) + radius).astype(int) + 1
    part = mask[low[0] : high[0], low[1] : high[1]]
    rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
    y, x = rows + (low[0] - start[0]), columns + (low[1] - start[1])
    down, across = end - start
    along = (y * down + x * across) / max(down**2 + across**2, 1e-12)
    along = np.clip(along, 0, 1)
    part |= (y - along * down) ** 2 + (x - along * across) ** 2 <= radius**2


def _boxes(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """1 to 5 rectangles of a random total area, redrawn until it is within the limits."""
    count = random.integers(1, 6)
    while True:
        mask, wanted = np.zeros((height, width), bool), random.uniform(LEAST, MOST)
        for _ in range(count):
            # Sides relative to the image's, so that rectangles fit whatever its aspect ratio.
            longer = math.exp(random.uniform(-math.log(2), math.log(2)))
            high = round(height * math.sqrt(wanted / count * longer))
            wide = round(width * math.sqrt(wanted / count / longer))
            top, left = random.integers(height - high + 1), random.integers(width - wide + 1)
            mask[top : top + high, left : left + wide] = True
        if LEAST <= mask.mean() <= MOST:
            return mask


def _uncrop(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Half of the image: along one of its sides, or around all four."""
    mask = np.zeros((height, width), bool)
    if random.random() < 0.5:
        high, wide = round(height * math.sqrt(0.5)), round(width * math.sqrt(0.5))
        top, left = (height - high) // 2, (width - wide) // 2
        mask[:] = True
        mask[top : top + high, left : left + wide] = False
        return mask
    half = (slice(None), slice(width // 2)), (slice(height // 2), slice(None))
    mask[half[random.integers(2)]] = True
    return np.rot90(mask, 2) if random.random() < 0.5 else mask
