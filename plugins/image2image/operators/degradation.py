"""What happens to photographs before anyone enlarges them: blur, resizing, noise and JPEG.

A random chain of these for each training item, after Zhang et al. 2021 (BSRGAN),
arXiv:2103.14006, and Wang et al. 2021 (Real-ESRGAN), arXiv:2107.10833, section 3: the ranges and
their order are options here, and each item is a function of the seed and its index alone.
"""

import io
import math
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from core.process.noise import derive, generator
from plugins.image2image.request import Degradation

Filter = Literal["area", "bilinear", "bicubic"]
FILTERS: tuple[Filter, ...] = ("area", "bilinear", "bicubic")
NONE = 0.25  # probability that blur, noise or JPEG is left out of an item's chain
GREY = 0.4  # fraction of the noise that is equal in the three colours
SHOT = 0.5  # fraction of the noise whose variance is proportional to the brightness
BEST_QUALITY = 95  # of JPEG files in a chain


def degraded(
    image: Float[Tensor, " 3 h w"], scale: int, chain: Degradation, seed: int, index: int
) -> Float[Tensor, " 3 y x"]:
    """The image reduced by `scale` after a random chain, in [-1, 1] and at 8 bits.

    One pass is blur, resizing, noise and JPEG; with probability `chain.twice` another one, of half
    the blur and to a random size between, goes before it.

    Args:
        image: in [-1, 1], sides multiples of `scale`.
        scale: factor of the reduction.
        chain: ranges of what is done.
        seed: of the random chains.
        index: of the item.
    """
    random = generator(derive("degradation", seed), index)
    height, width = (side // scale for side in image.shape[-2:])
    x = image[None]
    if random.random() < chain.twice:
        between = math.exp(random.uniform(-math.log(scale), 0))
        sides = [max(8, round(side * between)) for side in image.shape[-2:]]
        x = _pass(x, (sides[0], sides[1]), chain, random, blur=chain.blur / 2)
    # A pass that reduces less has pixels that are smaller than those the blur is stated in.
    blur = chain.blur * x.shape[-1] / image.shape[-1]
    return _pass(x, (height, width), chain, random, blur=blur)[0]


def _pass(
    x: Float[Tensor, " 1 3 h w"],
    size: tuple[int, int],
    chain: Degradation,
    random: np.random.Generator,
    *,
    blur: float,
) -> Float[Tensor, " 1 3 y x"]:
    """Blur, resizing to `size`, noise and JPEG, each with random strength."""
    if blur and random.random() >= NONE:
        across, along = random.uniform(0, blur, 2)
        if random.random() < 0.5:
            along = across  # isotropic
        x = gaussian_blur(x, across, along, random.uniform(0, math.pi))
    kind = FILTERS[int(random.integers(len(FILTERS)))] if chain.filters else "bicubic"
    x = resized(x, size, kind).clamp(-1, 1)
    if chain.noise and random.random() >= NONE:
        x = noisy(x, random.uniform(0, chain.noise), random).clamp(-1, 1)
    x = ((x + 1) * 127.5).round() / 127.5 - 1
    if chain.jpeg < 100 and random.random() >= NONE:
        quality = int(random.integers(chain.jpeg, max(chain.jpeg, BEST_QUALITY) + 1))
        x = jpeg_file(x, quality, "4:2:0" if random.random() < 0.75 else "4:4:4")
    return x


def gaussian_blur(
    x: Float[Tensor, " b c h w"], across: float, along: float, angle: float = 0.0
) -> Float[Tensor, " b c h w"]:
    """Convolution with a Gaussian of two standard deviations, its axes turned; edges mirrored.

    Args:
        x: images.
        across: standard deviation of the first axis, in pixels; horizontal at angle 0.
        along: of the second.
        angle: in radians.
    """
    widest = max(across, along, 1e-3)
    reach = min(max(1, math.ceil(3 * widest)), min(x.shape[-2:]) - 1)
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    down, right = torch.meshgrid(line, line, indexing="ij")
    u = (math.cos(angle) * right + math.sin(angle) * down) / max(across, 1e-3)
    v = (math.cos(angle) * down - math.sin(angle) * right) / max(along, 1e-3)
    kernel = (-(u**2 + v**2) / 2).exp()
    kernel = (kernel / kernel.sum()).to(x).expand(x.shape[1], 1, -1, -1)
    wide = F.pad(x, (reach,) * 4, mode="reflect")
    return F.conv2d(wide, kernel, groups=x.shape[1])


def resized(
    x: Float[Tensor, " b c h w"], size: tuple[int, int], kind: Filter
) -> Float[Tensor, " b c y x"]:
    """The images at another size, antialiased."""
    if kind == "area":
        return F.interpolate(x, size, mode="area")
    return F.interpolate(x, size, mode=kind, antialias=True, align_corners=False)


def noisy(
    x: Float[Tensor, " 1 3 h w"], level: float, random: np.random.Generator
) -> Float[Tensor, " 1 3 h w"]:
    """The image with noise of standard deviation `level`, as a fraction of the range.

    Grey or of each colour alone; even, or growing with the root of the brightness as photons' does.
    """
    grey, shot = random.random() < GREY, random.random() < SHOT
    shape = (1, 1 if grey else 3, *x.shape[-2:])
    noise = torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
    brightness = (x + 1) / 2  # in [0, 1]
    spread = (2 * brightness).sqrt() if shot else 1.0  # level at half brightness
    return x + 2 * level * spread * noise


def jpeg_file(
    x: Float[Tensor, " 1 3 h w"], quality: int, subsampling: str
) -> Float[Tensor, " 1 3 h w"]:
    """What Pillow decodes of the JPEG file that it writes of the image."""
    levels = ((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    shown = np.array(Image.open(file, formats=["JPEG"]))
    return torch.from_numpy(cast("np.ndarray", shown)).permute(2, 0, 1).float()[None] / 127.5 - 1
