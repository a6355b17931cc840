"""Volumes reconstructed with a prior: draws, their mean and standard deviation, units, sheet."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.inverse.measurement import Measurement, misfit
from core.model import Model
from core.parts.config import plain
from core.request import Emit, silent
from core.results.calibration import averaged
from core.results.sheet import contact_sheet, to_bytes
from core.sampler.draws import each, summary
from core.sampler.sample import Watch
from core.scans.reading import Subject
from core.scans.scan import Scan
from core.storage import files
from core.task import Panel
from plugins.medical.inference.choice import POSTERIOR, Choice
from plugins.medical.inference.curve import below, misfit_curve
from plugins.medical.inference.draws import How, reconstructed, streams
from plugins.medical.inference.measurement import integrals, measured_mri
from plugins.medical.inference.reconstruct import beginning
from plugins.medical.io.acquisition import KSpace, Sinogram
from plugins.medical.tasks.ct import Ct
from plugins.medical.tasks.geometry import scanner
from plugins.medical.tasks.reconstruction import LIGHTER, Reconstruction


@dataclass(frozen=True, eq=False)
class Found:
    """Summary of the draws of a volume, in images in which the prior's are in [-1, 1].

    Args:
        mean: of the draws; beyond [-1, 1] where the measurement is.
        std: standard deviation of the draws by n - 1, voxel by voxel, 0 of one; with a `choice`
            their variances are averaged over 5x5 pixels and scaled.  Beyond [-1, 1] the prior has
            seen nothing and draws agree without reason, so the distance of the mean to that range
            is added to the variance as its square.
        classical: reconstructions without a prior, by name.
        misfit: of the mean, for each slice, in units of the noise.
        choice: what held-out measurements decided; the mean is then the mixture that they chose,
            and the standard deviation predicts its error.  None where they decided nothing.
    """

    mean: Float[Tensor, " d 1 h w"]
    std: Float[Tensor, " d 1 h w"]
    classical: dict[str, Float[Tensor, " d 1 h w"]]
    misfit: Float[Tensor, " d"]
    choice: Choice | None = None


def drawn(
    model: Model,
    measurement: Measurement,
    like: Float[Tensor, " d c h w"],
    how: How,
    *,
    start: str,
    draws: int,
    seed: int,
    choice: Choice | None = None,
    emit: Emit = silent,
) -> Found:
    """Draws of a volume from measurements of its slices.

    All slices take each step together, so that they can be regularised along the third axis; the
    network is called with `how.at_once` of them at a time.

    Args:
        model: a prior as the model of a reconstruction task.
        measurement: of all slices.
        like: their shape.
        how: options of a draw.
        start: name of the initial reconstruction.
        draws: number of draws.
        seed: draw k of slice i depends on it, i and k alone.
        choice: of held-out measurements, whose setting and start are in `how` and `start`.
        emit: receives progress.

    Raises:
        InputError: the task has no such start.
    """
    task = model.task
    assert isinstance(task, Reconstruction)
    first, known = beginning(task, measurement, like, start)
    total = torch.zeros_like(like)

    def draw(number: int, watch: Watch) -> Tensor:
        nonlocal total
        noise = streams(seed, range(len(like)), number)
        x = reconstructed(model.denoise, measurement, how, first, noise, watch=watch)
        total += x
        return task.values(x)

    found = summary(each(draw, draws, steps=len(how.grid) - 1, emit=emit))
    whole, std = total / draws, found.std
    if choice is not None:
        weights = {name: w for name, w in choice.weights.items() if name != POSTERIOR}
        parts = [w * task.begun(measurement, known, name, like) for name, w in weights.items()]
        whole = choice.weights.get(POSTERIOR, 0.0) * whole + sum(parts)
        std = choice.scale * averaged(std.square()).sqrt()
    mean = task.values(whole)
    return Found(
        mean,
        torch.hypot(std, mean - mean.clamp(-1, 1)),
        {name: task.picture(x) for name, x in known.items()},
        misfit(measurement, whole),
        choice,
    )


KNOWN = ("task", "network", "process", "parameterization", "steps", "seed")
"""Options of a prior's training that a record holds: none of them is a path."""


