"""Measurements of images: linear maps with their adjoints."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError


class Bicubic:
    """Antialiased bicubic reduction by a whole factor; `up` enlarges by the same convention.

    Both ways are PyTorch's ``bicubic, antialias=True, align_corners=False``: Keys' kernel with
    a = -0.5, widened when reducing, weights renormalised at the border.  Pillow does the same, and
    Matlab's imresize everywhere but at the border, which it mirrors.

    Args:
        factor: by which height and width are divided, at least 2.
    """

    def __init__(self, *, factor: int = 4) -> None:
        if factor < 2:
            raise InputError(f"factor: expected at least 2, got {factor}")
        self.factor = factor

    def forward(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c y x"]:
        """The reduced image.

        Raises:
            InputError: a side is not a multiple of the factor.
        """
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise InputError(
                f"an image of {width}x{height} pixels has no {self.factor}-fold reduction; "
                "crop its sides to multiples of it"
            )
        return self._resize(x, height // self.factor, width // self.factor)

    def adjoint(self, y: Float[Tensor, " b c y x"]) -> Float[Tensor, " b c h w"]:
        """A* y, with <A x, y> = <x, A* y>."""
        size = (*y.shape[:2], y.shape[2] * self.factor, y.shape[3] * self.factor)
        with torch.enable_grad():
            x = torch.zeros(size, dtype=y.dtype, device=y.device, requires_grad=True)
            (pulled,) = torch.autograd.grad(self.forward(x), x, y)
        return pulled

    def up(self, y: Float[Tensor, " b c y x"]) -> Float[Tensor, " b c h w"]:
        """The bicubic enlargement: what SR3 starts from, not the adjoint."""
        return self._resize(y, y.shape[-2] * self.factor, y.shape[-1] * self.factor)

    @staticmethod
    def _resize(x: Tensor, height: int, width: int) -> Tensor:
        return F.interpolate(
            x, size=(height, width), mode="bicubic", antialias=True, align_corners=False
        )
