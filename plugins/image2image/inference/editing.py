"""Editing without training: an unconditional model, a picture, and what of it shall stay.

`sdedit`, `guide` and `inpaint` take pictures (b, c, h, w) in [-1, 1] of any size and give as many
of the same.  Draw i depends on the seed of its stream alone; the noise is one field for the whole
picture, whatever the tiles.
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
from core.denoiser.tiles import Estimate, check_memory, mirrored, starts, tiled
from core.errors import InputError
from core.inverse.measurement import Measurement
from core.inverse.operators import Mask
from core.inverse.posterior import Method, ilvr
from core.model import Model
from core.parts.registry import installed
from core.process.gaussian import GaussianPath
from core.process.noise import Noise, Source
from core.request import Emit, Progress, TrainRequest
from core.sampler.sample import Moment, Watch, edit, prior, sample
from core.sampler.solver import Solver
from plugins.image2image.inference.masks import around
from plugins.image2image.operators.bicubic import Bicubic

# float32 fields of a picture's size that live at once: x, x0, the measurement, noise, residuals,
# the sum over tiles and what conjugate gradients keep.
FIELDS = 14
SIDE = 256  # of a tile, for a model that does not say what it was trained on


@dataclass(frozen=True)
class Prior:
    """An unconditional model of pictures, asked tile by tile.

    Pictures smaller than a tile are continued to one by reflection, so that the model is asked for
    squares of one size only.

    Args:
        ask: its denoiser, of (b, channels, tile, tile).
        channels: of a picture.
        tile: side of a tile, in pixels; best what the model was trained on.
        overlap: pixels that neighbouring tiles share.
        device: where the model lives.

    Raises:
        InputError: an overlap that leaves no step.
    """

    ask: Denoiser
    channels: int
    tile: int
    overlap: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        tiled(self.ask, tile=self.tile, overlap=self.overlap)

    @property
    def process(self) -> GaussianPath:
        """The forward process of its denoiser."""
        return self.ask.process

    @property
    def denoise(self) -> Denoiser:
        """The denoiser of pictures of any size that are no smaller than a tile."""
        return tiled(self.ask, tile=self.tile, overlap=self.overlap)

    def tiles(self, height: int, width: int) -> int:
        """How many tiles a picture has."""
        high, wide = max(height, self.tile), max(width, self.tile)
        return len(starts(high, self.tile, self.overlap)) * len(
            starts(wide, self.tile, self.overlap)
        )


def prior_of(model: Model, *, tile: int | None = None, overlap: int | None = None) -> Prior:
    """A trained model as a prior; by default in tiles of the size it was trained on.

    Args:
        model: of task `core/generate` without conditions.
        tile: side of a tile, in pixels.
        overlap: pixels that tiles share; a quarter of a tile by default.

    Raises:
        InputError: an overlap that leaves no step.
    """
    side = trained_side(model.request) if tile is None else tile
    shared = side // 4 if overlap is None else overlap
    return Prior(_recomputed(model.denoise), model.task.channels, side, shared, model.device)


def trained_side(request: TrainRequest) -> int:
    """The side of the pictures that a model was trained on: its dataset's ``size`` or ``shape``."""
    options = inspect.signature(installed().load("dataset", request.dataset.name)).parameters
    said = {name: one.default for name, one in options.items()} | dict(request.dataset.options)
    size = said.get("size", said.get("shape"))
    size = max(size[1:], default=None) if isinstance(size, list | tuple) else size
    return size if isinstance(size, int) and size > 0 else SIDE


