"""Colourisation: luma kept, and what is expected of colours."""

import numpy as np
import torch
from skimage import data as photographs

from core.data import collate, open_dataset
from core.parts.registry import Spec
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.multitask import MultiTask


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


def test_a_colourisation_has_no_luma_error():
    task = Colourise()
    batch = batch_of(task)
    for method in task.score(noise((3, 2, 3, 64, 64)).clamp(-1, 1), batch).values():
        assert (method.figures["luma"] == 0).all()


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
    loss_mask = several.prepare(stacked([several.degrade(x, i) for i, x in enumerate(items)])).mask
    nothing = (loss_mask == 0).flatten(1).all(1)
    assert not nothing[::2].any()
    assert 3 <= int(nothing[1::2].sum()) <= 14  # a quarter of 32, within 3 standard deviations


def test_what_is_expected_of_colours_is_what_photographs_have():
    """Of each level of grey in images that it was not fitted to, within a factor of 3."""
    task = Colourise()
    batch = collate(open_dataset(PHOTOS, "test", task), list(range(18)))
    grey = batch["base"][:, :1]
    lacking = (batch["image"] - batch["base"]).square().mean(1, keepdim=True)
    for low in np.arange(-1, 1, 0.25):
        here = (grey >= low) & (grey < low + 0.25)
        ratio = float((lacking[here].mean() / batch["residual_std"][here].square().mean()).sqrt())
        assert 1 / 3 < ratio < 3, (low, ratio)


PHOTOS = Spec("image2image/photos", {"size": 128, "per_photo": 6})
