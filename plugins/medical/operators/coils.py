"""Coil sensitivities estimated from the fully measured middle of k-space; fewer virtual coils."""

import math

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from core.errors import InputError
from plugins.medical.operators.fourier import fourier, inverse_fourier
from plugins.medical.operators.phase import low_phase


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


def coils_of(
    k: Complex[Tensor, " d c h w"], mask: Bool[Tensor, " h w"]
) -> Complex[Tensor, " d c h w"]:
    """Coil sensitivities of each slice, with the low-frequency phase of the image.

    Of several coils by ESPIRiT from the calibration region; of one coil the phase alone.

    Raises:
        InputError: several coils, and a calibration region that is too small.
    """
    if k.shape[1] == 1:
        phase = low_phase(k[:, 0])[:, None]
        return torch.polar(torch.ones_like(phase), phase)
    high, wide = middle(mask)
    height, width = mask.shape
    rows, columns = (
        slice(side // 2 - reach, side // 2 + reach)
        for side, reach in ((height, high), (width, wide))
    )
    found = []
    for one in k:
        maps = espirit(one[:, rows, columns], height, width)
        combined = (inverse_fourier(one) * maps.conj()).sum(0)
        phase = low_phase(fourier(combined)[None])
        found.append(maps * torch.polar(torch.ones_like(phase), phase))
    return torch.stack(found)


def middle(mask: Bool[Tensor, " h w"]) -> tuple[int, int]:
    """Half-sides of the calibration region: rows and columns fully sampled; at most 16."""
    height, width = mask.shape
    wide = _reach(mask[height // 2])
    high = _reach(mask[:, width // 2 - wide : width // 2 + wide].all(1))
    return high, wide


def _reach(line: Bool[Tensor, " n"]) -> int:
    at, most = len(line) // 2, min(16, len(line) // 2)
    return next((r for r in range(most) if not line[at - r - 1 : at + r + 1].all()), most)


def compressed(k: Complex[Tensor, " d coils h w"], number: int) -> Complex[Tensor, " d fewer h w"]:
    """K-space of at most `number` virtual coils, the principal components of all.

    Source: Huang et al. 2008, Magn. Reson. Imaging 26, 133.
    """
    if k.shape[1] <= number:
        return k
    rows = k.transpose(0, 1).flatten(1)
    _, vectors = torch.linalg.eigh(rows @ rows.mH)  # eigenvalues rise
    return torch.einsum("cv,dchw->dvhw", vectors[:, -number:].conj(), k)
