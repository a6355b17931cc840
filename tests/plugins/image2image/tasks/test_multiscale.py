"""One network for all factors of super-resolution: what its items and its results are."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from core.errors import InputError
from plugins.image2image.tasks.multiscale import MultiScale, unit
from plugins.image2image.tasks.restoration import to_levels
from plugins.image2image.tasks.super_resolution import SR3


def picture(size=96):
    pixels = photographs.coffee()[100 : 100 + size, 200 : 200 + size]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def pillows(image, side):
    """Pillow's bicubic resize in 32-bit float, which renormalises at the border as ours does."""
    planes = [
        Image.fromarray(plane.numpy(), mode="F").resize((side, side), Image.Resampling.BICUBIC)
        for plane in image
    ]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))


@pytest.mark.parametrize("factor", [1.5, 2.0, 2.7, 4.0])
def test_an_items_first_estimate_is_pillows_at_its_factor(factor):
    image = picture()
    item = MultiScale(least=factor, most=factor).degrade({"image": image}, 0)
    low = to_levels(pillows(image, round(96 / factor)))
    apart = (item["base"] - pillows(low, 96)).abs()
    assert apart.max() < 0.02  # a level of the small image, where rounding went the other way
    assert apart.mean() < 1e-4


def test_factors_are_even_over_the_range():
    """The residual grows with the factor; items of a range have ranks that are even in it."""
    image, task = picture(), MultiScale(least=1.5, most=4.0, seed=3)
    errors = [
        float((task.degrade({"image": image}, i)["base"] - image).square().mean())
        for i in range(60)
    ]
    ends = [
        float((SR3(scale=factor).base({"image": image[None]}) - image).square().mean())
        for factor in (1.5, 2.75, 4.0)
    ]
    assert 0.9 * ends[0] < min(errors)
    assert max(errors) < 1.05 * ends[2]
    below = sum(error < ends[1] for error in errors)
    assert abs(below - 30) < 3 * np.sqrt(60 / 4)


def test_the_expected_residual_has_the_photographs_scale_at_every_factor():
    """Root mean square of the residual, in the unit of its factor, is that of factor 4 to 20 %."""
    image = {"image": picture(288)[None]}

    def scale_of(factor):
        task = SR3(scale=factor, unit=unit(factor))
        residual = image["image"] - task.base(image)
        return float((residual / task.residual_std(image)).square().mean().sqrt())

    assert [scale_of(f) for f in (1.5, 2.0, 3.0)] == pytest.approx([scale_of(4.0)] * 3, rel=0.2)


@pytest.mark.parametrize("factor", [1.5, 2.7, 3.0])
def test_a_result_at_any_factor_reduces_to_the_input(factor):
    """By Pillow, from whatever the network draws; without an image only its reduction is known."""
    image = picture()
    low = to_levels(pillows(image, round(96 / factor)))[None]
    task = MultiScale(back_projections=12).at(factor)
    batch = task.given(low, 0.0, torch.zeros_like(low))
    noise = torch.randn(task.base(batch).shape, generator=torch.Generator().manual_seed(0))
    result = task.finish(noise, batch)
    side = round(round(96 / factor) * factor)
    assert result.shape == (1, 3, side, side)
    assert (pillows(result[0], low.shape[-1]) - low[0]).square().mean() < 1e-4
    assert (result - task.base(batch)).square().mean() > 5e-4


def test_a_range_that_is_none_is_refused():
    for least, most in ((1.0, 4.0), (3.0, 2.0)):
        with pytest.raises(InputError, match="least: expected above 1 and at most"):
            MultiScale(least=least, most=most)
    with pytest.raises(InputError, match="unit: expected above 0"):
        SR3(unit=0.0)
