"""From a request or a checkpoint to its live parts: model, network, objective, guided denoiser."""

import inspect
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from core.data import collate, open_dataset
from core.denoiser import guidance
from core.denoiser.parameterization import (
    Condition,
    Denoiser,
    FunctionDenoiser,
    NetworkDenoiser,
    Prediction,
)
from core.denoiser.variance import analytic, score_norms
from core.errors import InputError
from core.network.conditioning import null_condition, takes_null
from core.network.ema import reconstruct
from core.network.upgrade import upgraded
from core.objective.denoising import Objective
from core.parts.config import bind, configure, plain
from core.parts.registry import Spec, installed
from core.process.gaussian import GaussianPath
from core.process.noise import Noise, derive
from core.request import Emit, Machine, Note, SampleRequest, TrainRequest, silent
from core.storage import checkpoint
from core.storage.checkpoint import Checkpoint, CheckpointError
from core.task import Batch, Correcting, Task

CALIBRATION = 64  # training items on which the variance of estimates is measured


@dataclass(frozen=True, repr=False)
class Model:
    """A trained network with its process and task.

    Args:
        denoise: its denoiser, on `device`.
        network: the denoiser's network, for `core.network.taps` and for its raw outputs.
        task: the task it was trained for.
        request: the request it was trained with.
        device: device of the network's parameters.
        notes: sentences for the user, such as that a damaged checkpoint was passed over.
        parameters: number of the network's parameters.
        checkpoint: the step's folder that was read.
        step: optimiser steps taken.
        trained_shape: shape of a training sample as the checkpoint states it; None in checkpoints
            that state none.
        sampling: defaults of drawing from it, as the task's plug-in keeps them in the checkpoint.
    """

    denoise: Denoiser
    network: nn.Module
    task: Task
    request: TrainRequest
    device: torch.device
    notes: tuple[str, ...]
    parameters: int
    checkpoint: Path
    step: int
    trained_shape: tuple[int, ...] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample x0, without the batch: that of the data it was trained on.

        Raises:
            InputError: the checkpoint does not state it, and the dataset cannot be opened here.
        """
        if self.trained_shape is not None:
            return self.trained_shape
        spec = self.request.dataset
        try:
            dataset = open_dataset(spec, "train", self.task)
            return tuple(self.task.prepare(collate(dataset, [0])).x0.shape[1:])
        except (InputError, OSError, IndexError) as error:
            cause = str(error).partition("\n")[0]
            raise InputError(
                f"shape: {self.checkpoint} does not state the shape of a sample, and dataset "
                f"{spec.name} cannot be opened here ({cause}); give the shape"
            ) from error

    def __repr__(self) -> str:
        request = self.request
        return (
            f"Model({request.task.name}, {request.network.name}, {request.process.name}, "
            f"{self.parameters:,} parameters, step {self.step}, on {self.device})"
        )

    @property
    def process(self) -> GaussianPath:
        """The forward process it was trained for."""
        return self.denoise.process


def network_of(request: TrainRequest, task: Task, outputs: int) -> nn.Module:
    """The network of a request, with `outputs` channels for each of the task's."""
    build = configure("network", request.network)
    # Initial weights follow from the seed; the caller's global stream is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(request.seed, "weights"))
        return build(task.channels, outputs * task.channels, task.conditions)


