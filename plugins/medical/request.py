"""Requests and results of the plug-in's verbs, and choices of its commands: no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from core.parts.registry import Spec
from core.request import Count

Chooser = Literal["held-out", "none"]
Beam = Literal["parallel", "fan"]
Corrupt = Literal["refuse", "skip"]
Spacing = Literal["resample", "refuse", "ignore"]
SamplingMask = Literal["random", "equispaced", "density", "poisson", "radial"]

RULE = Spec("core/diffpir", {"iterations": 20, "tolerance": 1e-3})
SOLVER = Spec("core/ddim", {"eta": 1.0})
NOISE = 0.005  # of simulated k-space
WATER = 0.0193
"""Linear attenuation of water per millimetre at 70 keV (NIST XCOM: 0.193 cm^2/g)."""
LEVELS = Spec("core/karras", {"steps": 20, "sigma_min": 0.005, "sigma_max": 0.5, "rho": 3.0})


@dataclass(frozen=True, kw_only=True)
class CtOptions:
    """A simulated CT measurement.

    Args:
        views: CT: number of views.
        arc: CT: angular range in degrees; by default 180, of a fan beam 360.
        geometry: CT: beam geometry.
        photons: CT: photons per detector in the unattenuated beam (I0); 0 for no noise.
    """

    views: Count = 23
    arc: Annotated[float, Le(360)] | None = None
    geometry: Beam = "parallel"
    photons: Annotated[float, Ge(0)] = 1e5


@dataclass(frozen=True, kw_only=True)
class MriOptions:
    """A simulated MRI measurement.

    Args:
        mask: MRI: k-space sampling pattern.
        acceleration: MRI: acceleration factor R.
        centre: MRI: fraction of k-space, fully sampled in the centre.
        noise: MRI: standard deviation of k-space noise: of a scan for bright tissue of intensity 1,
            by default 0.005; of raw k-space in its own units, by default its file's or an estimate.
    """

    mask: SamplingMask = "random"
    acceleration: Annotated[float, Ge(1)] = 4.0
    centre: Annotated[float, Ge(0), Le(1)] = 0.08
    noise: Annotated[float, Ge(0)] | None = None


@dataclass(frozen=True, kw_only=True)
class PosteriorOptions:
    """How a reconstruction is drawn.

    Args:
        choose: ``held-out``: an eighth of the measurements, left out at first, decides the start,
            the level, a mixture with classical methods and the scale of the standard deviation;
            ``none``: the mean of draws from TV.
        draws: number of draws.
        steps: sampler steps; by default CT 20 and MRI 12, fewer from lower levels.
        level: noise level added to the start; by default chosen; of ``none`` CT 0.5, MRI 0.15.
        start: initial reconstruction: CT FBP, CGLS or TV; MRI zero-filled, wavelets or TV; or
            noise; by default chosen; of ``none`` TV.
        spacing: pixels of another size than the prior learned: ``resample`` draws on a grid of the
            nearest spacing that it learned, ``refuse`` them, or ``ignore`` that they differ.
        along: weight of total variation between slices, 0 for none; by default CT 0.1, MRI 0, and 0
            of a prior of stacks, which learned what slices have in common.
        tile: side in pixels of overlapping tiles in which the network sees a slice, for large ones;
            0 for whole slices.
        at_once: slices per network call; lower it to use less memory.
        seed: random seed.
    """

    choose: Chooser = "held-out"
    draws: Count = 8
    steps: Annotated[int, Ge(2)] | None = None
    level: Annotated[float, Ge(0.01)] | None = None
    start: str | None = None
    spacing: Spacing = "resample"
    along: Annotated[float, Ge(0)] | None = None
    tile: Annotated[int, Ge(0)] = 0
    at_once: Count = 8
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True)
class ReconstructRequest:
    """Simulate sparse measurements of held-out slices and draw posterior samples of them.

    The result is a folder of samples, which ``evaluate`` reads.

    Args:
        checkpoint: folder of a prior: an unconditional model of such images.
        task: the measurement, `medical/ct` or `medical/mri`.
        dataset: of the slices.
        split: of the dataset.
        count: number of slices, from the first; by default all.
        samples: draws of each slice.
        posterior: the posterior sampler.
        sampler: solver of the reverse process.
        grid: its times; levels beyond the process's are its noisy end.
        start: initial image, to which noise of the grid's first level is added: a classical method
            of the task by its name in tables, or ``noise`` alone.
        batch: slices at a time.
        seed: draw k of slice i depends on it, i and k alone.
    """

    checkpoint: Path
    task: Annotated[Spec, "task"] = Spec("medical/ct")
    dataset: Annotated[Spec, "dataset"] = Spec("medical/phantoms")
    split: Literal["train", "test"] = "test"
    count: Count | None = None
    samples: Count = 8
    posterior: Annotated[Spec, "posterior"] = RULE
    sampler: Annotated[Spec, "sampler"] = SOLVER
    grid: Annotated[Spec, "grid"] = LEVELS
    start: str = "TV"
    batch: Count = 8
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True)
class SamplersRequest:
    """Compare posterior samplers with one prior: metrics against network evaluations.

    Args:
        checkpoint: folder of a prior.
        task: the measurement.
        dataset: of the slices.
        split: of the dataset.
        count: number of slices, from the first.
        samples: draws of each slice; their mean is scored beside the first.
        steps: of the samplers: as many network evaluations, or more where a rule takes two a step.
        methods: names of the samplers; by default all.
        batch: slices at a time.
        confidence: of the intervals.
        seed: of the draws.
    """

    checkpoint: Path
    task: Annotated[Spec, "task"] = Spec("medical/ct")
    dataset: Annotated[Spec, "dataset"] = Spec("medical/phantoms")
    split: Literal["train", "test"] = "test"
    count: Count = 4
    samples: Count = 1
    steps: tuple[Count, ...] = (20, 50, 100)
    methods: tuple[str, ...] = ()
    batch: Count = 8
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True)
class SamplersResult:
    """Posterior samplers compared.

    Args:
        metrics: ``metrics.json``: every metric with its interval, and the curves.
        best: the sampler with the highest PSNR of one draw.
        scores: method, steps -> metric -> mean.
        seconds: spent by this process.
    """

    metrics: Path
    best: str
    scores: dict[str, dict[str, float]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MemorisationRequest:
    """Test whether draws are nearer to training slices than held-out slices are.

    Args:
        samples: folder of draws.
        learned_from: the prior's training dataset.
        count: number of its slices that are compared, from the first.
        confidence: of the intervals.
        pictures: draws to show beside their nearest training slices.
    """

    samples: Path
    learned_from: Annotated[Spec, "dataset"]
    count: Count = 2000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    pictures: Annotated[int, Ge(0)] = 4


@dataclass(frozen=True, kw_only=True)
class MemorisationResult:
    """Distances of draws to the training data.

    Args:
        metrics: ``metrics.json``, with images beside it.
        draws: mean PSNR of draws against their nearest training slices, in dB.
        truth: the same of the held-out slices.
        seconds: spent by this process.
    """

    metrics: Path
    draws: float
    truth: float
    seconds: float
