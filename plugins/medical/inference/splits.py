"""Held-out measurements of a scan: views of a sinogram, lines or points of k-space."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Inexact
from torch import Tensor
from torch.nn import functional as F

from core.inverse.heldout import HeldOut
from core.inverse.measurement import Measurement
from core.inverse.operators import Weighted
from core.process.noise import derive, generator
from plugins.medical.operators.fourier import Fourier
from plugins.medical.operators.nonuniform import NonUniform
from plugins.medical.operators.radon import Radon

PART = 8  # one of so many is left out
LEAST = 2  # left out at least, and four times as many kept
AROUND = 9  # points of k-space each way over which the density of samples is taken


def split(measurement: Measurement, like: Float[Tensor, " b c h w"], seed: int) -> HeldOut | None:
    """One measurement in eight left out, spread evenly; None where there are too few.

    Args:
        measurement: of line integrals or of k-space.
        like: the images.
        seed: of the choice.
    """
    operator = measurement.operator
    random = generator(derive(seed, "held out"))
    if isinstance(operator, Weighted) and isinstance(operator.operator, Radon):
        return _of_views(measurement, operator.operator, operator.weights, random)
    if isinstance(operator, Fourier):
        return _of_frequencies(measurement, operator, operator.measured(*like.shape[-2:]), random)
    if isinstance(operator, NonUniform):
        return _of_readouts(measurement, operator, random)
    return None


def evenly(count: int, random: np.random.Generator) -> list[int]:
    """One of each run of `PART` of a sequence, at random within its run; none of too few."""
    number = max(LEAST, round(count / PART))
    if count < LEAST * 5:
        return []
    edges = np.linspace(0, count, number + 1).round().astype(int)
    return [int(random.integers(a, b)) for a, b in pairwise(edges.tolist())]


# --- views ---------------------------------------------------------------------------------------


def _of_views(
    measurement: Measurement, scan: Radon, weights: Tensor, random: np.random.Generator
) -> HeldOut | None:
    """Views left out, in units of their noise; squares of ramp-filtered ones are an image's.

    By the Fourier slice theorem a view of the error is a line through its spectrum, on which a
    point stands for a part of the plane that grows with its frequency.
    """
    views = len(scan.angles)
    at = evenly(views, random)
    if not at:
        return None
    left = torch.zeros(views, dtype=torch.bool)
    left[at] = True
    weights = weights.expand_as(measurement.y)

    def part(chosen: Tensor) -> Measurement:
        operator = Weighted(scan.of_views(chosen), weights[..., chosen, :])
        return Measurement(operator, measurement.y[..., chosen, :], measurement.noise_std)

    held = part(left)
    trust = weights[..., left, :]
    response = root_ramp(scan.detectors)

    def rows(residual: Inexact[Tensor, " b *measured"]) -> Tensor:
        spectrum = torch.fft.rfft(residual.double() / trust, n=2 * (len(response) - 1))
        filtered = torch.fft.irfft(spectrum * response.to(spectrum.device))
        return filtered.flatten(0, 2) / expected.sqrt()[:, None]

    # the filter spreads the variance of a detector over its row, times the kernel's energy
    variance = (measurement.noise_std / trust.double()).square()
    expected = kernel_energy(response).to(variance) * variance.sum(-1).flatten()
    # a view through more of the body has up to ten times the noise, and would decide alone
    return HeldOut(
        part(~left), held, rows, torch.ones_like(expected), f"{len(at)} of {views} views", len(at)
    )


def root_ramp(detectors: int) -> Float[Tensor, " n"]:
    """The root of |frequency| times a Hann window, for real transforms padded to twice a row."""
    size = 2 ** math.ceil(math.log2(2 * detectors))
    frequency = torch.arange(size // 2 + 1, dtype=torch.float64) / size
    return frequency.sqrt() * (0.5 * (1 + torch.cos(2 * math.pi * frequency))).sqrt()


def kernel_energy(response: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Sum of squares of the kernel of a response, by Parseval."""
    whole = torch.cat([response, response[1:-1].flip(0)])
    return whole.square().mean()


# --- frequencies ---------------------------------------------------------------------------------


def _of_frequencies(
    measurement: Measurement,
    operator: Fourier,
    mask: Bool[Tensor, " h w"],
    random: np.random.Generator,
) -> HeldOut | None:
    """Lines, or points, of k-space left out, none of its fully sampled centre."""
    mask = mask.cpu()
    for axis, lines in ((1, mask.all(0)), (0, mask.all(1))):
        if torch.equal(mask, lines.expand_as(mask) if axis else lines[:, None].expand_as(mask)):
            return _of_lines(measurement, operator, mask, lines, axis, random)
    return _of_points(measurement, operator, mask, random)


