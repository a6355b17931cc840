"""From a training request to the objects of the run; wrong requests are refused here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.data import Dataset, notes_of, open_dataset
from core.errors import InputError
from core.model import GAIN, compile_network, gain_of, network_of, objective_of
from core.network.conditioning import takes_null
from core.network.ema import WIDTHS, ExponentialAverage, PowerAverage
from core.network.upgrade import Extending, upgraded
from core.parts.config import configure, plain
from core.parts.registry import installed
from core.process.gaussian import GaussianPath
from core.request import Emit, Machine, Note, TrainRequest
from core.storage import checkpoint, tensor_file
from core.storage.checkpoint import CheckpointError
from core.task import Task
from core.training.card import Facts, held_out_spec
from core.training.distributed import World
from core.training.journal import check_tensorboard
from core.training.loop import Learner
from core.training.precision import check_precision, scaler_of
from core.training.rehearsal import Trained, first_example, rehearse
from core.training.validation import HeldOut, evenly_spaced

# Besides the request, these must match for a run to resume; values are their names in messages.
IDENTITY = {
    "data": "the data",
    "held_out": "the validation data",
    "start": "the initial weights",
}


@dataclass(frozen=True)
class Run:
    """The objects of a training run.

    Args:
        request: resolved.
        out: its folder.
        machine: how it is executed.
        device: of this process.
        world: the data-parallel processes.
        emit: receives progress; silent but in the first process.
        task: prepares examples.
        dataset: the training split.
        held_out: items for validation, if any.
        learner: network, optimizer and averages.
        identity: plain values that must equal a checkpoint's for the run to resume.
        facts: for the card.
        shape: of a sample, as the checkpoint states it; None of an empty dataset.
    """

    request: TrainRequest
    out: Path
    machine: Machine
    device: torch.device
    world: World
    emit: Emit
    task: Task
    dataset: Dataset
    held_out: HeldOut | None
    learner: Learner
    identity: Mapping[str, Any]
    facts: Facts
    shape: tuple[int, ...] | None


def prepare_run(
    request: TrainRequest,
    out: Path,
    machine: Machine,
    device: torch.device,
    world: World,
    emit: Emit,
) -> Run:
    """The objects of a run, before its first step.

    Raises:
        InputError: an option is wrong, the machine lacks what it requires, the task cannot use the
            data, or the initial weights do not fit.
    """
    _check(request, machine, device, world)
    task: Task = configure("task", request.task)()
    objective = objective_of(request)
    network = network_of(request, task, objective.outputs)
    _check_level(network, request)
    _check_unconditional(request, task, network)
    _note_gain(request, objective.process, emit)
    start = _load_start(request, network, out, emit)
    dataset = open_dataset(request.dataset, "train", task)
    if found := notes_of(dataset):
        emit(Note(text="\n".join(found)))
    network.to(device)
    row = configure("parameterization", request.parameterization)()
    parts = Trained(network, objective.process, row)
    # One process rehearses, since the others would find the same; a run that has a checkpoint has
    # been rehearsed.
    new = world.first and not checkpoint.is_started(out / "checkpoints")
    shape = _shape(task, dataset, parts if new else None, request.on_nan == "stop", emit)
    held_out = _held_out(request, task)
    if machine.compile:
        compile_network(network, device)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=request.lr,
        weight_decay=request.weight_decay,
        fused=device.type == "cuda",
    )
    powers = tuple(PowerAverage(network, width) for width in WIDTHS) if request.snapshots else ()
    average, scaler = ExponentialAverage(network, request.ema), scaler_of(request.precision, device)
    learner = Learner(network, objective, optimizer, average, powers, scaler)
    digests = {"data": dataset.digest()}
    if held_out is not None:
        digests["held_out"] = held_out.dataset.digest()
    identity = {
        "request": plain(request),
        "data": digests["data"],
        "held_out": digests.get("held_out", ""),
        "start": start,
    }
    facts = _facts(request, network, digests, start, world)
    _warn_of_space(out, learner, emit)
    return Run(
        request, out, machine, device, world, emit, task, dataset, held_out, learner,
        identity, facts, shape,
    )  # fmt: skip


def _check(request: TrainRequest, machine: Machine, device: torch.device, world: World) -> None:
    check_precision(request.precision, device)
    if machine.tensorboard:
        check_tensorboard()
    if request.batch < world.size:
        raise InputError(
            f"batch: {request.batch} samples for {world.size} processes; each needs at least one: "
            "raise batch or use fewer processes"
        )
    if request.patience and not request.validate_every:
        raise InputError(
            f"patience: {request.patience} requires validations, but validate_every is 0; set both"
        )


def _check_unconditional(request: TrainRequest, task: Task, network: nn.Module) -> None:
    if not request.unconditional:
        return
    if not task.conditions:
        raise InputError(
            f"unconditional: {request.unconditional} requires a task with conditions to drop; "
            f"{request.task.name} has none: set unconditional=0"
        )
    if not takes_null(network):
        raise InputError(
            f"unconditional: {request.unconditional} requires a network with a null condition; "
            f"{request.network.name} has no core.network.conditioning.NullCondition"
        )


def _note_gain(request: TrainRequest, process: GaussianPath, emit: Emit) -> None:
    """Note a parameterization whose samples need guidance that bounds them."""
    if request.guidance is not None:
        return
    # Just before t_max too: where alpha is 0, x0 is 0 whatever the network's output.
    ahead = process.t_max - 1e-4 * (process.t_max - process.t_first)
    times = torch.tensor([ahead, process.t_max], dtype=torch.float64)
    gain = gain_of(request, process, times)
    if gain > GAIN:
        emit(
            Note(
                text=f"parameterization {request.parameterization.name} on {request.process.name}: "
                f"an error of the network is {gain:.0f} times as large in x0 at the noisy end; set "
                "guidance=core/clip for data in [-1, 1], or parameterization=core/v"
            )
        )


def _shape(
    task: Task, dataset: Dataset, rehearsed: Trained | None, finite: bool, emit: Emit
) -> tuple[int, ...] | None:
    """The shape of a sample, None of an empty dataset; a rehearsal with the parts given first."""
    if not len(dataset):
        return None
    if rehearsed is None:
        example = first_example(task, dataset)
    else:
        example = rehearse(task, dataset, rehearsed, finite=finite, emit=emit)
    return tuple(example.x0.shape[1:])


def _check_level(network: nn.Module, request: TrainRequest) -> None:
    """Refuse a level that the network's embedding is not made for, where both state theirs."""
    required = getattr(network, "required_level", None)
    level = request.parameterization.options.get("level", required)
    if required is not None and level != required:
        raise InputError(
            f"parameterization.level: {request.network.name} with these options requires "
            f"{required!r}, got {level!r}; choose that level, or sinusoidal features of the level"
        )


