"""Crops of the photographs inside scikit-image: a set that needs no download.

Train and test hold different photographs.
"""

import hashlib
from functools import cache

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from core.crops import FAR, Plan, check_options, cut

# Test: three colour photographs whose content (an animal, a still life, a night scene) is not in
# the training set.  Train keeps the portrait, for skin, cloth and lettering, and an outdoor scene.
TEST_PHOTOS = ("chelsea", "coffee", "rocket")
TRAIN_PHOTOS = (
    "astronaut",
    "brick",
    "camera",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
)
SMALLEST_PHOTO_SIDE = 300  # of chelsea


@cache
def photograph(name: str) -> np.ndarray:
    """A photograph of scikit-image's, uint8 (3, h, w); grey ones have three equal channels."""
    import skimage.data

    values = np.asarray(getattr(skimage.data, name)())
    values = np.stack([values] * 3) if values.ndim == 2 else np.moveaxis(values, -1, 0)
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values


class Photos(Dataset[dict[str, Tensor]]):
    """Crops of 12 photographs inside scikit-image, all freely licensed: 9 to train, 3 to test.

    Grey photographs are repeated to three channels.  Training crops are mirrored and turned;
    test crops are not.

    Args:
        size: side of the crops, in pixels; at most 300, the side of the smallest photograph.
        patches: number of different random crops of the training set.
        per_photo: number of fixed crops of each photograph of the test set; they overlap only where
            the photograph is too small.
        seed: random seed of the crops; the test set does not depend on it.
    """

    def __init__(
        self,
        split: str,
        *,
        size: int = 64,
        patches: int = 20000,
        per_photo: int = 8,
        seed: int = 0,
    ) -> None:
        check_options(
            split,
            {
                "size": (size, 1, SMALLEST_PHOTO_SIDE),
                "patches": (patches, 1, FAR),
                "per_photo": (per_photo, 1, 1024),
                "seed": (seed, 0, FAR),
            },
        )
        names = TRAIN_PHOTOS if split == "train" else TEST_PHOTOS
        sizes = [photograph(name).shape[1:] for name in names]
        count = patches if split == "train" else per_photo
        self._plan = Plan(split, names, sizes, size, count, seed)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, i: int) -> dict[str, Float[Tensor, " 3 size size"]]:
        crop = self._plan[i]
        return {"image": cut(self.pixels(crop.photo), crop, self._plan.size)}

    def source(self, i: int) -> str:
        """The photograph of item i: items of one photograph are not independent."""
        return self._plan.source(i)

    def name(self, i: int) -> str:
        """Title of item i, such as ``coffee, patch 3``."""
        return self._plan.name(i)

    def pixels(self, photo: int) -> np.ndarray:
        """A whole photograph, uint8 (3, h, w)."""
        return photograph(self._plan.names[photo])

    def digest(self) -> str:
        """SHA-256 of the items, pixels included."""
        whole = [photograph(name).tobytes() for name in self._plan.names]
        return self._plan.digest([hashlib.sha256(pixels).hexdigest() for pixels in whole])
