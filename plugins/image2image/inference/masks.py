"""Masks of a user's image: which pixels are to be filled.  True, or painted in a file, is filled.

RePaint's files have it the other way round, white to be kept: invert them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from core.denoiser.tiles import check_memory
from core.errors import InputError
from core.images.pictures import Picture
from core.images.reading import read_picture
from plugins.image2image.inference.painted import painted

SIDES = ("left", "right", "top", "bottom")
MOST_GROWN = 1024  # pixels
MOST_STRETCHED = 1.05  # of the width against the height of a mask that is resized
CANVASES = 2  # float32 fields of a larger canvas that live at once


# --- options of a region -------------------------------------------------------------------------


def read_mask(
    path: Path, image: Float[Tensor, " c h w"], *, invert: bool = False, resize: bool = False
) -> tuple[Bool[Tensor, " h w"], tuple[str, ...]]:
    """The mask in an image's file, as `inference.painted` reads it; and a note of how.

    Args:
        path: an image file.
        image: the masked image, in [-1, 1].
        invert: what would be filled is kept instead.
        resize: a mask of another size is resized.

    Raises:
        InputError: not an image, nothing that can be read as a mask, or another size.
    """
    drawn = read_picture(path)
    (high, wide), (height, width) = drawn.pixels.shape[1:], image.shape[1:]
    if (high, wide) != (height, width):
        if not resize:
            raise InputError(
                f"{path}: the mask has {wide}x{high} pixels, the image {width}x{height}; save the "
                "mask at the size of the image, or have it resized (--resize-mask)"
            )
        if max(high * width, wide * height) > MOST_STRETCHED * min(high * width, wide * height):
            raise InputError(
                f"{path}: the mask has {wide}x{high} pixels, the image {width}x{height}: another "
                "shape, so that no resizing fits; save the mask at the size of the image"
            )
        drawn = _resized(drawn, height, width)
    try:
        found, how = painted(drawn, image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    note = () if how is None else (f"mask {path.name}: {how}; {found.double().mean():.1%} of it",)
    return found != invert, note


def _resized(drawn: Picture, height: int, width: int) -> Picture:
    """The image at another size, bilinear with antialiasing."""

    def at_size(x: Tensor) -> Tensor:
        return F.interpolate(x[None], (height, width), mode="bilinear", antialias=True)[0]

    alpha = None if drawn.alpha is None else at_size(drawn.alpha)
    return replace(drawn, pixels=at_size(drawn.pixels), alpha=alpha)


def transparent(picture: Picture) -> Bool[Tensor, " h w"]:
    """Where an image is less than half opaque.

    Raises:
        InputError: it has no alpha channel.
    """
    if picture.alpha is None:
        raise InputError(
            "the image has no alpha channel; give a mask, a box, or an image with alpha"
        )
    return picture.alpha[0] < 0.5


def box(text: str, height: int, width: int) -> Bool[Tensor, " h w"]:
    """The rectangle ``x,y,w,h``, in pixels from the upper left corner.

    Raises:
        InputError: not four whole numbers, an empty rectangle, or one not inside the image.
    """
    numbers = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", text, re.ASCII)
    if numbers is None:
        raise InputError(f"box: expected x,y,width,height in pixels, as 10,20,64,48, got {text!r}")
    x, y, across, down = map(int, numbers.groups())
    if not across or not down or x + across > width or y + down > height:
        raise InputError(
            f"box: {text} is not inside the image of {width}x{height} pixels; x + width is at "
            f"most {width} and y + height at most {height}"
        )
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y : y + down, x : x + across] = True
    return mask


@dataclass(frozen=True)
class Margins:
    """Pixels added on each side."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0


def margins(texts: Sequence[str], height: int, width: int) -> Margins:
    """Margins from texts such as ``right=25%`` and ``left=64``; per cent of width or height.

    Raises:
        InputError: another form, a side given twice, or a margin outside 1 pixel to four
            times the image.
    """
    found: dict[str, int] = {}
    for text in texts:
        parts = re.fullmatch(r"(left|right|top|bottom)=(\d{1,6}(?:\.\d{1,6})?)(%?)", text, re.ASCII)
        if parts is None or ("." in parts[2] and not parts[3]):
            raise InputError(
                f"extend: expected SIDE=N, such as right=25% or left=64, got {text!r}; "
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


def extended(picture: Picture, by: Margins) -> tuple[Picture, Bool[Tensor, " y x"]]:
    """The image on a larger canvas, and the mask of new pixels.

    New pixels repeat the nearest one of the image and are opaque; metadata are kept.

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
            "mask: nothing to fill, all pixels are black; white or painted pixels are filled "
            "(--invert inverts the mask)"
        )
    if some_known and mask.all():
        raise InputError(
            "mask: no known pixel, all are white or painted; black pixels are kept (--invert "
            "inverts the mask). Without known pixels use `polymode sample`"
        )


def around(mask: Bool[Tensor, " h w"], reach: int) -> tuple[slice, slice]:
    """Rows and columns within `reach` pixels of the mask."""
    rows, columns = (at.nonzero().flatten().tolist() for at in (mask.any(1), mask.any(0)))
    return (
        slice(max(0, rows[0] - reach), rows[-1] + 1 + reach),
        slice(max(0, columns[0] - reach), columns[-1] + 1 + reach),
    )


# --- growing and feathering --------------------------------------------------------------------


def _rings(mask: Bool[Tensor, " h w"], pixels: int) -> Iterator[Float[Tensor, " h w"]]:
    """The mask dilated by 0, 1, ... `pixels`, by octagons: nearly isotropic."""
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
    """The mask dilated by about `pixels`, exactly along rows and columns.

    Raises:
        InputError: a negative number, or one above 1024.
    """
    largest = mask
    for ring in _rings(mask, pixels):
        largest = ring
    return largest > 0.5


def feathered(mask: Bool[Tensor, " h w"], pixels: int) -> Float[Tensor, " h w"]:
    """Blending weights of the new image: 1 inside the mask, falling to 0 over `pixels` around it.

    Raises:
        InputError: a negative number, or one above 1024.
    """
    total = torch.zeros(mask.shape)
    for ring in _rings(mask, pixels):
        total += ring
    return total / (pixels + 1)
