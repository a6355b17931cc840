"""SR3's operator, task and entry script against answers from outside the code."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from core.results.sheet import to_bytes
from plugins.image2image.operators.bicubic import Bicubic
from plugins.image2image.tasks.restoration import to_levels
from plugins.image2image.tasks.super_resolution import SR3, expected_residual_std


def picture(size=96):
    pixels = photographs.coffee()[100 : 100 + size, 200 : 200 + size]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("target", ["residual", "image"])
def test_the_true_target_restores_the_picture(target):
    task, batch = SR3(scale=4, target=target), {"image": picture()}
    example = task.prepare(batch)
    assert (task.finish(example.x0, batch) - batch["image"]).abs().max() < 1e-5
    small = Image.fromarray(to_bytes(batch["image"][0])).resize((24, 24), Image.Resampling.BICUBIC)
    apart = to_bytes(task.low(batch)[0]).astype(int) - np.asarray(small).astype(int)
    assert np.abs(apart).max() <= 1  # Pillow rounds between its two passes


def test_the_expected_spread_follows_local_contrast():
    """The standard deviation over 3x3 pixels by SciPy; a grey image has the floor everywhere."""
    from scipy.ndimage import uniform_filter

    low = SR3().low({"image": picture()})
    grey = low[0].mean(0).double().numpy()
    mean = uniform_filter(grey, 3, mode="nearest")
    contrast = np.sqrt(np.maximum(uniform_filter(grey**2, 3, mode="nearest") - mean**2, 0))
    expected = 0.006 + 1.7 * contrast / (1 + 5.5 * contrast)
    assert np.abs(expected_residual_std(low)[0, 0].numpy() - expected).max() < 1e-3
    assert (expected_residual_std(torch.zeros(1, 3, 5, 5)) - 0.006).abs().max() < 1e-6


def test_residuals_of_photographs_not_fitted_to_have_about_unit_deviation():
    from skimage import data as photographs

    for photo in (photographs.cat(), photographs.coffee(), photographs.rocket()):
        pixels = torch.from_numpy(photo[:288, :416].copy()).permute(2, 0, 1)[None]
        x0 = SR3().prepare({"image": pixels.float() / 127.5 - 1}).x0
        assert 0.4 < float(x0.std()) < 1.6


def test_back_projection_brings_bicubic_to_its_input():
    """Zero residual is plain bicubic: ten rounds must take 90 % of its inconsistency away."""
    image = picture()
    plain, projected = SR3(), SR3(back_projections=10)
    zero = torch.zeros(1, 1, 3, 96, 96)
    before = plain.score(plain.finish(zero[0], {"image": image})[None], {"image": image})
    after = projected.score(projected.finish(zero[0], {"image": image})[None], {"image": image})
    name = "consistency"
    now, then = after["one sample"].figures, before["one sample"].figures
    assert now[name] < 0.1 * then[name]
    assert torch.allclose(then[name], before["bicubic"].figures[name])
    assert now["psnr"] > then["psnr"]


def test_one_round_of_back_projection_of_nothing_is_the_enlargement():
    """0 + up(low - down(0)); a second round adds what the first one's reduction lacks."""
    image, scale = picture(), 4
    batch, nothing = {"image": image}, torch.zeros_like(image)
    operator = Bicubic(factor=scale)
    low = to_levels(operator.forward(image))
    up = operator.up(low)
    once = SR3(scale=scale, back_projections=1).make_consistent(nothing, batch)
    twice = SR3(scale=scale, back_projections=2).make_consistent(nothing, batch)
    assert torch.equal(once, up)
    assert (twice - (up + operator.up(low - operator.forward(up)))).abs().max() < 1e-6


def test_a_black_picture_has_finite_scores():
    image = -torch.ones(1, 3, 32, 32)
    for method in SR3().score(image[:, None], {"image": image}).values():
        assert all(value.isfinite().all() for value in method.figures.values())


def test_levels_are_those_of_a_file():
    values = torch.linspace(-1.2, 1.2, 999)
    through = torch.from_numpy(to_bytes(values[None, None].expand(3, 1, -1))).float() / 127.5 - 1
    assert torch.equal(through[0, :, 0], to_levels(values))


def test_items_are_as_noisy_as_they_say():
    """Levels are even over their range, and the noise has the standard deviation that is told."""
    task, image = SR3(augment=0.4), picture(256)[0]
    levels = []
    for index in range(60):
        item = task.degrade({"image": image}, index)
        noise = item["noisy_low"] - item["low"]
        level = float(item["level"])
        assert float(noise.std()) == pytest.approx(level, rel=0.05, abs=1e-6)
        levels.append(level)
    assert abs(np.mean(levels) - 0.2) < 4 * 0.4 / np.sqrt(12 * 60)
    assert 0 <= min(levels) < 0.05
    assert 0.35 < max(levels) <= 0.4
    fixed = SR3(augment=0.4, level=0.1).degrade({"image": image}, 3)
    assert float(fixed["level"]) == pytest.approx(0.1)


def test_the_network_is_told_the_level():
    task = SR3(augment=0.4, level=0.1)
    item = task.degrade({"image": picture()[0]}, 0)
    example = task.prepare({name: value[None] for name, value in item.items()})
    given = example.condition["image"]
    assert given.shape[1] == task.conditions["image"] == 5
    assert torch.allclose(given[:, 4], torch.tensor(0.25))
    assert torch.allclose(given[:, :3], Bicubic(factor=4).up(item["noisy_low"][None]))


def test_the_consistency_of_a_grey_step_is_computed_by_hand():
    """Twelve levels brighter everywhere: (12 / 255)^2, in units of 1e-5."""
    level = torch.full((1, 3, 16, 16), 2 * 100 / 255 - 1)
    brighter = torch.full_like(level, 2 * 112 / 255 - 1)
    found = SR3(scale=4).figures_of(brighter, {"image": level})["consistency"]
    assert float(found) == pytest.approx((12 / 255) ** 2 * 1e5, rel=1e-4)
