"""Editing without training: closed forms in Gaussian worlds, then the entry script."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.denoiser.tiles import seam_ratio
from core.errors import InputError
from core.inverse.posterior import ddnm, diffpir, dps, pigdm, repaint
from core.process.gaussian import over
from core.process.noise import Noise
from core.process.schedules import vp_linear
from core.request import silent
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.exponential import Multistep
from core.sampler.grids import uniform_time
from core.testing.distributions import Gaussian
from plugins.image2image.inference.editing import (
    Prior,
    composite,
    count_calls,
    draw_edits,
    estimate_cost,
    guide,
    inpaint,
    sdedit,
)
from plugins.image2image.operators.bicubic import Bicubic

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import ellipse

PROCESS, WORLD = vp_linear(), Gaussian(0.3, 0.5)
EXACT = Prior(WORLD.denoiser(PROCESS), channels=3, tile=8, overlap=2)
SMALL = Prior(EXACT.tile_denoiser, channels=3, tile=32, overlap=0)
WHOLE = Prior(EXACT.tile_denoiser, channels=3, tile=64, overlap=0)
METHODS = {
    "repaint": partial(repaint, resamples=2, jump=2),
    "ddnm": ddnm,
    "dps": partial(dps, scale=0.1),
    "pigdm": pigdm,
    "diffpir": diffpir,
}


def grid(steps=20):
    return uniform_time(PROCESS, steps=steps)


def picture(*shape, seed=0, dtype=torch.float64):
    return WORLD.draw(shape, torch.Generator().manual_seed(seed)).to(dtype)


# --- SDEdit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.3, 0.6])
def test_sdedit_has_the_mean_and_the_spread_that_the_flow_carries(strength):
    """x = alpha g + sigma z at t0, then the exact flow: (x - mean) / std is kept to the clean end.

    Of 12,288 pixels mean and deviation are within four standard errors; 100 steps leave less.
    """
    guide_value, t0 = -0.7, strength
    x = torch.full((1, 3, 64, 64), guide_value, dtype=torch.float64)
    found = sdedit(WHOLE, x, Noise([1]), grid=grid(100), solver=Multistep(), strength=strength)
    alpha, sigma = (float(v) for v in PROCESS.alpha_sigma(torch.tensor(t0, dtype=torch.float64)))
    gain = WORLD.std / WORLD.std_at(PROCESS, t0)
    mean, std = WORLD.mean + gain * alpha * (guide_value - WORLD.mean), gain * sigma
    assert abs(float(found.mean()) - mean) < 4 * std / 12288**0.5
    assert abs(float(found.std()) - std) < 4 * std / 24576**0.5


def test_no_strength_returns_the_picture_and_bad_options_are_refused():
    x = picture(1, 3, 9, 11)
    how: dict[str, Any] = {"grid": grid(), "solver": DDIM()}
    assert torch.equal(sdedit(EXACT, x, Noise([1]), strength=0.0, **how), x)
    with pytest.raises(InputError, match="strength: expected 0 to 1"):
        sdedit(EXACT, x, Noise([1]), strength=1.5, **how)
    with pytest.raises(InputError, match="repeats: expected at least 1"):
        sdedit(EXACT, x, Noise([1]), repeats=0, **how)


def test_repeats_bring_the_picture_further_towards_the_world():
    """Each round multiplies the guide's distance from the mean by the same gain."""
    x = torch.full((1, 3, 64, 64), -0.7, dtype=torch.float64)
    how: dict[str, Any] = {"grid": grid(50), "solver": Multistep(), "strength": 0.4}
    means = [
        float(sdedit(WHOLE, x, Noise([2]), repeats=k, **how).mean()) - WORLD.mean for k in (1, 2, 3)
    ]
    first = means[0] / (-0.7 - WORLD.mean)
    assert 0.2 < first < 0.9
    assert means[1] / means[0] == pytest.approx(first, abs=0.03)
    assert means[2] / means[1] == pytest.approx(first, abs=0.1)


