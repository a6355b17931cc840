"""Palette's tasks against Pillow, SciPy, scikit-image and closed forms."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import distance_transform_edt
from skimage import data as photographs
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import inpaint_biharmonic

from core.data import collate, open_dataset
from core.errors import InputError
from core.parts.registry import Spec
from core.results.sheet import to_bytes
from plugins.image2image.operators import jpeg
from plugins.image2image.operators.luma import (
    levels_luma,
    levels_with_luma,
    luma,
    to_integers,
    with_luma,
)
from plugins.image2image.tasks.classical import harmonic, total_variation
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.inpaint import Inpaint, Uncrop
from plugins.image2image.tasks.jpeg import JPEG
from plugins.image2image.tasks.multitask import MultiTask
from plugins.image2image.tasks.restoration import local_contrast

TASKS = [Colourise(), Inpaint(), Uncrop(), JPEG(), Colourise(target="image"), JPEG(target="image")]


def picture(size=64, top=100, left=200):
    pixels = photographs.coffee()[top : top + size, left : left + size]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def batch_of(task, count=3):
    items = [task.degrade({"image": picture(top=60 * i)}, i) for i in range(count)]
    return stacked(items)


def stacked(items):
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{type(task).__name__} {task.target}")
def test_the_true_target_restores_the_picture(task):
    """Nearly: JPEG's encoder rounds as it likes, and a luma is given in whole levels."""
    batch = batch_of(task)
    example = task.prepare(batch)
    found = task.finish(example.x0, batch)
    worst, mean = {JPEG: (0.04, 1e-3), Colourise: (0.02, 3e-3)}.get(type(task), (1e-5, 1e-6))
    assert (found - batch["image"]).abs().max() < worst
    assert (found - batch["image"]).abs().mean() < mean
    assert example.condition["image"].shape[1] == task.conditions["image"]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{type(task).__name__} {task.target}")
def test_a_correction_is_a_projection(task):
    """Doing it twice changes nothing, and what is right already is left alone."""
    batch = batch_of(task)
    x0 = noise(batch["image"].shape)
    once = task.correct(x0, batch)
    assert not torch.allclose(once, x0, atol=1e-2)
    assert torch.allclose(task.correct(once, batch), once, atol=2e-3)


def test_an_item_depends_on_its_index_alone():
    task = MultiTask()
    first, again = (task.degrade({"image": picture()}, 7) for _ in range(2))
    assert all(first[name].equal(again[name]) for name in first)
    others = [task.degrade({"image": picture()}, i)["base"] for i in range(40)]
    assert len({other.numpy().tobytes() for other in others}) > 20  # grey is the same each time


# --- colour ------------------------------------------------------------------------------------


def test_luma_is_pillows():
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ours = levels_luma(torch.from_numpy(levels).permute(2, 0, 1)[None].int())
    assert (ours[0, 0].numpy() == np.asarray(Image.fromarray(levels).convert("L"))).all()


@pytest.mark.parametrize("strength", [0.1, 1.0, 5.0])
def test_a_written_colour_has_the_luma_given_for_every_level(strength):
    """Read back by Pillow from a PNG."""
    grey = torch.arange(256).repeat(64).reshape(1, 1, 128, 128).int()
    wild = strength * noise((1, 3, 128, 128))
    levels = levels_with_luma(with_luma(wild, grey / 127.5 - 1), grey)
    buffer = BytesIO()
    Image.fromarray(levels[0].byte().permute(1, 2, 0).numpy()).save(buffer, "PNG")
    read = np.asarray(Image.open(buffer).convert("L"))
    assert (read == grey[0, 0].numpy()).all()


def test_colours_within_range_are_kept_and_others_fade():
    image = picture()[None]
    grey = luma(image)
    assert torch.allclose(with_luma(image, grey), image, atol=1e-5)
    faded = with_luma(grey + 9 * (image - grey), grey)
    assert faded.abs().max() <= 1 + 1e-5
    assert torch.allclose(luma(faded), grey, atol=1e-5)


