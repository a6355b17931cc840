"""Palette's tasks against Pillow, SciPy, scikit-image and closed forms."""

import sys
from pathlib import Path

import pytest
import torch
from skimage import data as photographs

from core.data import collate, open_dataset
from core.errors import InputError
from core.parts.registry import Spec
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.inpaint import Inpaint, Uncrop
from plugins.image2image.tasks.jpeg import JPEG
from plugins.image2image.tasks.multitask import MultiTask
from plugins.image2image.tasks.restoration import local_contrast

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import batch_of, noise, picture, stacked

TASKS = [Colourise(), Inpaint(), Uncrop(), JPEG(), Colourise(target="image"), JPEG(target="image")]


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


# --- holes -------------------------------------------------------------------------------------


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


# --- together ----------------------------------------------------------------------------------


def test_items_are_made_where_they_are_read():
    dataset = open_dataset(Spec("image2image/photos", {"size": 32}), "test", JPEG())
    batch = collate(dataset, [0, 5])
    assert batch["base"].shape == (2, 3, 32, 32)
    assert dataset.name(5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: JPEG(quality=101), "quality: expected 1 to 100, or 0 for a random one, got 101"),
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
