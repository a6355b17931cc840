"""Along the reverse process and back: sample, encode, edit, interpolate."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from core.denoiser.parameterization import Condition, Denoiser, Prediction
from core.errors import InputError
from core.process.gaussian import GaussianPath
from core.process.noise import Source
from core.sampler.solver import Estimate, Solver


class Moment(NamedTuple):
    """A trajectory after a step.

    Args:
        done: steps taken.
        total: number of steps.
        x: the state after them; not a copy, so clone what is kept.
    """

    done: int
    total: int
    x: Float[Tensor, " b *shape"]


Watch = Callable[[Moment], None]
Gradients = bool | Literal["recompute"]


def prior(
    process: GaussianPath,
    grid: Float64[Tensor, " n"],
    like: Float[Tensor, " b *shape"],
    noise: Source,
) -> Float[Tensor, " b *shape"]:
    """A start x at grid[0]: noise of that level, in the shape of `like`."""
    _, sigma = process.alpha_sigma(grid[0].double())
    return float(sigma) * noise.like(like)


def conditioned(denoise: Denoiser, condition: Condition | None) -> Estimate:
    """`denoise` with its condition fixed, as a function of x and one time, or one for each."""
    process = denoise.process

    def estimate(x: Tensor, t: float | Tensor) -> Prediction:
        # Below t_first the network was never trained, and at sigma = 0 there is nothing to predict.
        if isinstance(t, Tensor):
            times = t.to(x.device).clamp(min=process.t_first)
        else:
            first = max(t, process.t_first)
            times = torch.full((len(x),), first, dtype=torch.float64, device=x.device)
        return denoise(x, times, condition)

    return estimate


def sample(
    denoise: Denoiser,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    x: Float[Tensor, " b *shape"],
    noise: Source,
    condition: Condition | None = None,
    *,
    watch: Watch | None = None,
    gradients: Gradients = False,
) -> Float[Tensor, " b *shape"]:
    """Integrate from `x` at grid[0] to grid[-1].

    Args:
        denoise: estimates the clean sample.
        grid: falling times.
        solver: the rule of a step.
        x: the start, usually from `prior`.
        noise: draws for stochastic solvers, one stream per sample.
        condition: passed on to `denoise`.
        watch: called after each step, for progress and trajectories.
        gradients: whether the result can be differentiated.  True keeps the graph of all calls.
            ``recompute`` keeps the inputs and draws of each step and recomputes it in the backward
            pass: the same gradients, the tensors of one step at a time.

    Raises:
        InputError: the grid does not run one way within the denoiser's process, or rises although
            the solver draws noise.
    """
    estimate = conditioned(denoise, condition)
    step = _recomputed(solver) if gradients == "recompute" else solver.step
    with torch.set_grad_enabled(bool(gradients)):
        rows, state = solver.plan(denoise.process, grid), None
        for done, row in enumerate(rows, start=1):
            x, state = step(x, row, state, estimate, noise)
            if watch is not None:
                watch(Moment(done, len(rows), x))
    return x


class _Replay:
    """A source that repeats its draws when a step is recomputed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._draws: list[Tensor] = []
        self._next = 0

    def rewind(self) -> None:
        """Begin with the first draw again."""
        self._next = 0

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        return self._once(lambda: self._source.like(x))

    def between(
        self, x: Float[Tensor, " b *shape"], start: float, end: float
    ) -> Float[Tensor, " b *shape"]:
        return self._once(lambda: self._source.between(x, start, end))

    def _once(self, draw: Callable[[], Tensor]) -> Tensor:
        if self._next == len(self._draws):
            self._draws.append(draw())
        self._next += 1
        return self._draws[self._next - 1]


def _recomputed(solver: Solver) -> Callable[..., tuple[Tensor, Any]]:
    """The solver's step, recomputed in the backward pass.

    Source: Chen et al. 2016, arXiv:1604.06174, section 3.
    """

    def step(x: Tensor, row: Any, state: Any, estimate: Estimate, noise: Source) -> Any:
        replay = _Replay(noise)

        def again(x: Tensor, state: Any) -> tuple[Tensor, Any]:
            replay.rewind()
            return solver.step(x, row, state, estimate, replay)

        return checkpoint(again, x, state, use_reentrant=False)

    return step


