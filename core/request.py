"""Requests and results of the core's runs: frozen values, no torch.

A request holds everything that decides a run's numbers.  A `Machine` holds where and how it is
executed; nothing in it is part of a result's identity.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from core.parts.registry import Spec, Verb

Count = Annotated[int, Ge(1)]
Guidance = Annotated[Spec, "guidance"] | tuple[Annotated[Spec, "guidance"], ...]
"""A guidance part, or a list of them in the order in which they are applied."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run is executed.

    Args:
        device: ``auto`` takes a GPU where there is one; or ``cpu``, ``cuda``, ``cuda:1``.
        threads: CPU threads for torch; the default is every core this process may use.
        save_seconds: seconds of training between two checkpoints.
        micro_batch: samples per forward pass in training, in each process; by default all of its
            batch.  Gradients are accumulated, so the step is the same; halved on out-of-memory.
        workers: data-loading processes; 0 loads in the training process.
        compile: `torch.compile` the network: minutes at first, then faster steps.
        cuda_graphs: in training on a GPU, record the network's pass once and replay it: the same
            kernels with one launch, several times faster for small networks.
        tensorboard: write training curves for TensorBoard too, below ``tensorboard/``.
    """

    device: str = "auto"
    threads: Count | None = None
    save_seconds: Annotated[float, Gt(0)] = 20.0
    micro_batch: Count | None = None
    workers: Annotated[int, Ge(0)] = 0
    compile: bool = False
    cuda_graphs: bool = True
    tensorboard: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is.

    Args:
        done: units finished.
        total: units in all.
        unit: the unit of progress, for example ``step``.
        rate: units a second, averaged over the recent past; 0 while unknown.
        figures: named values now, for example ``{"loss": 0.12}``.
    """

    done: int
    total: int
    unit: str
    rate: float = 0.0
    figures: dict[str, float]

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end, or None while the rate is unknown."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence for the user, for example that a run resumes from a checkpoint."""

    text: str


Emit = Callable[[Progress | Note], None]


