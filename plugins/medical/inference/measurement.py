"""From scans to what a scanner would have measured of them, and from that to a measurement."""

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from core.errors import InputError
from core.inverse.measurement import Measurement
from core.parts.config import bind
from core.process.noise import derive
from plugins.medical.kspace import (
    Fourier,
    Kind,
    fourier,
    inverse_fourier,
    root_sum_of_squares,
    sampling_mask,
    sensitivities,
)
from plugins.medical.operators import FanBeam, Radon
from plugins.medical.phase import low_phase, smooth_phase, turned
from plugins.medical.raw import Geometry, KSpace, Sinogram
from plugins.medical.scan import Scan

WATER = 0.0193
"""Linear attenuation of water per millimetre at 70 keV (NIST XCOM: 0.193 cm^2/g)."""
BRIGHT = 99.8  # percentile of what is seen of a scan that is taken as 1


# --- computed tomography -------------------------------------------------------------------------


def geometry_of(
    kind: str,
    views: int,
    arc: float | None,
    size: tuple[int, int],
    pixel: float,
    *,
    photons: float = 0.0,
) -> Geometry:
    """A scan of a picture: a detector for each pixel, a fan's source at twice the picture's side.

    Args:
        kind: ``parallel`` or ``fan``.
        views: how many angles.
        arc: that they are spread over, in degrees; None for half a turn, of a fan a whole one.
        size: height and width of the picture, in pixels.
        pixel: side of a pixel, in millimetres.
        photons: that a detector counts without an object; 0 for line integrals without noise.

    Raises:
        InputError: no such kind, or a number out of its range.
    """
    fan, (height, width) = kind == "fan", size
    away = 2 * max(size) * pixel
    said = {
        "kind": kind, "views": views, "height": height, "width": width, "pixel_mm": pixel,
        "detector_spacing_mm": pixel * (2 if fan else 1),  # as a pixel in the middle is magnified
        "arc_degrees": (360.0 if fan else 180.0) if arc is None else arc,
        "source_mm": away, "detector_mm": away,
        "units": "counts" if photons else "line_integrals", "photons": photons,
    }  # fmt: skip
    return bind(Geometry, said)


def scanner(geometry: Geometry, detectors: int | None = None) -> Radon:
    """The operator of a geometry; by default with detectors enough for the whole picture."""
    options = {
        "height": geometry.height, "width": geometry.width, "pixel": geometry.pixel_mm,
        "views": geometry.views, "start": geometry.start_degrees, "arc": geometry.arc_degrees,
        "detectors": detectors, "spacing": geometry.detector_spacing_mm,
    }  # fmt: skip
    if geometry.kind == "parallel":
        return Radon(**options)
    return FanBeam(**options, source=geometry.source_mm, detector=geometry.detector_mm)


def counted(p: Float[Tensor, " d c v n"], photons: float, seed: int) -> Float[Tensor, " d c v n"]:
    """Counts of photons behind line integrals p: Poisson with mean photons e^-p.

    Args:
        p: of attenuation.
        photons: that a detector counts without an object.
        seed: slice i depends on it and on i alone.
    """
    rows = []
    for number, row in enumerate(p.double().cpu().numpy()):
        random = np.random.Generator(np.random.Philox(key=derive(seed, "photons", number)))
        rows.append(random.poisson(photons * np.exp(-row)))
    return torch.from_numpy(np.stack(rows)).to(p)


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


def of_counts(counts: Tensor, photons: float) -> tuple[Tensor, Tensor]:
    """Line integrals -log(N / I) of counts N of I, and their variance 1 / N to first order.

    A count of 0 is taken as 1/2.
    """
    seen = counts.clamp(min=0.5)
    return -(seen / photons).log(), 1 / seen


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
    draw = torch.Generator().manual_seed(derive(seed, "k-space"))
    parts = torch.randn(2, *k.shape, generator=draw)
    chosen = sampling_mask(mask, height, width, acceleration=acceleration, centre=centre, seed=seed)
    k = (k + noise * torch.complex(parts[0], parts[1])) * chosen
    return KSpace((k * bright).numpy(), chosen.numpy(), noise * bright)


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
        maps = sensitivities(one[:, rows, columns], height, width)
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