def test_sdedit_with_a_mask_keeps_what_is_outside_at_every_level():
    """Outside: the image exactly at the end, alpha g + sigma z before it; inside: the world."""
    x, fill = torch.full((1, 3, 64, 64), -0.7, dtype=torch.float64), ellipse(64, 64)
    seen = []
    found = sdedit(
        WHOLE, x, Noise([3]), grid=grid(), solver=Ancestral(), strength=0.5, fill=fill,
        watch=lambda moment: seen.append(moment.x.clone()),
    )  # fmt: skip
    assert torch.equal(found[..., ~fill], x[..., ~fill])
    assert not torch.equal(found[..., fill], x[..., fill])
    assert len(seen) == 10
    for at, t in zip(seen[:-1], grid()[11:], strict=False):
        alpha, sigma = (float(v) for v in PROCESS.alpha_sigma(t))
        apart = at[..., ~fill] - alpha * -0.7
        n = apart.numel()
        assert abs(float(apart.mean())) < 4 * sigma / n**0.5
        assert abs(float(apart.std()) / sigma - 1) < 4 / (2 * n) ** 0.5


# --- ILVR --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("size", "factor"), [((31, 37), 4), ((8, 8), 8), ((23, 64), 3)])
def test_the_guided_pictures_reduction_is_the_references(size, factor):
    """On the canvas that is sampled: continued by reflection to whole cells of the reduction."""
    x = picture(1, 3, *size)
    seen = []
    found = guide(
        EXACT, x, Noise([4]), grid=grid(), solver=Ancestral(), factor=factor,
        watch=lambda moment: seen.append(moment.x),
    )  # fmt: skip
    pad = [(-s) % factor for s in size]
    wide = np.pad(x[0].numpy(), [(0, 0), (0, pad[0]), (0, pad[1])], mode="reflect")
    reduce = Bicubic(factor=factor).forward
    reference = reduce(torch.from_numpy(wide)[None])
    assert (reduce(seen[-1]) - reference).abs().max() < 1e-5
    assert torch.equal(found, seen[-1][..., : size[0], : size[1]])
    assert (found - x).abs().mean() > 0.1


def test_free_last_steps_let_the_reference_go():
    x, reduce = picture(1, 3, 32, 32), Bicubic(factor=4).forward
    how: dict[str, Any] = {"grid": grid(), "solver": Ancestral(), "factor": 4}

    def left(free):
        return float((reduce(guide(SMALL, x, Noise([5]), free=free, **how)) - reduce(x)).std())

    found = [left(free) for free in (0.0, 0.1, 0.5)]
    assert found[0] < 1e-5 < 1e-3 < found[1] < found[2]
    # Guided never: what the two share is the world's mean alone.
    apart = left(1.0)
    residual_std = float(reduce(picture(1, 3, 96, 96, seed=9)).std())
    assert apart == pytest.approx(2**0.5 * residual_std, rel=0.25)
    with pytest.raises(InputError, match="free: expected 0 to 1"):
        left(1.1)


