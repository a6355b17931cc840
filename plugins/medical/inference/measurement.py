"""Raw data simulated of scans, and raw data as measurements of images."""

from collections.abc import Iterable
from dataclasses import fields, replace

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from core.errors import InputError
from core.inverse.measurement import Measurement
from core.process.noise import derive, generator
from core.scans import dicom
from core.scans.request import ScanOptions
from core.scans.scan import Scan
from plugins.medical.io.acquisition import KSpace, Sinogram
from plugins.medical.operators.coils import coils_of
from plugins.medical.operators.fourier import (
    Fourier,
    fourier,
    inverse_fourier,
    root_sum_of_squares,
    white_noise,
)
from plugins.medical.operators.nonuniform import NonUniform
from plugins.medical.operators.phase import smooth_phase, turned
from plugins.medical.operators.photons import counted, of_counts
from plugins.medical.operators.sampling import sampling_mask
from plugins.medical.request import NOISE, WATER, CtOptions, MriOptions
from plugins.medical.tasks.geometry import Geometry, geometry_of, scanner

RAW = frozenset({"noise"})  # options that raw data have, too
BRIGHT = 99.8  # percentile of the magnitude that is scaled to 1
NEGATIVE = 0.05  # times it: more than what interpolation leaves below 0


def simulation_options(*groups: type) -> frozenset[str]:
    """Names of options that apply to scans, whose measurement is simulated, and not to raw data."""
    return frozenset(field.name for group in groups for field in fields(group)) - RAW


def check_unused(stated: Iterable[str]) -> None:
    """Refuse options of a simulation for raw data.

    Args:
        stated: names of such options.

    Raises:
        InputError: there are some.
    """
    if names := sorted(stated):
        raise InputError(
            f"{', '.join(names)}: for scans, whose measurement is simulated; raw data state how "
            f"they were measured: leave {'it' if len(names) == 1 else 'them'} out"
        )


def changed(*groups: CtOptions | MriOptions | ScanOptions) -> frozenset[str]:
    """Names of options of a simulation that are not at their defaults."""
    return frozenset(
        field.name
        for group in groups
        for field in fields(group)
        if field.name not in RAW and getattr(group, field.name) != field.default
    )


# --- computed tomography -------------------------------------------------------------------------


def simulated_ct(scan: Scan, geometry: Geometry, seed: int) -> Sinogram:
    """A simulated sinogram of a CT scan; with photons, of noisy counts.

    Simulated on the scan's own grid: reconstructions on the same grid are a little better than of
    real measurements (inverse crime).

    Raises:
        InputError: not CT, or pixels that are not square.
    """
    if scan.modality != "CT":
        other = "may be another modality: its header does not say CT, and no value lies below -500"
        raise InputError(
            "CT can only be simulated from a CT scan, in Hounsfield units; this one "
            + (
                f"is {stated} by its header"
                if (stated := _stated(scan))
                else f"{other}; if it is a CT in NIfTI, declare it with --modality ct"
            )
        )
    _, down, across = scan.spacing
    if abs(down - across) > 1e-3 * across:
        raise InputError(f"CT requires square pixels, got {across:g} x {down:g} mm")
    attenuation = WATER * (1 + torch.from_numpy(scan.voxels).clamp(min=-1000) / 1000)
    p = scanner(geometry).forward(attenuation[:, None])
    values = counted(p, geometry.photons, seed) if geometry.units == "counts" else p
    return Sinogram(values[:, 0].float().numpy(), geometry)


def integrals(sinogram: Sinogram) -> tuple[Float[Tensor, " d 1 v n"], Float[Tensor, " d 1 v n"]]:
    """Line integrals of attenuation, and the variance of their noise (0 if unknown).

    The variance of line integrals p with a stated I0 is e^p / I0.  Attenuation is returned in units
    in which water's is `WATER`.
    """
    values = torch.from_numpy(sinogram.values)[:, None]
    geometry = sinogram.geometry
    if geometry.units == "counts":
        p, variance = of_counts(values, geometry.photons)
    else:
        p = values * geometry.scale
        known = geometry.photons > 0
        variance = p.clamp(min=0).exp() / geometry.photons if known else torch.zeros_like(p)
    water = WATER / geometry.water_per_mm
    return p * water, variance * water**2


def sparse_ct(found: Scan, options: CtOptions, seed: int) -> Sinogram:
    """A simulated sinogram of a scan, of counts if `options.photons` is not 0.

    Raises:
        InputError: an option out of its range, or not CT.
    """
    size, pixel = found.voxels.shape[1:], found.spacing[2]
    measured_by = geometry_of(
        options.geometry, options.views, options.arc, size, pixel, photons=options.photons
    )
    return simulated_ct(found, measured_by, seed)


# --- magnetic resonance --------------------------------------------------------------------------


def simulated_mri(scan: Scan, options: MriOptions, seed: int) -> KSpace:
    """Simulated single-coil k-space of a magnitude scan, with a smooth phase and noise.

    Args:
        scan: magnitudes.
        options: sampling pattern and noise; of its real and imaginary part each.
        seed: of mask, phase and noise.

    Raises:
        InputError: a CT scan or values of no magnitude, or an option out of its range.
    """
    bright = max(float(np.percentile(scan.voxels, BRIGHT)), 1e-6)
    _check_magnitudes(scan, bright)
    noise = NOISE if options.noise is None else options.noise
    pictures = torch.from_numpy(scan.voxels / bright).clamp(min=0).to(torch.complex64)
    height, width = pictures.shape[1:]
    random = generator(derive(seed, "phase"))
    pictures = turned(pictures, smooth_phase(random, height, width).expand_as(pictures.real))
    k = fourier(pictures)[:, None]
    chosen = sampling_mask(
        options.mask, height, width,
        acceleration=options.acceleration, centre=options.centre, seed=seed,
    )  # fmt: skip
    k = (k + white_noise(k.shape, std=noise, key=(seed, "k-space"))) * chosen
    return KSpace((k * bright).numpy(), chosen.numpy(), noise * bright, pixel_mm=scan.spacing[1:])


