"""The contract of each kind of part; third parties run `check_part` over their plug-ins."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from core.data import Dataset
from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction, v
from core.errors import InputError
from core.inverse.measurement import Measurement, dot, residual
from core.inverse.operators import Average
from core.inverse.posterior import Guided
from core.network.conditioning import null_condition, takes_null
from core.objective.denoising import Objective
from core.objective.times import Adaptive, uniform
from core.objective.weighting import simple
from core.parts.registry import Registry
from core.parts.signature import options_of
from core.predictor import folders_of, names_of
from core.process.gaussian import GaussianPath, over
from core.process.noise import Noise
from core.process.rows import row_sum
from core.process.schedules import edm, flow, vp_cosine
from core.results.evaluation import methods_of
from core.results.panels import check_panels
from core.sampler.ancestral import DDIM
from core.sampler.grids import uniform_log_snr
from core.sampler.sample import prior, sample
from core.task import Degrading, Reading, Task
from core.testing.distributions import Gaussian
from core.testing.orders import check_solver

Build = Callable[..., Any]


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
        unknown = tuple(n for n in _positional(build) if n not in ("denoise", "without", "model"))
        assert unknown == part.inputs, f"{name}: inputs are {part.inputs}, expected {unknown}"
    inputs = {"options": options, "process": process, "batch": batch, "shape": shape}
    inputs |= {"given": given}
    check = _CHECKS.get(kind)
    if check is not None:
        check(build, **{name: value for name, value in inputs.items() if value is not None})


SHAPES = ((3, 24, 17), (3, 24), (3,), (3, 12, 10, 8))  # of an image, a signal, a point, a volume
NUMBERS = {"image": 3, "class": 4, "vector": 5, "sequence": 6}


def _network(
    build: Build,
    *,
    options: Mapping[str, Any] | None = None,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Shape kept at two sizes, samples independent, inputs used, every parameter trained.

    A condition is refused by an `InputError` when the network is built, or heeded.
    """
    options = options or {}
    channels = shape[0] if shape else 3
    numbers = {**NUMBERS, "image": channels}
    conditions = {
        name: number
        for name, number in numbers.items()
        if not _refuses(build, channels, {name: number}, options)
    }
    network: nn.Module = build(channels, channels, conditions, **options)
    with torch.no_grad():  # layers that begin at zero would hide what lies behind them
        generator = torch.Generator().manual_seed(0)
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    shape = shape or _shape_of(network.eval(), conditions, generator)
    level = torch.tensor([3.0, -40.0])
    for size in (shape, (shape[0], *(s + 5 for s in shape[1:]))):
        x = torch.randn(2, *size, generator=generator)
        given, other = (_condition(conditions, x, generator, label) for label in (0, 1))
        output = network(x, level, given)
        assert output.shape == x.shape, f"the output of {tuple(x.shape)} is {tuple(output.shape)}"
        first = {name: value[:1] for name, value in given.items()}
        alone = network(x[:1], level[:1], first)
        assert (alone[0] - output[0]).abs().max() < 1e-4, "a sample depends on its neighbours"
        assert (network(x, level + 20, given) - output).abs().max() > 1e-4, (
            "the output ignores the noise level"
        )
        for name, value in other.items():
            changed = network(x, level, {**given, name: value})
            assert (changed - output).abs().max() > 1e-4, (
                f"the output ignores the condition {name!r}: use it, or refuse it when the network "
                "is built, by core.network.conditioning.check"
            )
        if conditions and takes_null(network):
            one, two = (network(x, level, null_condition(c)) for c in (given, other))
            assert torch.equal(one, two), "samples without condition depend on it"
    network.train()
    x = torch.randn(2, *shape, generator=generator)
    network(x, level, _condition(conditions, x, generator, 0)).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"no gradient reaches {', '.join(idle)}"


def _refuses(
    build: Build, channels: int, conditions: Mapping[str, int], options: Mapping[str, Any]
) -> bool:
    """Whether a network refuses a condition when it is built."""
    try:
        build(channels, channels, conditions, **options)
    except InputError:
        return True
    return False


def _condition(
    conditions: Mapping[str, int], x: Tensor, generator: torch.Generator, label: int
) -> dict[str, Tensor]:
    """A value for each condition of a network, for the batch `x`."""
    shapes = {"image": x.shape, "vector": (len(x), 5), "sequence": (len(x), 7, 6)}
    drawn = {
        name: torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
        if name in conditions
    }
    labels = {"class": torch.full((len(x),), label)} if "class" in conditions else {}
    return {**drawn, **labels}


