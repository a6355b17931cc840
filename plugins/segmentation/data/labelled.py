"""Images and scans, and their masks or annotations, paired by name."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.errors import InputError, brief
from core.images.formats import READ
from core.images.labels import read_labels
from core.images.reading import read_picture
from core.storage.folders import files_in
from plugins.segmentation.data.scans import Slice, label_volume, scans_in, slice_pixels
from plugins.segmentation.io.annotations.drawing import Drawing, classes_drawn
from plugins.segmentation.io.annotations.reading import annotation_files, read_drawings
from plugins.segmentation.io.classes import IGNORE, Classes, classes_of, stored_classes
from plugins.segmentation.request import Scans

ENDINGS = ("_mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_instances")
"""Of the names of masks that lie beside their images, before the suffix."""


class Pair(NamedTuple):
    """An image or a scan, and its mask.

    Args:
        name: of the image in its folder, without the suffix.
        image: its file, or the file or folder of a scan.
        mask: its mask's file, or its annotation.
    """

    name: str
    image: Path
    mask: Path | Drawing


class Labelled(NamedTuple):
    """Images with the classes of their pixels; of scans the slices with labels.

    Args:
        names: of the images; of slices the scan's.
        files: of the images, or slices.
        masks: class indices, `IGNORE` where there is none.
        classes: of the masks.
    """

    names: tuple[str, ...]
    files: tuple[Path | Slice, ...]
    masks: tuple[UInt8[Tensor, "h w"], ...]
    classes: Classes


def pairs_of(images: Path, masks: Path | None = None, *, scans: bool = False) -> list[Pair]:
    """The labelled images of a folder, sorted; images without a mask are left out.

    Args:
        images: a folder, with its subfolders.
        masks: the folder of masks, each in the same subfolder with the image's name, with or
            without one of `ENDINGS`; or a file of annotations, or a folder of them (a folder with
            any is taken for one); by default masks lie beside the images and have an ending.
        scans: whether scans are images too, their masks NIfTI.

    Raises:
        InputError: no such folder, no image with a mask, or two masks of one image.
    """
    if masks is not None and (annotations := annotation_files(masks)):
        found = _named(images)
        drawn = _drawn(found, masks, annotations)
        return [Pair(name, path, drawn[name]) for name, path in found.items() if name in drawn]
    found, by_image = masks_of(images, masks, scans=scans)
    pairs = [Pair(name, path, by_image[name]) for name, path in found.items() if name in by_image]
    if not pairs:
        where = f"{images} beside their images" if masks is None else f"{masks} for {images}"
        raise InputError(
            f"masks: none found in {where}; a mask of photo.png is photo_mask.png beside it, or "
            "photo.png in the folder of --masks"
        )
    return pairs


def _drawn(found: Mapping[str, Path], masks: Path, files: Sequence[Path]) -> dict[str, Drawing]:
    """Annotations by the images that they are of; those of other images are left out.

    Raises:
        InputError: a file that is not read, two annotations of an image, or none of any.
    """
    drawings = [(file, one) for file in files for one in read_drawings(file)]
    if not drawings:
        raise InputError(f"{masks}: no image there has a shape; annotate some, and export again")
    drawn: dict[str, Drawing] = {}
    for file, one in drawings:
        beside = file.relative_to(masks).with_suffix("").as_posix() if masks.is_dir() else ""
        name = _image_of(one, found, beside)
        if name in drawn:
            raise InputError(f"{drawn[name]} and {one}: two annotations of one image; remove one")
        if name:
            drawn[name] = one
    if not drawn:
        raise InputError(
            f"{masks}: none of its {len(drawings)} images, such as {brief(drawings[0][1].image)}, "
            f"is in the folder of images, which has {brief(next(iter(found.values())).name)} and "
            f"{len(found) - 1} others; give the folder that was annotated"
            if found
            else f"{masks}: annotations, but the folder of images has none"
        )
    return drawn


def _image_of(drawing: Drawing, found: Mapping[str, Path], beside: str) -> str:
    """The image of an annotation: by its path, by the annotation's own, or by its name alone."""
    stated = PurePosixPath(drawing.image.replace("\\", "/"))
    plain = stated.with_suffix("").as_posix() if stated.name else ""
    if plain in found:
        return plain
    base = PurePosixPath(plain).name
    if beside in found and PurePosixPath(beside).name == base:
        return beside
    named = [name for name in found if PurePosixPath(name).name == base]
    if len(named) > 1:
        raise InputError(
            f"{drawing}: {len(named)} images have this name, {found[named[0]]} and "
            f"{found[named[1]]} among them; give the folder that was annotated, or rename one"
        )
    return named[0] if named else ""


def masks_of(
    images: Path, masks: Path | None = None, *, scans: bool = False
) -> tuple[dict[str, Path], dict[str, Path]]:
    """The images of a folder, and the masks that there are; both by the images' names.

    Args:
        images: as of `pairs_of`.
        masks: a folder of masks, as of `pairs_of`; inside `images` it holds no images.
        scans: as of `pairs_of`.

    Raises:
        InputError: no such folder, annotations, or two masks of one image.
    """
    if masks is not None and annotation_files(masks):
        raise InputError(f"{masks}: holds annotations; expected a folder of masks alone")
    found = _named(images, scans=scans)
    if masks is None:
        labels = {n: path for n, path in found.items() if _plain(n) != n and _plain(n) in found}
        found = {name: path for name, path in found.items() if name not in labels}
    else:
        labels = _named(masks, scans=scans)
        if images.resolve() in masks.resolve().parents:
            inside = masks.resolve()
            found = {n: path for n, path in found.items() if inside not in path.resolve().parents}
    by_image: dict[str, Path] = {}
    for name, path in labels.items():
        image = name if name in found and masks is not None else _plain(name)
        if image in by_image:
            raise InputError(f"{by_image[image]} and {path}: two masks of one image; remove one")
        by_image[image] = path
    return found, by_image


