"""Editing by an unconditional model: SDEdit, ILVR and inpainting by posterior methods.

`sdedit`, `guide` and `inpaint` map images (b, c, h, w) in [-1, 1] of any size to images of that
size.  Draw i depends on the seed of its stream alone; the noise is one field for the whole image,
whatever the tiles.
"""

import inspect
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from core.denoiser.guidance import with_pull
from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction
from core.denoiser.tiles import Cost, check_memory, mirrored, starts, tiled
from core.errors import InputError
from core.inverse.measurement import Measurement
from core.inverse.operators import Mask
from core.inverse.posterior import Method, ilvr
from core.model import Model
from core.parts.registry import installed
from core.process.gaussian import GaussianPath
from core.process.noise import Noise, Source
from core.request import Emit, TrainRequest
from core.sampler.draws import each
from core.sampler.sample import Moment, Watch, edit, prior, sample
from core.sampler.solver import Solver
from plugins.image2image.inference.colours import with_colours_of
from plugins.image2image.inference.masks import around
from plugins.image2image.operators.bicubic import Bicubic

# float32 fields of an image's size that live at once: x, x0, the measurement, noise, residuals,
# the sum over tiles and what conjugate gradients keep.
FIELDS = 14
SIDE = 256  # of a tile, for a model whose request does not state its training size


@dataclass(frozen=True)
class Prior:
    """An unconditional model of images, evaluated tile by tile.

    Images smaller than a tile are padded to one by reflection, so that the model is evaluated on
    squares of one size only.

    Args:
        tile_denoiser: its denoiser, of (b, channels, tile, tile).
        channels: channels of an image.
        tile: tile side in pixels; best the training size.
        overlap: overlap of neighbouring tiles, in pixels.
        device: the model's device.

    Raises:
        InputError: an overlap that leaves no step.
    """

    tile_denoiser: Denoiser
    channels: int
    tile: int
    overlap: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        tiled(self.tile_denoiser, tile=self.tile, overlap=self.overlap)

    @property
    def process(self) -> GaussianPath:
        """The denoiser's process."""
        return self.tile_denoiser.process

    @property
    def denoise(self) -> Denoiser:
        """The denoiser of images of any size that are no smaller than a tile."""
        return tiled(self.tile_denoiser, tile=self.tile, overlap=self.overlap)

    def tiles(self, height: int, width: int) -> int:
        """Number of tiles of an image."""
        high, wide = max(height, self.tile), max(width, self.tile)
        return len(starts(high, self.tile, self.overlap)) * len(
            starts(wide, self.tile, self.overlap)
        )


def prior_of(model: Model, *, tile: int | None = None, overlap: int | None = None) -> Prior:
    """A trained model as a prior; by default in tiles of its training size.

    Args:
        model: a model of task `core/generate` without conditions.
        tile: tile side in pixels.
        overlap: overlap of neighbouring tiles, in pixels; a quarter of a tile by default.

    Raises:
        InputError: an overlap that leaves no step.
    """
    side = trained_side(model.request) if tile is None else tile
    shared = side // 4 if overlap is None else overlap
    return Prior(_recomputed(model.denoise), model.task.channels, side, shared, model.device)


def trained_side(request: TrainRequest) -> int:
    """The training size of a model: its dataset's ``size`` or ``shape``."""
    options = inspect.signature(installed().load("dataset", request.dataset.name)).parameters
    said = {name: one.default for name, one in options.items()} | dict(request.dataset.options)
    size = said.get("size", said.get("shape"))
    size = max(size[1:], default=None) if isinstance(size, list | tuple) else size
    return size if isinstance(size, int) and size > 0 else SIDE


def _recomputed(denoise: Denoiser) -> Denoiser:
    """The denoiser with gradient checkpointing: activations are recomputed for a gradient.

    Methods with gradients then hold one tile's activations at a time, not all tiles'.
    """

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return denoise(x, t, condition)
        x0 = checkpoint(lambda at: denoise(at, t, condition).x0, x, use_reentrant=False)
        assert isinstance(x0, Tensor)
        return Prediction(x0)

    return FunctionDenoiser(denoise.process, ask)


# --- three ways to edit ------------------------------------------------------------------------


@runtime_checkable
class Edit(Protocol):
    """One of the three functions below with its options bound."""

    def __call__(
        self,
        model: Prior,
        image: Tensor,
        noise: Source,
        *,
        fill: Tensor | None = None,
        watch: Watch | None = None,
    ) -> Tensor: ...


