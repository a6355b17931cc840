"""What can be asked of the three runs and what they answer: frozen values, no torch.

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


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run is executed.

    Args:
        device: ``auto`` takes a GPU where there is one; or ``cpu``, ``cuda``, ``cuda:1``.
        threads: CPU threads for torch; the default is every core this process may use.
        save_seconds: seconds of training between two checkpoints.
        micro_batch: samples computed at once in training, by each process; by default all of its
            batch.  Gradients are added up, so that a step is the same; halved when memory runs out.
        workers: processes that read training data ahead; 0 reads it in between.
        compile: have torch compile the network: minutes at first, then faster steps.
        tensorboard: write training curves for TensorBoard too, below ``tensorboard/``.
    """

    device: str = "auto"
    threads: Count | None = None
    save_seconds: Annotated[float, Gt(0)] = 20.0
    micro_batch: Count | None = None
    workers: Annotated[int, Ge(0)] = 0
    compile: bool = False
    tensorboard: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line's worth of news from a run.

    Args:
        done: units finished.
        total: units in all.
        unit: what is counted, for example ``step``.
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
    """A sentence that the user should see, for example that a run goes on from a checkpoint."""

    text: str


Emit = Callable[[Progress | Note], None]


def silent(event: Progress | Note) -> None:
    """Take no notice: the default listener."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Train a network for a task on a dataset.

    Args:
        task: what is learned.
        dataset: what it is learned from; its ``train`` split is used.
        network: the network.
        process: the forward process.
        parameterization: what the network's output means.
        weighting: weight of a noise level, in units of the eps error.
        times: how training times are drawn.
        objective: what is minimised.
        unconditional: share of the samples whose condition is replaced by zeros, for guidance
            without a classifier.
        steps: optimiser steps.
        batch: samples in a step.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        warmup: steps of linear rise of the learning rate.
        decay: what the learning rate does after that: stay, or fall to zero on a half cosine.
        clip: largest norm of the gradient.
        ema: decay of the weights' exponential moving average.
        snapshots: steps between two snapshots of power-function averages, from which one of any
            width can be made afterwards; 0 for none.  Each holds the weights twice.
        precision: what the network computes in; weights stay float32.
        start: checkpoint folder whose averaged weights the network begins with.
        on_nan: what happens when a loss or gradient is no finite number: stop, leave the step
            out, or go back to the last checkpoint and on with other draws, three times at most.
        validate_every: steps between two measurements of the averaged weights' loss on items not
            trained on; 0 for none.
        validation: dataset whose ``test`` split is used for that; by default the one trained on.
        validation_items: how many of its items, spread evenly; all if there are fewer.
        patience: validations without improvement after which training ends; 0 for never.
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
        steps: optimiser steps taken in all; fewer than asked for if training ended early.
        loss: mean training loss over the last tenth of them.
        parameters: trainable numbers in the network.
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
        task: what is drawn, by default what the network was trained for: another one of the same
            channels and conditions.
        dataset: whose items are the conditions; by default the one trained on.
        split: which of its splits.
        count: items, the first so many; by default all.
        samples: draws for each item.
        sampler: the solver.
        grid: the times it steps through.
        guidance: what bends the model's estimates, if anything: thresholds, or classifier-free
            guidance of a model trained with `unconditional`.
        noise: of stochastic samplers: fresh draws, or one Brownian path that more steps refine.
        seed: draw k of item i depends on (seed, i, k) alone.
        batch: draws at a time.
        part: which of `parts` this is; the first is 1.
        parts: shares that the draws are divided into, between two batches; `join` makes of them
            what one run would have written, bit for bit.
        ema: use the averaged weights.
        ema_width: use the power-function average of this relative width, above 0 and at most 0.288,
            made from the run's snapshots; 0.05 to 0.2 are usual.
    """

    checkpoint: Path
    task: Annotated[Spec, "task"] | None = None
    dataset: Annotated[Spec, "dataset"] | None = None
    split: Literal["train", "test"] = "test"
    count: Count | None = None
    samples: Count = 1
    sampler: Annotated[Spec, "sampler"] = Spec("core/multistep", {"weights": "midpoint"})
    grid: Annotated[Spec, "grid"] = Spec("core/uniform_log_snr")
    guidance: Annotated[Spec, "guidance"] | None = None
    noise: Literal["fresh", "brownian"] = "fresh"
    seed: Annotated[int, Ge(0)] = 0
    batch: Count = 16
    part: Count = 1
    parts: Count = 1
    ema: bool = True
    ema_width: float | None = None


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
        pictures: items to picture.
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
)
"""What a step of a job can run of the core's own."""
