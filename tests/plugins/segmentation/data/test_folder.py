"""Crops of labelled images: labels lie where their pixels do, whatever the turn."""

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from plugins.segmentation.data.folder import LabelledFolder


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(4):
        grey = draw.integers(0, 256, (40, 50), dtype=np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
        Image.fromarray((grey > 128).astype(np.uint8)).save(tmp_path / f"{number}_mask.png")
    return tmp_path


def test_labels_turn_with_their_pixels(folder):
    data = LabelledFolder("train", root=folder, size=24, patches=60, test_fraction=0.5)
    for i in range(60):
        item = data[i]
        grey = ((item["image"][0] + 1) * 127.5).round()
        assert item["labels"].equal((grey > 128).long())


def test_neither_split_is_empty_and_both_have_all_classes(folder):
    sides = [
        {data.source(i) for i in range(len(data))}
        for data in (LabelledFolder(s, root=folder, patches=200, size=8, test_fraction=1e-6)
                     for s in ("train", "test"))
    ]  # fmt: skip
    assert [len(side) for side in sides] == [3, 1]
    assert not sides[0] & sides[1]
    Image.fromarray(np.full((40, 50), 9, np.uint8)).save(folder / "0_mask.png")
    found = [LabelledFolder(s, root=folder, size=8, test_fraction=0.5) for s in ("train", "test")]
    assert found[0].classes == found[1].classes
    assert found[0].classes.values == (0, 1, 9)


def test_what_cannot_be_used_is_one_sentence(folder):
    with pytest.raises(InputError, match="50 x 40 pixels, less than size 41; choose a smaller"):
        LabelledFolder("train", root=folder, size=41)
    with pytest.raises(InputError, match="no labelled image is in the test split of 4"):
        LabelledFolder("test", root=folder, size=8, test_fraction=0.0)
    data = LabelledFolder("test", root=folder, size=8, test_fraction=1.0, cache_gib=0.0)
    data[0]
    for number in range(4):
        Image.fromarray(np.zeros((40, 50), np.uint8)).save(folder / f"{number}.png")
    with pytest.raises(InputError, match="changed while in use"):
        [data[i] for i in range(len(data))]
