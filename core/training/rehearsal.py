"""A rehearsal of a whole run on the first item, so that a mistake is found before the first step.

The item goes through `prepare`, the network, `finish`, `score` and `show`, once.  Draws come from
streams of their own: training is the same with a rehearsal and without one.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from core.data import Dataset, check_classes, collate, part_name
from core.denoiser.parameterization import NetworkDenoiser, Parameterization
from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Noise, derive
from core.request import Emit, Note, silent
from core.results.evaluation import methods_of
from core.results.panels import check_panels
from core.task import Batch, Example, Method, Panel, ShownTogether, Task
from core.training.loop import is_out_of_memory

ITEMS = 2  # read, so that items of different shapes are found
UNIT, FAR = 3.0, 10.0  # root mean square of x0: above the first a note, above the second an error
SLOW = 2.0  # seconds of scoring one item
LOG_SNR = 0.0  # of the noisy sample that the network is given: signal and noise of one size


@dataclass(frozen=True)
class Trained:
    """The parts of a run that a rehearsal calls the network with.

    Args:
        network: on its device; weights and mode are left as they are.
        process: the forward process.
        parameterization: the meaning of its output.
    """

    network: nn.Module
    process: GaussianPath
    parameterization: Parameterization


def rehearse(
    task: Task,
    dataset: Dataset,
    trained: Trained | None = None,
    *,
    scored: bool = True,
    finite: bool = True,
    emit: Emit = silent,
) -> Example:
    """The first item's example, after everything that a run will call has been called on it.

    It costs one item read twice, one call of the network without gradients, and what one item costs
    in `evaluate`; `show` is left out where scoring was slow, since it often computes the same.

    Args:
        task: its methods are called.
        dataset: not empty; its first two items are read.
        trained: the network and what it needs; without it the true x0 stands for its estimate.
        scored: call `score` and `show` too.
        finite: refuse values that are not finite, rather than note them.
        emit: receives a note of a variable that is far from unit range.

    Raises:
        InputError: the first thing that is wrong, with the name of the part that is to be changed.
    """
    name = f"task {part_name('task', task)}"
    _check_task(name, task)
    _check_alike(dataset)
    device = torch.device("cpu") if trained is None else _device(trained.network)
    batch = collate(dataset, [0])
    moved = {key: value.to(device) for key, value in batch.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(0, "rehearsal"))
        example = _prepared(task, dataset, moved)
        if not _is_finite(name, example, finite, emit):
            return example
        _check_unit(name, example, emit)
        estimate = example.x0 if trained is None else _estimate(trained, example)
        draws = [_finished(name, task, x0, moved) for x0 in (estimate, example.x0)]
        if scored:
            with _unless_out_of_memory():
                _score_and_show(name, task, torch.stack(draws, 1), batch, dataset)
    return example


def first_example(task: Task, dataset: Dataset) -> Example:
    """The example of the first item of a dataset that is not empty.

    Raises:
        InputError: `prepare` fails on it, or gives other than what the task declares.
    """
    return _prepared(task, dataset, collate(dataset, [0]))


def _prepared(task: Task, dataset: Dataset, batch: Batch) -> Example:
    name = f"task {part_name('task', task)}"
    with _calling(f"{name}: prepare(batch)"):
        example = task.prepare(batch)
    check_example(name, task, example)
    check_classes(example, task, lambda _: dataset.name(0))
    return example


def _finished(name: str, task: Task, x0: Tensor, batch: Batch) -> Shaped[Tensor, " b *result"]:
    with _calling(f"{name}: finish(x0, batch)"):
        result = task.finish(x0, batch).cpu()
    if result.shape[:1] != (1,):
        raise InputError(
            f"{name}: finish(x0, batch): expected a result for each of the batch's 1 items, got a "
            f"tensor of shape {tuple(result.shape)}"
        )
    return result


@contextmanager
def _calling(what: str) -> Iterator[None]:
    """Turn any exception of a part's method into one sentence; memory and files apart."""
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        cause = " ".join(str(error).split())
        raise InputError(f"{what} failed on the first item: {type(error).__name__}: {cause}") from (
            error
        )