def device_of(machine: Machine) -> torch.device:
    """The device a machine asks for, checked; sets the number of CPU threads.

    Raises:
        InputError: no such device here.
    """
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    if machine.device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # LOCAL_RANK, set by the launcher of several processes, chooses the GPU.
        mine = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        return torch.device("cuda", mine)
    try:
        device = torch.device(machine.device)
    except RuntimeError as error:
        raise InputError(f"device: no kind of device named {machine.device!r}") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(
            f"device: {machine.device!r} wanted, this machine has {count} usable GPUs; "
            "use device cpu, or install a GPU build of torch"
        )
    return device


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Have torch compile a network where it is: the names of its weights stay.

    Raises:
        InputError: there is no C++ compiler, which CPU code is made by.
    """
    wanted = (os.environ.get("CXX", "g++"), "clang++")
    if device.type == "cpu" and not any(map(shutil.which, wanted)):
        raise InputError(
            "compile: found no C++ compiler, which torch needs on a CPU; install g++, or go without"
        )
    network.compile()


def load_model(
    path: str | Path,
    *,
    machine: Machine | None = None,
    ema: bool = True,
    ema_width: float | None = None,
    task: str | tuple[str, ...] | None = None,
    emit: Emit = silent,
) -> Model:
    """The model in a checkpoint folder.

    Args:
        path: a run's folder, its checkpoints or one step's folder.
        machine: where to put it.
        ema: the averaged weights rather than the last ones.
        ema_width: relative width of the power-function average to use instead, made from the
            snapshots beside the checkpoints.
        task: full name of the task it must have been trained for, or of each that it may have.
        emit: called with the notes on what was read.

    Raises:
        CheckpointError: no whole checkpoint, or one of another task.
        InputError: what it names is not installed or has other options now, or there are no
            snapshots for `ema_width`.
    """
    if ema_width is not None and not ema:
        raise InputError("ema_width: names an average, but ema is false; leave one of them out")
    device = device_of(machine or Machine())
    group = "ema" if ema else "model"
    saved = upgraded(checkpoint.load(Path(path), groups=(group,)))
    request = bind(TrainRequest, saved.request, at="checkpoint.request")
    if task is not None:
        _check_task(path, request.task.name, (task,) if isinstance(task, str) else task)
    built: Task = configure("task", request.task)()
    network = network_of(request, built, objective_of(request).outputs)
    weights, notes = saved.tensors[group], _passed_over(saved)
    if ema_width is not None:
        weights, more = _average(saved, request, built, ema_width)
        notes += more
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{saved.path}: its weights do not fit the network {request.network.name!r} that is "
            f"installed: {str(error).splitlines()[-1].strip()}"
        ) from error
    for note in notes:
        emit(Note(text=note))
    network.to(device).eval().requires_grad_(False)
    if machine is not None and machine.compile:
        compile_network(network, device)
    kinds = ("process", "parameterization")
    denoise = NetworkDenoiser(network, *(configure(k, getattr(request, k))() for k in kinds))
    shape = None if (stored := saved.state.get("shape")) is None else tuple(stored)
    count, drawn = sum(p.numel() for p in network.parameters()), saved.state.get("sampling", {})
    return Model(
        denoise, network, built, request, device, notes, count, saved.path, saved.step, shape, drawn
    )  # fmt: skip


def _average(
    saved: Checkpoint, request: TrainRequest, task: Task, width: float
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The power-function average of that width at a checkpoint's step, and notes."""
    last, weights = reconstruct(
        saved.path.parent.parent / "averages",
        width,
        until=saved.step,
        network=request.network.name,
        classes=task.conditions.get("class", 0),
    )
    if last < saved.step:
        return weights, (f"the average is of step {last}, the newest snapshot before {saved.step}",)
    return weights, ()


def _check_task(path: str | Path, trained: str, tasks: tuple[str, ...]) -> None:
    if trained not in tasks:
        raise CheckpointError(
            f"{path}: expected a model trained for {' or '.join(map(repr, tasks))}, got one for "
            f"{trained!r}"
        )


def for_task(model: Model, spec: Spec) -> Model:
    """The model used for another task than it was trained for.

    Raises:
        InputError: an option is wrong, or the task has other channels or conditions.
    """
    task: Task = configure("task", spec)()
    trained = model.task
    if (task.channels, dict(task.conditions)) != (trained.channels, dict(trained.conditions)):
        raise InputError(
            f"task: {spec.name} has {task.channels} channels and conditions {task.conditions}, the "
            f"model was trained for {trained.channels} and {trained.conditions}"
        )
    return replace(model, task=task, request=replace(model.request, task=spec))


def _passed_over(saved: Checkpoint) -> tuple[str, ...]:
    notes = tuple(f"passed over a damaged checkpoint: {damage}" for damage in saved.passed_over)
    return (*notes, f"using {saved.path.name}, the newest whole one") if notes else ()


def objective_of(request: TrainRequest) -> Objective:
    """The training objective of a request."""
    kinds = ("process", "parameterization", "weighting", "times")
    parts = [configure(kind, getattr(request, kind))() for kind in kinds]
    return configure("objective", request.objective)(*parts)


# --- guidance ----------------------------------------------------------------------------------

BOUNDED = ("core/clip", "core/dynamic_threshold")  # guidance whose x0 has a range
GAIN = 1000.0  # of a network's error; above it an error of 0.1 % is as large as the data


