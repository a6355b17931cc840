"""Acquisition geometries of CT, and the operator of each."""

import torch

from core.parts.config import bind
from plugins.medical.io.acquisition import Geometry
from plugins.medical.operators.radon import FanBeam, Radon
from plugins.medical.request import Beam


def geometry_of(
    kind: Beam,
    views: int,
    arc: float | None,
    size: tuple[int, int],
    pixel: float,
    *,
    photons: float = 0.0,
) -> Geometry:
    """The geometry for an image: a detector per pixel, a fan's source at twice the image's side.

    Args:
        kind: beam geometry.
        views: number of views.
        arc: angular range in degrees; None for 180, fan beam 360.
        size: height and width of the image, in pixels.
        pixel: pixel spacing, in millimetres.
        photons: I0, counts per detector in the unattenuated beam; 0 for noiseless line integrals.

    Raises:
        InputError: a number out of its range.
    """
    fan, (height, width) = kind == "fan", size
    away = 2 * max(size) * pixel
    values = {
        "kind": kind, "views": views, "height": height, "width": width, "pixel_mm": pixel,
        "detector_spacing_mm": pixel * (2 if fan else 1),  # magnified as a pixel at the isocentre
        "arc_degrees": (360.0 if fan else 180.0) if arc is None else arc,
        "source_mm": away, "detector_mm": away,
        "units": "counts" if photons else "line_integrals", "photons": photons,
    }  # fmt: skip
    return bind(Geometry, values)


def scanner(geometry: Geometry, detectors: int | None = None) -> Radon:
    """The operator of a geometry; by default with enough detectors for the whole image."""
    options = {
        "height": geometry.height, "width": geometry.width, "pixel": geometry.pixel_mm,
        "views": geometry.views, "start": geometry.start_degrees, "arc": geometry.arc_degrees,
        "detectors": detectors, "spacing": geometry.detector_spacing_mm,
        "offset": geometry.detector_offset_mm,
    }  # fmt: skip
    if geometry.kind == "parallel":
        scan = Radon(**options)
    else:
        scan = FanBeam(**options, source=geometry.source_mm, detector=geometry.detector_mm)
    return scan.at(torch.from_numpy(geometry.angles)) if geometry.angles_degrees else scan