def _shape_of(
    network: nn.Module, conditions: Mapping[str, int], generator: torch.Generator
) -> tuple[int, ...]:
    """The first of `SHAPES` that a network takes and gives back."""
    failed = []
    for shape in SHAPES:
        x = torch.randn(2, *shape, generator=generator)
        try:
            with torch.no_grad():
                output = network(x, torch.zeros(2), _condition(conditions, x, generator, 0))
        except Exception as error:  # noqa: BLE001  (whatever another number of axes leads to)
            failed.append(f"{tuple(x.shape)} raises {type(error).__name__}: {error}")
            continue
        if output.shape == x.shape:
            return shape
        failed.append(f"{tuple(x.shape)} gives {tuple(output.shape)}")
    raise AssertionError("\n".join(["no batch is taken; pass `shape`, if it is another", *failed]))


def _dataset(build: Build, *, options: Mapping[str, Any] | None = None) -> None:
    """Items are deterministic and in range; splits have no source in common."""
    options = options or {}
    sides: list[Dataset] = [build(split, **options) for split in ("train", "test")]
    for side in sides:
        for index in (0, len(side) - 1):
            first, again = side[index], side[index]
            for key, value in first.items():
                assert torch.equal(value, again[key]), f"item {index} is not deterministic"
                if value.is_floating_point():  # classes are whole numbers
                    assert value.abs().max() <= 1, f"item {index} is not in [-1, 1]"
            assert side.name(index), "an item has no name"
    first, second = ({side.source(i) for i in range(len(side))} for side in sides)
    assert not first & second, f"in both splits: {', '.join(first & second)}"
    assert sides[0].digest() == build("train", **options).digest(), (
        "the digest is not deterministic"
    )