def undersampled(kspace: KSpace, options: MriOptions, seed: int) -> KSpace:
    """Measured k-space, of which a sampling pattern keeps a part; no noise is added.

    Args:
        kspace: as measured; what was not sampled stays so.
        options: sampling pattern, and the noise level to state.
        seed: of the mask.

    Raises:
        InputError: an option out of its range, or nothing would remain.
    """
    if kspace.trajectory is not None:
        raise InputError("k-space along a trajectory is not undersampled; leave samples out of it")
    height, width = kspace.mask.shape
    chosen = sampling_mask(
        options.mask, height, width,
        acceleration=options.acceleration, centre=options.centre, seed=seed,
    ).numpy() & kspace.mask  # fmt: skip
    if not chosen.any():
        raise InputError("the pattern keeps nothing of what was measured; choose another one")
    notes = kspace.notes
    if not kspace.mask.all():
        notes += (f"{kspace.mask.mean():.0%} of k-space were measured: {chosen.mean():.1%} remain",)
    noise = kspace.noise if options.noise is None else options.noise
    return replace(kspace, values=kspace.values * chosen, mask=chosen, noise=noise, notes=notes)


def _stated(scan: Scan) -> str:
    """The modality that a header states; empty where the format has none."""
    if isinstance(scan.origin, dicom.Origin):
        return "of another modality" if scan.origin.modality == "?" else scan.origin.modality
    return "MR" if scan.modality == "MR" else ""


def _check_magnitudes(scan: Scan, bright: float) -> None:
    """Refuse a CT scan, and one whose negative values say that it is something else."""
    declare = "if it is MR in NIfTI, declare it with --modality mri: negative values become 0"
    if scan.modality == "CT":
        raise InputError(
            "MRI cannot be simulated from a CT scan, in Hounsfield units; values below -500 count "
            f"as CT; {declare}"
        )
    if scan.modality == "other" and (stated := _stated(scan)):
        raise InputError(f"MRI can only be simulated from MR; this scan is {stated} by its header")
    least = float(scan.voxels.min())
    if scan.modality == "other" and least < -NEGATIVE * bright:
        raise InputError(
            f"MRI is simulated from magnitudes, 0 or more; values down to {least:g} may be "
            f"Hounsfield units; {declare}"
        )


def measured_mri(kspace: KSpace, *, noise: float = 0.0) -> tuple[Measurement, float]:
    """K-space as a measurement of images with bright tissue at 1, and the scale of that 1.

    The scale is a percentile of the zero-filled image.

    Args:
        kspace: as read.
        noise: standard deviation of its noise, in its own units; 0 for that of the file, or where
            it states none for an estimate from the outermost frequencies, where there is little
            signal.
    """
    if kspace.trajectory is not None:
        return _measured_along(kspace, torch.from_numpy(kspace.trajectory), noise)
    k = torch.from_numpy(kspace.values)
    seen = root_sum_of_squares(inverse_fourier(k))
    bright = max(float(np.percentile(seen.numpy(), BRIGHT)), 1e-30)
    mask = torch.from_numpy(kspace.mask)
    operator = Fourier().given(frequencies=mask, sensitivities=coils_of(k, mask))
    std = noise or kspace.noise or corner_std(k, mask)
    return Measurement(operator, k / bright, std / bright), bright


def _measured_along(
    kspace: KSpace, trajectory: Float[Tensor, " n 2"], noise: float
) -> tuple[Measurement, float]:
    """Samples along a trajectory, as of `measured_mri`; coils are estimated of gridded images."""
    k = torch.from_numpy(kspace.values)[:, :, 0]
    operator = NonUniform(trajectory, *kspace.size, readouts=kspace.readouts)
    weights = operator.density()
    grid = fourier(operator.spread(k * weights))
    operator = operator.given(coils_of(grid, torch.ones(kspace.size, dtype=torch.bool)))
    seen = operator.gridded(k, weights).square().sum(1).sqrt()
    bright = max(float(np.percentile(seen.numpy(), BRIGHT)), 1e-30)
    radius = trajectory.norm(dim=1)
    outer = k[..., radius >= float(np.quantile(radius.numpy(), 0.9))]
    std = noise or kspace.noise or _median_std(outer, float(k.abs().max()))
    return Measurement(operator, k / bright, std / bright), bright


def corner_std(k: Complex[Tensor, " d c h w"], mask: Tensor) -> float:
    """Noise standard deviation from the outermost sampled frequencies, by the median.

    Exact zeros are left out: values of a slice or coil that were padded, not measured.  At least
    the rounding of k-space in float32, below which nothing can be fitted.
    """
    height, width = mask.shape
    rows = (torch.arange(height) - height // 2).abs() / (height / 2)
    columns = (torch.arange(width) - width // 2).abs() / (width / 2)
    far = torch.maximum(rows[:, None].expand_as(mask), columns.expand_as(mask))
    outer = mask & (far >= float(np.quantile(far[mask].numpy(), 0.9)))
    return _median_std(k[..., outer], float(k.abs().max()))


def _median_std(values: Complex[Tensor, "..."], largest: float) -> float:
    values = torch.view_as_real(values[values != 0]).flatten()
    rounding = torch.finfo(torch.float32).eps * largest
    return max(float(values.abs().median()) / 0.6745, rounding)
