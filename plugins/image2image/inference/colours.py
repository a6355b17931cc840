"""The colours that a model is given and returns: hidden ones under transparency, and grey ones."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.images.pictures import Picture


def shown_colours(picture: Picture) -> Float[Tensor, " c h w"]:
    """The pixels, with the colours of visible neighbours where the image is transparent.

    What a file stores under full transparency is not seen, often black, and would darken the
    outline of a shape when the image is resampled or goes through a network.
    """
    if picture.alpha is None:
        return picture.pixels
    return _spread(picture.pixels[None], (picture.alpha > 0).to(picture.pixels)[None])[0]


def _spread(x: Float[Tensor, " 1 c h w"], known: Float[Tensor, " 1 1 h w"]) -> Tensor:
    """`x` where it is known at all, and elsewhere the mean of what is known around.

    Means over squares of 2, 4, 8, ... pixels, each taken where the smaller ones know nothing.
    Source: the push-pull of Gortler et al. 1996 (The Lumigraph), section 3.4.
    """
    height, width = x.shape[-2:]
    if known.all() or not known.any():
        return x
    pad = (0, width % 2, 0, height % 2)
    weights = F.avg_pool2d(F.pad(known, pad), 2)
    sums = F.avg_pool2d(F.pad(x * known, pad), 2)
    coarse = _spread(sums / weights.clamp(min=1e-6), (weights > 0).to(x))
    size = [2 * side for side in coarse.shape[-2:]]
    finer = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return torch.where(known > 0, x, finer[..., :height, :width])


def is_grey(pixels: Float[Tensor, " c h w"]) -> bool:
    """Whether an image is grey: one channel, or colours that are all equal, bit for bit."""
    return len(pixels) == 1 or bool((pixels == pixels[:1]).all())


def with_colours_of(
    given: Float[Tensor, " c h w"], found: Float[Tensor, " n y x"]
) -> Float[Tensor, " c y x"]:
    """A model's result with the channels of its input: of a grey image the mean of all."""
    if not is_grey(given):
        return found
    return found.mean(0, keepdim=True).expand(len(given), -1, -1)
