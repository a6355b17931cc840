"""Draws of a restoration: images of any size through a trained model, in tiles."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.denoiser.tiles import Cost, check_memory, padded_to_least, starts, tiled
from core.model import Model, corrected
from core.network.predict_refine import ESTIMATE, Estimating
from core.parts.config import bind
from core.process.noise import Noise, derive
from core.request import Emit, silent
from core.sampler.draws import each
from core.sampler.sample import Watch, prior, sample
from core.sampler.solver import Solver
from core.task import Batch
from plugins.image2image.inference.row_noise import RowNoise
from plugins.image2image.request import Drawing
from plugins.image2image.tasks.restoration import Restoration
from plugins.image2image.tasks.super_resolution import SR3

# float32 fields of the result's size that live at once: x, x0, its history, condition, noise,
# the sums over draws and what the arithmetic in between needs.
FIELDS = 12


@dataclass(frozen=True)
class Rows:
    """Where an image's rows lie in a larger one, of which they are a part.

    Args:
        top: the first row.
        height: rows of the larger one.
        tiles: first rows of its tiles, from `top`; rows beside them are not drawn.
    """

    top: int
    height: int
    tiles: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How restorations are sampled.

    Args:
        solver: solver of a sampler step.
        grid: falling times.
        seed: of the draws.
        draws: number of draws.
        detail: of 0 for the expected image to 1 for a draw; see `draw_restorations`.
        first: index of the first of them.
        tile: side of a tile of the result, in pixels.
        overlap: overlap of neighbouring tiles, in pixels.
        rows: which of a larger image's rows are drawn; by default it is the whole.
    """

    solver: Solver
    grid: Float64[Tensor, " n"]
    seed: int = 0
    draws: int = 1
    detail: float = 1.0
    first: int = 0
    tile: int = 512
    overlap: int = 64
    rows: Rows | None = None

    def noise(self, name: str, draw: int, height: int) -> RowNoise:
        """The noise of a draw, by the place in the whole image."""
        top, height = (0, height) if self.rows is None else (self.rows.top, self.rows.height)
        return RowNoise(self.seed, name, draw=draw, height=height, top=top)

    def tiles(self, height: int, width: int) -> int:
        """Number of tiles of a result."""
        sides = (len(starts(side, self.tile, self.overlap)) for side in (height, width))
        return next(sides) * next(sides)


def default_drawing(model: Model) -> Drawing:
    """The checkpoint's default of steps, draws and detail, or one of its kind of network.

    Raises:
        ConfigError: the checkpoint's does not fit `Drawing`.
    """
    if model.sampling:
        return bind(Drawing, model.sampling, at="checkpoint.sampling")
    if isinstance(model.network, Estimating):
        return Drawing(detail=0.0)
    return Drawing(mean_of=8)  # the mean of draws estimates the expected image


def draw_restorations(
    model: Model, batch: Batch, sampling: Sampling, *, emit: Emit = silent
) -> Iterator[Float[Tensor, " 1 3 h w"]]:
    """Posterior draws of one image, each in [-1, 1] and consistent with the measurement.

    Draw k depends on (seed, k) alone.  Memory does not grow with the number of draws or tiles.
    With a `detail` d below 1 the result is m + d (x0 - m), m the expected image: its squared error
    exceeds the least one by d^2 times the posterior variance (the trade-off of Freirich et al.
    2021, arXiv:2107.02555), and a mixture of consistent images is consistent.

    Args:
        model: trained for a `Restoration`.
        batch: one image, as its task's `base`, `residual_std` and `make_consistent` read it.
        sampling: solver, grid, seed, draws and tiles.
        emit: receives progress.

    Raises:
        InputError: the result would not fit into memory, or the tiles leave no step.
    """
    task = model.task
    assert isinstance(task, Restoration), "load_model was asked for another task"
    base, condition = task.base(batch), task.condition(batch)
    check_memory(FIELDS, 3, *base.shape[-2:], device=model.device)
    denoise = _in_tiles(model.denoise, sampling)
    estimates, detail = isinstance(model.network, Estimating), sampling.detail
    mean = _expected(model, condition, base, sampling) if estimates or detail < 1 else None
    if estimates and mean is not None:
        condition = {**condition, ESTIMATE: mean}
    denoise = corrected(denoise, task, batch)

    def draw(number: int, watch: Watch) -> Tensor:
        if mean is not None and detail == 0:
            return task.finish(mean, batch)
        noise = sampling.noise("upscale", number, base.shape[-2])
        x = prior(model.process, sampling.grid, base, noise)
        x0 = sample(denoise, sampling.grid, sampling.solver, x, noise, condition, watch=watch)
        if mean is not None and detail < 1:
            x0 = mean + detail * (x0 - mean)
        return task.finish(x0, batch)

    steps = 0 if detail == 0 else len(sampling.grid) - 1
    yield from each(draw, sampling.draws, steps=steps, first=sampling.first, emit=emit)


