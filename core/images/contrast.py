"""Contrast of images: values stretched between two percentiles."""

import math

import numpy as np
from jaxtyping import Float
from torch import Tensor

LOW, HIGH = 1.0, 99.8  # percentiles
MOST = 2**22  # pixels that percentiles are of; of a larger image rows and columns are skipped


def stretched(image: Float[Tensor, " c h w"]) -> Float[Tensor, " c h w"]:
    """The image with its 1st percentile at -1 and its 99.8th at 1, of all channels; clipped.

    Microscopes and detectors leave most of their range unused, each image another part of it.  An
    image of one value is returned as it is.
    Source: the percentiles of StarDist, Schmidt et al. 2018, arXiv:1806.03535, and its code.
    """
    every = math.ceil(math.sqrt(max(1.0, image.shape[-2] * image.shape[-1] / MOST)))
    seen = image[:, ::every, ::every].cpu().numpy()
    low, high = (float(value) for value in np.percentile(seen, (LOW, HIGH)))
    if high <= low:
        return image
    return ((image - low) * (2 / (high - low)) - 1).clamp(-1, 1)
