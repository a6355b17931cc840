"""An input beside its result: the same place in both, where they differ."""

import numpy as np
from PIL import Image

from plugins.image2image.inference import shown
from plugins.image2image.inference.shown import CROP, before_and_after


def saved(path, values):
    Image.fromarray(values).save(path)
    return path


def smooth(height, width, seed=0):
    draw = np.random.default_rng(seed).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(draw).resize((width, height), Image.Resampling.BICUBIC))


def panel(tmp_path, before, after):
    source, target = saved(tmp_path / "a.png", before), saved(tmp_path / "b.png", after)
    return before_and_after(source, target, {"size": after.shape[1::-1]})


def test_the_crop_is_where_they_differ_and_the_same_in_both(tmp_path):
    before = smooth(700, 900)
    after = before.copy()
    after[CROP + 50 : CROP + 90, 2 * CROP + 20 : 2 * CROP + 60] = 255 - before[0, 0]
    found = panel(tmp_path, before, after)
    where = slice(CROP, 2 * CROP), slice(2 * CROP, 3 * CROP)
    assert found.title == "a.png"
    assert np.array_equal(found.images["input"], before[where])
    assert np.array_equal(found.images["result"], after[where])
    assert np.array_equal(found.whole["result"], after)


def test_an_input_is_enlarged_to_its_result(tmp_path):
    """By the factor of both sides, rounded: 101 x 67 by 2.7 is 273 x 181."""
    after = smooth(181, 273)
    before = np.asarray(Image.fromarray(after).resize((101, 67), Image.Resampling.BICUBIC))
    found = panel(tmp_path, before, after)
    assert {*found.whole} == {*found.images} == {"input, enlarged", "result"}
    assert found.whole["input, enlarged"].shape == after.shape
    assert np.abs(found.whole["input, enlarged"].astype(int) - after).mean() < 3


def test_a_result_of_other_proportions_has_no_crop(tmp_path):
    found = panel(tmp_path, smooth(60, 80), smooth(60, 120))
    assert {name: x.shape[:2] for name, x in found.whole.items()} == {
        "input": (60, 80),
        "result": (60, 120),
    }
    assert not found.images


def test_a_result_of_too_many_pixels_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shown, "MOST", 100)
    assert before_and_after(tmp_path / "none", tmp_path / "none", {"size": [11, 10]}) is None


def test_transparent_pixels_are_white_and_grey_has_three_channels(tmp_path):
    clear = np.zeros((8, 9, 4), np.uint8)
    clear[:4, :, 3] = 255
    found = panel(tmp_path, clear, np.full((8, 9), 70, np.uint8))
    assert np.array_equal(found.whole["input"][:, 0, 0], [0] * 4 + [255] * 4)
    assert found.whole["result"].shape == (8, 9, 3)
