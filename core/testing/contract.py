"""The contract of each kind of part; third parties run `check_part` over their plug-ins."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from core.parts.registry import Registry
from core.parts.signature import options_of
from core.predictor import folders_of, names_of
from core.process.gaussian import GaussianPath
from core.testing.features import check_features
from core.testing.networks import check_network
from core.testing.processes import (
    check_grid,
    check_guidance,
    check_objective,
    check_parameterization,
    check_posterior,
    check_process,
    check_sampler,
    check_times,
    check_weighting,
    positional,
)
from core.testing.tasks import check_dataset, check_metric, check_operator, check_task


def check_part(
    registry: Registry,
    kind: str,
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    process: GaussianPath | None = None,
    batch: Mapping[str, Shaped[Tensor, "..."]] | None = None,
    shape: tuple[int, ...] | None = None,
    given: Mapping[str, Any] | None = None,
) -> None:
    """Assert the contract of every part, and of its kind.

    Nothing but the first three is required: a network is called on points, signals, images or
    volumes, whichever it takes, with every condition that it does not refuse; a task is given a
    batch of the shapes that it `reads`.

    Args:
        registry: the registry of the part.
        kind: its kind.
        name: its full name.
        options: of the part where the defaults are large: networks, datasets, tasks, operators,
            posterior methods.
        process: the forward process, for samplers and grids; EDM's by default.
        batch: a batch of the task's data, for tasks whose data is more than shapes.
        shape: of a sample, for networks that take few shapes; of a batch, for operators.
        given: inputs of a guidance part beyond those of the core, by name.

    Raises:
        AssertionError: the part breaks its contract.
        TypeError: an input that the kind's check does not take.
    """
    part, build = registry.find(kind, name), registry.load(kind, name)
    assert len(part.summary) < 60, f"{name}: the summary is {len(part.summary)} characters"
    kinds = {p.kind for p in inspect.signature(build).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{name}: takes **kwargs"
    for option in options_of(build):
        assert option.annotation is not Any, f"{name}: option {option.name!r} has no annotation"
        assert option.meaning, f"{name}: option {option.name!r} has no line under Args"
    if kind == "guidance":
        unknown = tuple(n for n in positional(build) if n not in ("denoise", "without", "model"))
        assert unknown == part.inputs, f"{name}: inputs are {part.inputs}, expected {unknown}"
    inputs = {"options": options, "process": process, "batch": batch, "shape": shape}
    inputs |= {"given": given}
    check = _CHECKS.get(kind)
    if check is not None:
        check(build, **{name: value for name, value in inputs.items() if value is not None})


def _predictor(build: Any) -> None:
    """Suffixes and names of results are known before a model is loaded."""
    inputs = [
        p
        for p in inspect.signature(build).parameters.values()
        if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert len(inputs) == 2, "expected two inputs, a machine and a checkpoint"
    suffixes: Any = getattr(build, "suffixes", None)
    assert isinstance(suffixes, tuple), "suffixes is not a tuple"
    assert suffixes, "suffixes is empty"
    for suffix in suffixes:
        assert suffix.startswith("."), f"{suffix!r} does not begin with a dot"
        assert suffix == suffix.lower(), f"{suffix!r} is not in lower case"
        name = build.result_name(f"a photo{suffix}")
        assert name == Path(name).name, f"{name!r} is a path"
        assert name not in ("", ".", ".."), "the name of a result is empty"
        names = names_of(build, f"a photo{suffix}")
        assert len(set(names)) == len(names), "two files written for one input have one name"
        assert not set(names) & set(names_of(build, f"another{suffix}")), (
            "two files have one result name"
        )
    for suffix in folders_of(build):
        assert suffix == suffix.lower(), f"{suffix!r} is not in lower case"


_CHECKS: dict[str, Callable[..., None]] = {
    "network": check_network,
    "dataset": check_dataset,
    "features": check_features,
    "task": check_task,
    "operator": check_operator,
    "metric": check_metric,
    "process": check_process,
    "sampler": check_sampler,
    "grid": check_grid,
    "weighting": check_weighting,
    "times": check_times,
    "parameterization": check_parameterization,
    "objective": check_objective,
    "guidance": check_guidance,
    "posterior": check_posterior,
    "predictor": _predictor,
}