def sdedit(
    model: Prior,
    image: Float[Tensor, " b c h w"],
    noise: Source,
    *,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    strength: float = 0.5,
    repeats: int = 1,
    fill: Bool[Tensor, " h w"] | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, " b c h w"]:
    """SDEdit: noise of some level is added to the image and removed by the model.

    With `fill` the pixels outside are replaced at every level by the noised image.
    Source: Meng et al. 2022, arXiv:2108.01073, algorithms 1 (all) and 2 (a part), 3 for repeats.

    Args:
        model: the prior.
        image: the guide: a photograph, strokes, a rough paste.
        noise: one stream for each image.
        grid: falling times; those below the start are used.
        solver: with `fill`, one that posterior methods can use.
        strength: fraction of the grid's steps that are run: 0 returns the image, 1 ignores it.
        repeats: rounds, each from the result of the one before; K in the paper.
        fill: the pixels that may change; all if None.
        watch: called after each step of each round.

    Raises:
        InputError: strength not in [0, 1], or no round.
    """
    if repeats < 1:
        raise InputError(f"repeats: expected at least 1, got {repeats}")
    wide, kept = _canvas(model, image, fill)
    denoise = model.denoise
    if kept is not None:
        known = Measurement(Mask(kept), kept * wide)
        denoise, solver = ilvr(known, denoise, solver)
    for _ in range(repeats):
        wide = edit(denoise, grid, solver, wide, noise, strength=strength, watch=watch)
    return wide[..., : image.shape[-2], : image.shape[-1]]


def guide(
    model: Prior,
    image: Float[Tensor, " b c h w"],
    noise: Source,
    *,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    factor: int = 8,
    free: float = 0.0,
    fill: Bool[Tensor, " h w"] | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, " b c h w"]:
    """ILVR: another image with the same bicubic reduction.

    The pseudo-inverse of the reduction replaces the low frequencies by the reference's, so that
    the reduction of a result is the reference's up to rounding where `free` is 0; the paper
    enlarges the difference of reductions, which leaves a residual.
    Source: Choi et al. 2021 (ILVR), arXiv:2108.02938, algorithm 1.

    Args:
        model: the prior.
        image: the reference.
        noise: one stream for each image.
        grid: falling times.
        solver: one that posterior methods can use.
        factor: reduction factor N, at least 2; larger keeps less of the reference.
        free: fraction of the steps, the last ones, without guidance.
        fill: not used; the whole image is redrawn.
        watch: called after each step.

    Raises:
        InputError: a factor below 2, or free not in [0, 1].
    """
    if not 0 <= free <= 1:
        raise InputError(f"free: expected 0 to 1, got {free}")
    operator, steps = Bicubic(factor=factor), len(grid) - 1
    wide, _ = _canvas(model, image, None, factor)
    guided = steps - round(free * steps)
    between = grid[guided : guided + 2].mean()
    until = None if guided == steps else float(model.process.log_snr(between))
    method = partial(ilvr, log_snr_max=until)
    measured = Measurement(operator, operator.forward(wide))
    found = _posterior(model, wide, noise, measured, method, grid, solver, watch)
    return found[..., : image.shape[-2], : image.shape[-1]]


def inpaint(
    model: Prior,
    image: Float[Tensor, " b c h w"],
    noise: Source,
    *,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    method: Method,
    fill: Bool[Tensor, " h w"] | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, " b c h w"]:
    """Inpainting: the holes are sampled given the known pixels.

    How well known pixels are kept depends on the method; `composite` keeps them exactly.

    Args:
        model: the prior.
        image: pixels in its holes are not used.
        noise: one stream for each image.
        grid: falling times.
        solver: one that `method` can use.
        method: a posterior method, of `core.inverse.posterior` for example.
        fill: the holes.
        watch: called after each step.

    Raises:
        InputError: no holes are given, or the method cannot use the solver.
    """
    wide, kept = _canvas(model, image, fill)
    if kept is None:
        raise InputError("inpaint: no holes are given; give a mask of the pixels to fill")
    measured = Measurement(Mask(kept), kept * wide)
    found = _posterior(model, wide, noise, measured, method, grid, solver, watch)
    return found[..., : image.shape[-2], : image.shape[-1]]


def _posterior(
    model: Prior,
    like: Tensor,
    noise: Source,
    measured: Measurement,
    method: Method,
    grid: Tensor,
    solver: Solver,
    watch: Watch | None,
) -> Tensor:
    guided = method(measured, model.denoise, solver)
    x = prior(model.process, grid, like, noise)
    return sample(guided.denoise, grid, guided.solver, x, noise, watch=watch)


def _canvas(
    model: Prior, image: Tensor, fill: Tensor | None, multiple: int = 1
) -> tuple[Tensor, Tensor | None]:
    """The image and the mask of known pixels (1, 1, y, x), padded by reflection.

    To at least a tile, and to sides that are multiples of `multiple`.
    """
    sides = [math.ceil(max(side, model.tile) / multiple) * multiple for side in image.shape[-2:]]
    rows, columns = (
        mirrored(have, want).to(image.device)
        for have, want in zip(image.shape[-2:], sides, strict=True)
    )
    wide = image[..., rows, :][..., columns]
    if fill is None:
        return wide, None
    return wide, (~fill)[rows][:, columns][None, None].to(image)


# --- runs -------------------------------------------------------------------------------


class Calls(NamedTuple):
    """Steps and denoiser calls of one draw, whatever the image.

    Args:
        steps: steps that `watch` is called for.
        calls: denoiser calls for the whole image.
        gradients: whether the denoiser is differentiated.
    """

    steps: int
    calls: int
    gradients: bool