@contextmanager
def _unless_out_of_memory() -> Iterator[None]:
    """End the block where memory runs out: training may need less than scoring."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise


def _device(network: nn.Module) -> torch.device:
    first = next(network.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _check_task(name: str, task: object) -> None:
    """Refuse a task without the attributes and methods of `core.task.Task`."""
    if isinstance(task, Task):
        return
    members = ("channels", "conditions", "figures", "reference")
    members += ("prepare", "finish", "score", "show")
    missing = [member for member in members if not hasattr(task, member)]
    raise InputError(
        f"{name} has no {', '.join(missing)}; a task has {', '.join(members)}, as core.task.Task "
        "describes them"
    )


def _check_alike(dataset: Dataset) -> None:
    """Refuse a dataset whose first items cannot be stacked into a batch."""
    shapes = [
        {key: tuple(value.shape) for key, value in dataset[index].items()}
        for index in range(min(ITEMS, len(dataset)))
    ]
    for index, other in enumerate(shapes):
        if other != shapes[0]:
            raise InputError(
                f"{dataset.name(index)}: expected tensors of the shapes of {dataset.name(0)}, "
                f"{_shapes(shapes[0])}, since a batch stacks them; got {_shapes(other)}"
            )


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{key} {shape}" for key, shape in shapes.items())


def check_example(name: str, task: Task, example: Example) -> None:
    """Refuse an example whose variable or conditions are not what the task declares.

    Args:
        name: of the task, for the error.
        task: its `channels` and `conditions` are compared.
        example: what it prepared.

    Raises:
        InputError: everything that differs, a line each.
    """
    x0, wrong = example.x0, []
    if not x0.is_floating_point():
        wrong.append(f"x0: expected floating-point numbers, got {x0.dtype}")
    if x0.ndim < 2 or x0.shape[1] != task.channels:
        wrong.append(
            f"x0: expected the {task.channels} channels that the task declares on axis 1, got the "
            f"shape {tuple(x0.shape)}"
        )
    for key, number in task.conditions.items():
        value = example.condition.get(key)
        if value is None:
            wrong.append(f"condition {key!r}: declared, but prepare gives none")
        elif len(value) != len(x0):
            wrong.append(f"condition {key!r}: expected {len(x0)} items, got {len(value)}")
        elif key != "class" and number != value.shape[-1 if key in ("vector", "sequence") else 1]:
            wrong.append(
                f"condition {key!r}: expected {number} channels, as the task declares, got the "
                f"shape {tuple(value.shape)}"
            )
    if example.mask is not None and example.mask.shape != x0.shape:
        wrong.append(
            f"mask: expected the shape of x0, {tuple(x0.shape)}, got {tuple(example.mask.shape)}"
        )
    if wrong:
        raise InputError("\n".join(f"{name}: {problem}" for problem in wrong))


def _is_finite(name: str, example: Example, required: bool, emit: Emit) -> bool:
    """Whether x0 is finite; refused where that is required, else noted."""
    if bool(example.x0.isfinite().all()):
        return True
    text = f"{name}: x0 of the first item holds values that are not finite"
    if required:
        raise InputError(text)
    emit(Note(text=text))
    return False


def _check_unit(name: str, example: Example, emit: Emit) -> None:
    """Refuse, or note, a variable that is far from unit range where its error counts."""
    x0 = example.x0.double()
    counted = x0 if example.mask is None else x0[example.mask > 0]
    size = float(counted.square().mean().sqrt()) if counted.numel() else 0.0
    said = (
        f"{name}: x0 of the first item has values from {float(x0.min()):.3g} to "
        f"{float(x0.max()):.3g} and the root mean square {size:.3g}; schedules and losses expect "
        "about 1: scale the data to [-1, 1]"
    )
    if size > FAR:
        raise InputError(said)
    if size > UNIT:
        emit(Note(text=said))


def _estimate(trained: Trained, example: Example) -> Float[Tensor, " b *shape"]:
    """The network's estimate of x0 for noise of the size of the signal; x0 if memory runs out."""
    process, network, x0 = trained.process, trained.network, example.x0
    t = process.time_of_log_snr(torch.tensor([LOG_SNR], dtype=torch.float64))
    x = process.diffuse(x0, t, Noise.of(0, "rehearsal", each=range(len(x0))).like(x0))
    denoise = NetworkDenoiser(network, process, trained.parameterization)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    given = {"x": x, **example.condition}
    shapes = _shapes({key: tuple(value.shape) for key, value in given.items()})
    estimate = x0  # where memory runs out; the first step reports it, and what to lower
    try:
        with (
            _unless_out_of_memory(),
            _calling(f"network {part_name('network', network)}, given {shapes},"),
        ):
            estimate = denoise(x, t, example.condition).x0
    finally:
        for module, training in modes.items():
            module.training = training
    return estimate


def check_scores(task: Task, scores: Mapping[str, Any], count: int) -> dict[str, Method]:
    """The methods that a task scored; those that its `figures` and `reference` miss are refused.

    Args:
        task: whose `score` gave them.
        scores: of `count` items.
        count: number of items.

    Raises:
        InputError: a figure without a description, no scores of the reference, or other than one
            number for each item.
    """
    methods, wrong = methods_of(scores, task.reference), []
    given = dict.fromkeys(figure for method in methods.values() for figure in method.figures)
    unknown = [figure for figure in given if figure not in task.figures]
    if unknown:
        wrong.append(
            f"gives {', '.join(map(repr, unknown))}, which `figures` does not describe; it "
            f"describes {', '.join(map(repr, task.figures)) or 'none'}: use one name in both"
        )
    if task.reference not in methods:
        wrong.append(
            f"gives no method {task.reference!r}, which is the task's `reference`; its methods are "
            f"{', '.join(map(repr, methods)) or 'none'}"
        )
    wrong += [
        f"gives {figure!r} of {name!r} the shape {tuple(values.shape)}; expected ({count},), one "
        "number for each item"
        for name, method in methods.items()
        for figure, values in method.figures.items()
        if tuple(values.shape) != (count,)
    ]
    if wrong:
        name = f"task {part_name('task', task)}: score"
        raise InputError("\n".join(f"{name} {problem}" for problem in wrong))
    return methods


def _score_and_show(
    name: str, task: Task, results: Shaped[Tensor, " b k *result"], batch: Batch, dataset: Dataset
) -> None:
    """Score two draws of the first item and make its panels; check names, shapes and arrays."""
    begun = time.monotonic()
    with _calling(f"{name}: score(results, batch)"):
        scores = task.score(results, batch)
    if scores or task.figures:  # a task may have none, which `evaluate` refuses
        check_scores(task, scores, 1)
    if time.monotonic() - begun > SLOW:
        return
    panels: Any
    if isinstance(task, ShownTogether):
        with _calling(f"{name}: show_together(results, batch)"):
            panels = [task.show_together(results, batch)]
    else:
        with _calling(f"{name}: show(results, batch, titles)"):
            panels = task.show(results, batch, [dataset.name(0)])
    if not isinstance(panels, list) or not all(isinstance(one, Panel) for one in panels):
        raise InputError(
            f"{name}: show: expected a list of core.task.Panel, got {type(panels).__name__}"
        )
    with _calling(f"{name}: show"):
        check_panels(panels)
