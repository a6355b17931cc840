"""Coil sensitivities estimated from the fully measured middle of k-space."""

import math

import torch
from jaxtyping import Complex
from torch import Tensor

from core.errors import InputError
from plugins.medical.operators.fourier import inverse_fourier


def espirit(
    calibration: Complex[Tensor, " coils r s"],
    height: int,
    width: int,
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.9,
) -> Complex[Tensor, " coils h w"]:
    """Coil sensitivities from the calibration region by ESPIRiT; the first coil's phase is 0.

    Patches of the calibration region span a low-dimensional space.  Sensitivities are eigenvectors
    with eigenvalue 1 of the projection onto it, a small matrix at each pixel.  Where the eigenvalue
    is lower there is no signal, and maps are 0; elsewhere their squares sum to 1.
    Source: Uecker et al. 2014 (ESPIRiT), Magn. Reson. Med. 71, 990.

    Args:
        calibration: the centre of k-space, of all coils.
        height: of the image.
        width: of the image.
        kernel: side of a patch.
        threshold: singular values below this times the largest are noise.
        crop: eigenvalues below this are outside the object.

    Raises:
        InputError: a calibration region smaller than two patches.
    """
    coils, *sides = calibration.shape
    if min(sides) < 2 * kernel:
        raise InputError(
            f"calibration: expected a region of at least {2 * kernel}x{2 * kernel} frequencies, "
            f"got {sides[1]}x{sides[0]}; sample more of the centre, or give sensitivities"
        )
    patches = calibration.unfold(1, kernel, 1).unfold(2, kernel, 1)  # (coils, rows, columns, k, k)
    rows = patches.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
    _, singular, span = torch.linalg.svd(rows, full_matrices=False)
    kept = span[singular > threshold * singular[0]].unflatten(1, (coils, kernel, kernel))
    matrices = torch.zeros(height, width, coils, coils, dtype=kept.dtype, device=kept.device)
    for one in kept.split(16):
        wide = one.new_zeros(len(one), coils, height, width)
        top, left = height // 2 - kernel // 2, width // 2 - kernel // 2
        wide[..., top : top + kernel, left : left + kernel] = one
        seen = inverse_fourier(wide) * math.sqrt(height * width) / kernel
        matrices += torch.einsum("nchw,ndhw->hwcd", seen, seen.conj())
    value, vector = torch.linalg.eigh(matrices)
    found = vector[..., -1].permute(2, 0, 1)
    found = found * torch.exp(-1j * found[:1].angle())
    return torch.where(value[..., -1] > crop, found, 0)
