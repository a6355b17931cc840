"""The contract of each kind of part; third parties run `check_part` over their own plug-ins."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.data import Dataset
from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction, v
from core.inverse.measurement import Measurement, dot, residual
from core.inverse.operators import Average
from core.inverse.posterior import Guided
from core.network.conditioning import null_condition, takes_null
from core.objective.denoising import Objective
from core.objective.times import Adaptive, uniform
from core.objective.weighting import simple
from core.parts.registry import Registry
from core.parts.signature import options_of
from core.process.gaussian import GaussianPath, over
from core.process.noise import Noise
from core.process.rows import row_sum
from core.process.schedules import edm, flow, vp_cosine
from core.sampler.ancestral import DDIM
from core.sampler.grids import uniform_log_snr
from core.sampler.sample import prior, sample
from core.task import Degrading, Task
from core.testing.distributions import Gaussian
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
    if kind == "guidance":
        unknown = tuple(n for n in _positional(build) if n not in ("denoise", "without", "model"))
        assert unknown == part.inputs, f"{name}: inputs are {part.inputs}, expected {unknown}"
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
        if takes_null(network):
            first, second = (
                network(x, level, null_condition({"image": image})) for image in (x, x.flip(0))
            )
            assert torch.equal(first, second), "samples without condition depend on it"
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
                if value.is_floating_point():  # classes are whole numbers
                    assert value.abs().max() <= 1, f"item {index} leaves [-1, 1]"
            assert side.name(index), "an item has no name"
    first, second = ({side.source(i) for i in range(len(side))} for side in sides)
    assert not first & second, f"on both sides of the split: {', '.join(first & second)}"
    assert sides[0].digest() == build("train", **options).digest(), "the digest changes"


def _task(build: Build, *, batch: Mapping[str, Tensor], options: Mapping[str, Any] | None = None):
    """Preparing is pure; finishing the true x0 gives the best score there is."""
    task: Task = build(**(options or {}))
    if isinstance(task, Degrading):
        count = len(next(iter(batch.values())))
        items = [{name: value[i] for name, value in batch.items()} for i in range(count)]
        made = [task.degrade(item, i) for i, item in enumerate(items)]
        again = [task.degrade(item, i) for i, item in enumerate(items)]
        for one, other in zip(made, again, strict=True):
            assert all(one[name].equal(other[name]) for name in one), "degrade is not a function"
        batch = {name: torch.stack([item[name] for item in made]) for name in made[0]}
    example, again = task.prepare(batch), task.prepare(batch)
    assert torch.equal(example.x0, again.x0), "prepare is not a function of the batch"
    assert example.x0.shape[1] == task.channels
    for name, channels in task.conditions.items():
        given = example.condition[name]
        assert len(given) == len(example.x0), f"condition {name!r}"
        if name == "class":  # whole numbers below their count
            assert given.ndim == 1, "classes are not one a sample"
            assert not given.is_floating_point(), "classes are no whole numbers"
            assert bool(((given >= 0) & (given < channels)).all()), "a class is out of range"
        else:
            assert given.shape[1] == channels, f"condition {name!r}"
    perfect = task.finish(example.x0, batch)[:, None]
    spoiled = task.finish(example.x0 + 0.5, batch)[:, None]
    best, worse = task.score(perfect, batch), task.score(spoiled, batch)
    assert task.reference in best, f"no score for the reference {task.reference!r}"
    for method in best.keys() - {task.reference}:
        for name, figure in task.figures.items():
            if name not in best[method]:
                continue
            sign = 1 if figure.better == "higher" else -1
            apart = sign * (best[method][name] - worse[method][name])
            assert (apart >= 0).all(), f"{name} prefers a spoiled result"


def _operator(
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
    assert difference.abs().max() < 1e-12 * scale
    w = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    left, right = float((y.conj() * w).real.sum()), float((x * operator.adjoint(w)).sum())
    assert abs(left - right) <= 1e-12 * float(y.norm() * w.norm()), f"{left} is not {right}"
    inverse = getattr(operator, "pseudo_inverse", None)
    if inverse is not None:
        back = inverse(w)
        assert (operator.forward(inverse(y)) - y).norm() <= 1e-9 * y.norm(), "A A+ A is not A"
        assert (inverse(operator.forward(back)) - back).norm() <= 1e-9 * back.norm(), (
            "A+ A A+ is not A+"
        )


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


def _times_of(process: GaussianPath, n: int = 64) -> Tensor:
    share = torch.linspace(0.01, 0.99, n, dtype=torch.float64)
    return process.t_first + share * (process.t_max - process.t_first)


def _weighting(build: Build) -> None:
    """Positive, finite, float64, and a matter of each time alone."""
    for process in (vp_cosine(), edm(), flow()):
        weighting, t = build(), _times_of(process)
        weight = weighting(process, t)
        assert weight.shape == t.shape, f"{tuple(t.shape)} came back as {tuple(weight.shape)}"
        assert weight.dtype == torch.float64, f"a weight is {weight.dtype}"
        assert bool(((weight > 0) & weight.isfinite()).all()), "a weight is not positive"
        again = weighting(process, t.flip(0).reshape(8, 8)).flatten().flip(0)
        assert torch.allclose(weight, again, rtol=1e-12), "a weight depends on other times"


def _times(build: Build) -> None:
    """In range, the same for the same streams, and weights of mean 1."""
    for process in (vp_cosine(), edm(), flow()):
        n = 4096
        (t, weight), again = (build()(process, simple(), Noise(range(n))) for _ in range(2))
        assert t.shape == weight.shape == (n,), "not one time and one weight a sample"
        assert t.dtype == torch.float64, f"a time is {t.dtype}"
        assert float(t.min()) >= process.t_first, "before t_first"
        assert float(t.max()) <= process.t_max, "after t_max"
        assert torch.equal(t, again[0]), "not a function of the streams"
        # The density of uniform times over the density drawn from has mean 1: 5 standard errors.
        error = 5 * float(weight.std()) / n**0.5 + 1e-9
        assert abs(float(weight.mean()) - 1) < error, "weights would change the mean loss"


def _parameterization(build: Build) -> None:
    """What means x0 means x0 again, and the network's input has a scale."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(64, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    for process in (vp_cosine(), edm(), flow()):
        row, t = build(), _times_of(process)
        alpha, sigma = process.alpha_sigma(t)
        x = process.diffuse(x0, t, eps)
        coefficients = row.coefficients(alpha, sigma)
        back = row.to_x0(row.from_x0(x0, x, alpha, sigma), x, alpha, sigma)
        # x0 is a difference of terms of the size of x sigma / alpha where F says the noise.
        size = 1 + x.abs() * over(sigma / alpha, x) + over(1 / alpha, x)
        assert ((back - x0).abs() / size).max() < 1e-12, "x0 does not come back"
        assert bool((coefficients.input > 0).all()), "the network's input is scaled away"
        assert row.level(t, alpha, sigma).isfinite().all(), "the level is not finite"