def test_a_colourisation_has_no_luma_error():
    task = Colourise()
    batch = batch_of(task)
    for figures in task.score(noise((3, 2, 3, 64, 64)).clamp(-1, 1), batch).values():
        assert (figures["luma"] == 0).all()


def test_grey_pictures_teach_no_colours():
    """By themselves and among several tasks, where the others still count."""
    grey = picture().mean(0, keepdim=True).expand(3, -1, -1)
    task = Colourise()
    batch = stacked([task.degrade({"image": image}, 0) for image in (picture(), grey)])
    counts = task.prepare(batch).mask
    assert (counts[0] == 1).all()
    assert (counts[1] == 0).all()
    several = MultiTask()
    items = [{"image": grey if index % 2 else picture()} for index in range(64)]
    counted = several.prepare(stacked([several.degrade(x, i) for i, x in enumerate(items)])).mask
    nothing = (counted == 0).flatten(1).all(1)
    assert not nothing[::2].any()
    assert 3 <= int(nothing[1::2].sum()) <= 14  # a quarter of 32, within 3 deviations


def test_what_is_expected_of_colours_is_what_photographs_have():
    """Of each level of grey in pictures that it was not fitted to, within a factor of 3."""
    task = Colourise()
    batch = collate(open_dataset(PHOTOS, "test", task), list(range(18)))
    grey = batch["base"][:, :1]
    lacking = (batch["image"] - batch["base"]).square().mean(1, keepdim=True)
    for low in np.arange(-1, 1, 0.25):
        here = (grey >= low) & (grey < low + 0.25)
        ratio = float((lacking[here].mean() / batch["spread"][here].square().mean()).sqrt())
        assert 1 / 3 < ratio < 3, (low, ratio)


# --- holes -------------------------------------------------------------------------------------


def test_a_smooth_filling_is_linear_between_two_sides():
    """Laplace's equation between two lines of different brightness has that one solution."""
    image = torch.zeros(1, 1, 20, 33)
    image[..., 0], image[..., -1] = -1.0, 1.0
    hole = torch.ones(1, 1, 20, 33, dtype=torch.bool)
    hole[..., 0] = hole[..., -1] = False
    found = harmonic(image, hole)
    assert (found - torch.linspace(-1, 1, 33)).abs().max() < 0.05


def test_a_smooth_filling_keeps_what_is_known_and_its_range():
    image, hole = picture()[None], torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    hole[..., 20:50, 10:40] = True
    found = harmonic(image, hole)
    assert found.masked_fill(hole, 0).equal(image.masked_fill(hole, 0))
    assert found.min() >= image.min()
    assert found.max() <= image.max()
    constant = harmonic(torch.full((1, 3, 64, 64), 0.3), hole)
    assert torch.allclose(constant, torch.full_like(constant, 0.3), atol=1e-6)


def test_a_filling_of_little_total_variation_goes_on_with_an_edge():
    step = torch.ones(1, 3, 48, 48)
    step[..., :24] = -1
    hole = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
    hole[..., 18:30, 18:30] = True
    found = total_variation(step, hole)
    assert found.masked_fill(hole, 0).equal(step.masked_fill(hole, 0))
    # The straight edge has the least variation of all fillings; a harmonic one blurs it.
    assert (found - step).square().mean() < 0.5 * (harmonic(step, hole) - step).square().mean()


def test_known_pixels_are_written_as_they_are():
    task = Inpaint()
    batch = batch_of(task)
    found = task.finish(noise((3, 3, 64, 64)), batch)
    for written, truth, hole in zip(found, batch["image"], batch["hole"], strict=True):
        same = (to_bytes(written) == to_bytes(truth)).all(-1)
        assert same[~hole[0].numpy()].all()
        assert not same[hole[0].numpy()].all()


