"""Enlargements that do not fit into memory, in stripes of rows that are the whole image's."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from core.denoiser.tiles import Cost, starts
from core.errors import InputError
from core.images.pictures import Picture
from core.model import Model
from core.progress import counter
from core.request import Emit, silent
from core.sampler.draws import summary
from core.storage.memory import NotEnough
from plugins.image2image.inference.colours import with_colours_of
from plugins.image2image.inference.draws import (
    FIELDS,
    Rows,
    Sampling,
    draw_restorations,
    estimate_cost,
)
from plugins.image2image.operators.bicubic import resized
from plugins.image2image.tasks.super_resolution import SR3

MARGIN = 8  # low-resolution rows beside the tiles, on which bicubic weights and contrast depend


@dataclass(frozen=True)
class Stripe:
    """Rows of a result, and what is computed for them.

    Args:
        begin: first row that is kept.
        end: first row after them.
        low: first low-resolution row that is used, and the first after.
        rows: where in the whole result their enlargement lies, and its tiles.
    """

    begin: int
    end: int
    low: tuple[int, int]
    rows: Rows


def plan(height: int, *, scale: int, sampling: Sampling, halo: int, most: int) -> list[Stripe]:
    """Stripes of at most `most` rows each, whose tiles are those of the whole image.

    A stripe is kept where the tiles beside it have no weight, `halo` rows inside.

    Args:
        height: of the result.
        scale: factor of the model.
        sampling: tiles and overlap.
        halo: rows by which back-projections and sampler steps carry the missing tiles.
        most: rows that fit into memory.

    Raises:
        NotEnough: no stripe of so few rows keeps any.
    """
    tile = sampling.tile
    at = starts(height, tile, sampling.overlap)
    first = [0, *(start + tile + halo for start in at[:-1])]  # exact from here, to
    last = [*(start - halo for start in at[1:]), height]
    found, begin = [], 0
    while begin < height:
        top = max(i for i in range(len(at)) if first[i] <= begin)
        ends = [i for i in range(top, len(at)) if last[i] > begin]
        fits = [i for i in ends if min(at[i] + tile, height) - at[top] + 2 * MARGIN * scale <= most]
        if not fits:
            least = min(at[ends[0]] + tile, height) - at[top] + 2 * MARGIN * scale
            raise NotEnough(
                f"memory: a stripe needs {least} rows of the result, and {most} fit; give more "
                "memory or smaller tiles"
            )
        bottom = fits[-1]
        low = (
            max(0, at[top] // scale - MARGIN),
            min(height // scale, -(-(at[bottom] + tile) // scale) + MARGIN),
        )
        tiles = tuple(start - low[0] * scale for start in at[top : bottom + 1])
        rows = Rows(low[0] * scale, height, tiles)
        found.append(Stripe(begin, last[bottom], low, rows))
        begin = last[bottom]
    return found


def planned(model: Model, low: Sequence[int], sampling: Sampling, memory: int) -> list[Stripe]:
    """Stripes of a result whose float32 fields take at most `memory` bytes.

    Args:
        model: for `SR3` at a whole factor.
        low: height and width of the low-resolution image.
        sampling: how it is drawn.
        memory: in bytes.

    Raises:
        NotEnough: as `plan`.
    """
    assert isinstance(model.task, SR3), "load_model was asked for it"
    scale = int(model.task.scale)
    # A round of back-projection reaches four low-resolution pixels; a sampler step what the
    # network sees, of which half a tile is left.
    halo = scale * 4 * (model.task.back_projections + 1)
    halo += sampling.tile // 2 if sampling.detail > 0 else 0
    most = memory // (FIELDS * 3 * 4 * low[1] * scale)
    return plan(low[0] * scale, scale=scale, sampling=sampling, halo=halo, most=most)


def striped_cost(
    model: Model, size: tuple[int, int], sampling: Sampling, stripes: Sequence[Stripe]
) -> Cost:
    """What `draw_stripes` will take for a result of a size, from one evaluation of one tile.

    Raises:
        InputError: the largest stripe would not fit into memory.
    """
    assert isinstance(model.task, SR3), "load_model was asked for it"
    most = max(stripe.low[1] - stripe.low[0] for stripe in stripes)
    largest = estimate_cost(model, (most * int(model.task.scale), size[1]), sampling)
    across = len(starts(size[1], sampling.tile, sampling.overlap))
    tiles = sum(len(stripe.rows.tiles) * across for stripe in stripes)
    seconds = largest.seconds * tiles / largest.tiles
    return largest._replace(size=size, tiles=tiles, seconds=seconds)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``2GiB`` or ``500 MiB``.

    Raises:
        InputError: not a number with one of these units.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(MiB|GiB)", text.strip())
    if not found:
        raise InputError(f"memory: expected a size such as 2GiB or 500MiB, got {text!r}")
    return int(float(found[1]) * {"MiB": 2**20, "GiB": 2**30}[found[2]])


def draw_stripes(
    model: Model,
    low: Float[Tensor, " 1 3 y x"],
    sampling: Sampling,
    stripes: Sequence[Stripe],
    *,
    emit: Emit = silent,
) -> Iterator[tuple[Stripe, Float[Tensor, " 3 h w"]]]:
    """The mean of the draws, stripe by stripe from the top.

    Noise depends on the place, so that stripes have the whole image's.  The expected image is the
    whole image's up to rounding; draws of several steps differ by what lies further away than half
    a tile.

    Args:
        model: for `SR3` at a whole factor.
        low: the low-resolution image, in [-1, 1].
        sampling: how it is drawn.
        stripes: of `planned`.
        emit: receives progress.
    """
    assert isinstance(model.task, SR3), "load_model was asked for it"
    progress = counter(emit, len(stripes), "stripe")
    for done, stripe in enumerate(stripes, start=1):
        part = low[..., stripe.low[0] : stripe.low[1], :].to(model.device)
        batch = model.task.given(part, 0.0, torch.zeros_like(part))
        found = summary(draw_restorations(model, batch, replace(sampling, rows=stripe.rows)))
        top = stripe.rows.top
        yield stripe, found.mean[0, :, stripe.begin - top : stripe.end - top].cpu()
        progress(done)


def finished_rows(picture: Picture, stripe: Stripe, rows: Float[Tensor, " 3 h w"]) -> Picture:
    """Rows of the result with the channels and alpha of the input image."""
    alpha, scale = picture.alpha, stripe.rows.height // picture.pixels.shape[1]
    if alpha is not None:
        part = alpha[None, :, stripe.low[0] : stripe.low[1]]
        part = resized(part, part.shape[-2] * scale, part.shape[-1] * scale)[0].clamp(0, 1)
        alpha = part[:, stripe.begin - stripe.rows.top : stripe.end - stripe.rows.top]
    return replace(picture, pixels=with_colours_of(picture.pixels, rows), alpha=alpha)