def silent(event: Progress | Note) -> None:
    """Ignore the event: the default listener."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Train a network for a task on a dataset.

    Args:
        task: the task to learn.
        dataset: the training data; its ``train`` split is used.
        network: the network.
        process: the forward process.
        parameterization: the meaning of the network's output.
        weighting: loss weight of a noise level, in units of the eps error.
        times: distribution of training times.
        objective: the loss.
        unconditional: fraction of the samples whose condition is dropped, for classifier-free
            guidance; 0.1 to 0.2 are usual.
        guidance: default of samples drawn from the checkpoint, where a request for samples states
            none; not used in training.
        steps: optimiser steps.
        batch: samples per step.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        warmup: steps of linear warmup of the learning rate.
        decay: learning rate after the warmup: constant, or a half cosine down to zero.
        clip: gradient clipping by norm.
        ema: decay of the weights' exponential moving average.
        snapshots: steps between two snapshots of power-function averages, from which an average of
            any width is reconstructed (post-hoc EMA); 0 for none.  Each holds the weights twice.
        precision: autocast dtype of the network; weights stay float32.
        start: checkpoint folder whose averaged weights initialise the network.
        on_nan: action at a loss or gradient that is not finite: stop, skip the step, or roll back
            to the last checkpoint and continue with other draws, at most three times.
        validate_every: steps between two validations, the averaged weights' loss on held-out items;
            0 for none.
        validation: dataset whose ``test`` split is validated on; by default the one trained on.
        validation_items: number of its items, spread evenly; all if there are fewer.
        patience: validations without improvement before early stopping; 0 for never.
        seed: every draw follows from it.
    """

    task: Annotated[Spec, "task"]
    dataset: Annotated[Spec, "dataset"]
    network: Annotated[Spec, "network"] = Spec("core/unet")
    process: Annotated[Spec, "process"] = Spec("core/vp_cosine")
    parameterization: Annotated[Spec, "parameterization"] = Spec("core/v")
    weighting: Annotated[Spec, "weighting"] = Spec("core/simple")
    times: Annotated[Spec, "times"] = Spec("core/stratified")
    objective: Annotated[Spec, "objective"] = Spec("core/denoising")
    unconditional: Annotated[float, Ge(0), Lt(1)] = 0.0
    guidance: Guidance | None = None
    steps: Count = 100_000
    batch: Count = 16
    lr: Annotated[float, Gt(0)] = 1e-4
    weight_decay: Annotated[float, Ge(0)] = 0.0
    warmup: Annotated[int, Ge(0)] = 500
    decay: Literal["constant", "cosine"] = "cosine"
    clip: Annotated[float, Gt(0)] = 1.0
    ema: Annotated[float, Ge(0), Lt(1)] = 0.999
    snapshots: Annotated[int, Ge(0)] = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    start: Path | None = None
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    validate_every: Annotated[int, Ge(0)] = 0
    validation: Annotated[Spec, "dataset"] | None = None
    validation_items: Count = 64
    patience: Annotated[int, Ge(0)] = 0
    seed: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A trained network.

    Args:
        checkpoint: folder of checkpoints; readers take the newest whole one.
        best: the step's folder with the lowest validation loss; the newest without validation.
        steps: optimiser steps taken; fewer than requested after early stopping.
        loss: mean training loss over the last tenth of them.
        parameters: trainable parameters of the network.
        seconds: spent by this process.
    """

    checkpoint: Path
    best: Path
    steps: int
    loss: float
    parameters: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """Draw from a trained network, conditioned on items of a dataset where the task needs it.

    Args:
        checkpoint: folder that ``train`` wrote.
        task: task to sample for; must have the same channels and conditions as the one trained on
            (the default).
        dataset: source of the conditions; by default the one trained on.
        split: split of the dataset.
        count: number of items, taken from the start of the split; all by default.
        samples: draws per item.
        sampler: the solver.
        grid: the times it steps through.
        guidance: changes of the denoiser's estimates, one part or a list applied in order, such as
            classifier-free guidance (of a model trained with `unconditional`), then dynamic
            thresholding; null for the checkpoint's default, [] for none.
        noise: of the start and of stochastic samplers: fresh draws, or one Brownian path that more
            steps refine; with ``counter``, other numbers, faster for many small samples.
        seed: draw k of item i depends on (seed, i, k) alone.
        batch: draws at a time.
        part: index of this part among `parts`; the first is 1.
        parts: number of parts that the batches are split into; `join` concatenates them to the
            result of one run, bit for bit.
        ema: use the averaged weights.
        ema_width: use the power-function average of this relative width, above 0 and at most 0.288,
            reconstructed from the run's snapshots; 0.05 to 0.2 are usual.
    """

    checkpoint: Path
    task: Annotated[Spec, "task"] | None = None
    dataset: Annotated[Spec, "dataset"] | None = None
    split: Literal["train", "test"] = "test"
    count: Count | None = None
    samples: Count = 1
    sampler: Annotated[Spec, "sampler"] = Spec("core/multistep", {"weights": "midpoint"})
    grid: Annotated[Spec, "grid"] = Spec("core/uniform_log_snr")
    guidance: Guidance | None = None
    noise: Literal["fresh", "brownian", "counter", "counter_brownian"] = "fresh"
    seed: Annotated[int, Ge(0)] = 0
    batch: Count = 16
    part: Count = 1
    parts: Count = 1
    ema: bool = True
    ema_width: float | None = None


@dataclass(frozen=True, kw_only=True)
class JoinRequest:
    """Concatenate the parts of a sampling."""


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """Draws on disk.

    Args:
        samples: folder with ``samples.safetensors`` (items, draws, ...) and ``samples.json``; or,
            of one part of several, with ``part.safetensors`` (draws, ...) and ``part.json``.
        items: number of items.
        draws: draws for each.
        seconds: spent by this process.
    """

    samples: Path
    items: int
    draws: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """Score samples against the dataset they were drawn for.

    Args:
        samples: folder that ``sample`` wrote.
        confidence: of the intervals.
        pictures: number of items shown as images.
    """

    samples: Path
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    pictures: Annotated[int, Ge(0)] = 6


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """Scores on disk.

    Args:
        metrics: ``metrics.json``: for each method and metric mean, interval, n; pictures beside it.
        scores: method -> metric -> mean.
        seconds: spent by this process.
    """

    metrics: Path
    scores: dict[str, dict[str, float]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EncodeRequest:
    """Encode items of a dataset to latents of noise, by the probability-flow ODE.

    Args:
        checkpoint: folder that ``train`` wrote.
        task: task to use; must have the same channels and conditions as the one trained on (the
            default).
        dataset: source of the items; by default the one trained on.
        split: split of the dataset.
        count: number of items, taken from the start of the split; all by default.
        sampler: a deterministic solver.
        grid: the times it steps through, from the clean end to the noisy one.
        batch: items at a time.
        ema: use the averaged weights.
        ema_width: use the power-function average of this relative width, above 0 and at most 0.288,
            reconstructed from the run's snapshots.
    """

    checkpoint: Path
    task: Annotated[Spec, "task"] | None = None
    dataset: Annotated[Spec, "dataset"] | None = None
    split: Literal["train", "test"] = "test"
    count: Count | None = None
    sampler: Annotated[Spec, "sampler"] = Spec("core/heun")
    grid: Annotated[Spec, "grid"] = Spec("core/uniform_log_snr")
    batch: Count = 16
    ema: bool = True
    ema_width: float | None = None


@dataclass(frozen=True, kw_only=True)
class EncodeResult:
    """Latents on disk.

    Args:
        latents: folder with ``latents.safetensors`` (items, ...) and ``latents.json``.
        items: number of items.
        error: root mean square difference between the items and their latents decoded again by the
            same steps; take more steps where it is too large.
        seconds: spent by this process.
    """

    latents: Path
    items: int
    error: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class InterpolateRequest:
    """Interpolate between neighbouring items of a dataset, through their latents.

    Args:
        checkpoint: folder that ``train`` wrote.
        task: task to use; must have the same channels and conditions as the one trained on (the
            default).
        dataset: source of the items; by default the one trained on.
        split: split of the dataset.
        count: number of items, taken from the start of the split; all by default.
        frames: samples between an item and the next one, both ends included.
        path: along the great arc between two latents, or the straight line.
        sampler: a deterministic solver.
        grid: the times it steps through.
        ema: use the averaged weights.
        ema_width: use the power-function average of this relative width, above 0 and at most 0.288,
            reconstructed from the run's snapshots.
    """

    checkpoint: Path
    task: Annotated[Spec, "task"] | None = None
    dataset: Annotated[Spec, "dataset"] | None = None
    split: Literal["train", "test"] = "test"
    count: Annotated[int, Ge(2)] = 2
    frames: Annotated[int, Ge(2)] = 8
    path: Literal["spherical", "linear"] = "spherical"
    sampler: Annotated[Spec, "sampler"] = Spec("core/heun")
    grid: Annotated[Spec, "grid"] = Spec("core/uniform_log_snr")
    ema: bool = True
    ema_width: float | None = None


@dataclass(frozen=True, kw_only=True)
class LikelihoodRequest:
    """Measure the likelihood of a dataset's items under a model, in bits per dimension.

    Args:
        checkpoint: folder that ``train`` wrote.
        task: task to use; must have the same channels and conditions as the one trained on (the
            default).
        dataset: source of the items; by default the one trained on.
        split: split of the dataset.
        count: number of items, taken from the start of the split; all by default.
        levels: number of values that the data is quantised to, 256 for 8-bit images: uniform
            dequantisation, and bits of a probability.  By default the density of continuous data.
        trace: divergence by Hutchinson's estimate, or exactly: one backward pass per element.
        probes: random probes of Hutchinson's estimate, averaged.
        rtol: relative tolerance of the adaptive solver.
        atol: absolute tolerance of the adaptive solver.
        confidence: of the interval.
        seed: probes and dequantisation of item i depend on (seed, i) alone.
        batch: items at a time.
        ema: use the averaged weights.
        ema_width: use the power-function average of this relative width, above 0 and at most 0.288,
            reconstructed from the run's snapshots.
    """

    checkpoint: Path
    task: Annotated[Spec, "task"] | None = None
    dataset: Annotated[Spec, "dataset"] | None = None
    split: Literal["train", "test"] = "test"
    count: Count | None = None
    levels: Annotated[int, Ge(2)] | None = None
    trace: Literal["hutchinson", "exact"] = "hutchinson"
    probes: Count = 1
    rtol: Annotated[float, Gt(0)] = 1e-5
    atol: Annotated[float, Gt(0)] = 1e-6
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95
    seed: Annotated[int, Ge(0)] = 0
    batch: Count = 16
    ema: bool = True
    ema_width: float | None = None


@dataclass(frozen=True, kw_only=True)
class LikelihoodResult:
    """Likelihoods on disk.

    Args:
        metrics: ``metrics.json``: mean and interval of bits per dimension and of nats; the values
            of each item are in ``likelihood.json`` beside it.
        bits_per_dim: mean over items.
        low: lower end of its interval.
        high: upper end.
        items: number of items.
        seconds: spent by this process.
    """

    metrics: Path
    bits_per_dim: float
    low: float
    high: float
    items: int
    seconds: float


VERBS: tuple[Verb, ...] = (
    Verb(
        name="train",
        request="core.request:TrainRequest",
        result="core.request:TrainResult",
        target="core.runs:train",
        summary="Train a network for a task on a dataset",
        version="",
    ),
    Verb(
        name="sample",
        request="core.request:SampleRequest",
        result="core.request:SampleResult",
        target="core.runs:sample",
        summary="Samples of a trained network",
        version="",
    ),
    Verb(
        name="evaluate",
        request="core.request:EvaluateRequest",
        result="core.request:EvaluateResult",
        target="core.runs:evaluate",
        summary="Scores of samples against their dataset",
        version="",
    ),
    Verb(
        name="encode",
        request="core.request:EncodeRequest",
        result="core.request:EncodeResult",
        target="core.trajectories:encode",
        summary="Latents of a dataset's items (probability-flow ODE)",
    ),
    Verb(
        name="interpolate",
        request="core.request:InterpolateRequest",
        result="core.request:SampleResult",
        target="core.trajectories:interpolate",
        summary="Samples between neighbouring items, through latents",
    ),
    Verb(
        name="likelihood",
        request="core.request:LikelihoodRequest",
        result="core.request:LikelihoodResult",
        target="core.trajectories:likelihood",
        summary="Bits per dimension of a dataset's items",
    ),
)
"""Verbs of the core that a step of a job can run."""
