"""The phase of MR images: simulated for magnitude data, estimated and removed."""

import math

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from plugins.medical.operators.fourier import inverse_fourier


def smooth_phase(random: np.random.Generator, height: int, width: int) -> Float[Tensor, " h w"]:
    """A random polynomial phase of degree 3, in radians."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    phase = random.uniform(-math.pi, math.pi) + np.zeros((height, width))
    for degree in (1, 2, 3):
        for power in range(degree + 1):
            phase += random.normal(0, 1.5 / degree) * x**power * y ** (degree - power)
    return torch.from_numpy(phase).float()


def low_phase(k: Complex[Tensor, " b h w"], *, width: float = 0.08) -> Float[Tensor, " b h w"]:
    """The phase of the low-frequency image, in radians.

    Source: Noll, Nishimura and Macovski 1991, IEEE Trans. Med. Imaging 10, 154 (homodyne).

    Args:
        k: k-space, its zero frequency in the centre, which is fully sampled.
        width: half-width of the Hann window, as a fraction of each side; at least 4 frequencies.
    """
    windows = []
    for side in k.shape[-2:]:
        at = (torch.arange(side, device=k.device) - side // 2).abs() / max(4.0, width * side)
        windows.append(torch.where(at < 1, 0.5 + 0.5 * torch.cos(math.pi * at), 0.0))
    return inverse_fourier(k * (windows[0][:, None] * windows[1]).to(k)).angle()


def turned(
    x: Complex[Tensor, " b h w"], phase: Float[Tensor, " b h w"]
) -> Complex[Tensor, " b h w"]:
    """The image with a phase added."""
    return x * torch.polar(torch.ones_like(phase), phase)
