"""Samples of a trained model in one call, for notebooks and programs."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from core.data import check_classes
from core.denoiser.parameterization import Condition
from core.errors import InputError
from core.model import Model, guided
from core.parts.config import bind, configure, plain
from core.parts.registry import Spec
from core.process.noise import SourceName, source
from core.request import Note, Progress, SampleRequest
from core.sampler.sample import prior, sample
from core.sampler.solver import Solver
from core.task import Example

PartLike = str | Mapping[str, Any] | Spec
"""A registered part: its name, or a mapping with its ``name`` and options."""


def draw(
    model: Model,
    seeds: Sequence[int] | np.ndarray = (0,),
    *,
    sampler: PartLike | Solver | None = None,
    grid: PartLike | None = None,
    steps: int | None = None,
    guidance: PartLike | Sequence[PartLike] | None = None,
    condition: Mapping[str, Shaped[Tensor, "..."] | Sequence[int] | int] | None = None,
    shape: Sequence[int] | None = None,
    noise: SourceName = "fresh",
    batch: int = 16,
) -> Float[Tensor, " n *shape"]:
    """One sample x0 for each seed, on the model's device.

    Sample i depends on `seeds[i]` and its own condition alone.  It is the variable that the model
    diffuses; a task that turns it into something else does that in `core.runs.sample`.

    Args:
        model: as `load_model` returns it.
        seeds: one for each sample.
        sampler: its name, or a mapping of its name and options, or a solver; by default that of
            `SampleRequest`.
        grid: the times, likewise; by default that of `SampleRequest`.
        steps: steps of the grid, the same as its option of that name.
        guidance: a guidance part, or several that are applied in order; None for the checkpoint's
            default, [] for none.
        condition: for each condition of the task a tensor with one row per seed, or one integer
            (a class) for all seeds.
        shape: of a sample; by default the shape of the data that the model was trained on.
        noise: of the start and of stochastic samplers: fresh draws, or one Brownian path that more
            steps refine; with ``counter``, other numbers, faster for many small samples.
        batch: samples that are computed at once.

    Raises:
        InputError: an option that does not fit, or a condition that is missing, unknown or of
            another length than the seeds.
        TypeError: an argument of the wrong kind, such as one integer for the seeds.
    """
    numbers = _seeds(seeds)
    if batch < 1:
        raise InputError(f"batch: expected at least 1, got {batch}")
    given = _conditions(model, condition, len(numbers))
    request = _request(model, sampler, grid, steps, guidance)
    denoise = guided(model, request, _warn)
    solver = sampler if isinstance(sampler, Solver) else configure("sampler", request.sampler)()
    times = configure("grid", request.grid)(model.process)
    like = torch.empty((len(numbers), *(model.shape if shape is None else shape)))
    drawn = []
    for first in range(0, len(numbers), batch):
        rows = slice(first, first + batch)
        chunk = {name: value[rows] for name, value in given.items()}
        draws = source(noise, numbers[rows])
        x = prior(model.process, times, like[rows].to(model.device), draws)
        drawn.append(sample(denoise, times, solver, x, draws, chunk))
    return torch.cat(drawn)


def _warn(event: Progress | Note) -> None:
    """A note of guidance as a warning at the caller of `draw`."""
    if isinstance(event, Note):
        warnings.warn(event.text, stacklevel=5)


def _seeds(seeds: Any) -> list[int]:
    """Seeds as Python integers."""
    if not isinstance(seeds, Iterable):
        raise TypeError(
            f"seeds: expected one seed per sample, got {seeds!r}; "
            f"for {seeds!r} samples use range({seeds!r}), for one sample use [{seeds!r}]"
        )
    numbers = list(seeds)
    if not numbers:
        raise InputError("seeds: expected at least one")
    if strange := [n for n in numbers if not isinstance(n, (int, np.integer))]:
        raise TypeError(f"seeds: expected integers, got {strange[0]!r}")
    return [int(n) for n in numbers]


def _conditions(model: Model, given: Any, count: int) -> Condition:
    """The condition of each sample by name, on the model's device."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise TypeError(
            f"condition: expected a mapping of names to tensors, got {type(given).__name__}"
        )
    wanted = model.task.conditions
    if given.keys() != wanted.keys():
        names = ", ".join(wanted) or "none"
        raise InputError(
            f"condition: task {model.request.task.name} has the conditions: {names}; "
            f"got: {', '.join(given) or 'none'}"
        )
    found: dict[str, Tensor] = {}
    for name, value in given.items():
        tensor = torch.as_tensor(value)
        if tensor.ndim == 0:
            tensor = tensor.expand(count)
        if len(tensor) != count:
            raise InputError(
                f"condition: {name}: expected {count} rows, one for each seed, got {len(tensor)}"
            )
        found[name] = tensor.to(model.device)
    check_classes(Example(torch.empty(count, 0), found), model.task, lambda i: f"sample {i}")
    return found


def _request(
    model: Model, sampler: Any, grid: Any, steps: int | None, guidance: Any
) -> SampleRequest:
    """The parts by name, checked as those of a request are."""
    options: dict[str, Any] = {"checkpoint": str(model.checkpoint)}
    for name, part in (("sampler", sampler), ("grid", grid), ("guidance", guidance)):
        if isinstance(part, type):
            raise TypeError(f"{name}: {part.__name__} is a class; give an instance or a name")
        if part is not None and not (name == "sampler" and isinstance(part, Solver)):
            options[name] = _plain(name, part)
    if steps is not None:
        times = options.get("grid", plain(SampleRequest(checkpoint=model.checkpoint).grid))
        times = {"name": times} if isinstance(times, str) else times
        if "steps" in times:
            raise InputError("steps: given twice, by steps and in grid; leave one of them out")
        options["grid"] = {**times, "steps": steps}
    return bind(SampleRequest, options)


def _plain(name: str, part: Any) -> Any:
    """A part, or a list of parts, as YAML has it."""
    if isinstance(part, (str, Mapping, Spec)):
        return plain(part)
    if isinstance(part, Sequence):
        return [_plain(name, one) for one in part]
    kind = "function" if isinstance(part, Callable) else type(part).__name__
    raise TypeError(f"{name}: expected a name or a mapping with a name, got a {kind}")
