"""A bank of classical filters: Gaussians, gradients and second derivatives at several scales.

Source: the pixel features of ilastik, Berg et al. 2019, Nature Methods 16, 1226-1232.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.features import Maps
from core.request import Machine

CUT = 4.0  # standard deviations at which a Gaussian ends
LARGEST = 64.0  # pixels


class Filters:
    """Filters of each colour at several scales: classical features, without training.

    Of each colour the image itself; and at each scale its Gaussian, the gradient's magnitude, the
    Laplacian, both eigenvalues of the Hessian, and both of the structure tensor.
    Source: Berg et al. 2019 (ilastik), Nature Methods 16, 1226-1232.

    Args:
        scales: standard deviations of the Gaussians in pixels.
        stretch: images are first stretched between percentiles of their values.
    """

    least = 1

    def __init__(
        self,
        machine: Machine,
        *,
        scales: tuple[float, ...] = (0.7, 1.0, 1.6, 3.5, 5.0, 10.0),
        stretch: bool = False,
    ) -> None:
        if not scales or not all(0 < scale <= LARGEST for scale in scales):
            raise InputError(
                f"scales: expected standard deviations above 0 and up to {LARGEST:g} pixels, got "
                f"{', '.join(f'{scale:g}' for scale in scales) or 'none'}"
            )
        self._scales, self.stretch = scales, stretch

    @property
    def channels(self) -> Sequence[int]:
        """Three of the image and 21 for each scale, in one map."""
        return (3 + 21 * len(self._scales),)

    def digest(self) -> str:
        """SHA-256 of the options."""
        stretch = ("stretch",) if self.stretch else ()
        return hashlib.sha256(repr(("filters", self._scales, *stretch)).encode()).hexdigest()

    def __call__(self, images: Float[Tensor, " b 3 h w"]) -> Maps:
        """The map of RGB images in [-1, 1]."""
        size = (images.shape[-2], images.shape[-1])
        found = [images, *(self._at(images, scale) for scale in self._scales)]
        return Maps((torch.cat(found, 1),), size, size)

    def _at(self, x: Tensor, scale: float) -> Tensor:
        """The filters of one scale; derivatives are of the Gaussian, in units of its scale."""
        smooth, dy, dx = (_smoothed(x, scale, *order) for order in ((0, 0), (1, 0), (0, 1)))
        yy, xx, yx = (_smoothed(x, scale, *order) for order in ((2, 0), (0, 2), (1, 1)))
        outer = [_smoothed(one, 0.5 * scale + 0.5, 0, 0) for one in (dy * dy, dx * dx, dy * dx)]
        length = (dy.square() + dx.square()).sqrt()
        parts = [smooth, length, yy + xx, *_eigenvalues(yy, xx, yx), *_eigenvalues(*outer)]
        return torch.cat(parts, 1)


def _eigenvalues(a: Tensor, d: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both eigenvalues of the symmetric [[a, b], [b, d]], the larger first."""
    middle, spread = (a + d) / 2, (((a - d) / 2).square() + b.square()).sqrt()
    return middle + spread, middle - spread


def _smoothed(x: Tensor, scale: float, down: int, across: int) -> Tensor:
    """A derivative of the image under a Gaussian, times scale^order; edges are reflected."""
    x = _along(x, _kernel(scale, down), -2)
    return _along(x, _kernel(scale, across), -1)


def _kernel(scale: float, order: int) -> Float[Tensor, " n"]:
    """A Gaussian, or its first or second derivative with the right moment on this grid."""
    radius = max(1, math.ceil(CUT * scale))
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    gauss = torch.exp(-(at**2) / (2 * scale**2))
    gauss = gauss / gauss.sum()
    if order == 0:
        return gauss.float()
    if order == 1:  # sum k(i) i = scale: a slope of 1 gives the scale
        first = at * gauss
        return (first * scale / (first * at).sum()).float()
    # sum k = 0 and sum k(i) i^2 = 2 scale^2: a curvature of 1 gives scale^2
    second = (at**2 / scale**2 - 1) * gauss
    second = second - gauss * second.sum()
    return (second * 2 * scale**2 / (second * at**2).sum()).float()


def _along(x: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """The correlation of every row or column with a kernel; the image is mirrored at its ends."""
    radius, length = len(kernel) // 2, x.shape[axis]
    # Mirrored about the edges of pixels as often as the kernel is longer than the image.
    at = torch.arange(-radius, length + radius) % (2 * length)
    wide = x.index_select(axis, torch.where(at < length, at, 2 * length - 1 - at).to(x.device))
    shape = (1, 1, -1, 1) if axis == -2 else (1, 1, 1, -1)
    flat = wide.flatten(0, 1)[:, None]
    return F.conv2d(flat, kernel.to(x).view(shape)).unflatten(0, x.shape[:2])[:, :, 0]
