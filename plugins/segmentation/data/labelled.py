"""Images and their masks, paired by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.errors import InputError
from core.images.formats import READ
from core.images.labels import read_labels
from core.images.reading import read_picture
from core.storage.folders import files_in
from plugins.segmentation.io.classes import Classes, classes_of

ENDINGS = ("_mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_instances")
"""Of the names of masks that lie beside their images, before the suffix."""


class Pair(NamedTuple):
    """An image and its mask.

    Args:
        name: of the image in its folder, without the suffix.
        image: its file.
        mask: its mask's file.
    """

    name: str
    image: Path
    mask: Path


class Labelled(NamedTuple):
    """Images with the classes of their pixels.

    Args:
        names: of the images.
        files: of the images.
        masks: class indices, `IGNORE` where there is none.
        classes: of the masks.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    masks: tuple[UInt8[Tensor, "h w"], ...]
    classes: Classes


def pairs_of(images: Path, masks: Path | None = None) -> list[Pair]:
    """The labelled images of a folder, sorted; images without a mask are left out.

    Args:
        images: a folder, with its subfolders.
        masks: the folder of masks, each in the same subfolder with the image's name, with or
            without one of `ENDINGS`; by default masks lie beside the images and have an ending.

    Raises:
        InputError: no such folder, no image with a mask, or two masks of one image.
    """
    found = {**_named(images)}
    if masks is None:
        labels = {name: path for name, path in found.items() if _plain(name) != name}
        found = {name: path for name, path in found.items() if name not in labels}
    else:
        labels = _named(masks)
    by_image: dict[str, Path] = {}
    for name, path in labels.items():
        image = name if name in found and masks is not None else _plain(name)
        if image in by_image:
            raise InputError(f"{by_image[image]} and {path}: two masks of one image; remove one")
        by_image[image] = path
    pairs = [Pair(name, path, by_image[name]) for name, path in found.items() if name in by_image]
    if not pairs:
        where = f"{images} beside their images" if masks is None else f"{masks} for {images}"
        raise InputError(
            f"masks: none found in {where}; a mask of photo.png is photo_mask.png beside it, or "
            "photo.png in the folder of --masks"
        )
    return pairs


def images_of(folder: Path) -> list[Path]:
    """The images of a folder that are no masks of others, sorted.

    Raises:
        InputError: no such folder, or no image.
    """
    found = _named(folder)
    images = [path for name, path in found.items() if _plain(name) not in found or
              _plain(name) == name]  # fmt: skip
    if not images:
        raise InputError(f"{folder}: no image; add {', '.join(sorted(READ))} files")
    return images


def _named(folder: Path) -> dict[str, Path]:
    """Image files of a folder by their names without suffix.

    Raises:
        InputError: no such folder, or two images of one name.
    """
    found: dict[str, Path] = {}
    kept = files_in(folder, contents="images", wanted=lambda path: path.suffix.lower() in READ)
    for path in kept.files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{found[name]} and {path}: two images of one name; rename one")
        found[name] = path
    return found


def _plain(name: str) -> str:
    """A name without the ending of a mask's."""
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), "")
    return name.removesuffix(ending)


def read_labelled(
    pairs: Sequence[Pair],
    *,
    classes: Classes | Sequence[str] = (),
    ignore: Sequence[int] = (255,),
    instances: bool = False,
) -> Labelled:
    """The masks of images, checked against them, as class indices.

    Args:
        pairs: of images and masks.
        classes: of the masks, or the names of classes 0, 1, ...; by default the numbers found.
        ignore: numbers of pixels without a class; none of masks of instances.
        instances: whether every number but 0 is an object of the one class beside the background.

    Raises:
        InputError: a file that cannot be read, a mask of another size than its image, or a number
            that no class has.
    """
    numbers = [_checked(pair) for pair in pairs]
    if instances:
        ignore = ()  # 255 is the number of an object
        numbers = [(one > 0).astype(np.int64) for one in numbers]
        classes = classes or ("background", "object")
    if not isinstance(classes, Classes):
        classes = classes_of(numbers, classes, ignore=ignore)
    indices = [
        classes.indices(one, str(pair.mask), ignore=ignore)
        for one, pair in zip(numbers, pairs, strict=True)
    ]
    return Labelled(
        tuple(pair.name for pair in pairs),
        tuple(pair.image for pair in pairs),
        tuple(torch.from_numpy(one) for one in indices),
        classes,
    )


def _checked(pair: Pair) -> np.ndarray:
    numbers = read_labels(pair.mask)
    size = read_picture(pair.image).pixels.shape[1:]
    if tuple(size) != numbers.shape:
        raise InputError(
            f"{pair.mask}: {numbers.shape[1]} x {numbers.shape[0]} pixels, its image {pair.image} "
            f"has {size[1]} x {size[0]}; export the mask at the image's size"
        )
    return numbers


def rgb(path: Path) -> Float[Tensor, " 3 h w"]:
    """The pixels of an image file in [-1, 1]; grey ones three times, without transparency.

    Raises:
        InputError: as `read_picture`.
    """
    return read_picture(path).pixels.expand(3, -1, -1)
