"""Scan geometries of CT, and the operator of each."""

from core.parts.config import bind
from plugins.medical.io.raw import Geometry
from plugins.medical.operators.radon import FanBeam, Radon


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