def _task(
    build: Build,
    *,
    batch: Mapping[str, Tensor] | None = None,
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
            sign = 1 if task.figures[name].better == "higher" else -1
            apart = sign * (values - worse[method].figures[name])
            assert (apart >= 0).all(), f"{name} prefers a wrong result"


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


def _metric(build: Build) -> None:
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


def _process(build: Build) -> None:
    """Log-SNR falls, from a clean end to a noisy one, and its inverse undoes it."""
    path: GaussianPath = build()
    t = torch.linspace(path.t_first, path.t_max, 100, dtype=torch.float64)
    assert (path.log_snr(t).diff() < 0).all(), "log-SNR does not fall"
    assert path.log_snr(t)[0] > 6, "the clean end is noisy"
    assert path.log_snr(t)[-1] < -5, "the noisy end is clean"
    back = path.time_of_log_snr(path.log_snr(t))
    assert (back - t).abs().max() < 1e-6 * path.t_max, "time_of_log_snr does not invert log_snr"


def _sampler(build: Build, *, process: GaussianPath | None = None) -> None:
    check_solver(build(), process or edm())


def _grid(build: Build, *, process: GaussianPath | None = None) -> None:
    """Falls strictly from the noisy end to the clean one."""
    process = process or edm()
    grid = build(process)
    assert (grid.diff() < 0).all(), "the grid does not fall"
    assert float(grid[0]) <= process.t_max
    assert float(grid[-1]) == process.t_min


def _times_of(process: GaussianPath, n: int = 64) -> Tensor:
    fraction = torch.linspace(0.01, 0.99, n, dtype=torch.float64)
    return process.t_first + fraction * (process.t_max - process.t_first)


def _weighting(build: Build) -> None:
    """Positive, finite, float64, and a function of each time alone."""
    for process in (vp_cosine(), edm(), flow()):
        weighting, t = build(), _times_of(process)
        weight = weighting(process, t)
        assert weight.shape == t.shape, f"weights of {tuple(t.shape)} are {tuple(weight.shape)}"
        assert weight.dtype == torch.float64, f"a weight is {weight.dtype}"
        assert bool(((weight > 0) & weight.isfinite()).all()), "a weight is not positive"
        again = weighting(process, t.flip(0).reshape(8, 8)).flatten().flip(0)
        assert torch.allclose(weight, again, rtol=1e-12), "a weight depends on other times"


def _times(build: Build) -> None:
    """In range, deterministic given the streams, and weights of mean 1."""
    for process in (vp_cosine(), edm(), flow()):
        n = 4096
        (t, weight), again = (build()(process, simple(), Noise(range(n))) for _ in range(2))
        assert t.shape == weight.shape == (n,), "expected one time and one weight for each sample"
        assert t.dtype == torch.float64, f"a time is {t.dtype}"
        assert float(t.min()) >= process.t_first, "before t_first"
        assert float(t.max()) <= process.t_max, "after t_max"
        assert torch.equal(t, again[0]), "times are not a function of the streams"
        # The density of uniform times over the density drawn from has mean 1: 5 standard errors.
        error = 5 * float(weight.std()) / n**0.5 + 1e-9
        assert abs(float(weight.mean()) - 1) < error, "weights would change the mean loss"


def _parameterization(build: Build) -> None:
    """`to_x0` inverts `from_x0`, and the network's input and level are finite."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(64, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    for process in (vp_cosine(), edm(), flow()):
        row, t = build(), _times_of(process)
        alpha, sigma = process.alpha_sigma(t)
        x = process.diffuse(x0, t, eps)
        coefficients = row.coefficients(alpha, sigma)
        back = row.to_x0(row.from_x0(x0, x, alpha, sigma), x, alpha, sigma)
        # Where F is the noise, x0 is a difference of terms of the size of x sigma / alpha.
        size = 1 + x.abs() * over(sigma / alpha, x) + over(1 / alpha, x)
        assert ((back - x0).abs() / size).max() < 1e-12, "to_x0 does not invert from_x0"
        assert bool((coefficients.input > 0).all()), (
            "the scale of the network's input is not positive"
        )
        assert row.level(t, alpha, sigma).isfinite().all(), "the level is not finite"


class _Off(nn.Module):
    """The right output plus a constant in x0's channels, and zeros in the others."""

    def __init__(self, answer: Tensor, outputs: int, offset: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.full((), offset, dtype=answer.dtype))
        self.answer, self.others = answer, outputs - 1

    def forward(self, x: Tensor, level: Tensor, condition: object = None) -> Tensor:
        output = self.answer + self.offset
        return torch.cat([output] + [torch.zeros_like(output)] * self.others, dim=1)


def _objective(build: Build) -> None:
    """Least for a perfect network, samples independent, gradients, masks."""
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
    assert best.shape == (8,), "expected one loss for each sample"
    assert (worse > best).all(), "the loss of a wrong network is not larger"
    assert torch.allclose(loss(0.3, slice(0, 3)), worse[:3], rtol=1e-9), (
        "the loss of a sample depends on its batch"
    )
    mask = torch.zeros_like(x0)
    mask[:, :, 0] = 1
    assert torch.allclose(loss(0.3, mask=mask * 0), torch.zeros(8, dtype=x0.dtype))
    assert (loss(0.3, mask=mask) > 0).all(), "the loss ignores unmasked elements"


def _conditional_gaussian(process: GaussianPath) -> Denoiser:
    """The denoiser of Gaussian data whose mean depends on the condition; all fields predicted."""

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
    """Samples independent, finite at both ends, other fields kept, gradients on and off.

    `given`: inputs of the part by name, beside those below.
    """
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(4, 2, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    for process in (vp_cosine(), edm(), flow()):
        known = {
            "denoise": _conditional_gaussian(process),
            "log_prob": lambda x, t, condition: -row_sum(x.square()),
            "reward": lambda x0, condition: -row_sum(x0.square()),
            "weaker": Gaussian(0.0, 1.0).denoiser(process),
            "without": lambda condition: None,
        } | dict(given or {})
        inputs = _positional(build)
        assert inputs[:1] == ["denoise"], "expected denoise as the first input"
        assert known.keys() >= set(inputs), (
            f"unknown inputs {sorted(set(inputs) - known.keys())}; pass them in `given`"
        )
        guided: Denoiser = build(*(known[name] for name in inputs))
        log_snr = torch.tensor([8.0, 1.0, -2.0], dtype=torch.float64)
        last = torch.tensor([process.t_max], dtype=torch.float64)
        t, condition = torch.cat([process.time_of_log_snr(log_snr), last]), {"image": other}
        with torch.no_grad():
            found, alone = guided(x, t, condition), guided(x[1:2], t[1:2], {"image": other[1:2]})
        assert found.x0.shape == x.shape, f"{tuple(x.shape)} gives x0 of {tuple(found.x0.shape)}"
        assert found.x0.dtype == x.dtype, f"{x.dtype} gives x0 of {found.x0.dtype}"
        assert bool(found.x0.isfinite().all()), "x0 is not finite"
        assert torch.equal(found.x0[1:2], alone.x0), "a sample depends on its batch"
        assert not found.x0.requires_grad, "x0 has a graph under no_grad"
        assert found.variance_fraction is not None, "variance_fraction is dropped"
        assert found.x0_variance is not None, "x0_variance is dropped"
        at = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(guided(at, t, condition).x0.square().sum(), at)
        assert bool(slope.isfinite().all()), "the gradient is not finite"
        assert slope[1].any(), "no gradient passes"


def _posterior(build: Build, *, options: Mapping[str, Any] | None = None) -> None:
    """Finite on every process, samples independent, and nearer to the measurement."""
    data, operator = Gaussian(), Average(factor=2)
    x0 = data.draw((3, 2, 32, 32), torch.Generator().manual_seed(0))

    def draw(process: GaussianPath, method: Any, rows: slice) -> tuple[Tensor, Tensor]:
        """The samples of some seeds, and |y - A x|^2 of each."""
        grid, noise = uniform_log_snr(process, steps=20), Noise(range(3)[rows])
        measurement = Measurement(operator, operator.forward(x0[rows]))
        guided = method(measurement, data.denoiser(process), DDIM())
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
        assert bool((left < free / 2).all()), f"|y - A x|^2 falls to {left / free} only"


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