def test_scores_of_holes_are_scikit_images():
    task = Inpaint()
    batch = batch_of(task)
    scores = task.score(batch["base"][:, None], batch)
    for i, hole in enumerate(batch["hole"][:, 0].numpy()):
        truth = to_bytes(batch["image"][i])
        inside = {
            "smooth filling": to_bytes(batch["base"][i]),
            "biharmonic": (
                inpaint_biharmonic(truth / 255, hole, channel_axis=-1).clip(0, 1) * 255
            ).round(),
        }
        for method, filled in inside.items():
            expected = peak_signal_noise_ratio(truth[hole], filled[hole], data_range=255)
            assert float(scores[method]["hole"][i]) == pytest.approx(expected, abs=1e-2), method
        assert (scores["biharmonic"]["known"] == 0).all()


def test_the_contrast_of_what_is_known_is_its_deviation():
    image, known = picture()[None], noise((1, 1, 64, 64)) > 0.5
    grey = image[0].mean(0).double().numpy()
    found = local_contrast(image, 7, known.float())[0, 0]
    for row, column in ((3, 3), (20, 41), (60, 60)):
        at = slice(row - 3, row + 4), slice(column - 3, column + 4)
        inside = grey[at][known[0, 0][at].numpy()]
        assert float(found[row, column]) == pytest.approx(inside.std(), abs=1e-4)
    everywhere = local_contrast(image, 7, torch.ones(1, 1, 64, 64))
    assert torch.allclose(local_contrast(image, 7), everywhere)


def test_what_a_filling_may_lack_grows_with_distance_and_contrast():
    hole = torch.zeros(40, 40, dtype=torch.bool)
    hole[10:30, 10:30] = True
    contrast = torch.linspace(0, 0.5, 40).expand(40, 40)
    far = np.log(np.maximum(distance_transform_edt(hole.numpy()), 1))
    grown = contrast.numpy() * (1.3 + 3.5 * far)
    expected = np.where(hole, 0.01 + 0.02 * far + grown / (1 + 2.4 * grown), 0.01)
    assert np.abs(Inpaint.expected(contrast, hole).numpy() - expected).max() < 1e-6


def test_what_a_filling_may_lack_is_what_it_lacks_on_photographs_that_it_was_not_fitted_to():
    """In each quarter of the pixels by what is expected, what is lacking is of that size."""
    task = Inpaint()
    batch = collate(open_dataset(PHOTOS, "test", task), list(range(18)))
    hole = batch["hole"]
    expected = batch["spread"][hole]
    lacking = (batch["image"] - batch["base"]).square().mean(1, keepdim=True)[hole]
    for quarter in expected.argsort().chunk(4):
        ratio = float((lacking[quarter].mean() / expected[quarter].square().mean()).sqrt())
        assert 1 / 3 < ratio < 3, ratio


PHOTOS = Spec("image2image/photos", {"size": 128, "per_photo": 6})


# --- JPEG --------------------------------------------------------------------------------------


def test_coefficients_are_scipys():
    x = noise((2, 16, 24))
    ours = jpeg.dct(x)
    theirs = dctn(x[1, 8:16, 16:24].double().numpy(), norm="ortho")
    assert np.abs(ours[1, 8:16, 16:24].numpy() - theirs).max() < 1e-5
    assert torch.allclose(jpeg.inverse_dct(ours), x, atol=1e-5)


@pytest.mark.parametrize("quality", [5, 10, 30, 75])
def test_a_file_says_which_multiples_its_picture_had(quality):
    """What Pillow writes of what it decoded has nearly the same coefficients."""
    image = picture()
    file = jpeg.encode(image, quality)
    levels = torch.from_numpy(to_bytes(image).copy()).permute(2, 0, 1)[None].double()
    y = torch.einsum("j,bjhw->bhw", jpeg.TO_YCC[0], levels)[:, None]
    steps = jpeg.tiled(file.tables[:1], 64, 64)
    apart = (jpeg.dct(y[0] - 128) - file.luma * steps).abs()
    assert (apart <= steps / 2 + 1).all()  # nearest, but for the level that the encoder rounds by
    assert (file.luma != 0).any()
    assert (file.chroma != 0).any()
    decoded = np.asarray(Image.open(BytesIO(_bytes(image, quality))))
    assert (to_bytes(file.decoded) == decoded).all()


