"""Ellipses: pictures whose line integrals and Fourier transforms are known in closed form.

A phantom is rows of (value, x, y, a, b, angle): an ellipse of half-axes a and b about (x, y), the
first turned by `angle` degrees against the clock from the x axis, whose value is added inside.
Lengths are in millimetres; x points right, y up, and the origin is the middle of the picture.
"""

import math

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

# Toft 1996, The Radon transform, appendix B: Shepp and Logan's head (1974) with its contrast
# widened.  Half-axes and centres in units of half the picture's side.
_HEAD = (
    (1.0, 0.0, 0.0, 0.69, 0.92, 0.0),
    (-0.8, 0.0, -0.0184, 0.6624, 0.874, 0.0),
    (-0.2, 0.22, 0.0, 0.11, 0.31, -18.0),
    (-0.2, -0.22, 0.0, 0.16, 0.41, 18.0),
    (0.1, 0.0, 0.35, 0.21, 0.25, 0.0),
    (0.1, 0.0, 0.1, 0.046, 0.046, 0.0),
    (0.1, 0.0, -0.1, 0.046, 0.046, 0.0),
    (0.1, -0.08, -0.605, 0.046, 0.023, 0.0),
    (0.1, 0.0, -0.606, 0.023, 0.023, 0.0),
    (0.1, 0.06, -0.605, 0.023, 0.046, 0.0),
)


def shepp_logan(side: float) -> Float[Tensor, " 10 6"]:
    """Shepp and Logan's head in a square picture of `side` millimetres; values 0 to 1.

    Source: Shepp and Logan 1974, IEEE Trans. Nucl. Sci. 21, 21; values after Toft 1996.
    """
    rows = torch.tensor(_HEAD, dtype=torch.float64)
    rows[:, 1:5] *= side / 2
    return rows


def random_head(random: np.random.Generator, side: float) -> Float[Tensor, " n 6"]:
    """A head-like phantom: a skull, and 4 to 12 ellipses within it; values about 0 to 1.

    Args:
        random: where it is drawn from.
        side: of the square picture that it fits into, in millimetres.
    """
    half = side / 2
    a, b, turn = random.uniform(0.6, 0.75), random.uniform(0.75, 0.95), random.uniform(-20, 20)
    bone = random.uniform(0.04, 0.09)
    rows = [(1.0, 0.0, 0.0, a, b, turn),
            (-random.uniform(0.6, 0.8), 0.0, 0.0, a - bone, b - bone, turn)]  # fmt: skip
    for _ in range(random.integers(4, 13)):
        radius, way = 0.75 * math.sqrt(random.random()), random.uniform(0, 2 * math.pi)
        x, y = (a - bone) * radius * math.cos(way), (b - bone) * radius * math.sin(way)
        room = 0.95 * (1 - radius) * min(a - bone, b - bone)
        lengths = np.exp(random.uniform(math.log(0.02), math.log(0.35), 2)).clip(max=room)
        rows.append((random.uniform(-0.15, 0.25), x, y, *lengths, random.uniform(0, 180)))
    drawn = torch.tensor(rows, dtype=torch.float64)
    drawn[:, 1:5] *= half
    return drawn


def rasterised(
    phantom: Float[Tensor, " n 6"], height: int, width: int, pixel: float, *, finer: int = 4
) -> Float[Tensor, " h w"]:
    """The phantom's mean over each pixel, from `finer` x `finer` points in it.

    Args:
        phantom: rows of ellipses.
        height: in pixels.
        width: in pixels.
        pixel: side of a pixel in millimetres.
        finer: points along each side of a pixel.
    """
    step = pixel / finer
    x = (torch.arange(width * finer, dtype=torch.float64) - (width * finer - 1) / 2) * step
    y = ((height * finer - 1) / 2 - torch.arange(height * finer, dtype=torch.float64)) * step
    image = torch.zeros(height, width, dtype=torch.float64)
    for value, x0, y0, a, b, angle in phantom.tolist():
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        along = (x - x0) * cos + (y[:, None] - y0) * sin
        across = (y[:, None] - y0) * cos - (x - x0) * sin
        inside = ((along / a) ** 2 + (across / b) ** 2 <= 1).double()
        image += value * inside.unflatten(1, (width, finer)).unflatten(0, (height, finer)).mean(
            (1, 3)
        )
    return image


def line_integrals(
    phantom: Float[Tensor, " n 6"],
    origin: Float[Tensor, " *rays 2"],
    way: Float[Tensor, " *rays 2"],
) -> Float[Tensor, " *rays"]:
    """The integral of the phantom along lines, value times millimetres.

    Through an ellipse's centre-based quadratic form the chord of a line o + s w has the half-length
    sqrt(B^2 - A C) / A with A = |D w|^2, B = <D w, D o>, C = |D o|^2 - 1, D the ellipse's scaling.

    Args:
        phantom: rows of ellipses.
        origin: a point of each line, in millimetres.
        way: its direction, of unit length.
    """
    total = torch.zeros(origin.shape[:-1], dtype=torch.float64)
    for value, x0, y0, a, b, angle in phantom.tolist():
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        scaling = torch.tensor([[cos / a, sin / a], [-sin / b, cos / b]], dtype=torch.float64)
        start = (origin.double() - origin.new_tensor([x0, y0]).double()) @ scaling.T
        along = way.double() @ scaling.T
        squared, cross = along.square().sum(-1), (along * start).sum(-1)
        under = cross**2 - squared * (start.square().sum(-1) - 1)
        total += 2 * value * under.clamp(min=0).sqrt() / squared
    return total


def fourier_transform(
    phantom: Float[Tensor, " n 6"], frequency: Float[Tensor, " *points 2"]
) -> Complex[Tensor, " *points"]:
    """The integral of f(x) exp(-2 pi i <k, x>), in value times square millimetres.

    Of an ellipse: v a b J1(2 pi q) / q exp(-2 pi i <k, c>), q the length of k in its half-axes.

    Args:
        phantom: rows of ellipses.
        frequency: k along x and y, in cycles per millimetre.
    """
    total = torch.zeros(frequency.shape[:-1], dtype=torch.complex128)
    for value, x0, y0, a, b, angle in phantom.tolist():
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        kx, ky = frequency.double().unbind(-1)
        q = torch.hypot(a * (kx * cos + ky * sin), b * (ky * cos - kx * sin))
        turned = 2 * math.pi * q
        shape = torch.where(q > 1e-9, torch.special.bessel_j1(turned) / q.clamp(min=1e-9), math.pi)
        phase = -2 * math.pi * (kx * x0 + ky * y0)
        total += value * a * b * torch.polar(shape.abs(), phase + math.pi * (shape < 0))
    return total
