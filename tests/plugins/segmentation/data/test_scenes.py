"""Scenes hold scikit-learn's digits where they say, and no digit of the other split."""

import numpy as np
import pytest
import torch

from core.errors import InputError
from plugins.segmentation.data.scenes import TRAIN, DigitsScene


@pytest.mark.slow  # imports scikit-image
def test_labels_are_the_digits_enlarged_where_they_are_placed():
    from skimage.transform import resize
    from sklearn.datasets import load_digits

    known, data = load_digits(), DigitsScene("test", count=20, noise=0.0)
    for index in range(len(data)):
        expected, clear = np.zeros((64, 64), int), np.ones((64, 64), bool)
        for number, top, left, side in data.placed(index):
            covered = resize(known.images[number] / 16, (side, side), order=1, mode="edge")
            area = np.s_[top : top + side, left : left + side]
            expected[area][covered >= 0.5] = known.target[number] + 1
            clear[area] &= abs(covered - 0.5) > 1e-9  # rounding decides there
        found = data[index]["labels"].numpy()
        assert (found == expected)[clear].all()
        assert clear.mean() > 0.99


@pytest.mark.slow  # 300 scenes
def test_splits_have_digits_of_their_own_and_all_classes():
    numbers, classes = {}, {}
    for split in ("train", "test"):
        data = DigitsScene(split, count=150)
        numbers[split] = {one.number for i in range(len(data)) for one in data.placed(i)}
        classes[split] = set(torch.stack([data[i]["labels"] for i in range(60)]).unique().tolist())
    assert max(numbers["train"]) < TRAIN <= min(numbers["test"])
    assert classes["train"] == classes["test"] == set(range(11))


def test_digits_of_a_scene_are_apart_and_inside():
    data = DigitsScene("train", count=100, size=48)
    for index in range(100):
        taken = np.zeros((48, 48), int)
        for _, top, left, side in data.placed(index):
            assert 0 <= top <= 48 - side
            assert 0 <= left <= 48 - side
            taken[top : top + side, left : left + side] += 1
        assert taken.max() == 1


def test_labels_are_numbered_in_the_order_of_the_digits_asked_for():
    both = {
        tuple(order): DigitsScene("train", count=20, digits=order) for order in ((3, 7), (7, 3))
    }
    for index in range(20):
        three, seven = (data[index]["labels"] for data in both.values())
        swapped = torch.tensor([0, 2, 1])[seven]
        assert three.equal(swapped)
        assert three.max() <= 2


def test_scenes_of_another_seed_are_others_and_options_are_checked():
    assert not DigitsScene("train")[3]["image"].equal(DigitsScene("train", seed=1)[3]["image"])
    assert DigitsScene("train").digest() != DigitsScene("train", seed=1).digest()
    for digits in ((), (3, 3), (10,)):
        with pytest.raises(InputError, match="digits: expected some of 0 to 9"):
            DigitsScene("train", digits=digits)
    with pytest.raises(InputError, match="size: expected 24 to 4096, got 8"):
        DigitsScene("train", size=8)
    with pytest.raises(IndexError):
        DigitsScene("train", count=3)[3]
