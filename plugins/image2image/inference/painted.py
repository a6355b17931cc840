"""Which pixels of a mask's file are painted: white on black, or any colour on something else.

The first of these that applies says which pixels are to be filled:

1. Nearly all pixels are black or white, and none is coloured: the white ones.
2. Some pixels are transparent: the opaque ones; but the transparent ones of a copy of the image,
   out of which they were erased.
3. A copy of the image: the pixels that differ.
4. Grey: those of 50 % and more, so that a blurred mask has its edge where it was.
5. Colours: all that differ from the background, the most frequent colour of the outermost pixels.

Transparent pixels of a black and white mask count as black.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.errors import InputError
from core.images.pictures import Picture

# In units of the range of a colour.
PURE = 16 / 255  # from black or white, as JPEG and antialiasing leave it
EQUAL = 24 / 255  # of a copy that was compressed
PAINTED = 0.2  # from the background or the image; antialiased edges are painted too
COLOURED = 0.1  # chroma of what is not grey
# Fractions of pixels.
NEARLY_ALL = 0.98
COPIED = 0.3  # equal to the image, in its copy
BACKGROUND = 0.2  # of the background's colour, in a mask of flat colours
BLURRED = 0.1  # near the background's colour and not of it, as in no mask of flat colours
VARIED = 0.02  # standard deviation of what is equal: black on black is no copy


def painted(
    drawn: Picture, image: Float[Tensor, " c h w"]
) -> tuple[Bool[Tensor, " h w"], str | None]:
    """The pixels to be filled, and how the mask was read, unless as white on black.

    Args:
        drawn: the mask's file, of the image's size.
        image: the masked image, in [-1, 1].

    Raises:
        InputError: colours without a flat background.
    """
    colour = (drawn.pixels.expand(3, -1, -1) + 1) / 2
    opaque = torch.ones(colour.shape[1:], dtype=torch.bool)
    if drawn.alpha is not None:
        opaque = drawn.alpha[0] >= 0.5
    bright, chroma = colour.mean(0), colour.amax(0) - colour.amin(0)
    grey = bool((chroma[opaque] < COLOURED).all())
    apart = (colour - (image.expand(3, -1, -1) + 1) / 2).abs().amax(0)
    erased = not opaque.all() and _is_copy(colour, apart, opaque, NEARLY_ALL)
    if grey and not erased and _two_valued(bright, opaque):
        return (bright >= 0.5) & opaque, None
    copy = _is_copy(colour, apart, opaque, COPIED)
    if not opaque.all():
        if copy:
            return ~opaque, "a copy of the image; what is transparent is filled"
        return opaque, "painted on transparent; what is opaque is filled"
    if copy:
        return apart >= PAINTED, "painted on a copy of the image; what differs is filled"
    if grey:
        return bright >= 0.5, None
    return _off_background(colour), "painted in colour; all but the background is filled"


def _two_valued(bright: Float[Tensor, " h w"], opaque: Bool[Tensor, " h w"]) -> bool:
    """Whether opaque pixels are black and white; of one of them only where none is transparent."""
    black, white = (bright <= PURE) & opaque, (bright >= 1 - PURE) & opaque
    if (black | white).sum() < NEARLY_ALL * opaque.sum():
        return False
    return bool(opaque.all() or not opaque.any() or (black.any() and white.any()))


def _is_copy(
    colour: Float[Tensor, " 3 h w"],
    apart: Float[Tensor, " h w"],
    opaque: Bool[Tensor, " h w"],
    least: float,
) -> bool:
    """Whether that fraction of pixels is equal to the image, and of more than one colour."""
    equal = (apart <= EQUAL) & opaque
    if equal.sum() < max(2, least * opaque.sum()):
        return False
    return bool(colour[:, equal].std(1).max() > VARIED)


def _off_background(colour: Float[Tensor, " 3 h w"]) -> Bool[Tensor, " h w"]:
    """The pixels that differ from the most frequent colour of the outermost ones."""
    rim = torch.cat([colour[:, 0], colour[:, -1], colour[:, :, 0], colour[:, :, -1]], 1)
    kinds, counts = (rim * 16).round().unique(dim=1, return_counts=True)
    background = kinds[:, counts.argmax()] / 16
    apart = (colour - background[:, None, None]).abs().amax(0)
    flat, near = apart <= EQUAL, apart < PAINTED
    if flat.sum() < BACKGROUND * flat.numel() or (near & ~flat).sum() > BLURRED * flat.numel():
        raise InputError(
            "not a mask: neither a copy of the image nor of a flat background; paint white on "
            "black, or any colour on a copy of the image"
        )
    return apart >= PAINTED