def stated_classes(
    images: Path, masks: Path | None, names: Sequence[str]
) -> Classes | Sequence[str]:
    """The names of classes 0, 1, ... where there are any, else the classes stored with the masks.

    Args:
        images: their folder.
        masks: as of `pairs_of`.
        names: as the user states them.

    Raises:
        InputError: stored ones that cannot be read.
    """
    return names or stored_classes(masks or images) or ()


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


def _named(folder: Path, *, scans: bool = False) -> dict[str, Path]:
    """Image files of a folder, and scans if asked for, by their names without suffix.

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
    for name, path in (scans_in(folder) if scans else {}).items():
        if name in found:
            raise InputError(f"{found[name]} and {path}: two images of one name; rename one")
        found[name] = path
    return dict(sorted(found.items()))


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
    sparse: bool = False,
    scans: Scans | None = None,
) -> Labelled:
    """The masks of images, checked against them, as class indices.

    Args:
        pairs: of images and masks.
        classes: of the masks, or the names of classes 0, 1, ...; by default the numbers found, or
            the classes of annotations.
        ignore: numbers of pixels without a class; none of masks of instances.
        instances: whether every number but 0, or every shape, is an object of the one class beside
            the background.
        sparse: whether pixels outside all shapes of an annotation have no class.
        scans: how scans are read.

    Raises:
        InputError: a file that cannot be read, a mask of another size than its image, or a number
            or class that is unknown.
    """
    if instances:
        classes = classes or ("background", "object")
    drawings = [pair.mask for pair in pairs if isinstance(pair.mask, Drawing)]
    if drawings:
        if not isinstance(classes, Classes):
            classes = classes_drawn(drawings, classes)
        indices = [
            one.indices(classes, _size(pair, one.size), outside=not sparse, one=instances)
            for pair, one in zip(pairs, drawings, strict=True)
        ]
        sources: list[tuple[str, Path | Slice]] = [(pair.name, pair.image) for pair in pairs]
    else:
        found = [item for pair in pairs for item in _numbers(pair, scans or Scans())]
        sources = [(item.name, item.image) for item in found]
        numbers = [item.numbers for item in found]
        if instances:
            ignore = ()  # 255 is the number of an object
            numbers = [(one > 0).astype(np.int64) for one in numbers]
        if not isinstance(classes, Classes):
            classes = classes_of(numbers, classes, ignore=ignore)
        indices = [
            classes.indices(one, item.mask, ignore=ignore)
            for one, item in zip(numbers, found, strict=True)
        ]
    kept = [
        (source, mask)
        for source, mask in zip(sources, indices, strict=True)
        if isinstance(source[1], Path) or bool((mask != IGNORE).any())
    ]
    return Labelled(
        tuple(name for (name, _), _ in kept),
        tuple(image for (_, image), _ in kept),
        tuple(torch.from_numpy(mask) for _, mask in kept),
        classes,
    )


class _Numbered(NamedTuple):
    """An image or a slice, the numbers of its pixels, and where they are from."""

    name: str
    image: Path | Slice
    numbers: np.ndarray
    mask: str


def _numbers(pair: Pair, scans: Scans) -> Iterator[_Numbered]:
    """The numbers of an image's mask, or of the slices of a scan's."""
    assert isinstance(pair.mask, Path), "annotations are drawn"
    if is_image(pair.image):
        yield _Numbered(pair.name, pair.image, _checked(pair), str(pair.mask))
        return
    for number, labels in enumerate(label_volume(pair.mask, pair.image, scans)):
        where = f"{pair.mask}, slice {number + 1}"
        yield _Numbered(pair.name, Slice(pair.image, number, scans), labels, where)


def is_image(path: Path) -> bool:
    """Whether a path is named as an image file; scans are not."""
    return path.suffix.lower() in READ


def objects_of(pair: Pair) -> np.ndarray:
    """A number from 1 for each object of an image's mask or annotation, int64 (h, w).

    Raises:
        InputError: as `read_labelled`.
    """
    if isinstance(pair.mask, Drawing):
        return pair.mask.objects(_size(pair, pair.mask.size))
    return _checked(pair)


def _checked(pair: Pair) -> np.ndarray:
    assert isinstance(pair.mask, Path)
    numbers = read_labels(pair.mask)
    _size(pair, (numbers.shape[0], numbers.shape[1]))
    return numbers


def _size(pair: Pair, stated: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of an image.

    Raises:
        InputError: its mask has others.
    """
    high, wide = read_picture(pair.image).pixels.shape[1:]
    if stated not in (None, (high, wide)):
        raise InputError(
            f"{pair.mask}: {stated[1]} x {stated[0]} pixels, its image {pair.image} "
            f"has {wide} x {high}; export the mask at the image's size"
        )
    return high, wide


def rgb(source: Path | Slice) -> Float[Tensor, " 3 h w"]:
    """The pixels of an image file or a slice in [-1, 1]; grey three times, no transparency.

    Raises:
        InputError: as `read_picture`, or as `slice_pixels`.
    """
    if isinstance(source, Slice):
        return slice_pixels(source)
    return read_picture(source).pixels.expand(3, -1, -1)
