"""Inpainting: known pixels kept, scores over the hole, expected residuals."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import inpaint_biharmonic

from core.data import collate, open_dataset
from core.parts.registry import Spec
from core.results.sheet import to_bytes
from plugins.image2image.tasks.inpaint import Inpaint

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import batch_of, noise


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
            assert float(scores[method].figures["hole"][i]) == pytest.approx(expected, abs=1e-2), (
                method
            )
        assert (scores["biharmonic"].figures["known"] == 0).all()


def test_what_a_filling_may_lack_grows_with_distance_and_contrast():
    hole = torch.zeros(40, 40, dtype=torch.bool)
    hole[10:30, 10:30] = True
    contrast = torch.linspace(0, 0.5, 40).expand(40, 40)
    far = np.log(np.maximum(distance_transform_edt(hole.numpy()), 1))
    grown = contrast.numpy() * (1.3 + 3.5 * far)
    expected = np.where(hole, 0.01 + 0.02 * far + grown / (1 + 2.4 * grown), 0.01)
    assert np.abs(Inpaint.expected_std(contrast, hole).numpy() - expected).max() < 1e-6


def test_what_a_filling_may_lack_is_what_it_lacks_on_photographs_that_it_was_not_fitted_to():
    """In each quarter of the pixels by what is expected, what is lacking is of that size."""
    task = Inpaint()
    batch = collate(open_dataset(PHOTOS, "test", task), list(range(18)))
    hole = batch["hole"]
    expected = batch["residual_std"][hole]
    lacking = (batch["image"] - batch["base"]).square().mean(1, keepdim=True)[hole]
    for quarter in expected.argsort().chunk(4):
        ratio = float((lacking[quarter].mean() / expected[quarter].square().mean()).sqrt())
        assert 1 / 3 < ratio < 3, ratio


PHOTOS = Spec("image2image/photos", {"size": 128, "per_photo": 6})
