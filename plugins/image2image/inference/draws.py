"""Pictures of any size through a trained model of restoration."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.denoiser.parameterization import Condition, FunctionDenoiser, Prediction
from core.denoiser.tiles import Estimate, check_memory, roomy, starts, tiled
from core.model import Model, corrected
from core.process.noise import Noise, derive
from core.request import Emit, Progress, silent
from core.sampler.sample import Moment, prior, sample
from core.sampler.solver import Solver
from core.task import Batch
from plugins.image2image.tasks.restoration import Restoration
from plugins.image2image.tasks.super_resolution import SR3

# float32 fields of the result's size that live at once: x, x0, its history, condition, noise,
# the sums over draws and what the arithmetic in between needs.
FIELDS = 12


@dataclass(frozen=True, kw_only=True)
class How:
    """How a restoration is drawn.

    Args:
        solver: rule of a step.
        grid: falling times.
        seed: of the draws.
        draws: how many.
        first: number of the first of them.
        tile: side of a tile of the result, in pixels.
        overlap: pixels that tiles share.
    """

    solver: Solver
    grid: Float64[Tensor, " n"]
    seed: int = 0
    draws: int = 1
    first: int = 0
    tile: int = 512
    overlap: int = 64

    def tiles(self, height: int, width: int) -> int:
        """How many tiles a result has."""
        sides = (len(starts(side, self.tile, self.overlap)) for side in (height, width))
        return next(sides) * next(sides)


def restored(
    model: Model, given: Batch, how: How, *, emit: Emit = silent
) -> Iterator[Float[Tensor, " 1 3 h w"]]:
    """Draws of what a picture was, each in [-1, 1] and agreeing with what was measured.

    Draw k depends on (seed, k) alone.  Memory does not grow with the number of draws or tiles.

    Args:
        model: trained for a `Restoration`.
        given: of one picture, what its task's `base`, `spread` and `agree` look at.
        how: how they are drawn.
        emit: hears of progress.

    Raises:
        InputError: the result would not fit into memory, or the tiles leave no step.
    """
    task = model.task
    assert isinstance(task, Restoration), "load_model was asked for another task"
    base, condition = task.base(given), task.condition(given)
    check_memory(FIELDS, 3, *base.shape[-2:])
    parts = tiled(roomy(model.denoise), tile=how.tile, overlap=how.overlap)
    denoise = corrected(parts, task, given)
    start, steps = time.monotonic(), len(how.grid) - 1
    for draw in range(how.draws):
        noise = Noise.of(how.seed, "upscale", each=[how.first + draw])

        def watch(moment: Moment, before: int = draw * steps) -> None:
            done = before + moment.done
            rate = done / (time.monotonic() - start)
            total = how.draws * steps
            emit(Progress(done=done, total=total, unit="step", rate=rate, figures={}))

        x = prior(model.process, how.grid, base, noise)
        x0 = sample(denoise, how.grid, how.solver, x, noise, condition, watch=watch)
        yield task.finish(x0, given)


def estimated(model: Model, size: tuple[int, int], how: How) -> Estimate:
    """What `restored` will take for a result of a size, from one evaluation of one tile.

    Raises:
        InputError: the result would not fit into memory, or the tiles leave no step.
    """
    height, width = size
    check_memory(FIELDS, 3, height, width)
    tiled(model.denoise, tile=how.tile, overlap=how.overlap)
    calls, tiles = _calls(model, how), how.tiles(height, width)
    part = (min(height, how.tile), min(width, how.tile))
    x = torch.zeros(1, model.task.channels, *part, device=model.device)
    told = {name: x.new_zeros(1, n, *part) for name, n in model.task.conditions.items()}
    t = torch.full((1,), model.process.t_max, dtype=torch.float64, device=model.device)
    with torch.no_grad():
        roomy(model.denoise)(x, t, told)  # pays for what is made once
        begun = time.monotonic()
        roomy(model.denoise)(x, t, told)
    seconds = how.draws * tiles * calls * (time.monotonic() - begun)
    memory = FIELDS * 3 * height * width * 4
    return Estimate(size, how.tile, how.overlap, tiles, calls, seconds, memory)


def _calls(model: Model, how: How) -> int:
    """How often a draw asks the denoiser: a walk on a picture of one pixel, which says nothing."""
    calls = 0

    def nothing(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        nonlocal calls
        calls += 1
        return Prediction(x)

    counted = FunctionDenoiser(model.process, nothing)
    sample(counted, how.grid, how.solver, torch.zeros(1, 1, 1, 1), Noise([0]))
    return calls


@dataclass(frozen=True)
class Summary:
    """What several draws say together.

    Args:
        mean: of the draws: closer to the truth on average than any, and smoother.
        deviation: of the draws, by their number: what is not certain; 0 for a single one.
    """

    mean: Float[Tensor, " 3 h w"]
    deviation: Float[Tensor, " 3 h w"]


def cascade(
    stages: Sequence[tuple[Model, float]],
    low: Float[Tensor, " 1 3 y x"],
    how: How,
    *,
    emit: Emit = silent,
) -> Iterator[Float[Tensor, " 1 3 h w"]]:
    """Draws of a picture enlarged by one model after another, each draw through all of them.

    Source: Ho et al. 2022, Cascaded diffusion models, JMLR 23, with noise-conditioning
    augmentation (section 4): what a later model is given is as noisy as it is told.

    Args:
        stages: models trained for `SR3`, and the deviation of the noise that is added to what each
            is given; 0 for one that was trained without.
        low: the picture, in [-1, 1].
        how: how each stage is drawn; tiles are of its own result.
        emit: hears of the progress of each stage.

    Raises:
        InputError: as `restored`, or a level that a model was not trained for.
    """
    for draw in range(how.draws):
        picture = low
        for stage, (model, level) in enumerate(stages):
            assert isinstance(model.task, SR3), "load_model was asked for another task"
            seed = how.seed if stage == 0 else derive(how.seed, "stage", stage)
            noise = Noise.of(seed, "augment", each=[draw]).like(picture)
            given = model.task.given(picture, level, noise)
            alone = replace(how, seed=seed, draws=1, first=draw)
            (picture,) = restored(model, given, alone, emit=emit)
        yield picture


def summary(draws: Iterator[Float[Tensor, " 3 h w"]]) -> Summary:
    """Mean and deviation of draws that are looked at one by one.

    Source: Welford 1962, Technometrics 4, 419.
    """
    mean, count = next(draws).clone(), 1
    squares = torch.zeros_like(mean)
    for draw in draws:
        count += 1
        apart = draw - mean
        mean += apart / count
        squares += apart * (draw - mean)
    return Summary(mean, (squares / count).sqrt())