def count_calls(run: Edit, model: Prior) -> Calls:
    """Count the calls of an edit on an image of one pixel, by the identity as denoiser."""
    steps, calls, gradients = 0, 0, False

    def identity(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        nonlocal calls, gradients
        calls, gradients = calls + 1, gradients or x.requires_grad
        return Prediction(x, variance_fraction=torch.zeros_like(x))

    def watch(moment: Moment) -> None:
        nonlocal steps
        steps += 1

    empty = Prior(FunctionDenoiser(model.process, identity), model.channels, tile=1, overlap=0)
    pixel = torch.zeros(1, model.channels, 1, 1)
    run(empty, pixel, Noise([0]), fill=torch.zeros(1, 1, dtype=torch.bool), watch=watch)
    return Calls(steps, calls, gradients)


def draw_edits(
    run: Edit,
    model: Prior,
    pixels: Float[Tensor, " c h w"],
    *,
    fill: Bool[Tensor, " h w"] | None,
    seed: int,
    samples: int,
    emit: Emit,
) -> Iterator[Float[Tensor, " c h w"]]:
    """Results one by one, in [-1, 1] and on the CPU; draw k depends on (seed, k) alone.

    A colour model is given a grey image as three equal channels and returns their mean.  With
    `fill` the model's field of view is what is within a tile of it; the rest is unchanged.

    Args:
        run: one of the three edits with its options bound.
        model: the prior.
        pixels: the image.
        fill: what may change.
        seed: of the draws.
        samples: number of draws.
        emit: receives progress.

    Raises:
        InputError: a colour image for a grey model, or one too large for the memory.
    """
    window = _window(model, pixels, fill)
    part = pixels[:, *window]
    check_fits(model, part)
    x = part.expand(model.channels, -1, -1)[None].to(model.device)
    holes = None if fill is None else fill[window].to(model.device)

    def draw(number: int, watch: Watch) -> Tensor:
        noise = Noise.of(seed, "edit", each=[number])
        found = run(model, x, noise, fill=holes, watch=watch)[0].clamp(-1, 1).cpu()
        whole = pixels.clone()
        whole[:, *window] = with_colours_of(pixels, found)
        return whole

    yield from each(draw, samples, steps=count_calls(run, model).steps, emit=emit)


def _window(model: Prior, pixels: Tensor, fill: Tensor | None) -> tuple[slice, slice]:
    """Rows and columns within a tile of `fill`; all without one."""
    if fill is None:
        return slice(0, pixels.shape[-2]), slice(0, pixels.shape[-1])
    return around(fill, model.tile)


def composite(
    pixels: Float[Tensor, " c h w"],
    found: Float[Tensor, " c h w"],
    weights: Float[Tensor, " h w"],
) -> Float[Tensor, " c h w"]:
    """The result blended over the image by weights; where these are 0 the image's own bits."""
    return torch.where(weights > 0, torch.lerp(pixels, found, weights), pixels)


def check_fits(model: Prior, pixels: Float[Tensor, " c h w"]) -> None:
    """Refuse images that do not fit the model or this machine's memory.

    Raises:
        InputError: a colour image for a grey model, or too many pixels.
    """
    channels, height, width = pixels.shape
    if channels not in (1, model.channels):
        raise InputError(
            f"the image has {channels} channels, the model {model.channels}; give a grey image or "
            "use a colour model"
        )
    sides = max(height, model.tile), max(width, model.tile)
    check_memory(FIELDS, model.channels, *sides, device=model.device)


def estimate_cost(
    run: Edit,
    model: Prior,
    pixels: Float[Tensor, " c h w"],
    *,
    fill: Bool[Tensor, " h w"] | None,
    samples: int,
) -> Cost:
    """Cost of `draw_edits`, from one timed evaluation of one tile.

    Raises:
        InputError: as `draw_edits`.
    """
    part = pixels[:, *_window(model, pixels, fill)]
    check_fits(model, part)
    height, width = part.shape[-2:]
    walk, tiles = count_calls(run, model), model.tiles(height, width)
    x = torch.zeros(1, model.channels, model.tile, model.tile, device=model.device)
    t = torch.full((1,), model.process.t_max, dtype=torch.float64, device=model.device)
    _evaluate(model, x, t, gradients=walk.gradients)  # warms up what is cached
    begun = time.monotonic()
    _evaluate(model, x, t, gradients=walk.gradients)
    seconds = samples * tiles * walk.calls * (time.monotonic() - begun)
    area = max(height, model.tile) * max(width, model.tile)
    memory = FIELDS * model.channels * area * 4
    whole = (pixels.shape[1], pixels.shape[2])
    return Cost(whole, model.tile, model.overlap, tiles, walk.calls, seconds, memory)


@torch.no_grad()
def _evaluate(model: Prior, x: Tensor, t: Tensor, *, gradients: bool) -> None:
    if gradients:
        prediction, pull = with_pull(lambda at: model.tile_denoiser(at, t), x)
        pull(prediction.x0)
    else:
        model.tile_denoiser(x, t)
