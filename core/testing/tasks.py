"""The contracts of datasets, tasks, operators and metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from core.data import Dataset
from core.results.evaluation import methods_of
from core.results.panels import check_panels
from core.task import Degrading, Reading, Task

Build = Callable[..., Any]


def check_dataset(build: Build, *, options: Mapping[str, Any] | None = None) -> None:
    """Items are deterministic, their arrays in range; splits have no source in common."""
    options = options or {}
    sides: list[Dataset] = [build(split, **options) for split in ("train", "test")]
    for side in sides:
        for index in (0, len(side) - 1):
            first, again = side[index], side[index]
            for key, value in first.items():
                assert torch.equal(value, again[key]), f"item {index} is not deterministic"
                if value.is_floating_point() and value.ndim:  # neither a class nor a quantity
                    assert value.abs().max() <= 1, f"item {index} is not in [-1, 1]"
            assert side.name(index), "an item has no name"
    first, second = ({side.source(i) for i in range(len(side))} for side in sides)
    assert not first & second, f"in both splits: {', '.join(first & second)}"
    assert sides[0].digest() == build("train", **options).digest(), (
        "the digest is not deterministic"
    )


def check_task(
    build: Build,
    *,
    batch: Mapping[str, Shaped[Tensor, "..."]] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Preparing is deterministic; finishing the true x0 gives the best score there is."""
    task: Task = build(**(options or {}))
    assert isinstance(task, Task), "expected the attributes and methods of core.task.Task"
    if batch is None:
        assert isinstance(task, Reading), "state the shapes that the task `reads`, or pass a batch"
        batch = _batch_of(task.reads)
    if isinstance(task, Degrading):
        count = len(next(iter(batch.values())))
        items = [{name: value[i] for name, value in batch.items()} for i in range(count)]
        made = [task.degrade(item, i) for i, item in enumerate(items)]
        again = [task.degrade(item, i) for i, item in enumerate(items)]
        for one, other in zip(made, again, strict=True):
            assert all(one[name].equal(other[name]) for name in one), "degrade is not deterministic"
        batch = {name: torch.stack([item[name] for item in made]) for name in made[0]}
    example, again = task.prepare(batch), task.prepare(batch)
    assert torch.equal(example.x0, again.x0), "prepare is not deterministic"
    assert example.x0.shape[1] == task.channels
    for name, channels in task.conditions.items():
        given = example.condition[name]
        assert len(given) == len(example.x0), f"condition {name!r}"
        if name == "class":  # whole numbers below their count
            assert given.ndim == 1, "expected one class for each sample"
            assert not given.is_floating_point(), "classes are not integers"
            assert bool(((given >= 0) & (given < channels)).all()), "a class is out of range"
        else:
            assert given.shape[1] == channels, f"condition {name!r}"
    perfect = task.finish(example.x0, batch)[:, None]
    wrong = task.finish(example.x0 + 0.5, batch)[:, None]
    best, worse = (methods_of(task.score(x, batch), task.reference) for x in (perfect, wrong))
    assert task.reference in best, f"no score for the reference {task.reference!r}"
    figures = {figure for method in best.values() for figure in method.figures}
    unknown = ", ".join(sorted(figures - task.figures.keys()))
    assert not unknown, f"score gives figures that `figures` does not describe: {unknown}"
    check_panels(task.show(perfect, batch, [str(i) for i in range(len(perfect))]))
    for method in best.keys() - {task.reference}:
        for name, values in best[method].figures.items():
            figure, other = task.figures[name], worse[method].figures[name]
            if figure.best is None:  # a perfect result has no noise to be as far off as
                sign = 1 if figure.better == "higher" else -1
                assert (sign * (values - other) >= 0).all(), f"{name} prefers a wrong result"


def _batch_of(reads: Mapping[str, str], side: int = 32) -> dict[str, Tensor]:
    """Two items of random values in [-0.8, 0.8] in the shapes that a task reads.

    Axes with a name have `side` elements, and as many as two axes stand for several.  A single
    number is a class.
    """
    generator, batch = torch.Generator().manual_seed(0), {}
    for name, text in reads.items():
        shape = [2]
        for axis in text.split():
            several = axis.startswith("*") or axis == "..."
            shape += [side, side] if several else [int(axis) if axis.isdigit() else side]
        batch[name] = torch.rand(shape, generator=generator) * 1.6 - 0.8
        if not text.split():
            batch[name] = torch.tensor([0, 1])
    return batch


def check_operator(
    build: Build,
    *,
    shape: tuple[int, ...] = (2, 3, 16, 24),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Additive, Re <A x, y> = Re <x, A* y>, and for a pseudo-inverse A A+ A = A, A+ A A+ = A+."""
    operator, generator = build(**(options or {})), torch.Generator().manual_seed(0)
    x, z = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    y = operator.forward(x)
    scale = max(1.0, float(y.abs().max()))
    difference = operator.forward(x + 2 * z) - y - 2 * operator.forward(z)
    assert difference.abs().max() < 1e-12 * scale, "A is not linear"
    w = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    left, right = float((y.conj() * w).real.sum()), float((x * operator.adjoint(w)).sum())
    assert abs(left - right) <= 1e-12 * float(y.norm() * w.norm()), (
        f"<A x, y> = {left}, <x, A* y> = {right}"
    )
    inverse = getattr(operator, "pseudo_inverse", None)
    if inverse is not None:
        back = inverse(w)
        assert (operator.forward(inverse(y)) - y).norm() <= 1e-9 * y.norm(), "A A+ A is not A"
        assert (inverse(operator.forward(back)) - back).norm() <= 1e-9 * back.norm(), (
            "A+ A A+ is not A+"
        )


def check_metric(build: Build) -> None:
    """Best at equality, worse with more noise, samples independent."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(truth.shape, generator=generator)
    scores = [build((truth + s * noise).clamp(-1, 1), truth) for s in (0.01, 0.1, 0.5)]
    ups = (scores[0] > scores[1]) & (scores[1] > scores[2])
    downs = (scores[0] < scores[1]) & (scores[1] < scores[2])
    assert ups.all() or downs.all(), "the score is not monotonic in the noise"
    wrong = (truth + 0.1 * noise).clamp(-1, 1)
    one = build(wrong[1:2], truth[1:2])
    assert torch.allclose(one, scores[1][1:2]), "a score depends on its batch"
