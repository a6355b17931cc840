"""Measurements of images: linear maps with their adjoints."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError


def resized(x: Float[Tensor, " b c h w"], height: int, width: int) -> Float[Tensor, " b c y x"]:
    """The image at another size, antialiased where it is reduced; any factor."""
    return F.interpolate(
        x, size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )


def back_projected(
    x: Float[Tensor, " b c h w"], low: Float[Tensor, " b c y x"], rounds: int
) -> Float[Tensor, " b c h w"]:
    """`x` after rounds of x <- x + up(low - down(x)): its reduction approaches `low`.

    Source: Irani and Peleg 1991, doi:10.1016/1049-9652(91)90045-L.
    """
    for _ in range(rounds):
        x = x + resized(low - resized(x, *low.shape[-2:]), *x.shape[-2:])
    return x


class Bicubic:
    """Antialiased bicubic reduction; `up` enlarges by the same convention.

    Both ways are PyTorch's ``bicubic, antialias=True, align_corners=False``: Keys' kernel with
    a = -0.5, widened when reducing, weights renormalised at the border.  Pillow does the same, and
    Matlab's imresize everywhere but at the border, which it mirrors.

    Args:
        factor: by which height and width are divided, above 1.  They are multiples of a whole
            factor; by another the reduced sides are rounded.
    """

    def __init__(self, *, factor: int | float = 4) -> None:
        if not 1 < factor < math.inf:
            raise InputError(f"factor: expected above 1, got {factor:g}")
        self.factor = factor if factor % 1 else int(factor)

    def forward(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c y x"]:
        """The reduced image.

        Raises:
            InputError: a side is not a multiple of a whole factor.
        """
        height, width = x.shape[-2:]
        if isinstance(self.factor, int) and (height % self.factor or width % self.factor):
            raise InputError(
                f"an image of {width}x{height} pixels has no {self.factor}-fold reduction; "
                "crop its sides to multiples of it"
            )
        return resized(x, round(height / self.factor), round(width / self.factor))

    def enlarged(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an enlargement, rounded."""
        return round(size[0] * self.factor), round(size[1] * self.factor)

    def adjoint(self, y: Float[Tensor, " b c y x"]) -> Float[Tensor, " b c h w"]:
        """A* y, with <A x, y> = <x, A* y>."""
        size = (*y.shape[:2], *self.enlarged((y.shape[2], y.shape[3])))
        with torch.enable_grad():
            x = torch.zeros(size, dtype=y.dtype, device=y.device, requires_grad=True)
            (pulled,) = torch.autograd.grad(self.forward(x), x, y)
        return pulled

    def up(self, y: Float[Tensor, " b c y x"]) -> Float[Tensor, " b c h w"]:
        """The bicubic enlargement: what SR3 starts from, not the adjoint."""
        return resized(y, *self.enlarged((y.shape[-2], y.shape[-1])))
