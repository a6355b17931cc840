"""Raw measurements, sinograms and k-space, and the geometry of their acquisition."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Complex64, Float, Float32

from plugins.medical.request import WATER, Beam

Side = Annotated[int, Ge(1), Le(1 << 16)]
Length = Annotated[float, Gt(0), Le(1e6)]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Acquisition geometry of a sinogram; angles in degrees, lengths in millimetres.

    Args:
        kind: beam geometry.
        views: number of view angles.
        height: of the reconstructed image, in pixels.
        width: of the reconstructed image, in pixels.
        pixel_mm: pixel spacing.
        detector_spacing_mm: distance between two detectors.
        arc_degrees: angular range, covered evenly, its end excluded.
        start_degrees: first angle.
        source_mm: fan beam: distance from the source to the isocentre.
        detector_mm: fan beam: distance from the detector to the isocentre.
        units: ``line_integrals`` of attenuation, or photon ``counts``.
        photons: I0, counts per detector in the unattenuated beam; 0 if unknown.
        detector_offset_mm: position of the detector's middle along its line, 0 where the axis of
            rotation is projected.  Where the axis lies at detector c of n, counted from 0, it is
            ((n - 1) / 2 - c) times the spacing: minus half of it for libraries that turn about
            detector n / 2 of an even number.
        axis_detector: that detector c, in place of detector_offset_mm; may lie between two.
        angles_degrees: the angle of each view, in place of start_degrees and arc_degrees.
        scale: line integrals are the values times it; 81.35858 of LoDoPaB-CT's observations.
        water_per_mm: attenuation of water at the scanner's energy; 0.02 of LoDoPaB-CT.
    """

    kind: Beam
    views: Side
    height: Side
    width: Side
    pixel_mm: Length
    detector_spacing_mm: Length
    arc_degrees: Annotated[float, Gt(0), Le(360)] = 180.0
    start_degrees: Annotated[float, Ge(-360), Le(360)] = 0.0
    source_mm: Length = 500.0
    detector_mm: Annotated[float, Ge(0), Le(1e6)] = 500.0
    units: Literal["line_integrals", "counts"] = "line_integrals"
    photons: Annotated[float, Ge(0), Le(1e15)] = 0.0
    detector_offset_mm: Annotated[float, Ge(-1e6), Le(1e6)] = 0.0
    axis_detector: Annotated[float, Ge(-1e6), Le(1e6)] | None = None
    angles_degrees: tuple[float, ...] = ()
    scale: Annotated[float, Gt(0), Le(1e9)] = 1.0
    water_per_mm: Annotated[float, Gt(0), Le(1)] = WATER

    @property
    def angles(self) -> Float[np.ndarray, " v"]:
        """The angle of each view, in degrees."""
        if self.angles_degrees:
            return np.array(self.angles_degrees, np.float64)
        return self.start_degrees + self.arc_degrees * np.arange(self.views) / self.views


@dataclass(frozen=True, eq=False)
class Sinogram:
    """CT projections.

    Args:
        values: slices, views, detectors.
        geometry: of the acquisition.
        notes: sentences for the user about what reading found.
    """

    values: Float32[np.ndarray, " d v n"]
    geometry: Geometry
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class KSpace:
    """MRI k-space, its zero frequency in the centre; or samples along a trajectory.

    Args:
        values: slices, coils, rows, columns; 0 where not sampled.  Of a trajectory slices, coils,
            1, samples.
        mask: sampling mask, the same for every slice and coil.
        noise: standard deviation of the real and imaginary part each; 0 if unknown.
        notes: sentences for the user about what reading found.
        pixel_mm: distance of the image's rows and columns; None if unknown.
        trajectory: frequencies of the samples along rows and columns, in cycles per pixel; None on
            a Cartesian grid.
        image: of a trajectory, height and width of the image.
        readouts: of a trajectory, number of its readouts of equal length; 1 if unknown.
    """

    values: Complex64[np.ndarray, " d c h w"]
    mask: Bool[np.ndarray, " h w"]
    noise: float = 0.0
    notes: tuple[str, ...] = ()
    pixel_mm: tuple[float, float] | None = None
    trajectory: Float32[np.ndarray, " n 2"] | None = None
    image: tuple[int, int] | None = None
    readouts: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image or (self.mask.shape[0], self.mask.shape[1])
