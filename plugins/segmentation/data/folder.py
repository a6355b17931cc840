"""Crops of the user's labelled images, to train and to test networks that segment."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.crops import FAR, Plan, check_options, cut, window
from core.data import Cache, place_of, split_of
from core.errors import InputError
from core.storage import files
from plugins.segmentation.data.labelled import pairs_of, read_labelled, rgb, stated_classes

DEPTH = 65535  # images are kept with 16 bits


class LabelledFolder:
    """Crops of your own images with the class of each pixel, from images and masks in pairs.

    An item holds ``image`` (3, size, size) in [-1, 1] and ``labels`` (size, size): the index of
    each pixel's class, 255 where there is none.  The content of an image decides its split; where
    one side would be empty, the image nearest to it is used for it.

    Args:
        root: folder of the images, with its subfolders.
        masks: folder of the masks, each with its image's name, or a file or folder of annotations;
            by default masks lie beside the images, as ``photo_mask.png`` beside ``photo.png``.
        classes: names of the classes 0, 1, ...; by default those of ``classes.json`` beside the
            masks, else the numbers found in them, or background and the classes of the annotations.
        ignore: numbers of pixels without a label; with `instances` every number counts.
        instances: every number but 0, or every shape, is an object of one class.
        sparse: pixels outside all shapes of an annotation have no label, instead of background.
        size: side of the crops in pixels, at most the smallest image's.
        patches: number of different random crops of the training set.
        per_photo: number of fixed crops of each image of the test set; fewer where they would be
            equal.
        test_fraction: fraction of the images kept for testing, approximate since the content
            decides; 0 for a folder of training images only, 1 for one of test images.
        seed: random seed of the crops; the split and the test set do not depend on it.
        cache_gib: memory for decoded images in GiB, in each process.

    Attributes:
        classes: names and numbers of the classes, in the order of their indices.
    """

    def __init__(
        self,
        split: str,
        *,
        root: Path,
        masks: Path | None = None,
        classes: tuple[str, ...] = (),
        ignore: tuple[int, ...] = (255,),
        instances: bool = False,
        sparse: bool = False,
        size: int = 64,
        patches: int = 20000,
        per_photo: int = 4,
        test_fraction: float = 0.1,
        seed: int = 0,
        cache_gib: float = 1.0,
    ) -> None:
        check_options(
            split,
            {
                "size": (size, 1, 65536),
                "patches": (patches, 1, FAR),
                "per_photo": (per_photo, 1, 1024),
                "test_fraction": (test_fraction, 0.0, 1.0),
                "seed": (seed, 0, FAR),
                "cache_gib": (cache_gib, 0, FAR),
            },
        )
        self.root = root
        labelled = read_labelled(
            pairs_of(root, masks),
            classes=classes if instances else stated_classes(root, masks, classes),
            ignore=ignore,
            instances=instances,
            sparse=sparse,
        )
        files_of = [file for file in labelled.files if isinstance(file, Path)]  # no scans
        for file, mask in zip(files_of, labelled.masks, strict=True):
            if min(mask.shape) < size:
                raise InputError(
                    f"{file}: {mask.shape[1]} x {mask.shape[0]} pixels, less than size {size}; "
                    "choose a smaller size, or leave the image out"
                )
        self.classes = labelled.classes
        digests = [files.digest(file) for file in files_of]
        chosen = self._side(split, digests, test_fraction)
        self._files = [files_of[i] for i in chosen]
        self._masks = [labelled.masks[i].numpy() for i in chosen]
        self._digests = [digests[i] for i in chosen]
        self._cache = Cache[np.ndarray](int(cache_gib * 2**30))
        self._plan = Plan(
            split,
            [labelled.names[i] for i in chosen],
            [(mask.shape[0], mask.shape[1]) for mask in self._masks],
            size,
            patches if split == "train" else per_photo,
            seed,
        )

    def _side(self, split: str, digests: Sequence[str], fraction: float) -> list[int]:
        """Numbers of the images of one split; at a fraction between 0 and 1 neither is empty."""
        every = list(range(len(digests)))
        test = split_of(every, "test", fraction, key=lambda i: digests[i])
        if 0 < fraction < 1 and len(every) > 1:
            place = {i: place_of(digests[i]) for i in every}
            if not test:
                test = [min(every, key=place.__getitem__)]
            elif len(test) == len(every):
                test.remove(max(every, key=place.__getitem__))
        chosen = test if split == "test" else [i for i in every if i not in test]
        if not chosen:
            raise InputError(
                f"{self.root}: no labelled image is in the {split} split of {len(every)} at "
                f"test_fraction {fraction:g}; label more, or set test_fraction to "
                f"{1 if split == 'test' else 0} for this split"
            )
        return chosen

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(
        self, i: int
    ) -> dict[str, Float[Tensor, "3 size size"] | Int64[Tensor, "size size"]]:
        crop = self._plan[i]
        labels = window(self._masks[crop.photo], crop, self._plan.size).astype(np.int64)
        return {
            "image": cut(self._pixels(crop.photo), crop, self._plan.size),
            "labels": torch.from_numpy(np.ascontiguousarray(labels)),
        }

    def _pixels(self, photo: int) -> np.ndarray:
        """A whole image (3, h, w) uint16, from the cache or decoded again.

        Raises:
            InputError: the file has changed since the start.
        """
        kept = self._cache.get(photo)
        if kept is not None:
            return kept
        file = self._files[photo]
        if files.digest(file) != self._digests[photo]:
            raise InputError(f"{file}: changed while in use; start the run again")
        pixels = rgb(file).add(1).mul_(DEPTH / 2).round_().numpy().astype(np.uint16)
        return self._cache.keep(photo, pixels, pixels.nbytes)

    def source(self, i: int) -> str:
        """The image that item i is cut from: items of one image are not independent."""
        return self._plan.source(i)

    def name(self, i: int) -> str:
        """Title of item i, such as ``plate/cells, patch 3``."""
        return self._plan.name(i)

    def digest(self) -> str:
        """SHA-256 of the items, from the images' bytes, the masks and the crops."""
        masks = [hashlib.sha256(mask.tobytes()).hexdigest() for mask in self._masks]
        return self._plan.digest([*self._digests, *masks])
