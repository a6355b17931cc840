"""A smooth filling of holes, as a first estimate of what is in them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

SWEEPS = 24  # relaxations at each size


def harmonic(
    image: Float[Tensor, " b c h w"], hole: Bool[Tensor, " b 1 h w"]
) -> Float[Tensor, " b c h w"]:
    """The picture with its holes filled so that each pixel is nearly the mean of its neighbours.

    That is Laplace's equation with what is known at the border of a hole, and no flow over the
    border of the picture; begun at the coarsest size and relaxed at each, so that a few sweeps
    reach across large holes.  Where nothing is known the filling is 0.
    """
    known = (~hole).to(image)
    levels = [(image * known, known)]
    while min(levels[-1][0].shape[-2:]) > 1:
        total, weight = (F.avg_pool2d(x, 2, ceil_mode=True) for x in levels[-1])
        some = (weight > 0).to(image)
        levels.append((total / weight.clamp(min=1e-9) * some, some))
    filled = levels[-1][0]
    for values, given in reversed(levels):
        size = values.shape[-2:]
        if filled.shape[-2:] != size:
            filled = F.interpolate(filled, size, mode="bilinear", align_corners=False)
        filled = torch.where(given > 0, values, filled)
        for _ in range(SWEEPS):
            filled = torch.where(given > 0, values, _neighbours(filled))
    return filled


def _neighbours(x: Tensor) -> Tensor:
    """The mean of the four neighbours of each pixel, the edge repeated beyond it."""
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (
        wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1] + wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
    ) / 4