def _parts(
    measurement: Measurement, operator: Fourier, mask: Tensor, left: Tensor
) -> tuple[Measurement, Measurement]:
    def part(chosen: Tensor) -> Measurement:
        given = operator.given(frequencies=chosen, sensitivities=operator.sensitivities)
        y = measurement.y * chosen.to(measurement.y.device)
        return replace(measurement, operator=given, y=y)

    return part(mask & ~left), part(left)


def _of_lines(
    measurement: Measurement,
    operator: Fourier,
    mask: Tensor,
    lines: Tensor,
    axis: int,
    random: np.random.Generator,
) -> HeldOut | None:
    """Whole lines; by Parseval their squares are those of the image on these frequencies."""
    middle, reach = len(lines) // 2, 0
    while reach < middle and bool(lines[middle - reach - 1 : middle + reach + 1].all()):
        reach += 1
    outer = lines.clone()
    outer[middle - reach : middle + reach] = False
    places = outer.nonzero().flatten()
    at = evenly(len(places), random)
    if not at:
        return None
    chosen = places[at]
    left = torch.zeros_like(mask)
    left.index_fill_(axis, chosen, True)
    kept, held = _parts(measurement, operator, mask, left)

    def rows(residual: Inexact[Tensor, " b *measured"]) -> Tensor:
        lines_of = residual.movedim(axis - 2, 1)[:, chosen.to(residual.device)]
        return torch.view_as_real(lines_of.contiguous()).flatten(2).flatten(0, 1).double()

    count = 2 * measurement.y[0].numel() // mask.shape[axis]
    noise = torch.full((len(measurement.y) * len(at),), count * measurement.noise_std**2).double()
    about = f"{len(at)} of {int(lines.sum())} lines of k-space"
    return HeldOut(kept, held, rows, noise.to(measurement.y.device), about, len(at))


def _of_points(
    measurement: Measurement, operator: Fourier, mask: Tensor, random: np.random.Generator
) -> HeldOut | None:
    """Points outside of the centre, weighted by the inverse density of samples around each."""
    density = F.avg_pool2d(mask.float()[None, None], AROUND, 1, AROUND // 2,
                           count_include_pad=False)[0, 0]  # fmt: skip
    places = (mask & (density < 0.9)).nonzero()
    at = evenly(len(places), random)
    if not at:
        return None
    down, across = places[at].unbind(1)
    left = torch.zeros_like(mask)
    left[down, across] = True
    kept, held = _parts(measurement, operator, mask, left)
    weights = density[down, across].rsqrt().double()

    def rows(residual: Inexact[Tensor, " b *measured"]) -> Tensor:
        points = residual.movedim(1, -1)[:, down.to(residual.device), across.to(residual.device)]
        parts = torch.view_as_real(points.contiguous()).flatten(2).double()
        return (parts * weights.to(parts)[:, None]).flatten(0, 1)

    count = 2 * measurement.y.shape[1]
    noise = (count * measurement.noise_std**2 * weights.square()).repeat(len(measurement.y))
    about = f"{len(at)} of {int(mask.sum())} points of k-space"
    return HeldOut(kept, held, rows, noise.to(measurement.y.device), about, len(at))


# --- readouts of a trajectory --------------------------------------------------------------------


def _of_readouts(
    measurement: Measurement, operator: NonUniform, random: np.random.Generator
) -> HeldOut | None:
    """Whole readouts, such as spokes; each sample weighted by the inverse density of all."""
    at = evenly(operator.readouts, random)
    if not at:
        return None
    left = torch.zeros(operator.readouts, dtype=torch.bool)
    left[at] = True

    def part(chosen: Tensor) -> Measurement:
        y = measurement.y[..., operator.samples_of(chosen).to(measurement.y.device)]
        return replace(measurement, operator=operator.of_readouts(chosen), y=y)

    weights = (
        operator.density()[operator.samples_of(left)].double().sqrt().unflatten(0, (len(at), -1))
    )

    def rows(residual: Inexact[Tensor, " b *measured"]) -> Tensor:
        samples = residual.movedim(1, -1).unflatten(1, (len(at), -1))  # b, readouts, samples, coils
        parts = torch.view_as_real(samples.contiguous()).flatten(3).double()
        return (parts * weights.to(parts)[..., None]).flatten(2).flatten(0, 1)

    count = 2 * measurement.y.shape[1]
    noise = count * measurement.noise_std**2 * weights.square().sum(1)
    noise = noise.repeat(len(measurement.y)).to(measurement.y.device)
    about = f"{len(at)} of {operator.readouts} readouts"
    return HeldOut(part(~left), part(left), rows, noise, about, len(at))
