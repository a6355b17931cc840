"""Checks that raw data can be what their description says, before anything is reconstructed.

What no scanner measures is refused; what is unusual becomes a note with what to try.
"""

import math

import numpy as np
from jaxtyping import Complex64, Float, Float32

from core.errors import InputError
from plugins.medical.io.acquisition import Geometry

BONE = 0.05
"""Linear attenuation of cortical bone per millimetre at 70 keV (NIST XCOM: 0.26 cm^2/g, 1.92)."""
THIN = 0.0001  # attenuation per millimetre over the whole image: 0.5 % of water
EVEN = 0.05  # coefficient of variation of totals that are one number
FAR = 10.0  # times as much energy at the edges of k-space as in its middle


# --- k-space -------------------------------------------------------------------------------------


def check_centred(name: str, values: Complex64[np.ndarray, " d c h w"]) -> None:
    """Refuse k-space whose zero frequency is at the edges of an axis, as FFTs return it.

    Means of the sampled energy near the middle are compared with those near the edges of the rows,
    of the columns, and of both.

    Args:
        name: of the file.
        values: 0 where not sampled.

    Raises:
        InputError: the edges hold far more energy than the middle.
    """
    energy = sum(np.square(np.abs(one), dtype=np.float64).sum(0) for one in values)
    assert isinstance(energy, np.ndarray)
    if not energy.any():
        return
    sampled = float(energy[energy > 0].mean())
    ways = {"rows": (0,), "columns": (1,), "rows and columns": (0, 1)}
    at = {axes: _middle(np.fft.ifftshift(energy, over)) for axes, over in ways.items()}
    edges = max(at, key=lambda axes: at[axes])
    if at[edges] > FAR * max(_middle(energy), sampled):
        height, width = energy.shape
        raise InputError(
            f"{name}: the zero frequency of its {edges} is at the edges; expected it in the "
            f"middle, at row {height // 2} and column {width // 2}, counted from 0; apply "
            f"numpy.fft.fftshift to the {edges}"
        )


def _middle(energy: Float[np.ndarray, " h w"]) -> float:
    """Mean of what is sampled within a sixteenth of each side from the middle."""
    reach = [max(1, side // 16) for side in energy.shape]
    near = energy[
        tuple(slice(s // 2 - r, s // 2 + r + 1) for s, r in zip(energy.shape, reach, strict=True))
    ]
    return float(near[near > 0].mean()) if near.any() else 0.0


# --- sinograms -----------------------------------------------------------------------------------


def sinogram_notes(
    name: str, values: Float32[np.ndarray, " d v n"], geometry: Geometry
) -> tuple[str, ...]:
    """Notes on a sinogram: its attenuation, the totals of its views, its axis of rotation.

    Args:
        name: of the file.
        values: line integrals, or counts.
        geometry: of the acquisition.

    Raises:
        InputError: more attenuation than of bone in the whole image, negative attenuation, or views
            and detectors exchanged.
    """
    p = np.zeros(values.shape[1:])  # mean over the slices, one after another to save memory
    for one in values:
        counts = geometry.units == "counts"
        integrals = -np.log(np.maximum(one, 0.5) / geometry.photons) if counts else one
        p += integrals * geometry.scale
    p /= max(1, len(values))
    spacing = geometry.detector_spacing_mm
    if geometry.kind == "fan":  # as at the isocentre
        spacing *= geometry.source_mm / (geometry.source_mm + geometry.detector_mm)
    totals = p.sum(1) * spacing  # the integral of attenuation over the image, in every view
    notes = _check_attenuation(name, float(totals.mean()), geometry)
    _check_transposed(name, p)
    if geometry.kind == "parallel" and geometry.views > 3:
        notes += _parallel_notes(p, geometry)
    return notes


def _check_attenuation(name: str, total: float, geometry: Geometry) -> tuple[str, ...]:
    """Attenuation per millimetre, on average over the image."""
    mean = total / (geometry.height * geometry.width * geometry.pixel_mm**2)
    check = (
        "check that line integrals are -ln(N / I0), without a unit, and that pixel_mm, "
        "detector_spacing_mm, height and width are those of the scan, in millimetres"
    )
    if not -THIN <= mean <= BONE:
        raise InputError(
            f"{name}: the image would attenuate {mean:.3g} per mm on average; expected 0 (air) to "
            f"{BONE:g} (bone); {check}"
        )
    if abs(mean) < THIN:
        return (f"the image attenuates only {mean:.1g} per mm on average (water: 0.02); {check}",)
    return ()


def _check_transposed(name: str, p: Float[np.ndarray, " v n"]) -> None:
    """Every parallel view has the same total; detectors beyond the object have none."""
    totals, detectors = p.sum(1), p.sum(0)
    empty = totals.min() < 0.1 * totals.max()
    if empty and len(detectors) > 3 and _variation(detectors) < 0.1:
        raise InputError(
            f"{name}: the totals of its views differ more than tenfold, those of its detectors by "
            f"{_variation(detectors):.0%}: views and detectors are exchanged; expected (slices x) "
            "views x detectors: transpose it, and state views and detector_spacing_mm accordingly"
        )


def _parallel_notes(p: Float[np.ndarray, " v n"], geometry: Geometry) -> tuple[str, ...]:
    """Consistency of parallel views: equal totals, and centroids on a sinusoid about the axis.

    The moments of order 0 and 1 of the Helgason-Ludwig conditions: the total of a view is the
    object's mass, its centroid x cos a + y sin a; a constant beside it is the detector's offset.
    Source: Natterer 1986, The mathematics of computerized tomography, theorem II.4.2.
    """
    totals = p.sum(1)
    uneven = _variation(totals)
    if not uneven <= EVEN:
        return (
            f"the totals of its views vary by {uneven:.0%}, where parallel views of one object "
            "have one total: is the object wider than the detector, or did it move?",
        )
    number, step = np.arange(p.shape[1]), geometry.detector_spacing_mm
    centroids = (p * (number - (p.shape[1] - 1) / 2)).sum(1) / totals  # in detectors
    angle = np.deg2rad(geometry.angles)
    basis = np.stack([np.cos(angle), np.sin(angle), np.ones_like(angle)], 1)
    found, *_ = np.linalg.lstsq(basis, centroids, rcond=None)
    left = np.square(centroids - basis @ found).sum() / max(1, len(p) - 3)
    error = math.sqrt(left * np.linalg.inv(basis.T @ basis)[2, 2])
    offset = -float(found[2]) * step
    apart = (offset - geometry.detector_offset_mm) / step
    narrow = np.ptp(geometry.angles) * len(p) / (len(p) - 1) < 90
    if narrow or abs(apart) < max(0.2, 4 * error):
        return ()
    return (
        f"the axis of rotation lies {abs(apart):.2f} detectors from where detector_offset_mm, "
        f"{geometry.detector_offset_mm:g}, puts it, by the centroids of the views; try "
        f'"detector_offset_mm": {offset:.4g}',
    )


def _variation(totals: Float[np.ndarray, " n"]) -> float:
    """Coefficient of variation; infinite of a mean that is not positive."""
    mean = float(totals.mean())
    return float(totals.std()) / mean if mean > 0 else math.inf
