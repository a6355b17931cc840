"""Degradations against SciPy, files of Pillow and the statistics of the noise asked for."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage import data as photographs

from core.errors import InputError
from core.process.noise import generator
from core.results.metrics import psnr
from plugins.image2image.operators.bicubic import Bicubic
from plugins.image2image.operators.degradation import (
    degraded,
    gaussian_blur,
    jpeg_file,
    noisy,
    resized,
)
from plugins.image2image.request import Degradation
from plugins.image2image.tasks.restoration import to_levels
from plugins.image2image.tasks.super_resolution import SR3


def photograph(side=96):
    pixels = photographs.coffee()[100 : 100 + side, 200 : 200 + side]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def test_an_upright_blur_is_scipys():
    image = photograph()[None].double()
    ours = gaussian_blur(image, across=1.7, along=0.8)
    expected = ndimage.gaussian_filter(
        image.numpy(), (0, 0, 0.8, 1.7), mode="mirror", radius=(0, 0, 6, 6)
    )
    assert np.abs(ours.numpy() - expected).max() < 1e-9


def test_a_turned_blur_has_the_covariance_of_its_axes():
    """Of a point: variances 3^2 along the direction of the angle, and 1 across it."""
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    angle = np.pi / 6
    spread = gaussian_blur(point, across=3.0, along=1.0, angle=angle)[0, 0].numpy()
    y, x = np.mgrid[-20:21, -20:21]
    axis = np.array([np.cos(angle), np.sin(angle)])
    expected = 9 * np.outer(axis, axis) + np.outer(axis[::-1] * [-1, 1], axis[::-1] * [-1, 1])
    found = [[(spread * a * b).sum() for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(found, expected, atol=0.15)


@pytest.mark.parametrize(
    ("kind", "theirs"), [("area", "BOX"), ("bilinear", "BILINEAR"), ("bicubic", "BICUBIC")]
)
def test_filters_are_those_of_pillow(kind, theirs):
    image = photograph()
    levels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    small = Image.fromarray(levels).resize((24, 24), Image.Resampling[theirs])
    ours = (resized(image[None], (24, 24), kind)[0] + 1) * 127.5
    assert np.abs(ours.permute(1, 2, 0).numpy() - np.asarray(small, float)).max() < 1.6


def test_noise_has_the_deviation_that_was_asked_for():
    """At half brightness, of every kind: 0.05 of the range."""
    flat, found = torch.zeros(1, 3, 128, 128), set()
    for seed in range(12):
        noise = noisy(flat, 0.05, generator(seed, 0)) / 2
        assert float(noise.std()) == pytest.approx(0.05, rel=0.03)
        found.add(bool((noise[:, 0] == noise[:, 1]).all()))
    assert found == {True, False}  # grey and coloured


def test_noise_of_photons_grows_with_the_root_of_the_brightness():
    halves = torch.full((1, 3, 64, 128), -0.5)
    halves[..., 64:] = 1.0
    for seed in range(20):
        noise = noisy(halves, 0.05, generator(seed, 0)) - halves
        ratio = float(noise[..., 64:].std() / noise[..., :64].std())
        assert ratio == pytest.approx(1, abs=0.05) or ratio == pytest.approx(2, abs=0.1)


def test_a_jpeg_pass_is_what_a_file_of_that_quality_holds():
    image = photograph()[None]
    levels = ((image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=30, subsampling="4:2:0")
    shown = np.asarray(Image.open(file))
    ours = ((jpeg_file(image, 30, "4:2:0")[0] + 1) * 127.5).round().byte().permute(1, 2, 0)
    assert (ours.numpy() == shown).all()


def test_a_chain_depends_on_seed_and_index_alone():
    chain = Degradation(blur=2.0, noise=0.05, jpeg=40, filters=True, twice=0.5)
    image = photograph()
    one, same, other, again = (
        degraded(image, 4, chain, seed, index) for seed, index in [(0, 5), (0, 5), (0, 6), (1, 5)]
    )
    assert one.shape == (3, 24, 24)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, again)
    assert torch.equal(one, to_levels(one))  # as an 8-bit file


def test_without_anything_it_is_the_clean_reduction():
    image = photograph()
    clean = to_levels(Bicubic(factor=4).forward(image[None]))[0]
    assert (degraded(image, 4, Degradation(), 0, 3) - clean).abs().max() < 1e-6


def test_chains_leave_between_nothing_and_the_most_that_was_asked_for():
    """Each chain is a noisier reduction; some of sixty are nearly clean, some far from it."""
    chain, image = Degradation(blur=3.0, noise=0.06, jpeg=30, filters=True, twice=0.3), photograph()
    clean = Bicubic(factor=4).forward(image[None])
    quality = [float(psnr(degraded(image, 4, chain, 0, k)[None], clean)) for k in range(60)]
    assert max(quality) > 35
    assert min(quality) < 26


def test_a_degraded_task_learns_from_the_chain_and_refuses_exact_consistency():
    chain = Degradation(noise=0.06)
    task, image = SR3(scale=4, seed=2, degradation=chain), photograph()
    item = task.degrade({"image": image}, 7)
    assert torch.equal(item["low"], degraded(image, 4, chain, 2, 7))
    batch = {name: value[None] for name, value in item.items()}
    example = task.prepare(batch)
    assert (task.finish(example.x0, batch) - image[None]).abs().max() < 1e-5
    with pytest.raises(InputError, match="back_projections: expected 0 for a task with degrad"):
        SR3(back_projections=2, degradation=chain)