# --- inpainting --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(17, 23), (5, 3), (1, 31)])
@pytest.mark.parametrize("name", METHODS)
def test_sizes_odd_and_prime_come_back_and_holes_hold_the_world(name, size):
    x, fill = picture(1, 3, *size), torch.zeros(size, dtype=torch.bool)
    fill[:, : size[1] // 2] = True
    how: dict[str, Any] = {"grid": grid(8), "solver": Ancestral(), "method": METHODS[name]}
    found = inpaint(EXACT, x, Noise([6]), fill=fill, **how)
    assert found.shape == x.shape
    assert found.isfinite().all()
    other = inpaint(EXACT, torch.where(fill, 9.0, x), Noise([6]), fill=fill, **how)
    assert torch.equal(found, other)  # what is in a hole is not looked at


@pytest.mark.parametrize("name", ["repaint", "ddnm", "pigdm", "diffpir"])
def test_what_is_known_is_kept_and_holes_have_the_worlds_spread(name):
    """A x = y to float precision; pixels of this world are independent: holes are N(mean, std)."""
    x, fill = picture(1, 3, 64, 64), ellipse(64, 64)
    how: dict[str, Any] = {
        "grid": grid(50),
        "solver": Ancestral(variance="large"),
        "method": METHODS[name],
    }
    found = inpaint(WHOLE, x, Noise([7]), fill=fill, **how)
    assert (found[..., ~fill] - x[..., ~fill]).abs().max() < 1e-5
    hole = found[..., fill]
    assert abs(float(hole.mean()) - WORLD.mean) < 5 * WORLD.std / hole.numel() ** 0.5 + 0.01
    assert abs(float(hole.std()) / WORLD.std - 1) < 0.05


def test_no_holes_are_refused():
    with pytest.raises(InputError, match="no holes are given"):
        inpaint(EXACT, picture(1, 3, 9, 9), Noise([0]), grid=grid(), solver=DDIM(), method=ddnm)


@pytest.mark.slow
def test_repaints_calls_are_counted():
    """T = 250, jump 10, 10 resamples: the paper's schedule makes 2410 calls and 2160 noisings of
    one level; it leaves the last stretch of ten alone.  Ours walks the nine levels above the
    clean end ten times too, 2410 + 9 * 9 calls, and noises a stretch at once: 25 times 9.
    """
    calls = partial(
        inpaint, grid=grid(250), solver=Ancestral(), method=partial(repaint, resamples=10, jump=10)
    )
    walk = count_calls(calls, EXACT)
    assert walk.calls == 2410 + 9 * 9
    assert walk.steps == walk.calls + 25 * 9
    assert not walk.gradients
    assert count_calls(partial(inpaint, grid=grid(7), solver=DDIM(), method=dps), EXACT) == (
        7,
        7,
        True,
    )
    run = partial(sdedit, grid=grid(10), solver=DDIM(), strength=0.5, repeats=3)
    assert count_calls(run, EXACT) == (15, 15, False)


# --- tiles -------------------------------------------------------------------------------------


def local(process):
    """E[x0 | x_t] of a Gaussian field with the spectrum of a blur, in squares that mirror.

    Wiener's filter; each tile is a world of its own, mirrored at its edges, so that tiles disagree
    there as a network's do.
    """

    @partial(FunctionDenoiser, process)
    def denoise(x, t, condition=None):
        alpha, sigma = (over(v, x) for v in process.alpha_sigma(t))
        high, wide = x.shape[-2:]
        twice = torch.cat([x, x.flip(-2)], -2)
        twice = torch.cat([twice, twice.flip(-1)], -1)
        rows = torch.fft.fftfreq(2 * high, dtype=torch.float64)[:, None]
        columns = torch.fft.fftfreq(2 * wide, dtype=torch.float64)
        power = 12 * torch.exp(-(rows**2 + columns**2) * 60)
        gain = alpha * power / (alpha**2 * power + sigma**2)
        return Prediction(torch.fft.ifft2(torch.fft.fft2(twice) * gain).real[..., :high, :wide])

    return denoise


@pytest.mark.slow
def test_tiles_leave_no_seam():
    """Mean gradient across the lines where tiles begin and end, over that elsewhere: at most 1.05.

    The same with finished tiles side by side is far above: the measure sees seams.
    """
    side, tile, overlap = 232, 64, 16
    model = Prior(local(PROCESS), channels=3, tile=tile, overlap=overlap)
    x = torch.zeros(1, 3, side, side, dtype=torch.float64)
    how: dict[str, Any] = {"grid": grid(20), "solver": Ancestral(), "strength": 1.0}
    found = torch.cat([sdedit(model, x, Noise([s]), **how) for s in range(2)])
    assert seam_ratio(found, tile, overlap) < 1.05
    apart = Prior(local(PROCESS), channels=3, tile=58, overlap=0)
    assert seam_ratio(sdedit(apart, x, Noise([0]), **how), 58, 0) > 1.5


def test_gradients_pass_tiles():
    """DPS in tiles is DPS on the whole where the model looks at single pixels."""
    x, fill = picture(1, 3, 27, 27), ellipse(27, 27)
    how: dict[str, Any] = {
        "grid": grid(6),
        "solver": Ancestral(),
        "method": partial(dps, scale=0.2),
    }
    whole = Prior(EXACT.tile_denoiser, channels=3, tile=27, overlap=0)
    expected = inpaint(whole, x, Noise([8]), fill=fill, **how)
    assert (inpaint(EXACT, x, Noise([8]), fill=fill, **how) - expected).abs().max() < 1e-6


# --- what is run -------------------------------------------------------------------------------


def test_draw_k_depends_on_the_seed_and_k_alone():
    run = partial(sdedit, grid=grid(4), solver=Ancestral(), strength=0.5)
    x = picture(3, 9, 11, dtype=torch.float32)
    how: dict[str, Any] = {"fill": None, "emit": silent}
    two = list(draw_edits(run, EXACT, x, seed=5, samples=2, **how))
    three = list(draw_edits(run, EXACT, x, seed=5, samples=3, **how))
    assert all(torch.equal(a, b) for a, b in zip(two, three, strict=False))
    assert not torch.equal(two[0], two[1])
    assert not torch.equal(next(draw_edits(run, EXACT, x, seed=6, samples=1, **how)), two[0])


def test_grey_pictures_go_through_models_of_colours_and_not_the_other_way():
    run = partial(sdedit, grid=grid(4), solver=DDIM(), strength=0.5)
    how: dict[str, Any] = {"fill": None, "seed": 0, "samples": 1, "emit": silent}
    assert next(draw_edits(run, EXACT, torch.zeros(1, 5, 7), **how)).shape == (1, 5, 7)
    grey = Prior(EXACT.tile_denoiser, channels=1, tile=8, overlap=0)
    with pytest.raises(InputError, match="image has 3 channels, the model 1"):
        next(draw_edits(run, grey, torch.zeros(3, 5, 7), **how))


def test_progress_ends_at_its_total():
    news = []
    run = partial(
        inpaint, grid=grid(5), solver=DDIM(), method=partial(repaint, resamples=2, jump=2)
    )
    fill = torch.ones(9, 9, dtype=torch.bool)
    list(
        draw_edits(run, EXACT, torch.zeros(3, 9, 9), fill=fill, seed=0, samples=2, emit=news.append)
    )
    assert [n.done for n in news] == list(range(1, news[0].total + 1))


def test_weights_of_nothing_keep_the_bits():
    x, found = picture(3, 6, 6, dtype=torch.float32), torch.full((3, 6, 6), 0.125)
    weights = torch.zeros(6, 6)
    weights[2], weights[3] = 0.5, 1.0
    result = composite(x, found, weights)
    assert torch.equal(result[:, [0, 1, 4, 5]], x[:, [0, 1, 4, 5]])
    assert torch.equal(result[:, 3], found[:, 3])
    assert torch.allclose(result[:, 2], (x[:, 2] + 0.125) / 2)


def test_an_estimate_counts_tiles_and_calls():
    run = partial(inpaint, grid=grid(7), solver=DDIM(), method=ddnm)
    found = estimate_cost(run, EXACT, torch.zeros(3, 20, 9), fill=None, samples=3)
    assert (found.tiles, found.calls) == (3 * 2, 7)  # begin at 0, 6, 12 and at 0, 1
    assert found.seconds > 0
    fill = torch.zeros(500, 9, dtype=torch.bool)
    fill[100:104] = True
    found = estimate_cost(run, EXACT, torch.zeros(3, 500, 9), fill=fill, samples=3)
    assert found.tiles == 3 * 2  # 8 + 4 + 8 rows of the 500


def test_the_model_sees_a_tile_around_what_is_filled_and_no_more():
    run = partial(inpaint, grid=grid(4), solver=Ancestral(), method=ddnm)
    x, fill = picture(3, 60, 50, dtype=torch.float32), torch.zeros(60, 50, dtype=torch.bool)
    fill[30:33, 20:24] = True
    how: dict[str, Any] = {"fill": fill, "seed": 0, "samples": 1, "emit": silent}
    found = next(draw_edits(run, EXACT, x, **how))
    far = x.clone()
    far[:, :22], far[:, 41:], far[..., :12], far[..., 32:] = 9.0, 9.0, 9.0, 9.0
    again = next(draw_edits(run, EXACT, far, **how))
    assert torch.equal(again[:, fill], found[:, fill])
    assert torch.equal(again[:, :22], far[:, :22])
    assert (found[:, fill] != x[:, fill]).all()
