"""Colourisation: luma kept, and what is expected of colours."""

import sys
from pathlib import Path

import numpy as np

from core.data import collate, open_dataset
from core.parts.registry import Spec
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.multitask import MultiTask

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import batch_of, noise, picture, stacked


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