def _recomputed(denoise: Denoiser) -> Denoiser:
    """The same denoiser, whose activations are made again for a gradient instead of kept.

    Methods that ask for gradients then hold one tile's activations at a time, not all tiles'.
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
    """An edit with its options bound: what the three functions below are to who runs them."""

    def __call__(
        self,
        model: Prior,
        picture: Tensor,
        noise: Source,
        *,
        fill: Tensor | None = None,
        watch: Watch | None = None,
    ) -> Tensor: ...


def sdedit(
    model: Prior,
    picture: Float[Tensor, " b c h w"],
    noise: Source,
    *,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    strength: float = 0.5,
    repeats: int = 1,
    fill: Bool[Tensor, " h w"] | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, " b c h w"]:
    """The picture with noise up to some level added, and taken away by the model.

    With `fill` what is outside is put back at every level, with the noise of that level.
    Source: Meng et al. 2022, arXiv:2108.01073, algorithms 1 (all) and 2 (a part), 3 for repeats.

    Args:
        model: the prior.
        picture: the guide: a photograph, strokes on one, a rough paste.
        noise: one stream for each picture.
        grid: falling times; the steps after the start are taken.
        solver: rule of a step; with `fill` one that posterior methods can use.
        strength: share of the grid's steps that are taken: 0 returns the picture, 1 forgets it.
        repeats: rounds, each from the result of the one before; K in the paper.
        fill: what may change; everything if None.
        watch: called after each step of each round.

    Raises:
        InputError: strength not in [0, 1], or no round.
    """
    if repeats < 1:
        raise InputError(f"repeats: expected at least 1, got {repeats}")
    wide, kept = _canvas(model, picture, fill)
    denoise = model.denoise
    if kept is not None:
        known = Measurement(Mask(kept), kept * wide)
        denoise, solver = ilvr(known, denoise, solver)
    for _ in range(repeats):
        wide = edit(denoise, grid, solver, wide, noise, strength=strength, watch=watch)
    return wide[..., : picture.shape[-2], : picture.shape[-1]]


def guide(
    model: Prior,
    picture: Float[Tensor, " b c h w"],
    noise: Source,
    *,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    factor: int = 8,
    free: float = 0.0,
    fill: Bool[Tensor, " h w"] | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, " b c h w"]:
    """Another picture with the same bicubic reduction.

    The reduction's pseudo-inverse puts the reference's low frequencies in place, so that the
    reduction of a result is the reference's up to rounding where `free` is 0; the paper enlarges
    the difference of reductions, which leaves some of it.
    Source: Choi et al. 2021 (ILVR), arXiv:2108.02938, algorithm 1.

    Args:
        model: the prior.
        picture: the reference.
        noise: one stream for each picture.
        grid: falling times.
        solver: rule of a step that posterior methods can use.
        factor: of the reduction, at least 2; more keeps less of the reference.
        free: share of the steps, the last ones, in which nothing is put in place.
        fill: not used; the whole picture is drawn anew.
        watch: called after each step.

    Raises:
        InputError: a factor below 2, or free not in [0, 1].
    """
    if not 0 <= free <= 1:
        raise InputError(f"free: expected 0 to 1, got {free}")
    operator, steps = Bicubic(factor=factor), len(grid) - 1
    wide, _ = _canvas(model, picture, None, factor)
    guided = steps - round(free * steps)
    between = grid[guided : guided + 2].mean()
    until = None if guided == steps else float(model.process.log_snr(between))
    method = partial(ilvr, log_snr_max=until)
    measured = Measurement(operator, operator.forward(wide))
    found = _posterior(model, wide, noise, measured, method, grid, solver, watch)
    return found[..., : picture.shape[-2], : picture.shape[-1]]


def inpaint(
    model: Prior,
    picture: Float[Tensor, " b c h w"],
    noise: Source,
    *,
    grid: Float64[Tensor, " n"],
    solver: Solver,
    method: Method,
    fill: Bool[Tensor, " h w"] | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, " b c h w"]:
    """The picture with its holes drawn by the model, to fit what is around them.

    How well the rest is kept depends on the method; `composed` keeps it exactly.

    Args:
        model: the prior.
        picture: what is in its holes is not looked at.
        noise: one stream for each picture.
        grid: falling times.
        solver: rule of a step that `method` can use.
        method: a posterior method, of `core.inverse.posterior` for example.
        fill: the holes.
        watch: called after each step.

    Raises:
        InputError: no holes are given, or the method cannot use the solver.
    """
    wide, kept = _canvas(model, picture, fill)
    if kept is None:
        raise InputError("inpaint: no holes are given; give a mask of what is to be filled")
    measured = Measurement(Mask(kept), kept * wide)
    found = _posterior(model, wide, noise, measured, method, grid, solver, watch)
    return found[..., : picture.shape[-2], : picture.shape[-1]]


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
    model: Prior, picture: Tensor, fill: Tensor | None, multiple: int = 1
) -> tuple[Tensor, Tensor | None]:
    """The picture and what is kept of it (1, 1, y, x), continued by reflection.

    To at least a tile, and to sides that are multiples of `multiple`.
    """
    sides = [math.ceil(max(side, model.tile) / multiple) * multiple for side in picture.shape[-2:]]
    rows, columns = (
        mirrored(have, want).to(picture.device)
        for have, want in zip(picture.shape[-2:], sides, strict=True)
    )
    wide = picture[..., rows, :][..., columns]
    if fill is None:
        return wide, None
    return wide, (~fill)[rows][:, columns][None, None].to(picture)


# --- what is run -------------------------------------------------------------------------------


class Walk(NamedTuple):
    """What an edit asks of the model for one draw, whatever the picture.

    Args:
        steps: that `watch` hears of.
        calls: of the denoiser for the whole picture.
        gradients: whether it is differentiated.
    """

    steps: int
    calls: int
    gradients: bool


def walked(run: Edit, model: Prior) -> Walk:
    """An edit walked on a picture of one pixel with a model that says nothing."""
    steps, calls, gradients = 0, 0, False

    def silent(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        nonlocal calls, gradients
        calls, gradients = calls + 1, gradients or x.requires_grad
        return Prediction(x, variance_fraction=torch.zeros_like(x))

    def watch(moment: Moment) -> None:
        nonlocal steps
        steps += 1

    empty = Prior(FunctionDenoiser(model.process, silent), model.channels, tile=1, overlap=0)
    pixel = torch.zeros(1, model.channels, 1, 1)
    run(empty, pixel, Noise([0]), fill=torch.zeros(1, 1, dtype=torch.bool), watch=watch)
    return Walk(steps, calls, gradients)


def drawn(
    run: Edit,
    model: Prior,
    pixels: Float[Tensor, " c h w"],
    *,
    fill: Bool[Tensor, " h w"] | None,
    seed: int,
    samples: int,
    emit: Emit,
) -> Iterator[Float[Tensor, " c h w"]]:
    """Results one after the other, in [-1, 1] and on the CPU; draw k depends on (seed, k) alone.

    A grey picture goes through a model of colours as equal channels and comes back as their mean.
    With `fill` the model sees what is within a tile of it; the rest comes back as it is.

    Args:
        run: one of the three edits with its options bound.
        model: the prior.
        pixels: the picture.
        fill: what may change.
        seed: of the draws.
        samples: how many.
        emit: hears of progress.

    Raises:
        InputError: a colour picture for a model of grey ones, or one too large for the memory.
    """
    window = _window(model, pixels, fill)
    part = pixels[:, *window]
    check_fits(model, part)
    total = samples * walked(run, model).steps
    x = part.expand(model.channels, -1, -1)[None].to(model.device)
    holes = None if fill is None else fill[window].to(model.device)
    done, begun = 0, time.monotonic()

    def watch(moment: Moment) -> None:
        nonlocal done
        done += 1
        rate = done / (time.monotonic() - begun)
        emit(Progress(done=done, total=total, unit="step", rate=rate, figures={}))

    for k in range(samples):
        noise = Noise.of(seed, "edit", each=[k])
        found = run(model, x, noise, fill=holes, watch=watch)[0].clamp(-1, 1).cpu()
        whole = pixels.clone()
        whole[:, *window] = found if len(pixels) > 1 else found.mean(0, keepdim=True)
        yield whole


def _window(model: Prior, pixels: Tensor, fill: Tensor | None) -> tuple[slice, slice]:
    """Rows and columns within a tile of what is filled; all of them where everything is."""
    if fill is None:
        return slice(0, pixels.shape[-2]), slice(0, pixels.shape[-1])
    return around(fill, model.tile)


def composed(
    pixels: Float[Tensor, " c h w"],
    found: Float[Tensor, " c h w"],
    weights: Float[Tensor, " h w"],
) -> Float[Tensor, " c h w"]:
    """What was found by its weights, over the picture; where they are 0 the picture's own bits."""
    return torch.where(weights > 0, torch.lerp(pixels, found, weights), pixels)


