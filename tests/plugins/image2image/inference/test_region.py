"""Regions of an image from options."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from core.errors import InputError
from core.process.schedules import vp_linear
from core.testing.distributions import Gaussian

PROCESS, WORLD = vp_linear(), Gaussian(0.3, 0.5)


def picture(*shape, seed=0, dtype=torch.float64):
    return WORLD.draw(shape, torch.Generator().manual_seed(seed)).to(dtype)


def test_regions_add_up_where_the_picture_is_and_become_opaque(tmp_path):
    from plugins.image2image.inference.region import Region

    given = np.dstack([photographs.coffee()[:10, :12], np.full((10, 12), 199, np.uint8)])
    given[8, 9, 3] = 0
    Image.fromarray(given).save(tmp_path / "in.png")
    region = Region(box=("1,2,3,4",), transparent=True, extend=("left=5", "top=6"))
    picture, fill = region.of(tmp_path / "in.png", needed=True)
    expected = np.ones((16, 17), bool)
    expected[6:, 5:] = False
    expected[6 + 2 : 6 + 6, 5 + 1 : 5 + 4] = True
    expected[6 + 8, 5 + 9] = True
    assert fill is not None
    assert picture.alpha is not None
    assert np.array_equal(fill.numpy(), expected)
    assert torch.equal(picture.alpha[0], torch.where(fill, 1.0, torch.tensor(199 / 255)))


def test_a_folder_of_masks_is_searched_by_the_names_of_the_images(tmp_path):
    from core.predictor import files_of
    from plugins.image2image.inference.predictors import Restore
    from plugins.image2image.inference.region import mask_for

    masks, photos = tmp_path / "masks", tmp_path / "photos"
    (masks / "trip").mkdir(parents=True)
    for name in ("a.png", "b.jpg.png", "c.tif", "trip/a.PNG"):
        (masks / name).touch()
    (masks / "notes.txt").touch()
    for image, mask in {
        "a.jpg": "a.png",
        "b.jpg": "b.jpg.png",
        "c.webp": "c.tif",
        "trip/a.jpg": "trip/a.PNG",
        "trip/c.jpg": "c.tif",
    }.items():
        assert mask_for(masks, photos / image) == masks / mask
    assert mask_for(masks / "a.png", photos / "d.jpg") == masks / "a.png"
    assert mask_for(None, photos / "d.jpg") is None
    with pytest.raises(InputError, match=r"d\.jpg: no mask in the folder .*named d\.png"):
        mask_for(masks, photos / "d.jpg")
    assert files_of(Restore, photos / "c.webp", {"mask": masks}) == (
        photos / "c.webp", masks / "c.tif"
    )  # fmt: skip
    assert files_of(Restore, photos / "d.jpg", {"mask": masks}) == (photos / "d.jpg",)
    (masks / "a.tif").touch()
    with pytest.raises(InputError, match=r"a\.png and a\.tif are both masks of a\.jpg"):
        mask_for(masks, photos / "a.jpg")