def guidance_of(model: Model, request: SampleRequest | None = None) -> tuple[Spec, ...]:
    """The guidance parts of a request, in order; where it states none, the checkpoint's default."""
    stated = None if request is None else request.guidance
    chosen = model.request.guidance if stated is None else stated
    if chosen is None:
        return ()
    return (chosen,) if isinstance(chosen, Spec) else tuple(chosen)


def guided(model: Model, request: SampleRequest, emit: Emit) -> Denoiser:
    """The model's denoiser with the variance that the sampler requires and the request's guidance.

    Args:
        model: trained.
        request: its `sampler`, `grid` and `guidance` are used.
        emit: receives notes: a default that was taken, a model that guidance was not trained for.

    Raises:
        InputError: a guidance that does not fit the model, or inputs that only a program can
            supply; or no guidance where the network's errors are amplified beyond use.
    """
    parts = guidance_of(model, request)
    if parts and request.guidance is None:
        names = ", ".join(spec.name for spec in parts)
        emit(Note(text=f"guidance: {names}, the checkpoint's default; [] draws without it"))
    _check_gain(model, request, parts, emit)
    denoise = model.denoise
    if request.sampler.options.get("variance") == "analytic":
        denoise = _with_analytic_variance(model, request, emit)
    listed = not isinstance(request.guidance, Spec)
    for number, spec in enumerate(parts):
        at = f"guidance[{number}]" if listed else "guidance"
        denoise = _guided_by(spec, at, model, denoise, emit)
    return denoise


def guided_by_default(model: Model, *, emit: Emit = silent) -> Model:
    """The model with its checkpoint's default guidance, for draws that have no such option.

    Args:
        model: trained.
        emit: receives a note of the default, if there is one.

    Raises:
        InputError: a guidance that does not fit the model, or inputs that only a program can
            supply.
    """
    parts, denoise = guidance_of(model), model.denoise
    if parts:
        names = ", ".join(spec.name for spec in parts)
        emit(Note(text=f"guidance: {names}, the checkpoint's default"))
    for number, spec in enumerate(parts):
        denoise = _guided_by(spec, f"guidance[{number}]", model, denoise, emit)
    return replace(model, denoise=denoise)


def _guided_by(spec: Spec, at: str, model: Model, denoise: Denoiser, emit: Emit) -> Denoiser:
    """The denoiser guided by one part of a request."""
    inputs = {"denoise": denoise, "without": null_condition, "model": model}
    build = installed().load("guidance", spec.name)
    parameters = inspect.signature(build).parameters.values()
    names = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
    if missing := [name for name in names if name not in inputs]:
        raise InputError(
            f"{at}: {spec.name} requires {', '.join(missing)}, which only a program can supply; "
            "call it from Python"
        )
    if "without" in names:
        _check_null(model, f"{at}: {spec.name}", emit)
    return configure("guidance", spec, at=at)(*(inputs[name] for name in names))


def _check_null(model: Model, part: str, emit: Emit) -> None:
    """Refuse, or note, guidance by the estimate without condition that a model does not have."""
    request = model.request
    if not model.task.conditions:
        raise InputError(
            f"{part} requires a model with conditions; task {request.task.name} has none: leave it "
            "out, or train a task with conditions and unconditional=0.1"
        )
    if not takes_null(model.network):
        raise InputError(
            f"{part} requires a network with a null condition; {request.network.name} has no "
            "core.network.conditioning.NullCondition"
        )
    if request.unconditional == 0:
        emit(
            Note(
                text=f"{part}: the model was never trained without its condition, so its estimate "
                "without one is arbitrary; train with unconditional=0.1"
            )
        )


def _check_gain(model: Model, request: SampleRequest, parts: tuple[Spec, ...], emit: Emit) -> None:
    """Refuse, or note, draws that begin where an error of the network is far larger in x0."""
    grid = configure("grid", request.grid)(model.process)
    noisy = grid[:-1] if len(grid) > 1 else grid
    gain = gain_of(model.request, model.process, noisy)
    if gain <= GAIN or any(spec.name in BOUNDED for spec in parts):
        return
    says = f"{model.request.parameterization.name} on {model.request.process.name}"
    problem = (
        f"guidance: {says}: an error of the network is {gain:.0f} times as large in x0 at the "
        "noisy end"
    )
    if request.guidance is None:
        raise InputError(
            f"{problem}; set guidance=core/clip for data in [-1, 1], or core/dynamic_threshold, "
            "or guidance=[] for samples as they are"
        )
    emit(Note(text=f"{problem}; core/clip or core/dynamic_threshold would bound it"))


