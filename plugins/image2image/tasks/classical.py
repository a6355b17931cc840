"""Classical inpainting: the first estimate of the tasks, and their baselines."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

SWEEPS = 24  # relaxations at each size
ROUNDS = 50  # of denoising, of the total-variation filling


def harmonic(
    image: Float[Tensor, " b c h w"], hole: Bool[Tensor, " b 1 h w"]
) -> Float[Tensor, " b c h w"]:
    """The image with its holes filled harmonically, to a few relaxation sweeps.

    Laplace's equation with the known pixels around a hole as Dirichlet condition and no flux over
    the border of the image, relaxed from the coarsest to the finest of a pyramid, so that a few
    sweeps reach across large holes.  0 where no pixel is known.
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
    """The mean of the four neighbours of each pixel, edges replicated."""
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (
        wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1] + wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
    ) / 4


def biharmonic(
    image: Float[Tensor, " b c h w"], hole: Bool[Tensor, " b 1 h w"]
) -> Float[Tensor, " b c h w"]:
    """scikit-image's biharmonic inpainting: continuous values and slopes at a hole's border."""
    from skimage.restoration import inpaint_biharmonic

    return _each(lambda x, where: inpaint_biharmonic(x, where, channel_axis=-1), image, hole)


def total_variation(
    image: Float[Tensor, " b c h w"], hole: Bool[Tensor, " b 1 h w"]
) -> Float[Tensor, " b c h w"]:
    """A filling of low total variation, which continues edges as lines.

    Projected iterations from the harmonic filling: scikit-image's Chambolle denoising, then the
    known pixels replaced.  More iterations lower the variation further and, on photographs, not
    the error.
    """
    from skimage.restoration import denoise_tv_chambolle

    def filled(x: np.ndarray, where: np.ndarray) -> np.ndarray:
        found = x
        for _ in range(ROUNDS):
            smooth = denoise_tv_chambolle(found, 0.1, eps=0, max_num_iter=10, channel_axis=-1)
            found = np.where(where[..., None], smooth, x)
        return found

    return _each(filled, harmonic(image, hole), hole)


def _each(
    one: Callable[[np.ndarray, np.ndarray], np.ndarray],
    image: Float[Tensor, " b c h w"],
    hole: Bool[Tensor, " b 1 h w"],
) -> Float[Tensor, " b c h w"]:
    """`one` applied to each image (h, w, c) and its hole (h, w)."""
    rows = image.permute(0, 2, 3, 1).double().cpu().numpy()
    found = [one(row, where) for row, where in zip(rows, hole[:, 0].cpu().numpy(), strict=True)]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(image)