def _in_tiles(denoise: Denoiser, sampling: Sampling) -> Denoiser:
    """The denoiser on images of any size."""
    first = None if sampling.rows is None else sampling.rows.tiles
    whole = padded_to_least(denoise)
    return tiled(whole, tile=sampling.tile, overlap=sampling.overlap, first=first)


def _expected(
    model: Model, condition: Condition, like: Float[Tensor, " 1 3 h w"], sampling: Sampling
) -> Float[Tensor, " 1 3 h w"]:
    """E[x0 | condition], by one call of `_by_condition_alone`."""
    x = prior(model.process, sampling.grid, like, sampling.noise("expected", 0, like.shape[-2]))
    with torch.no_grad():
        denoise = _in_tiles(_by_condition_alone(model), sampling)
        return denoise(x, model.process.t_max, condition).x0


def _by_condition_alone(model: Model) -> Denoiser:
    """A denoiser whose x0 at the noisy end is E[x0 | condition].

    The estimate of a network that makes one; of another E[x0 | x_t], as x_t says next to nothing of
    x0 there.
    """
    if not isinstance(model.network, Estimating):
        return model.denoise
    estimate = model.network.estimate
    return FunctionDenoiser(
        model.process, lambda x, t, condition=None: Prediction(estimate(condition or {}))
    )


def estimate_cost(model: Model, size: tuple[int, int], sampling: Sampling) -> Cost:
    """What `draw_restorations` will take for a result of a size, from one evaluation of one tile.

    Raises:
        InputError: the result would not fit into memory, or the tiles leave no step.
    """
    height, width = size
    check_memory(FIELDS, 3, height, width, device=model.device)
    tiled(model.denoise, tile=sampling.tile, overlap=sampling.overlap)
    tiles = sampling.tiles(height, width)
    calls = int(sampling.detail < 1)  # one of the expected image
    if sampling.detail > 0:
        calls += _count_calls(model, sampling)
    part = (min(height, sampling.tile), min(width, sampling.tile))
    x = torch.zeros(1, model.task.channels, *part, device=model.device)
    condition = {name: x.new_zeros(1, n, *part) for name, n in model.task.conditions.items()}
    t = torch.full((1,), model.process.t_max, dtype=torch.float64, device=model.device)
    denoise = padded_to_least(model.denoise if sampling.detail else _by_condition_alone(model))
    with torch.no_grad():
        denoise(x, t, condition)  # warms up what is cached
        begun = time.monotonic()
        denoise(x, t, condition)
    draws = sampling.draws if sampling.detail else 1  # the expected image is the same in all
    seconds = draws * tiles * calls * (time.monotonic() - begun)
    memory = FIELDS * 3 * height * width * 4
    return Cost(size, sampling.tile, sampling.overlap, tiles, calls, seconds, memory)


def _count_calls(model: Model, sampling: Sampling) -> int:
    """Denoiser calls of one draw, counted on an image of one pixel by the identity."""
    calls = 0

    def identity(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        nonlocal calls
        calls += 1
        return Prediction(x)

    counting = FunctionDenoiser(model.process, identity)
    sample(counting, sampling.grid, sampling.solver, torch.zeros(1, 1, 1, 1), Noise([0]))
    return calls


def draw_cascade(
    stages: Sequence[tuple[Model, float]],
    low: Float[Tensor, " 1 3 y x"],
    sampling: Sampling,
    *,
    emit: Emit = silent,
) -> Iterator[Float[Tensor, " 1 3 h w"]]:
    """Draws of an image upscaled by one model after another, each draw through all of them.

    Source: Ho et al. 2022, Cascaded diffusion models, JMLR 23, section 4
    (conditioning augmentation): the input of a later model has noise of a level that is its
    condition.

    Args:
        stages: models trained for `SR3`, each with the standard deviation of the noise added to its
            input; 0 for one trained without augmentation.
        low: the low-resolution image, in [-1, 1].
        sampling: of each stage; tiles are of its own result.
        emit: receives the progress of each stage.

    Raises:
        InputError: as `draw_restorations`, or a level outside a model's training.
    """
    for draw in range(sampling.draws):
        image = low
        for stage, (model, level) in enumerate(stages):
            assert isinstance(model.task, SR3), "load_model was asked for another task"
            seed = sampling.seed if stage == 0 else derive(sampling.seed, "stage", stage)
            noise = Noise.of(seed, "augment", each=[draw]).like(image)
            batch = model.task.given(image, level, noise)
            alone = replace(sampling, seed=seed, draws=1, first=draw)
            (image,) = draw_restorations(model, batch, alone, emit=emit)
        yield image