def gain_of(request: TrainRequest, process: GaussianPath, times: Float64[Tensor, " n"]) -> float:
    """The largest of `Parameterization.gain` at some times, for a network trained by a request."""
    alpha, sigma = process.alpha_sigma(times.double())
    gain = configure("parameterization", request.parameterization)().gain(alpha, sigma)
    return float(gain.nan_to_num(0.0).max())  # a row that divides by sigma has none at sigma = 0


def autoguidance(
    denoise: Denoiser,
    model: Model,
    *,
    weaker: Path,
    ema: bool = True,
    ema_width: float | None = None,
    scale: float = 2.0,
    log_snr_min: float | None = None,
    log_snr_max: float | None = None,
) -> Denoiser:
    """x0' = w + scale (x0 - w) between two noise levels and x0 outside, w from a weaker model.

    In a program `core.denoiser.guidance.autoguidance` takes the weaker model as a denoiser.
    Source: Karras et al. 2024, arXiv:2406.02507, section 4.

    Args:
        denoise: the denoiser to guide.
        model: the model that it is of.
        weaker: checkpoint of a smaller or less trained model of the same data, conditions and
            process: a run's folder, its checkpoints or one step's folder.
        ema: use the averaged weights of the weaker model.
        ema_width: use its power-function average of this relative width, reconstructed from its
            run's snapshots.
        scale: 1 is the model alone, above 1 guides away from the weaker one.
        log_snr_min: lowest log-SNR that is guided; no limit where null.
        log_snr_max: highest log-SNR that is guided; no limit where null.

    Raises:
        InputError: an empty interval, or a weaker model of other channels, conditions or process.
        CheckpointError: no whole checkpoint there.
    """
    machine = Machine(device=str(model.device))
    other = load_model(weaker, machine=machine, ema=ema, ema_width=ema_width)
    pairs = {
        "channels": (model.task.channels, other.task.channels),
        "conditions": (dict(model.task.conditions), dict(other.task.conditions)),
        "process": (plain(model.request.process), plain(other.request.process)),
    }
    if problems := [
        f"expected {name} {wanted}, as of the model that is guided, got {found}"
        for name, (wanted, found) in pairs.items()
        if wanted != found
    ]:
        raise InputError(f"guidance.weaker: {weaker}: {'; '.join(problems)}")
    return guidance.autoguidance(
        denoise, other.denoise, scale=scale, log_snr_min=log_snr_min, log_snr_max=log_snr_max
    )


def corrected(denoise: Denoiser, task: Task, batch: Batch) -> Denoiser:
    """The denoiser with each estimate made consistent with the task's measurement."""
    if not isinstance(task, Correcting):
        return denoise

    def predict(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        return replace(prediction, x0=task.correct(prediction.x0, batch))

    return FunctionDenoiser(denoise.process, predict)


def _with_analytic_variance(model: Model, request: SampleRequest, emit: Emit) -> Denoiser:
    """The denoiser with x0's variance given x_t, measured on the first training items.

    Source: Bao et al. 2022, arXiv:2201.06503, theorem 1.
    """
    spec: Spec = request.dataset or model.request.dataset
    dataset = open_dataset(spec, "train", model.task)
    size = min(request.batch, len(dataset), CALIBRATION)
    count = min(len(dataset), CALIBRATION) // size * size
    emit(Note(text=f"measuring the variance of the model's estimates on {count} items"))
    batches = []
    for first in range(0, count, size):
        batch = collate(dataset, list(range(first, first + size)))
        example = model.task.prepare({k: v.to(model.device) for k, v in batch.items()})
        batches.append((example.x0, example.condition))
    times = torch.tensor([model.process.t_max, model.process.t_first], dtype=torch.float64)
    low, high = model.process.log_snr(times).clamp(-20, 20).tolist()
    table = score_norms(
        model.denoise,
        batches,
        Noise.of(request.seed, "variance", each=range(size)),
        torch.linspace(low, high, 17, dtype=torch.float64),
    )
    # The error's form: with as few items the norm's is lost in its own noise at low log-SNR.
    return analytic(model.denoise, table, of="error")
