"""What the plug-in's verbs are asked and answer: frozen values, no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from core.parts.registry import Spec
from core.request import Count

RULE = Spec("core/diffpir", {"iterations": 20, "tolerance": 1e-3})
SOLVER = Spec("core/ddim", {"eta": 1.0})
LEVELS = Spec("core/karras", {"steps": 20, "sigma_min": 0.005, "sigma_max": 0.5, "rho": 3.0})


@dataclass(frozen=True, kw_only=True)
class ReconstructRequest:
    """Measure held-out slices sparsely and draw what they may have been.

    What comes out are samples, which ``evaluate`` reads.

    Args:
        checkpoint: folder of a prior: a model of such pictures, given nothing beside them.
        task: what is measured of them, `medical/ct` or `medical/mri`.
        dataset: whose slices are measured.
        split: which of its splits.
        count: how many of its slices, the first ones; by default all.
        samples: draws for each.
        posterior: what holds the draws to the measurement.
        sampler: rule of a step.
        grid: its times; levels beyond the process's are its noisy end.
        start: what draws begin at, with noise of the grid's first level: a classical method of the
            task by its name in tables, or ``noise`` alone.
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
    """Compare posterior samplers with one prior: figures against evaluations of the network.

    Args:
        checkpoint: folder of a prior.
        task: what is measured.
        dataset: whose slices are measured.
        split: which of its splits.
        count: how many of its slices, the first ones.
        samples: draws for each, whose mean is scored beside the first.
        steps: of the samplers: evaluations are as many, or more where a rule asks twice.
        methods: which; by default all.
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
        metrics: ``metrics.json``: every figure with interval, and the curves.
        best: the sampler with the highest PSNR of one draw.
        scores: method, steps -> figure -> mean.
        seconds: spent by this process.
    """

    metrics: Path
    best: str
    scores: dict[str, dict[str, float]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MemorisationRequest:
    """Look whether draws are nearer to slices that were trained on than held-out slices are.

    Args:
        samples: folder of draws.
        learned_from: dataset that the prior was trained on.
        count: of its slices that are looked at, the first ones.
        confidence: of the intervals.
        pictures: draws to picture beside what is nearest to them.
    """

    samples: Path
    learned_from: Annotated[Spec, "dataset"]
    count: Count = 2000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    pictures: Annotated[int, Ge(0)] = 4


@dataclass(frozen=True, kw_only=True)
class MemorisationResult:
    """How near draws are to what was trained on.

    Args:
        metrics: ``metrics.json``, and pictures beside it.
        draws: PSNR of draws against the nearest of the training slices, in dB.
        truth: the same of the held-out slices.
        seconds: spent by this process.
    """

    metrics: Path
    draws: float
    truth: float
    seconds: float
