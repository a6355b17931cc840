"""From a request or a checkpoint to the live parts that it names."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from core import checkpoint
from core.checkpoint import Checkpoint, CheckpointError
from core.config import Spec, bind, configure
from core.denoiser.parameterization import Denoiser, from_network
from core.ema import reconstruct
from core.errors import InputError
from core.objective.denoising import Objective
from core.process.gaussian import GaussianPath
from core.process.noise import derive
from core.request import Machine, TrainRequest
from core.task import Task


@dataclass(frozen=True)
class Model:
    """A trained network ready to be asked.

    Args:
        denoise: its denoiser, on `device`.
        network: what it asks, for `core.network.taps` and for those who want its outputs.
        process: the forward process it was trained for.
        task: the task it was trained for.
        request: the request it was trained with.
        device: where it lives.
        notes: sentences for the user, such as that a damaged checkpoint was passed over.
        parameters: numbers in the network.
        checkpoint: the step's folder that was read.
    """

    denoise: Denoiser
    network: nn.Module
    process: GaussianPath
    task: Task
    request: TrainRequest
    device: torch.device
    notes: tuple[str, ...]
    parameters: int
    checkpoint: Path


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
    place: Path,
    *,
    machine: Machine | None = None,
    ema: bool = True,
    ema_width: float | None = None,
    task: str | None = None,
) -> Model:
    """The model in a checkpoint folder.

    Args:
        place: a run's folder, its checkpoints or one step's folder.
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
    saved = checkpoint.load(place, groups=(group,))
    request = _trained(saved)
    if task is not None and request.task.name != task:
        raise CheckpointError(
            f"{place}: trained for {request.task.name!r}, wanted one trained for {task!r}"
        )
    built: Task = configure("task", request.task)()
    network = network_of(request, built, objective_of(request).outputs)
    weights, notes = saved.tensors[group], _passed_over(saved)
    if ema_width is not None:
        folder = saved.path.parent.parent / "averages"
        last, weights = reconstruct(folder, ema_width, until=saved.step)
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
    process: GaussianPath = configure("process", request.process)()
    meaning = configure("parameterization", request.parameterization)()
    count = sum(p.numel() for p in network.parameters())
    denoise = from_network(network, process, meaning)
    return Model(denoise, network, process, built, request, device, notes, count, saved.path)


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


def _trained(saved: Checkpoint) -> TrainRequest:
    if "request" not in saved.state:
        raise CheckpointError(f"{saved.path}: holds no training request; not a model's checkpoint")
    return bind(TrainRequest, saved.state["request"], at="checkpoint.request")


def _passed_over(saved: Checkpoint) -> tuple[str, ...]:
    notes = tuple(f"passed over a damaged checkpoint: {damage}" for damage in saved.passed_over)
    return (*notes, f"using {saved.path.name}, the newest whole one") if notes else ()


def objective_of(request: TrainRequest) -> Objective:
    """What a request asks to be minimised."""
    kinds = ("process", "parameterization", "weighting", "times")
    parts = [configure(kind, getattr(request, kind))() for kind in kinds]
    return configure("objective", request.objective)(*parts)
