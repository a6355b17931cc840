"""The contract of each kind of part; third parties run `check_part` over their own plug-ins."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.config import options_of
from core.data import Dataset
from core.process.gaussian import GaussianPath
from core.registry import Registry
from core.task import Task
from core.testing.orders import check_solver

Build = Callable[..., Any]


def check_part(registry: Registry, kind: str, name: str, **inputs: Any) -> None:
    """Assert what every part promises, and what its kind promises.

    Args:
        registry: where it is.
        kind: its kind.
        name: its full name.
        inputs: what its kind's check needs: `process` for samplers and grids, `batch` for tasks,
            `options` for parts whose defaults are large.

    Raises:
        AssertionError: a promise that is not kept.
    """
    part, build = registry.find(kind, name), registry.load(kind, name)
    assert len(part.summary) < 60, f"{name}: the summary is {len(part.summary)} characters"
    kinds = {p.kind for p in inspect.signature(build).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{name}: takes any option"
    for option in options_of(build):
        assert option.annotation is not Any, f"{name}: option {option.name!r} has no annotation"
        assert option.meaning, f"{name}: option {option.name!r} has no line under Args"
    check = _CHECKS.get(kind)
    if check is not None:
        check(build, **inputs)


def _network(build: Build, *, options: Mapping[str, Any], shape: tuple[int, ...] = (3, 24, 17)):
    """Shape kept at two sizes, samples apart, level heard, every parameter trained."""
    network: nn.Module = build(3, 3, {"image": 3}, **options)
    with torch.no_grad():  # layers that begin at zero would hide what lies behind them
        generator = torch.Generator().manual_seed(0)
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    network.eval()

    def ask(x: Tensor, level: Tensor) -> Tensor:
        return network(x, level, {"image": x.flip(0)})

    level = torch.tensor([3.0, -40.0])
    for size in (shape, (shape[0], *(s + 5 for s in shape[1:]))):
        x = torch.randn(2, *size, generator=generator)
        output = ask(x, level)
        assert output.shape == x.shape, f"{tuple(x.shape)} came back as {tuple(output.shape)}"
        alone = network(x[:1], level[:1], {"image": x[1:]})
        assert (alone[0] - output[0]).abs().max() < 1e-4, "a sample depends on its neighbours"
        assert (ask(x, level + 20) - output).abs().max() > 1e-4, "the level is not heard"
        other = network(x, level, {"image": x * 0})
        assert (other - output).abs().max() > 1e-4, "the condition is not heard"
    network.train()
    ask(torch.randn(2, *shape, generator=generator), level).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"no gradient reaches {', '.join(idle)}"


def _dataset(build: Build, *, options: Mapping[str, Any]) -> None:
    """The same index gives the same item; values in range; splits share no source."""
    sides: list[Dataset] = [build(split, **options) for split in ("train", "test")]
    for side in sides:
        for index in (0, len(side) - 1):
            first, again = side[index], side[index]
            for key, value in first.items():
                assert torch.equal(value, again[key]), f"item {index} differs when asked again"
                assert value.abs().max() <= 1, f"item {index} leaves [-1, 1]"
            assert side.name(index), "an item has no name"
    first, second = ({side.source(i) for i in range(len(side))} for side in sides)
    assert not first & second, f"on both sides of the split: {', '.join(first & second)}"
    assert sides[0].digest() == build("train", **options).digest(), "the digest changes"


def _task(build: Build, *, batch: Mapping[str, Tensor], options: Mapping[str, Any] | None = None):
    """Preparing is pure; finishing the true x0 gives the best score there is."""
    task: Task = build(**(options or {}))
    example, again = task.prepare(batch), task.prepare(batch)
    assert torch.equal(example.x0, again.x0), "prepare is not a function of the batch"
    assert example.x0.shape[1] == task.channels
    for name, channels in task.conditions.items():
        assert example.condition[name].shape[1] == channels, f"condition {name!r}"
    perfect = task.finish(example.x0, batch)[:, None]
    spoiled = task.finish(example.x0 + 0.5, batch)[:, None]
    best, worse = task.score(perfect, batch), task.score(spoiled, batch)
    assert task.reference in best, f"no score for the reference {task.reference!r}"
    for method in best.keys() - {task.reference}:
        for name, figure in task.figures.items():
            sign = 1 if figure.better == "higher" else -1
            apart = sign * (best[method][name] - worse[method][name])
            assert (apart >= 0).all(), f"{name} prefers a spoiled result"


def _operator(build: Build, *, shape: tuple[int, ...] = (2, 3, 16, 24)) -> None:
    """Additive, and <A x, y> = <x, A* y> for random x and y, in float64."""
    operator, generator = build(), torch.Generator().manual_seed(0)
    x, z = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    y = operator.forward(x)
    assert (operator.forward(x + 2 * z) - y - 2 * operator.forward(z)).abs().max() < 1e-12
    w = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    left, right = float((y * w).sum()), float((x * operator.adjoint(w)).sum())
    assert abs(left - right) <= 1e-12 * float(y.norm() * w.norm()), f"{left} is not {right}"


def _metric(build: Build) -> None:
    """Best at equality, worse with more noise, each sample by itself."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(truth.shape, generator=generator)
    scores = [build((truth + s * noise).clamp(-1, 1), truth) for s in (0.01, 0.1, 0.5)]
    ups = (scores[0] > scores[1]) & (scores[1] > scores[2])
    downs = (scores[0] < scores[1]) & (scores[1] < scores[2])
    assert ups.all() or downs.all(), "does not follow the noise"
    spoiled = (truth + 0.1 * noise).clamp(-1, 1)
    one = build(spoiled[1:2], truth[1:2])
    assert torch.allclose(one, scores[1][1:2]), "a score depends on its batch"


def _process(build: Build) -> None:
    """Log-SNR falls, from a clean end to a noisy one, and its inverse undoes it."""
    path: GaussianPath = build()
    share = torch.linspace(0, 1, 100, dtype=torch.float64)
    t = path.t_first + share * (path.t_max - path.t_first)
    assert (path.log_snr(t).diff() < 0).all(), "log-SNR does not fall"
    assert path.log_snr(t)[0] > 6, "the clean end is noisy"
    assert path.log_snr(t)[-1] < -5, "the noisy end is clean"
    back = path.time_of_log_snr(path.log_snr(t))
    assert (back - t).abs().max() < 1e-6 * path.t_max, "the inverse of log-SNR is not one"


def _sampler(build: Build, *, process: GaussianPath) -> None:
    check_solver(build(), process)


def _grid(build: Build, *, process: GaussianPath) -> None:
    """Falls strictly from the noisy end to the clean one."""
    grid = build(process)
    assert (grid.diff() < 0).all(), "does not fall"
    assert float(grid[0]) <= process.t_max
    assert float(grid[-1]) == process.t_min


_CHECKS: dict[str, Callable[..., None]] = {
    "network": _network,
    "dataset": _dataset,
    "task": _task,
    "operator": _operator,
    "metric": _metric,
    "process": _process,
    "sampler": _sampler,
    "grid": _grid,
}