class _Off(nn.Module):
    """A network that is off by a constant in x0's channels, and says nothing of the rest."""

    def __init__(self, answer: Tensor, outputs: int, offset: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.full((), offset, dtype=answer.dtype))
        self.answer, self.others = answer, outputs - 1

    def forward(self, x: Tensor, level: Tensor, condition: object = None) -> Tensor:
        said = self.answer + self.offset
        return torch.cat([said] + [torch.zeros_like(said)] * self.others, dim=1)


def _objective(build: Build) -> None:
    """Least for a perfect network, each sample by itself, gradients, masks that hide."""
    process, row = vp_cosine(), v()
    objective: Objective = build(process, row, simple(), uniform())
    assert objective.outputs >= 1
    assert not isinstance(objective.times, Adaptive)
    x0 = torch.randn(8, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draw, again = (objective.draw(x0, Noise(range(8))) for _ in range(2))
    assert torch.equal(draw.t, again.t), "times are not a function of the streams"
    assert torch.equal(draw.eps, again.eps), "noise is not a function of the streams"
    alpha, sigma = (over(value, x0) for value in process.alpha_sigma(draw.t))
    answer = alpha * draw.eps - sigma * x0

    def loss(offset: float, rows: slice = slice(None), mask: Tensor | None = None) -> Tensor:
        network = _Off(answer[rows], objective.outputs, offset)
        found = objective.loss(network, x0[rows], draw.t[rows], draw.eps[rows], None, mask)
        found.sum().backward()
        assert network.offset.grad is not None, "no gradient reaches the network"
        assert bool(network.offset.grad.isfinite()), "the gradient is not finite"
        return found.detach()

    best, worse = loss(0.0), loss(0.3)
    assert best.shape == (8,), "not one loss a sample"
    assert (worse > best).all(), "a wrong network is not worse"
    assert torch.allclose(loss(0.3, slice(0, 3)), worse[:3], rtol=1e-9), "samples are mixed"
    mask = torch.zeros_like(x0)
    mask[:, :, 0] = 1
    assert torch.allclose(loss(0.3, mask=mask * 0), torch.zeros(8, dtype=x0.dtype))
    assert (loss(0.3, mask=mask) > 0).all(), "a mask hides what it should not"


def _told(process: GaussianPath) -> Denoiser:
    """A Gaussian world whose mean the condition moves, with more to say than x0."""

    def denoise(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        x0 = Gaussian(0.3 if condition else 0.0).denoiser(process)(x, t).x0
        fraction = torch.full_like(x, 0.5)
        return Prediction(x0, variance_fraction=fraction, x0_variance=torch.ones_like(x))

    return FunctionDenoiser(process, denoise)


def _positional(build: Build) -> list[str]:
    """The names of a part's inputs."""
    parameters = inspect.signature(build).parameters.values()
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]


def _guidance(build: Build, *, given: Mapping[str, Any] | None = None) -> None:
    """Each sample by itself, finite at both ends, nothing else lost, gradients on and off.

    `given` names the inputs beyond a denoiser that are not among those below.
    """
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(4, 2, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    for process in (vp_cosine(), edm(), flow()):
        known = {
            "denoise": _told(process),
            "log_prob": lambda x, t, condition: -row_sum(x.square()),
            "reward": lambda x0, condition: -row_sum(x0.square()),
            "weaker": Gaussian(0.0, 1.0).denoiser(process),
            "without": lambda condition: None,
        } | dict(given or {})
        wanted = _positional(build)
        assert wanted[:1] == ["denoise"], "expected denoise as the first input"
        assert known.keys() >= set(wanted), "an input that nobody gives; name it in `given`"
        guided: Denoiser = build(*(known[name] for name in wanted))
        log_snr = torch.tensor([8.0, 1.0, -2.0], dtype=torch.float64)
        last = torch.tensor([process.t_max], dtype=torch.float64)
        t, condition = torch.cat([process.time_of_log_snr(log_snr), last]), {"image": other}
        with torch.no_grad():
            said, alone = guided(x, t, condition), guided(x[1:2], t[1:2], {"image": other[1:2]})
        assert said.x0.shape == x.shape, f"{tuple(x.shape)} came back as {tuple(said.x0.shape)}"
        assert said.x0.dtype == x.dtype, f"{x.dtype} came back as {said.x0.dtype}"
        assert bool(said.x0.isfinite().all()), "x0 is not finite"
        assert torch.equal(said.x0[1:2], alone.x0), "a sample depends on its batch"
        assert not said.x0.requires_grad, "a graph is left behind"
        assert said.variance_fraction is not None, "the variance fraction is lost"
        assert said.x0_variance is not None, "the variance of x0 is lost"
        at = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(guided(at, t, condition).x0.square().sum(), at)
        assert bool(slope.isfinite().all()), "the gradient is not finite"
        assert slope[1].any(), "no gradient passes"


def _posterior(build: Build, *, options: Mapping[str, Any] | None = None) -> None:
    """Finite on every process, each sample by itself, and nearer to what was measured."""
    world, operator = Gaussian(), Average(factor=2)
    x0 = world.draw((3, 2, 32, 32), torch.Generator().manual_seed(0))

    def draw(process: GaussianPath, method: Any, rows: slice) -> tuple[Tensor, Tensor]:
        """The samples of some seeds, and |y - A x|^2 of each."""
        grid, noise = uniform_log_snr(process, steps=20), Noise(range(3)[rows])
        measurement = Measurement(operator, operator.forward(x0[rows]))
        guided = method(measurement, world.denoiser(process), DDIM())
        start = prior(process, grid, x0[rows], noise)
        got = sample(guided.denoise, grid, guided.solver, start, noise)
        apart = residual(measurement, got)
        return got, dot(apart, apart)

    for process in (vp_cosine(), edm(), flow()):
        method = partial(build, **(options or {}))
        got, left = draw(process, method, slice(None))
        _, free = draw(process, lambda m, denoise, solver: Guided(denoise, solver), slice(None))
        assert bool(got.isfinite().all()), "a sample is not finite"
        alone, _ = draw(process, method, slice(1, 2))
        assert torch.equal(alone, got[1:2]), "a sample depends on its batch"
        assert bool((left < free / 2).all()), f"the measurement is not heard: {left / free}"


def _predictor(build: Any) -> None:
    """It says, before a model is loaded, what it reads and what the results are called."""
    inputs = [
        p
        for p in inspect.signature(build).parameters.values()
        if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert len(inputs) == 2, "it is not built from a machine and a checkpoint"
    suffixes: Any = getattr(build, "suffixes", None)
    assert isinstance(suffixes, tuple), "suffixes is no tuple"
    assert suffixes, "it reads nothing"
    for suffix in suffixes:
        assert suffix.startswith("."), f"{suffix!r} has no dot"
        assert suffix == suffix.lower(), f"{suffix!r} is not in lower case"
        name = build.result_name(f"a photo{suffix}")
        assert name == Path(name).name, f"{name!r} is a path"
        assert name not in ("", ".", ".."), "a result has no name"
        assert name != build.result_name(f"another{suffix}"), "two files share a result"


_CHECKS: dict[str, Callable[..., None]] = {
    "network": _network,
    "dataset": _dataset,
    "task": _task,
    "operator": _operator,
    "metric": _metric,
    "process": _process,
    "sampler": _sampler,
    "grid": _grid,
    "weighting": _weighting,
    "times": _times,
    "parameterization": _parameterization,
    "objective": _objective,
    "guidance": _guidance,
    "posterior": _posterior,
    "predictor": _predictor,
}
