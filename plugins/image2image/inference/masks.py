"""Masks: which pixels are to be filled.  True, or white in a file, is to be filled.

RePaint's files have it the other way round, white to be kept: invert them.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.process.noise import derive
from plugins.image2image import io
from plugins.image2image.tiles import check_memory

SIDES = ("left", "right", "top", "bottom")
MOST_GROWN = 1024  # pixels
CANVASES = 2  # float32 fields of a larger canvas that live at once


# --- what a user gives -------------------------------------------------------------------------


def read_mask(path: Path, height: int, width: int, *, invert: bool = False) -> Bool[Tensor, " h w"]:
    """The mask in a picture's file: white is to be filled, greys from 50 % on count as white.

    Colours are averaged; what is transparent in the file counts as black.

    Args:
        path: of a picture of exactly the size wanted.
        height: of the picture that the mask is for.
        width: of it.
        invert: white is to be kept instead.

    Raises:
        InputError: not a picture, or one of another size.
    """
    drawn = io.read(path)
    high, wide = drawn.pixels.shape[1:]
    if (high, wide) != (height, width):
        raise InputError(
            f"{path}: the mask has {wide}x{high} pixels, the picture {width}x{height}; save the "
            "mask in the picture's own size"
        )
    white = (drawn.pixels.mean(0) + 1) / 2
    if drawn.alpha is not None:
        white = white * drawn.alpha[0]
    return (white >= 0.5) != invert


def transparent(picture: io.Picture) -> Bool[Tensor, " h w"]:
    """Where a picture is less than half opaque.

    Raises:
        InputError: it has no alpha channel.
    """
    if picture.alpha is None:
        raise InputError(
            "the picture has no transparency to fill; give a mask, a box, or a picture with alpha"
        )
    return picture.alpha[0] < 0.5


def box(text: str, height: int, width: int) -> Bool[Tensor, " h w"]:
    """The rectangle ``x,y,w,h``, in pixels from the upper left corner.

    Raises:
        InputError: not four whole numbers, an empty rectangle, or one not inside the picture.
    """
    numbers = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", text, re.ASCII)
    if numbers is None:
        raise InputError(f"box: expected x,y,width,height in pixels, as 10,20,64,48, got {text!r}")
    x, y, across, down = map(int, numbers.groups())
    if not across or not down or x + across > width or y + down > height:
        raise InputError(
            f"box: {text} is not inside the picture of {width}x{height} pixels; x + width is at "
            f"most {width} and y + height at most {height}"
        )
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y : y + down, x : x + across] = True
    return mask


@dataclass(frozen=True)
class Margins:
    """By how many pixels a picture grows on each side."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0


def margins(texts: Sequence[str], height: int, width: int) -> Margins:
    """What ``right=25%`` and ``left=64`` ask for; shares are of the picture's width or height.

    Raises:
        InputError: another form, a side named twice, or a margin of nothing or of more than four
            times the picture.
    """
    found: dict[str, int] = {}
    for text in texts:
        parts = re.fullmatch(r"(left|right|top|bottom)=(\d{1,6}(?:\.\d{1,6})?)(%?)", text, re.ASCII)
        if parts is None or ("." in parts[2] and not parts[3]):
            raise InputError(
                f"extend: expected a side and how far, as right=25% or left=64, got {text!r}; "
                f"sides are {', '.join(SIDES)}"
            )
        side, number, percent = parts.groups()
        if side in found:
            raise InputError(f"extend: {side} is given twice; give each side once")
        length = width if side in ("left", "right") else height
        pixels = round(float(number) * length / 100) if percent else int(number)
        if not 0 < pixels <= 4 * length:
            raise InputError(
                f"extend: {text} is {pixels} pixels; expected 1 to {4 * length}, four times the "
                "picture"
            )
        found[side] = pixels
    return Margins(**found)


def extended(picture: io.Picture, by: Margins) -> tuple[io.Picture, Bool[Tensor, " y x"]]:
    """A larger canvas with the picture in it, and where it is new.

    The new pixels repeat the nearest of the picture, opaque; metadata stay.

    Raises:
        InputError: a canvas that does not fit into memory.
    """
    channels, height, width = picture.pixels.shape
    high, wide = height + by.top + by.bottom, width + by.left + by.right
    check_memory(CANVASES, channels, high, wide)
    pad = (by.left, by.right, by.top, by.bottom)

    def widened(x: Tensor) -> Tensor:
        return F.pad(x[None], pad, mode="replicate")[0]

    known = F.pad(torch.ones(height, width, dtype=torch.bool), pad)
    alpha = None if picture.alpha is None else widened(picture.alpha).masked_fill(~known, 1.0)
    return replace(picture, pixels=widened(picture.pixels), alpha=alpha), ~known


def check_mask(mask: Bool[Tensor, " h w"], *, some_known: bool) -> None:
    """Refuse masks with nothing to fill and, where some must be known, with nothing known.

    Raises:
        InputError: see above.
    """
    if not mask.any():
        raise InputError(
            "mask: nothing to fill, as it is black everywhere; white is what is filled "
            "(--invert turns a mask round)"
        )
    if some_known and mask.all():
        raise InputError(
            "mask: nothing is known, as it is white everywhere; black is what is kept "
            "(--invert turns a mask round), and without anything to keep use `polymode sample`"
        )