class _RefusesToDraw:
    """A source for runs that must not draw."""

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        raise InputError(
            "encode: expected a solver that draws no noise, such as core/multistep with eta 0"
        )

    def between(
        self, x: Float[Tensor, " b *shape"], start: float, end: float
    ) -> Float[Tensor, " b *shape"]:
        return self.like(x)


def encode(
    denoise: Denoiser,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    x0: Float[Tensor, " b *shape"],
    condition: Condition | None = None,
    *,
    watch: Watch | None = None,
    gradients: Gradients = False,
) -> Float[Tensor, " b *shape"]:
    """The latent x at grid[0] whose probability-flow trajectory ends in `x0`.

    The grid is run backwards, from the smallest time that networks know, where x = alpha x0;
    `sample` on the same grid undoes it to the solver's error.
    Source: Song et al. 2021, arXiv:2010.02502, section 4.3, and arXiv:2011.13456, section 4.3.

    Args:
        denoise: as in `sample`.
        grid: falling times, as for `sample`.
        solver: one that draws no noise.
        x0: clean samples.
        condition: as in `sample`.
        watch: as in `sample`.
        gradients: as in `sample`.

    Raises:
        InputError: the solver draws noise, or the grid turns.
    """
    process, rising = denoise.process, grid.flip(0)
    rising = torch.cat(
        [rising.new_tensor([process.t_first]), rising[rising > process.t_first]]
        if float(rising[0]) < process.t_first
        else [rising]
    )
    alpha, _ = process.alpha_sigma(rising[0].double())
    return sample(
        denoise, rising, solver, float(alpha) * x0, _RefusesToDraw(), condition,
        watch=watch, gradients=gradients,
    )  # fmt: skip


def edit(
    denoise: Denoiser,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    x0: Float[Tensor, " b *shape"],
    noise: Source,
    condition: Condition | None = None,
    *,
    strength: float = 0.5,
    watch: Watch | None = None,
    gradients: Gradients = False,
) -> Float[Tensor, " b *shape"]:
    """SDEdit: add noise to a guide up to some level, then sample from there.

    Source: Meng et al. 2022, arXiv:2108.01073, algorithm 1.

    Args:
        denoise: as in `sample`.
        grid: falling times, as for `sample`; the steps after the start are taken.
        solver: the rule of a step.
        x0: the guide: strokes, a rough paste, a sample of another model.
        noise: one stream per sample.
        condition: as in `sample`.
        strength: fraction of the grid's steps that are taken: 0 returns the guide, 1 forgets it.
        watch: as in `sample`.
        gradients: as in `sample`.

    Raises:
        InputError: strength not in [0, 1].
    """
    if not 0 <= strength <= 1:
        raise InputError(f"strength: expected 0 to 1, got {strength}")
    steps = len(grid) - 1
    taken = round(strength * steps)
    if taken == 0:
        return x0
    part = grid[steps - taken :]
    start = part[0].double().expand(len(x0)).to(x0.device)
    x = denoise.process.diffuse(x0, start, noise.like(x0))
    return sample(denoise, part, solver, x, noise, condition, watch=watch, gradients=gradients)


def interpolate(
    a: Float[Tensor, " b *shape"],
    b: Float[Tensor, " b *shape"],
    fraction: float,
    *,
    path: Literal["spherical", "linear"] = "spherical",
) -> Float[Tensor, " b *shape"]:
    """The latent at `fraction` of the way from `a` to `b`.

    Spherical keeps the norm that noise has; linear shrinks it by up to sqrt 2 halfway.
    Source: Song et al. 2021, arXiv:2010.02502, eq. 67 (Shoemake 1985).

    Args:
        a: latents at one level, from `encode` or `prior`.
        b: others at the same level.
        fraction: 0 gives a, 1 gives b.
        path: along the great arc of each pair, or the straight line.
    """
    if path == "linear":
        return torch.lerp(a, b, fraction)
    u, v = a.flatten(1), b.flatten(1)
    cosine = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    near = sine < 1e-6  # parallel latents: the arc is the line
    safe = torch.where(near, 1.0, sine)
    left = torch.where(near, 1 - fraction, ((1 - fraction) * angle).sin() / safe)
    right = torch.where(near, fraction, (fraction * angle).sin() / safe)
    return (left[:, None] * u + right[:, None] * v).reshape(a.shape)
