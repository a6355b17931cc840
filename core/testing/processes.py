"""The contracts of what diffuses and denoises: processes, samplers, objectives, guidance."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction, v
from core.inverse.measurement import Measurement, dot, residual
from core.inverse.operators import Average
from core.inverse.posterior import Guided
from core.objective.denoising import Objective
from core.objective.times import Adaptive, uniform
from core.objective.weighting import simple
from core.process.gaussian import GaussianPath, over
from core.process.noise import Noise
from core.process.rows import row_sum
from core.process.schedules import edm, flow, vp_cosine
from core.sampler.ancestral import DDIM
from core.sampler.grids import uniform_log_snr
from core.sampler.sample import prior, sample
from core.testing.distributions import Gaussian
from core.testing.orders import check_solver

Build = Callable[..., Any]


def check_process(build: Build) -> None:
    """Log-SNR falls, from a clean end to a noisy one, and its inverse undoes it."""
    path: GaussianPath = build()
    t = torch.linspace(path.t_first, path.t_max, 100, dtype=torch.float64)
    assert (path.log_snr(t).diff() < 0).all(), "log-SNR does not fall"
    assert path.log_snr(t)[0] > 6, "the clean end is noisy"
    assert path.log_snr(t)[-1] < -5, "the noisy end is clean"
    back = path.time_of_log_snr(path.log_snr(t))
    assert (back - t).abs().max() < 1e-6 * path.t_max, "time_of_log_snr does not invert log_snr"


def check_sampler(build: Build, *, process: GaussianPath | None = None) -> None:
    check_solver(build(), process or edm())


def check_grid(build: Build, *, process: GaussianPath | None = None) -> None:
    """Falls strictly from the noisy end to the clean one."""
    process = process or edm()
    grid = build(process)
    assert (grid.diff() < 0).all(), "the grid does not fall"
    assert float(grid[0]) <= process.t_max
    assert float(grid[-1]) == process.t_min


def _times_of(process: GaussianPath, n: int = 64) -> Tensor:
    fraction = torch.linspace(0.01, 0.99, n, dtype=torch.float64)
    return process.t_first + fraction * (process.t_max - process.t_first)


def check_weighting(build: Build) -> None:
    """Positive, finite, float64, and a function of each time alone."""
    for process in (vp_cosine(), edm(), flow()):
        weighting, t = build(), _times_of(process)
        weight = weighting(process, t)
        assert weight.shape == t.shape, f"weights of {tuple(t.shape)} are {tuple(weight.shape)}"
        assert weight.dtype == torch.float64, f"a weight is {weight.dtype}"
        assert bool(((weight > 0) & weight.isfinite()).all()), "a weight is not positive"
        again = weighting(process, t.flip(0).reshape(8, 8)).flatten().flip(0)
        assert torch.allclose(weight, again, rtol=1e-12), "a weight depends on other times"


def check_times(build: Build) -> None:
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


def check_parameterization(build: Build) -> None:
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
    """The right output plus a constant in x0's channels, and zeros in the others.

    For objectives that use one it has an estimate of x0, which is 0 and so needs no correction.
    """

    def __init__(self, answer: Tensor, outputs: int, offset: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.full((), offset, dtype=answer.dtype))
        self.answer, self.others = answer, outputs - 1

    def estimate(self, condition: object) -> Tensor:
        return torch.zeros_like(self.answer)

    def forward(self, x: Tensor, level: Tensor, condition: object = None) -> Tensor:
        output = self.answer + self.offset
        return torch.cat([output] + [torch.zeros_like(output)] * self.others, dim=1)


def check_objective(build: Build) -> None:
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


def positional(build: Build) -> list[str]:
    """The names of a part's inputs."""
    parameters = inspect.signature(build).parameters.values()
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]


def check_guidance(build: Build, *, given: Mapping[str, Any] | None = None) -> None:
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
        inputs = positional(build)
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


def check_posterior(build: Build, *, options: Mapping[str, Any] | None = None) -> None:
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