def prior_facts(model: Model) -> dict[str, Any]:
    """Options of the prior's training, for a record.

    Names of what it was trained on may be patients' names, so only the options in `KNOWN`.
    """
    request = plain(model.request)
    return {name: request[name] for name in KNOWN}


# --- from files to measurements, and back to units ------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Units of images.

    Args:
        low: value of -1: Hounsfield units, or 0 of a magnitude.
        high: value of 1.
        unit: of both; empty where there is none.
    """

    low: float
    high: float
    unit: str = ""


def understood(
    model: Model, measured: Sinogram | KSpace
) -> tuple[Measurement, Float[Tensor, " d c h w"], Scale]:
    """Raw data as a measurement, an empty volume of its shape, and the scale of its values."""
    if isinstance(measured, KSpace):
        measurement, bright = measured_mri(measured)
        y = measurement.y.to(model.device)
        like = torch.zeros(len(y), 2, *measured.size, device=model.device)
        return replace(measurement, y=y), like, Scale(0.0, bright)
    task = model.task
    assert isinstance(task, Ct)
    scan = scanner(measured.geometry, measured.values.shape[2])
    p, variance = (x.to(model.device) for x in integrals(measured))
    like = torch.zeros(len(p), 1, *scan.shape, device=model.device)
    low, high = task.shown_as[:2]
    return task.of_integrals(scan, p, variance), like, Scale(low, high, task.shown_as[2])


def place_of(measured: Sinogram | KSpace) -> Subject:
    """A scan for results of raw data, which have no geometry in the patient."""
    if isinstance(measured, Sinogram):
        geometry = measured.geometry
        size = geometry.height, geometry.width
    else:
        size = measured.size
    rows, columns = spacing_of(measured) or (1.0, 1.0)
    voxels = np.zeros((len(measured.values), *size), np.float32)
    note = "raw data have no slice spacing: it was set to the pixel spacing"
    modality = "CT" if isinstance(measured, Sinogram) else "MR"
    lies = Scan(
        voxels, np.diag([columns, rows, columns, 1.0]), modality, notes=(*measured.notes, note)
    )
    return Subject(lies, lies, "acquired")


def spacing_of(measured: Sinogram | KSpace) -> tuple[float, float] | None:
    """Distance of an image's rows and columns in millimetres, where it is known."""
    if isinstance(measured, KSpace):
        return measured.pixel_mm
    return measured.geometry.pixel_mm, measured.geometry.pixel_mm


def in_units(found: Found, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d, h, w) in Hounsfield units, or in the units of the scan."""
    half = (scale.high - scale.low) / 2
    mean = (found.mean[:, 0].cpu().numpy() + 1) * half + scale.low
    return mean.astype(np.float32), (found.std[:, 0].cpu().numpy() * half).astype(np.float32)


def write_sheet(path: Path, found: Found, scale: Scale, truth: Scan | None) -> None:
    """The middle slice: classical methods, mean, standard deviation and, of a scan, the error.

    Below them is the curve of what held-out measurements decided.
    """
    k = len(found.mean) // 2
    images = {name: to_bytes(x[k]) for name, x in found.classical.items()}
    images["mean"] = to_bytes(found.mean[k])
    white = f"white is {(scale.high - scale.low) / LIGHTER:.3g} {scale.unit}".rstrip()
    images[f"standard deviation, {white}"] = to_bytes(found.std[k] * LIGHTER - 1)
    if truth is not None:
        half = (scale.high - scale.low) / 2
        known = torch.from_numpy((truth.voxels[k] - scale.low) / half - 1).clamp(-1, 1)[None]
        error = (found.mean[k].cpu().clamp(-1, 1) - known).abs()
        images[f"error, {white}"] = to_bytes(error * LIGHTER - 1)
        images["scan"] = to_bytes(known)
    pixels = contact_sheet([Panel("middle slice", images)])
    if found.choice is not None and found.choice.levels:
        pixels = below(pixels, misfit_curve(found.choice.record))
    try:
        with files.replaced(path) as waiting:
            Image.fromarray(pixels).save(waiting, "PNG")
    except OSError as error:
        remains = "the reconstruction beside it is whole"
        raise files.not_written(path, error, needed=pixels.nbytes, remains=remains) from error
