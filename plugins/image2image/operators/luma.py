"""Brightness of colours as files have it, and colours of a given brightness.

Luma is ITU-R BT.601's, 0.299 R + 0.587 G + 0.114 B; `levels_luma` is Pillow's ``convert("L")`` to
the last bit.
"""

from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
PILLOW = (19595, 38470, 7471)  # the same in units of 2^-16, rounded by adding 2^15


def luma(image: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b 1 h w"]:
    """The luma of an image in [-1, 1], in [-1, 1]."""
    weights = torch.tensor(LUMA, dtype=image.dtype, device=image.device)
    return torch.einsum("c,bchw->bhw", weights, image)[:, None]


def to_integers(image: Float[Tensor, " b c h w"]) -> Int[Tensor, " b c h w"]:
    """Levels 0 to 255 of an image in [-1, 1]."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().int()


def levels_luma(levels: Int[Tensor, " b 3 h w"]) -> Int[Tensor, " b 1 h w"]:
    """The level 0 to 255 that Pillow gives a colour."""
    red, green, blue = (levels[:, i : i + 1] * PILLOW[i] for i in range(3))
    return (red + green + blue + (1 << 15)) >> 16


def with_luma(
    image: Float[Tensor, " b 3 h w"], grey: Float[Tensor, " b 1 h w"]
) -> Float[Tensor, " b 3 h w"]:
    """The image with its luma replaced, its colour faded just so far as it leaves [-1, 1].

    Args:
        image: colours, of any range.
        grey: the luma wanted, in [-1, 1].
    """
    colour = image - luma(image)
    room = torch.where(colour > 0, 1 - grey, 1 + grey)
    share = (room / colour.abs().clamp(min=1e-9)).amin(1, keepdim=True).clamp(max=1)
    return grey + share * colour


# Changes of a level in each colour, the smallest first.
_CHANGES = sorted(product((-1, 0, 1), repeat=3), key=lambda change: sum(map(abs, change)))


def levels_with_luma(
    image: Float[Tensor, " b 3 h w"], grey: Int[Tensor, " b 1 h w"]
) -> Int[Tensor, " b 3 h w"]:
    """Levels near an image whose luma is nearly `grey`, so that Pillow's luma is `grey` exactly.

    Rounding each colour moves the luma by half a level at most, so that one level more or less in
    some of the colours mends it.
    """
    levels = to_integers(image)
    best, found = levels, levels_luma(levels) == grey
    for change in _CHANGES:
        moved = levels + torch.tensor(change, dtype=levels.dtype)[:, None, None].to(levels.device)
        fits = (moved >= 0).all(1, keepdim=True) & (moved <= 255).all(1, keepdim=True)
        mends = ~found & fits & (levels_luma(moved) == grey)
        best, found = torch.where(mends, moved, best), found | mends
    return best
