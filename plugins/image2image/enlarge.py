"""One picture of any size through a trained SR3 model."""

import time

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.guided import corrected
from core.model import Model
from core.process.noise import Noise
from core.request import Emit, Progress
from core.sampler.sample import Moment, prior, sample
from core.sampler.solver import Solver
from plugins.image2image.tasks import SR3
from plugins.image2image.tiles import check_memory, tiled

# float32 fields of the result's size that live at once: x, x0, its history, condition, noise,
# the sum over draws and what the arithmetic in between needs.
FIELDS = 12


def enlarge(
    model: Model,
    pixels: Float[Tensor, " c h w"],
    alpha: Float[Tensor, " 1 h w"] | None,
    *,
    solver: Solver,
    grid: Float64[Tensor, " n"],
    seed: int,
    mean_of: int,
    tile: int,
    overlap: int,
    emit: Emit,
) -> tuple[Float[Tensor, " c y x"], Float[Tensor, " 1 y x"] | None]:
    """The picture and its alpha, `scale` times as large.

    Grey pictures go through the model as equal channels and come back as their mean; alpha is
    enlarged bicubically.  Draw k depends on (seed, k) alone.

    Args:
        model: trained for `SR3`.
        pixels: in [-1, 1], grey or RGB.
        alpha: in [0, 1], or None.
        solver: rule of a step.
        grid: falling times.
        seed: of the draws.
        mean_of: draws to average.
        tile: side of a tile of the result, in pixels.
        overlap: pixels that tiles share.
        emit: hears of progress.

    Raises:
        InputError: the result would not fit into memory, or the tiles leave no step.
    """
    task = model.task
    assert isinstance(task, SR3), "load_model was asked for another task"
    height, width = (side * task.scale for side in pixels.shape[-2:])
    check_memory(FIELDS, 3, height, width)
    low = pixels.expand(3, -1, -1)[None].to(model.device)
    given = {"low": low}
    condition = task.condition(task.base(given), task.spread(given))
    denoise = corrected(tiled(model.denoise, tile=tile, overlap=overlap), task, given)
    start, steps = time.monotonic(), len(grid) - 1
    total = torch.zeros_like(task.operator.up(low))
    for draw in range(mean_of):
        noise = Noise.of(seed, "upscale", each=[draw])

        def watch(moment: Moment, before: int = draw * steps) -> None:
            rate = (before + moment.done) / (time.monotonic() - start)
            emit(
                Progress(
                    done=before + moment.done,
                    total=mean_of * steps,
                    unit="step",
                    rate=rate,
                    figures={},
                )
            )

        x = prior(model.process, grid, total, noise)
        x0 = sample(denoise, model.process, grid, solver, x, noise, condition, watch=watch)
        total += task.finish(x0, given)
    image = (total / mean_of)[0].cpu()
    if len(pixels) == 1:
        image = image.mean(0, keepdim=True)
    return image, None if alpha is None else task.operator.up(alpha[None])[0].clamp(0, 1)