def _held_out(request: TrainRequest, task: Task) -> HeldOut | None:
    if not request.validate_every:
        return None
    spec = held_out_spec(request)
    dataset = open_dataset(spec, "test", task)
    if not len(dataset):
        raise InputError(
            f"validate_every: the test split of {spec.name} is empty; name another dataset by "
            "`validation`, or leave validate_every at 0"
        )
    first_example(task, dataset)
    items = evenly_spaced(len(dataset), request.validation_items)
    return HeldOut(dataset, items, task, objective_of(request), request.seed, request.precision)


def _facts(
    request: TrainRequest,
    network: nn.Module,
    digests: Mapping[str, str],
    start: str,
    world: World,
) -> Facts:
    names = {"data": request.dataset.name, "held_out": held_out_spec(request).name}
    splits = {"data": "train", "held_out": "test"}
    registry = installed()
    return Facts(
        request,
        (
            registry.find("task", request.task.name).summary,
            registry.find("network", request.network.name).summary,
        ),
        {(names[kind], splits[kind]): digest for kind, digest in digests.items()},
        sum(p.numel() for p in network.parameters()),
        start,
        world.size,
    )


def _warn_of_space(out: Path, learner: Learner, emit: Emit) -> None:
    tensors = learner.tensors()
    weights = dict(learner.network.named_parameters())
    # AdamW's moments do not exist yet: two numbers for each weight.
    tensors["optimizer"] = {f"{i}{name}": w for i in (0, 1) for name, w in weights.items()}
    warning = checkpoint.require_space(out / "checkpoints", tensors)
    if warning is not None:
        emit(Note(text=warning))


# --- initial weights -----------------------------------------------------------------------------


def _load_start(request: TrainRequest, network: nn.Module, out: Path, emit: Emit) -> str:
    """Load the weights of `request.start` into a network; their digest."""
    if request.start is None:
        return ""
    try:
        saved = checkpoint.load(request.start, groups=("ema",))
    except CheckpointError as error:
        if not checkpoint.is_started(out / "checkpoints"):
            raise CheckpointError(f"start: {error}") from error
        emit(Note(text=f"start: {error}; resuming without it, since this run has checkpoints"))
        return checkpoint.load(out, groups=("ema",)).state.get("start", "")
    weights = upgraded(saved).tensors["ema"]
    if isinstance(network, Extending):
        weights = network.extended(weights)
    wrong = _misfits(weights, network.state_dict())
    if wrong:
        raise InputError(
            f"start: the weights in {request.start} do not fit {request.network.name}: "
            f"{'; '.join(wrong)}; give the network the options they were trained with"
        )
    network.load_state_dict(weights)
    return tensor_file.seal(saved.tensors["ema"])  # as saved: an upgrade is no other start


def _misfits(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Every weight that is missing, unexpected or of another shape."""
    return [
        *(f"missing weight {name}" for name in sorted(expected.keys() - given.keys())),
        *(f"unexpected weight {name}" for name in sorted(given.keys() - expected.keys())),
        *(
            f"{name} has shape {tuple(given[name].shape)}, expected {tuple(expected[name].shape)}"
            for name in sorted(given.keys() & expected.keys())
            if given[name].shape != expected[name].shape
        ),
    ]
