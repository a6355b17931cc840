"""Notes on a finished reconstruction: what its misfit and its range of values say."""

import numpy as np

from core.scans.intensities import EMPTY
from core.scans.scan import Scan
from plugins.medical.inference.volume import Found, Scale, in_units
from plugins.medical.io.acquisition import KSpace, Sinogram

MISFIT = 3.0  # in units of the noise; draws of a prior that fits stay below 1.6


def remarks(
    found: Found, scale: Scale, measured: Sinogram | KSpace, truth: Scan | None
) -> tuple[str, ...]:
    """Sentences for the user, each with what to try; none names a file.

    Args:
        found: the draws' summary.
        scale: units of its images.
        measured: what was reconstructed.
        truth: the scan that it was simulated of; None for raw data.
    """
    return (*_misfit(found, measured, truth), *_beyond(found, scale, measured, truth))


def _misfit(found: Found, measured: Sinogram | KSpace, truth: Scan | None) -> tuple[str, ...]:
    mean = float(found.misfit.mean())
    if mean <= MISFIT:
        return ()
    if truth is not None:
        advice = "take more steps, a lower --level, or a prior of such images"
    elif isinstance(measured, KSpace):
        advice = (
            f"state the noise level with --noise ({mean:.2g} times as high would explain it), and "
            "check mask and axes"
        )
    else:
        advice = (
            "check in the JSON detector_offset_mm (half a detector where the axis of rotation is "
            "at detector n / 2), start_degrees, arc_degrees, the order of the views, pixel_mm and "
            "photons"
        )
    return (
        f"the result misses the measurement by {mean:.1f} times its noise, where 1 is expected: "
        f"{advice}",
    )


def _beyond(
    found: Found, scale: Scale, measured: Sinogram | KSpace, truth: Scan | None
) -> tuple[str, ...]:
    """CT outside of the window that the prior knows."""
    if isinstance(measured, KSpace):
        return ()
    values = in_units(found, scale)[0] if truth is None else truth.voxels
    low, high = max(scale.low, EMPTY), scale.high
    above, below = int((values > high).sum()), int((values < low).sum())
    below = below if low > EMPTY else 0
    if not above + below:
        return ()
    share = 100 * (above + below) / values.size
    units = "" if truth is not None else "; if there is no metal, check the units in the JSON"
    return (
        f"{above + below} voxels ({share:.3g} %) are outside of the {low:g} to {high:g} HU of the "
        f"prior, from {np.min(values):.0f} to {np.max(values):.0f}: there the result follows the "
        "measurement alone, and its standard deviation includes the distance to that range; for "
        f"metal or dense bone train a prior with a wider one{units}",
    )