def around(mask: Bool[Tensor, " h w"], reach: int) -> tuple[slice, slice]:
    """Rows and columns within `reach` pixels of what is to be filled."""
    rows, columns = (at.nonzero().flatten().tolist() for at in (mask.any(1), mask.any(0)))
    return (
        slice(max(0, rows[0] - reach), rows[-1] + 1 + reach),
        slice(max(0, columns[0] - reach), columns[-1] + 1 + reach),
    )


# --- growing and feathering --------------------------------------------------------------------


def _rings(mask: Bool[Tensor, " h w"], pixels: int) -> Iterator[Float[Tensor, " h w"]]:
    """The mask grown by 0, 1, ... `pixels`: octagons, about as far in every direction."""
    if not 0 <= pixels <= MOST_GROWN:
        raise InputError(f"pixels: expected 0 to {MOST_GROWN} around a mask, got {pixels}")
    ring = mask.float()[None]
    yield ring[0]
    for turn in range(pixels):
        if turn % 2:
            ring = F.max_pool2d(ring, 3, 1, 1)
        else:  # by a cross
            down = F.max_pool2d(ring, (3, 1), 1, (1, 0))
            ring = torch.maximum(F.max_pool2d(ring, (1, 3), 1, (0, 1)), down)
        yield ring[0]


def grown(mask: Bool[Tensor, " h w"], pixels: int) -> Bool[Tensor, " h w"]:
    """The mask and what is within about `pixels` of it, exactly so along rows and columns.

    Raises:
        InputError: a negative number, or one above 1024.
    """
    largest = mask
    for ring in _rings(mask, pixels):
        largest = ring
    return largest > 0.5


def feathered(mask: Bool[Tensor, " h w"], pixels: int) -> Float[Tensor, " h w"]:
    """Weights of what is new: 1 inside the mask, falling to 0 over `pixels` around it.

    Raises:
        InputError: a negative number, or one above 1024.
    """
    total = torch.zeros(mask.shape)
    for ring in _rings(mask, pixels):
        total += ring
    return total / (pixels + 1)


# --- random masks for training -----------------------------------------------------------------

LEAST, MOST = 0.1, 0.4  # share of a picture that random holes cover
FREE_FORM = 0.6  # share of free-form holes among those for inpainting
SMALLEST = 16  # side of a picture, in pixels

Kind = Literal["inpaint", "strokes", "boxes", "uncrop"]


def random_mask(
    seed: int, index: int, height: int, width: int, kind: Kind = "inpaint"
) -> Bool[Tensor, " h w"]:
    """The mask of training item `index`: a function of its arguments alone.

    ``strokes`` are free forms and ``boxes`` 1 to 5 rectangles, both covering 10 to 40 % of the
    picture; ``inpaint`` is strokes in 60 % and boxes in 40 % of the items.  ``uncrop`` covers half
    of the picture, along one side or around all four, each in half of the items.
    Source: Saharia et al. 2022 (Palette), arXiv:2111.05826, appendix B; the strokes are algorithm
    1 of Yu et al. 2019 (DeepFillv2), arXiv:1806.03589, drawn until they cover enough.

    Raises:
        InputError: a side below 16 pixels.
    """
    if min(height, width) < SMALLEST:
        raise InputError(
            f"random masks want pictures of at least {SMALLEST}x{SMALLEST} pixels, got "
            f"{width}x{height}"
        )
    # A key of its own: crops are drawn from (seed, index) too and must not follow the mask.
    key = np.array([derive("mask", kind, seed), index], np.uint64)
    random = np.random.Generator(np.random.Philox(key=key))
    if kind == "inpaint":
        kind = "strokes" if random.random() < FREE_FORM else "boxes"
    draw = {"strokes": _strokes, "boxes": _boxes, "uncrop": _uncrop}[kind]
    return torch.from_numpy(np.ascontiguousarray(draw(random, height, width)))


def _strokes(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Strokes of a brush until a drawn share is covered, or the next one would cover too much."""
    mask, wanted = np.zeros((height, width), bool), random.uniform(LEAST, MOST)
    while mask.mean() < wanted:
        ahead = mask | _stroke(random, height, width)
        if ahead.mean() <= MOST:
            mask = ahead
        elif mask.mean() >= LEAST:
            break
    return mask


def _stroke(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One stroke of a brush: a zigzag of 4 to 12 lines, its vertices inside the picture."""
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
    """Set what is within `radius` of the segment: the line and the circles at its ends."""
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
    """1 to 5 rectangles that together cover the share wanted; drawn again until they do."""
    count = random.integers(1, 6)
    while True:
        mask, wanted = np.zeros((height, width), bool), random.uniform(LEAST, MOST)
        for _ in range(count):
            # Sides as shares of the picture's: a rectangle of any picture's shape fits into it.
            longer = math.exp(random.uniform(-math.log(2), math.log(2)))
            high = round(height * math.sqrt(wanted / count * longer))
            wide = round(width * math.sqrt(wanted / count / longer))
            top, left = random.integers(height - high + 1), random.integers(width - wide + 1)
            mask[top : top + high, left : left + wide] = True
        if LEAST <= mask.mean() <= MOST:
            return mask


def _uncrop(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Half of the picture: along one of its sides, or around all four."""
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
