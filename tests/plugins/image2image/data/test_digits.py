"""Handwritten digits are scikit-learn's."""

import numpy as np
import torch

from plugins.image2image.data.digits import Digits


def test_digits_are_scikit_learns_each_in_one_split():
    from sklearn.datasets import load_digits

    known = load_digits()
    train, test = Digits("train"), Digits("test")
    items = [side[i] for side in (train, test) for i in range(len(side))]
    pixels = torch.stack([item["image"] for item in items]).squeeze(1).numpy()
    assert np.array_equal(pixels, known.images.astype(np.float32) / 8 - 1)
    assert [int(item["class"]) for item in items] == known.target.tolist()
    assert test.name(0) == f"digit 1297, a {known.target[1297]}"