def _bytes(image, quality):
    buffer = BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def test_the_projection_is_the_nearest_picture_with_these_coefficients():
    """A projection P onto a convex set: <x - P x, z - P x> <= 0 for every z of the set, in luma."""
    batch = batch_of(JPEG(quality=10), count=1)
    told = batch["tables"], batch["luma"], batch["chroma"]
    x = batch["image"] + 0.5 * noise((1, 3, 64, 64))
    found = luma(jpeg.project(x, *told)).double()
    assert (found - luma(x)).abs().max() > 0.1
    for seed in range(5):
        z = luma(jpeg.project(batch["image"] + noise((1, 3, 64, 64), seed + 1), *told)).double()
        assert ((luma(x).double() - found) * (z - found)).sum() <= 1e-3


def test_a_projected_picture_is_written_within_the_box():
    """Far from 0 and 255; rounding to levels moves a coefficient by about one."""
    image = 0.3 * picture()
    file = jpeg.encode(image, 10)
    told = file.tables[None], file.luma[None], file.chroma[None]
    steps = jpeg.tiled(file.tables[:1], 64, 64)

    def beyond(x):
        y = luma((to_integers(x[None]) / 127.5 - 1).double())[0] * 127.5 + 127.5
        return float(((jpeg.dct(y - 128) - file.luma * steps).abs() - steps / 2).max())

    disturbed = image + 0.15 * noise((3, 64, 64))
    assert beyond(jpeg.project(disturbed[None], *told)[0]) < 2
    assert beyond(disturbed) > 20


def test_qualities_are_drawn_as_stated():
    drawn = np.array([jpeg.quality(u) for u in np.random.default_rng(0).random(20_000)])
    assert (drawn.min(), drawn.max()) == (5, 30)
    falls = np.exp(-np.arange(5, 31) / 10)
    expected = falls / falls.sum()
    counts = np.bincount(drawn, minlength=31)[5:31] / len(drawn)
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected.max() / len(drawn))


# --- together ----------------------------------------------------------------------------------


def test_a_network_that_learned_several_tasks_draws_for_each():
    """Channels and conditions are the same, which is what `sample` asks."""
    several = MultiTask()
    for task in several.tasks:
        assert (task.channels, task.conditions) == (several.channels, several.conditions)


def test_items_are_made_where_they_are_read():
    dataset = open_dataset(Spec("image2image/photos", {"size": 32}), "test", JPEG())
    batch = collate(dataset, [0, 5])
    assert batch["base"].shape == (2, 3, 32, 32)
    assert dataset.name(5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: JPEG(quality=101), "quality: expected 1 to 100, or 0 to draw it, got 101"),
        (lambda: JPEG().degrade({"image": picture(40)}, 0), "multiples of 16, got 40x40"),
        (lambda: Inpaint().degrade({"image": picture(8)}, 0), "at least 16x16 pixels, got 8x8"),
    ],
)
def test_what_cannot_be_is_said(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_residuals_of_other_photographs_have_about_unit_deviation():
    photos = (photographs.cat(), photographs.coffee(), photographs.rocket())
    images = [torch.from_numpy(p[:256, :256].copy()).permute(2, 0, 1).float() for p in photos]
    for task in (Colourise(), Inpaint(), JPEG()):
        items = [task.degrade({"image": p / 127.5 - 1}, i) for i, p in enumerate(images)]
        example = task.prepare(stacked(items))
        inside = example.x0 if example.mask is None else example.x0[example.mask > 0]
        assert 0.3 < float(inside.std()) < 1.8, type(task).__name__
