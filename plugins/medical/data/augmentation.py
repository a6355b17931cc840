"""Random poses, shapes and intensities of training slices: what differs between patients."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

KNOTS = 5  # of an elastic displacement, along each side


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Augmentation of a training slice; each range is sampled uniformly, factors by logarithm.

    Args:
        turn: augmentation: largest in-plane rotation, in degrees.
        tilt: augmentation: largest rotation about each in-plane axis, in degrees.
        zoom: augmentation: largest factor of scaling; bodies differ in size.
        shift: augmentation: largest translation, as a fraction of the side.
        mirror: augmentation: whether columns may be flipped: left and right, but of sagittal
            slices front and back.
        mirror_sagittal: augmentation: whether `mirror` applies to sagittal slices, too.
        elastic: augmentation: largest displacement of a smooth elastic deformation along each
            axis, as a fraction of the side.
        water: augmentation of CT: largest relative change of attenuation, of which the calibration
            of scanners differs; air stays.
        contrast: augmentation of MR: largest factor of a tissue's intensity.
        gamma: augmentation of MR: largest exponent of intensities, and 1 over the smallest.
        bias: augmentation of MR: largest factor of the smooth bias field.
        gain: augmentation of MR: smallest factor of all intensities.
    """

    turn: float = 15.0
    tilt: float = 10.0
    zoom: float = 1.2
    shift: float = 0.1
    mirror: bool = True
    mirror_sagittal: bool = True
    elastic: float = 0.0
    water: float = 0.0
    contrast: float = 2.0
    gamma: float = 1.0
    bias: float = 1.5
    gain: float = 0.6

    def problems(self) -> list[str]:
        """A line for each option out of its range."""
        found = []
        if not (self.zoom >= 1 and self.contrast >= 1):
            found.append(
                f"zoom, contrast: expected at least 1, got {self.zoom:g} and {self.contrast:g}"
            )
        if not (self.gamma >= 1 and self.bias >= 1):
            found.append(f"gamma, bias: expected at least 1, got {self.gamma:g} and {self.bias:g}")
        if min(self.turn, self.tilt, self.shift) < 0:
            found.append(
                "turn, tilt, shift: expected at least 0, got "
                f"{self.turn:g}, {self.tilt:g} and {self.shift:g}"
            )
        if not 0 <= self.elastic <= 0.1:
            found.append(f"elastic: expected 0 to 0.1 of the side, got {self.elastic:g}")
        if not 0 <= self.water < 1:
            found.append(f"water: expected 0 to 1, got {self.water:g}")
        if not 0 < self.gain <= 1:
            found.append(f"gain: expected more than 0 and at most 1, got {self.gain:g}")
        return found


def displacement(
    random: np.random.Generator, side: int, largest: float
) -> Float64[Tensor, "2 side side"]:
    """A smooth displacement down and to the right: cubic interpolation of random knots.

    Args:
        random: of the knots.
        side: number of points along each axis.
        largest: displacement of a knot along each axis; between knots it may be slightly exceeded.
    """
    knots = torch.from_numpy(random.uniform(-largest, largest, (1, 2, KNOTS, KNOTS)))
    return F.interpolate(knots, (side, side), mode="bicubic", align_corners=True)[0]


def attenuated(
    fine: Float[Tensor, " *slices h w"], random: np.random.Generator, water: float, air: float
) -> Float[Tensor, " *slices h w"]:
    """Slices of CT with their attenuation changed by one factor, within `water` of 1.

    Args:
        fine: in any linear scale of Hounsfield units.
        random: of the factor.
        water: largest relative change.
        air: value of -1000 HU, which stays.
    """
    return air + (1 + random.uniform(-water, water)) * (fine - air)


def recoloured(
    fine: Float[Tensor, " *slices h w"],
    random: np.random.Generator,
    contrast: float,
    *,
    gamma: float = 1.0,
    bias: float = 1.5,
    gain: float = 0.6,
) -> Float[Tensor, " *slices h w"]:
    """The slice, or adjacent ones, with a random contrast and bias field; air stays 0.

    Intensities go through a piecewise linear curve of six knots, each scaled by a factor of up to
    `contrast`, are multiplied by a smooth bias field between 1 / `bias` and `bias`, and scaled so
    that the brightest are between `gain` and 1.
    Source: random contrasts, Billot et al. 2023, arXiv:2107.09559.
    """
    knots = np.linspace(0, 1, 6)
    moved = knots * np.exp(random.uniform(-1, 1, 6) * math.log(contrast))
    height, width = fine.shape[-2:]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    terms = [x + 0 * y, y + 0 * x, x * y, x**2 + 0 * y, y**2 + 0 * x]
    field = sum(random.uniform(-1, 1) * term for term in terms)
    field = np.exp(field / np.abs(field).max() * random.uniform(0, math.log(bias)))
    found = np.interp(fine.numpy(), knots, moved) * field
    brightest = max(float(np.quantile(found, 0.998)), 1e-6)
    found = found / brightest * random.uniform(gain, 1)
    if gamma > 1:
        found = found.clip(min=0) ** math.exp(random.uniform(-1, 1) * math.log(gamma))
    return torch.from_numpy(found).float().clamp(0, 1)
