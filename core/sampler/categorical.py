"""The ancestral chain of categorical data, and its variational bound.

Library only: no registered sampler reaches it, since none takes a `CategoricalProcess`::

    process = absorbing(28, mutual_information_betas(steps=256))
    grid = even_steps(process, steps=64)
    x = process.prior(torch.zeros(8, 40, dtype=torch.int64), noise)
    text = sample_categories(denoise, process, grid, x, noise)
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from core.denoiser.parameterization import Condition, Prediction
from core.errors import InputError
from core.process.categorical import CategoricalProcess, draw
from core.process.noise import Noise
from core.sampler.sample import Moment, Watch

# (x_t, t, condition) -> a `Prediction` with logits of x0, (b, *shape, k).
LogitsDenoiser = Callable[[Tensor, Tensor, Condition | None], Prediction]


def even_steps(process: CategoricalProcess, *, steps: int = 64) -> Float64[Tensor, " n"]:
    """Whole steps from T down to 0, as even as they can be.

    Args:
        process: the forward process.
        steps: of the chain, 1 to T.

    Raises:
        InputError: more steps than the process has, or none.
    """
    if not 1 <= steps <= process.steps:
        raise InputError(f"steps: expected 1 to {process.steps}, got {steps}")
    return torch.linspace(process.steps, 0, steps + 1, dtype=torch.float64).round()


def _clean_law(
    denoise: LogitsDenoiser, x: Tensor, t: Tensor, condition: Condition | None
) -> Float64[Tensor, " b *shape k"]:
    logits = denoise(x, t, condition).logits
    if logits is None:
        raise InputError(
            "categorical sampling requires a denoiser with logits of x0; return "
            "Prediction(x0, logits=...)"
        )
    return logits.double().softmax(-1)


@torch.no_grad()
def sample_categories(
    denoise: LogitsDenoiser,
    process: CategoricalProcess,
    grid: Float64[Tensor, " n"],
    x: Int64[Tensor, " b *shape"],
    noise: Noise,
    condition: Condition | None = None,
    *,
    watch: Watch | None = None,
) -> Int64[Tensor, " b *shape"]:
    """Draw x_u from p(x_u | x_t) = sum_x0 q(x_u | x_t, x0) p(x0 | x_t) down the grid.

    Elements are drawn independently given x_t, so that a chain of few steps loses their
    correlations: its error in law falls with 1 / steps.
    Source: Austin et al. 2021, arXiv:2107.03006, section 3.2.

    Args:
        denoise: predicts logits of x0, (b, *shape, k).
        process: the forward process that `denoise` was made for.
        grid: falling whole steps, for example `even_steps`.
        x: the start at grid[0], usually from `process.prior`.
        noise: one stream for each sample.
        condition: passed on to `denoise`.
        watch: called after each step.

    Raises:
        InputError: the grid does not fall, leaves the process, or the denoiser has no logits.
    """
    if len(grid) < 2 or not bool((grid.diff() < 0).all()):
        raise InputError(
            f"grid: expected steps that fall strictly, such as even_steps, got {grid.tolist()}"
        )
    for done, (now, then) in enumerate(pairwise(grid.double().to(x.device)), start=1):
        t, u = now.expand(len(x)), then.expand(len(x))
        p0 = _clean_law(denoise, x, t, condition)
        # x_u ~ sum_x0 q(x_u | x_t, x0) p(x0 | x_t)
        x = draw(process.posterior(x, p0, t, u), noise.uniform_like(x))
        if watch is not None:
            watch(Moment(done, len(grid) - 1, x))
    return x


@torch.no_grad()
def variational_bound(
    denoise: LogitsDenoiser,
    process: CategoricalProcess,
    x0: Int64[Tensor, " b *shape"],
    noise: Noise,
    condition: Condition | None = None,
) -> Float64[Tensor, " b"]:
    """L_T + sum_t KL_t + L_0 >= -log p(x0) of each sample in nats, one draw of x_t for each t.

    Unbiased; T calls.  Divide by log(2) and the number of elements for bits per dimension.
    Source: Austin et al. 2021, arXiv:2107.03006, eq. 1.

    Args:
        denoise: predicts logits of x0.
        process: the forward process.
        x0: clean samples.
        noise: one stream for each sample.
        condition: passed on to `denoise`.

    Raises:
        InputError: the denoiser has no logits.
    """
    total = process.prior_divergence(x0)  # L_T
    for step in range(1, process.steps + 1):
        t = torch.full((len(x0),), float(step), dtype=torch.float64, device=x0.device)
        x = process.diffuse(x0, t, noise)
        p0 = _clean_law(denoise, x, t, condition)
        total = total + process.step_divergence(x0, x, p0, t, t - 1)
    return total