def check_fits(model: Prior, pixels: Float[Tensor, " c h w"]) -> None:
    """Refuse pictures that the model or this machine's memory cannot hold.

    Raises:
        InputError: colours for a model of grey pictures, or too many pixels.
    """
    channels, height, width = pixels.shape
    if channels not in (1, model.channels):
        raise InputError(
            f"the picture has {channels} channels, the model was trained on {model.channels}; give "
            "a grey picture, or a model of colours"
        )
    if model.device.type == "cpu":
        check_memory(FIELDS, model.channels, max(height, model.tile), max(width, model.tile))


def estimated(
    run: Edit,
    model: Prior,
    pixels: Float[Tensor, " c h w"],
    *,
    fill: Bool[Tensor, " h w"] | None,
    samples: int,
) -> Estimate:
    """What `drawn` will take, from one evaluation of one tile.

    Raises:
        InputError: as `drawn`.
    """
    part = pixels[:, *_window(model, pixels, fill)]
    check_fits(model, part)
    height, width = part.shape[-2:]
    walk, tiles = walked(run, model), model.tiles(height, width)
    x = torch.zeros(1, model.channels, model.tile, model.tile, device=model.device)
    t = torch.full((1,), model.process.t_max, dtype=torch.float64, device=model.device)
    _evaluate(model, x, t, gradients=walk.gradients)  # pays for what is made once
    begun = time.monotonic()
    _evaluate(model, x, t, gradients=walk.gradients)
    seconds = samples * tiles * walk.calls * (time.monotonic() - begun)
    area = max(height, model.tile) * max(width, model.tile)
    memory = FIELDS * model.channels * area * 4
    whole = (pixels.shape[1], pixels.shape[2])
    return Estimate(whole, model.tile, model.overlap, tiles, walk.calls, seconds, memory)


@torch.no_grad()
def _evaluate(model: Prior, x: Tensor, t: Tensor, *, gradients: bool) -> None:
    if gradients:
        said, pull = with_pull(lambda at: model.ask(at, t), x)
        pull(said.x0)
    else:
        model.ask(x, t)
