"""From scans to what a scanner would have measured of them, and from that to a measurement."""

from typing import cast, get_args

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from core.errors import InputError
from core.inverse.measurement import Measurement
from core.process.noise import derive
from plugins.medical.io.raw import KSpace, Sinogram
from plugins.medical.io.scan import Scan
from plugins.medical.operators.coils import espirit
from plugins.medical.operators.fourier import (
    Fourier,
    fourier,
    inverse_fourier,
    root_sum_of_squares,
    white_noise,
)
from plugins.medical.operators.phase import low_phase, smooth_phase, turned
from plugins.medical.operators.photons import WATER, counted, of_counts
from plugins.medical.operators.sampling import Kind, sampling_mask
from plugins.medical.tasks.geometry import Geometry, geometry_of, scanner

BRIGHT = 99.8  # percentile of what is seen of a scan that is taken as 1


# --- computed tomography -------------------------------------------------------------------------


def simulated_ct(scan: Scan, geometry: Geometry, seed: int) -> Sinogram:
    """What a scan of Hounsfield units would be measured as; with photons, noisy counts of them.

    Simulated on the scan's own grid: a reconstruction on the same one looks a little better than
    one of real measurements.

    Raises:
        InputError: no CT, or pixels that are not square.
    """
    if scan.modality != "CT":
        raise InputError("a scan of no Hounsfield units; CT is simulated of CT")
    _, down, across = scan.spacing
    if abs(down - across) > 1e-3 * across:
        raise InputError(f"pixels of {across:g} x {down:g} mm; CT is simulated of square ones")
    attenuation = WATER * (1 + torch.from_numpy(scan.voxels).clamp(min=-1000) / 1000)
    p = scanner(geometry).forward(attenuation[:, None])
    values = counted(p, geometry.photons, seed) if geometry.units == "counts" else p
    return Sinogram(values[:, 0].float().numpy(), geometry)


def integrals(sinogram: Sinogram) -> tuple[Float[Tensor, " d 1 v n"], Float[Tensor, " d 1 v n"]]:
    """Line integrals of attenuation, and the variance of their noise (0 where it is not known).

    Of line integrals p that are said to be of I photons the variance is e^p / I.
    """
    values = torch.from_numpy(sinogram.values)[:, None]
    photons = sinogram.geometry.photons
    if sinogram.geometry.units == "counts":
        return of_counts(values, photons)
    variance = (values.clamp(min=0)).exp() / photons if photons else torch.zeros_like(values)
    return values, variance


def sparse_ct(
    found: Scan, geometry: str, views: int, arc: float | None, photons: float, seed: int
) -> Sinogram:
    """A sinogram of a scan, of counts where there are photons.

    Raises:
        InputError: no such geometry, or a scan that is no CT.
    """
    size, pixel = found.voxels.shape[1:], found.spacing[2]
    measured_by = geometry_of(geometry, views, arc, size, pixel, photons=photons)
    return simulated_ct(found, measured_by, seed)


# --- magnetic resonance --------------------------------------------------------------------------


def simulated_mri(
    scan: Scan,
    *,
    mask: Kind = "random",
    acceleration: float = 4.0,
    centre: float = 0.08,
    noise: float = 0.005,
    seed: int = 0,
) -> KSpace:
    """K-space of a scan of magnitudes by one coil, with a smooth phase and noise.

    Args:
        scan: of magnitudes.
        mask: as of `medical/fourier`.
        acceleration: how many times fewer frequencies than all.
        centre: share that is always measured.
        noise: deviation of the real and imaginary part each, where bright tissue is 1.
        seed: of mask, phase and noise.

    Raises:
        InputError: a CT, or an option out of its range.
    """
    if scan.modality == "CT":
        raise InputError("a scan of Hounsfield units; MRI is simulated of magnitudes")
    bright = max(float(np.percentile(scan.voxels, BRIGHT)), 1e-6)
    pictures = torch.from_numpy(scan.voxels / bright).clamp(min=0).to(torch.complex64)
    height, width = pictures.shape[1:]
    random = np.random.Generator(np.random.Philox(key=derive(seed, "phase")))
    pictures = turned(pictures, smooth_phase(random, height, width).expand_as(pictures.real))
    k = fourier(pictures)[:, None]
    chosen = sampling_mask(mask, height, width, acceleration=acceleration, centre=centre, seed=seed)
    k = (k + white_noise(k.shape, std=noise, key=(seed, "k-space"))) * chosen
    return KSpace((k * bright).numpy(), chosen.numpy(), noise * bright)


def sparse_mri(
    found: Scan, mask: str, acceleration: float, centre: float, noise: float, seed: int
) -> KSpace:
    """Masked k-space of a scan of magnitudes.

    Raises:
        InputError: no such mask.
    """
    if mask not in get_args(Kind):
        raise InputError(f"mask: expected one of {', '.join(get_args(Kind))}, got {mask!r}")
    return simulated_mri(
        found, mask=cast(Kind, mask), acceleration=acceleration, centre=centre, noise=noise,
        seed=seed,
    )  # fmt: skip


def coils_of(
    k: Complex[Tensor, " d c h w"], mask: Bool[Tensor, " h w"]
) -> Complex[Tensor, " d c h w"]:
    """Sensitivities of each slice's coils, with the phase that the middle of k-space shows.

    Of several coils by ESPIRiT from the middle that is wholly measured; of one the phase alone.

    Raises:
        InputError: several coils, and a middle that is too small.
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
    """How far the middle reaches that is wholly measured, to either side; at most 16."""
    height, width = mask.shape
    wide = _reach(mask[height // 2])
    high = _reach(mask[:, width // 2 - wide : width // 2 + wide].all(1))
    return high, wide


def _reach(line: Bool[Tensor, " n"]) -> int:
    at, most = len(line) // 2, min(16, len(line) // 2)
    return next((r for r in range(most) if not line[at - r - 1 : at + r + 1].all()), most)


def measured_mri(kspace: KSpace, *, noise: float = 0.0) -> tuple[Measurement, float]:
    """K-space as a measurement of pictures whose bright tissue is 1, and what that 1 was.

    The scale is taken of what was measured: the zero-filled picture.

    Args:
        kspace: as it was read.
        noise: its deviation where the file does not say, in its own units; 0 takes it from the
            corners of k-space, where there is little else.
    """
    k = torch.from_numpy(kspace.values)
    seen = root_sum_of_squares(inverse_fourier(k))
    bright = max(float(np.percentile(seen.numpy(), BRIGHT)), 1e-30)
    mask = torch.from_numpy(kspace.mask)
    operator = Fourier().given(frequencies=mask, sensitivities=coils_of(k, mask))
    deviation = noise or kspace.noise or corner_deviation(k, mask)
    return Measurement(operator, k / bright, deviation / bright), bright


def corner_deviation(k: Complex[Tensor, " d c h w"], mask: Tensor) -> float:
    """The deviation of the outermost measured frequencies, robust against what signal they hold."""
    height, width = mask.shape
    rows = (torch.arange(height) - height // 2).abs() / (height / 2)
    columns = (torch.arange(width) - width // 2).abs() / (width / 2)
    far = torch.maximum(rows[:, None].expand_as(mask), columns.expand_as(mask))
    outer = mask & (far >= far[mask].quantile(0.9))
    values = torch.view_as_real(k[..., outer]).flatten()
    return max(float(values.abs().median()) / 0.6745, 1e-30)
