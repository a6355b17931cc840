"""From a request or a checkpoint to its live parts: model, network, objective, guided denoiser."""

import inspect
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from core.data import collate, open_dataset
from core.denoiser.parameterization import (
    Condition,
    Denoiser,
    FunctionDenoiser,
    NetworkDenoiser,
    Prediction,
)
from core.denoiser.variance import analytic, score_norms
from core.errors import InputError
from core.network.conditioning import null_condition
from core.network.ema import reconstruct
from core.network.upgrade import upgraded
from core.objective.denoising import Objective
from core.parts.config import bind, configure
from core.parts.registry import Spec, installed
from core.process.gaussian import GaussianPath
from core.process.noise import Noise, derive
from core.request import Emit, Machine, Note, SampleRequest, TrainRequest
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
        # Processes that train together are told by whoever started them which GPU is theirs.
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
    task: str | None = None,
) -> Model:
    """The model in a checkpoint folder.

    Args:
        path: a run's folder, its checkpoints or one step's folder.
        machine: where to put it.
        ema: the averaged weights rather than the last ones.
        ema_width: relative width of the power-function average to use instead, made from the
            snapshots beside the checkpoints.
        task: full name of the task it must have been trained for.

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
    if task is not None and request.task.name != task:
        raise CheckpointError(
            f"{path}: expected a model trained for {task!r}, got one for {request.task.name!r}"
        )
    built: Task = configure("task", request.task)()
    network = network_of(request, built, objective_of(request).outputs)
    weights, notes = saved.tensors[group], _passed_over(saved)
    if ema_width is not None:
        folder = saved.path.parent.parent / "averages"
        name = request.network.name
        last, weights = reconstruct(
            folder,
            ema_width,
            until=saved.step,
            network=name,
            classes=built.conditions.get("class", 0),
        )
        if last < saved.step:
            notes += (f"the average is of step {last}, the newest snapshot before {saved.step}",)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{saved.path}: its weights do not fit the network {request.network.name!r} that is "
            f"installed: {str(error).splitlines()[-1].strip()}"
        ) from error
    network.to(device).eval().requires_grad_(False)
    if machine is not None and machine.compile:
        compile_network(network, device)
    count = sum(p.numel() for p in network.parameters())
    parts = [configure(k, getattr(request, k))() for k in ("process", "parameterization")]
    denoise = NetworkDenoiser(network, *parts)
    shape = saved.state.get("shape")
    return Model(
        denoise, network, built, request, device, notes, count, saved.path, saved.step,
        None if shape is None else tuple(shape),
    )  # fmt: skip


def for_task(model: Model, spec: Spec) -> Model:
    """The model used for another task than it was trained for.

    Raises:
        InputError: an option is wrong, or the task wants other channels or conditions.
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


def guided(model: Model, request: SampleRequest, emit: Emit) -> Denoiser:
    """The model's denoiser, knowing the variance its sampler asks for, guided as wanted.

    Args:
        model: trained.
        request: its `sampler` and `guidance` are looked at.
        emit: hears that variances are being measured.

    Raises:
        InputError: a guidance with inputs that only a program can supply.
    """
    denoise = model.denoise
    if request.sampler.options.get("variance") == "analytic":
        denoise = _knowing_its_variance(model, request, emit)
    if request.guidance is None:
        return denoise
    inputs = {"denoise": denoise, "without": null_condition}
    build = installed().load("guidance", request.guidance.name)
    parameters = inspect.signature(build).parameters.values()
    names = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
    if strange := [name for name in names if name not in inputs]:
        raise InputError(
            f"guidance: {request.guidance.name} wants {', '.join(strange)}, which only a program "
            "can supply; call it from Python"
        )
    guide = configure("guidance", request.guidance, at="guidance")
    return guide(*(inputs[name] for name in names))


def corrected(denoise: Denoiser, task: Task, batch: Batch) -> Denoiser:
    """The denoiser with each estimate brought to agree with what the task was given."""
    if not isinstance(task, Correcting):
        return denoise

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        prediction = denoise(x, t, condition)
        return replace(prediction, x0=task.correct(prediction.x0, batch))

    return FunctionDenoiser(denoise.process, ask)


def _knowing_its_variance(model: Model, request: SampleRequest, emit: Emit) -> Denoiser:
    """Bao et al.'s table, measured on the first training items."""
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
