"""Which pixels of images in tiles are learned from together."""

import numpy as np
import torch
from PIL import Image

from core.request import Machine
from plugins.segmentation.features.filters import Filters
from plugins.segmentation.inference.fit import pixels_of, read
from plugins.segmentation.request import Labels, Tiling


def test_tiles_of_one_image_are_held_out_together(tmp_path):
    random = np.random.default_rng(0)
    for number in range(5):
        grey = random.integers(0, 256, (64, 150), dtype=np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
        Image.fromarray((grey > 127).astype(np.uint8)).save(tmp_path / f"{number}_mask.png")
    labelled = read(tmp_path, Labels())
    features = Filters(Machine(device="cpu"))
    pixels, image = pixels_of(labelled, features, Tiling(tile=64, margin=16), most=2000, seed=0)
    folds = [pixels.fold[image == number].unique() for number in range(5)]
    assert [len(fold) for fold in folds] == [1] * 5
    assert sorted(torch.cat(folds).tolist()) == [0, 1, 2, 3, 4]
