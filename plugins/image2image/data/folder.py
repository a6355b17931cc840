"""Crops of the user's own images: a folder, split by content.

Train and test hold different images.  Item i depends on the options and on i alone.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from core.crops import FAR, Plan, check_options, cut, recoloured
from core.data import Cache, place_of, split_of
from core.errors import InputError, printable
from core.images.contrast import stretched
from core.images.formats import FORMATS, READ, UNREAD
from core.images.reading import read_picture
from core.process.noise import derive, generator
from core.storage import memory
from core.storage.folders import files_in


@dataclass(frozen=True, slots=True)
class Photo:
    """A usable file: its name in the folder, digest, height and width."""

    name: str
    digest: str
    size: tuple[int, int]


class Folder(Dataset[dict[str, Tensor]]):
    """Crops of your own images: PNG, JPEG, TIFF, WebP and BMP files of a folder and its subfolders.

    The content of a file decides its split, so that adding files moves no other; only where one
    split would be empty, the file nearest to it is used for it.  Of equal files one is used.  Files
    that are not used are listed with reasons in `skipped` and in a warning; hidden files and files
    that are not images are ignored.  Links out of the folder are not followed.  Transparency is
    discarded.  Every file is decoded once at the start.

    Args:
        root: the folder.
        size: side of the crops in pixels; smaller images are skipped.
        patches: number of different random crops of the training set.
        per_photo: number of fixed crops of each image of the test set; fewer where they would be
            equal.
        test_fraction: fraction of the images kept for testing, approximate since the content
            decides; 0 for a folder of training images only, 1 for one of test images.
        exclude: names of images, or paths in the folder, that are left out; ``*`` stands for any
            letters, as in ``*_mask.png``.
        corrupt: whether an image that cannot be read is skipped or stops the run (refuse).
        colour: largest change of contrast and white balance of training crops, as a logarithm, with
            a random order of the channels; 0 for none.  Not for colourisation.
        stretch: stretch the values of each image between percentiles, as of microscopy with another
            brightness in each.
        seed: random seed of the crops; the split and the test set do not depend on it.
        cache_gib: memory for decoded images in GiB, in each process; images of a larger set are
            decoded repeatedly, which is slow.
    """

    def __init__(
        self,
        split: str,
        *,
        root: Path,
        size: int = 64,
        patches: int = 20000,
        per_photo: int = 4,
        test_fraction: float = 0.1,
        exclude: tuple[str, ...] = (),
        corrupt: Literal["skip", "refuse"] = "skip",
        colour: float = 0.0,
        stretch: bool = False,
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
                "colour": (colour, 0.0, 1.0),
                "seed": (seed, 0, FAR),
                "cache_gib": (cache_gib, 0, FAR),
            },
        )
        self.root, self._seed = root, seed
        self._colour = colour if split == "train" else 0.0
        self._exclude, self._stretch = tuple(exclude), stretch
        self._cache = Cache[np.ndarray](int(cache_gib * 2**30))
        self.skipped: tuple[tuple[Path, str], ...] = ()
        usable = self._usable(size, corrupt)
        self._photos = self._side(split, usable, test_fraction)
        self._plan = Plan(
            split,
            [photo.name for photo in self._photos],
            [photo.size for photo in self._photos],
            size,
            patches if split == "train" else per_photo,
            seed,
        )

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, i: int) -> dict[str, Float[Tensor, " 3 size size"]]:
        crop = self._plan[i]
        image = cut(self.pixels(crop.photo), crop, self._plan.size)
        if self._colour:
            random = generator(derive("colour", self._seed), i)
            image = recoloured(image, self._colour, random)
        return {"image": image}

    def source(self, i: int) -> str:
        """The image that item i is cut from: items of one image are not independent."""
        return self._plan.source(i)

    def name(self, i: int) -> str:
        """Title of item i, such as ``holiday/beach.jpg, patch 3``."""
        return self._plan.name(i)

    def _usable(self, size: int, corrupt: str) -> list[Photo]:
        """The usable images of the folder, sorted; sets `skipped`."""
        found, damaged = find(self.root, self._exclude)
        small: list[tuple[Path, str]] = []
        seen: dict[str, Photo] = {}
        for path in found:
            name = path.relative_to(self.root).as_posix()
            try:
                digest, pixels = _decode(path, self._stretch)
            except memory.NotEnough:
                raise  # skipped, the data would depend on what else this machine does
            except InputError as error:
                damaged.append((path, str(error).removeprefix(printable(f"{path}: "))))
                continue
            high, wide = pixels.shape[1:]
            if min(high, wide) < size:
                small.append((path, f"{wide} x {high} pixels, less than size {size}"))
            elif digest in seen:
                small.append((path, f"a copy of {seen[digest].name}"))
            else:
                seen[digest] = Photo(name, digest, (high, wide))
                self._cache.keep(name, pixels, pixels.nbytes)
        self.skipped = tuple(sorted(damaged + small))
        listed = "; ".join(f"{path}: {why}" for path, why in (*damaged, *small)[:20])
        if damaged and corrupt == "refuse":
            listed = "\n  ".join(f"{path}: {why}" for path, why in sorted(damaged))
            raise InputError(
                f"{self.root}: {len(damaged)} images cannot be used; repair or remove them, or set"
                f" corrupt to skip\n  {listed}"
            )
        if not seen:
            raise InputError(
                f"{self.root}: no usable image; add {', '.join(FORMATS)} files of"
                f" at least {size} x {size} pixels{listed and f' ({listed})'}"
            )
        if self.skipped:
            more = len(self.skipped) - 20
            rest = f"; and {more} more, in Folder.skipped" if more > 0 else ""
            warnings.warn(
                f"{self.root}: {len(self.skipped)} files skipped: {listed}{rest}", stacklevel=4
            )
        return list(seen.values())

    def _side(self, split: str, usable: list[Photo], fraction: float) -> list[Photo]:
        """The images of one split; at a fraction between 0 and 1 neither is empty."""
        if fraction in (0, 1):
            if split == ("test" if fraction else "train"):
                return usable
            raise InputError(
                f"{self.root}: no image is in the {split} split at test_fraction {fraction:g}; "
                f"use another folder to {split}, or set test_fraction between 0 and 1"
            )
        chosen = split_of(usable, split, fraction, key=lambda photo: photo.digest)
        if 0 < len(chosen) < len(usable):
            return chosen
        if len(usable) == 1:
            raise InputError(
                f"{self.root}: has one usable image; two are required, to train and to test"
            )
        empty = split if not chosen else {"train": "test", "test": "train"}[split]
        nearest = min if empty == "test" else max  # in test are those below the fraction
        moved = nearest(usable, key=lambda photo: place_of(photo.digest))
        if split != empty:
            return [photo for photo in usable if photo is not moved]
        warnings.warn(
            f"{self.root}: the contents of all {len(usable)} images put them outside the {split} "
            f"split at test_fraction {fraction:g}; the nearest, {moved.name}, is used for it: "
            "with more images it may change sides",
            stacklevel=5,
        )
        return [moved]

    def pixels(self, photo: int) -> np.ndarray:
        """A whole image (3, h, w), uint8 or uint16, from the cache or decoded again.

        Raises:
            InputError: the file has changed or been removed since the start.
        """
        name, digest = self._photos[photo].name, self._photos[photo].digest
        kept = self._cache.get(name)
        if kept is not None:
            return kept
        now, pixels = _decode(self.root / name, self._stretch)
        if now != digest:
            raise InputError(f"{self.root / name}: changed while in use; start the run again")
        return self._cache.keep(name, pixels, pixels.nbytes)

    def digest(self) -> str:
        """SHA-256 of the items, from the files' bytes and the crops."""
        changed = [f"colour {self._colour!r}"] if self._colour else []
        changed += ["stretch"] if self._stretch else []
        return self._plan.digest([*(photo.digest for photo in self._photos), *changed])


def find(root: Path, exclude: Sequence[str] = ()) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Image files of `root` and its subfolders, sorted, and those skipped with the reason.

    Args:
        root: the folder.
        exclude: patterns of names, or of paths in the folder, that are left out without a word.

    Raises:
        InputError: no such folder.
    """
    suffixes = {*READ, *UNREAD}

    def wanted(path: Path) -> bool:
        names = (path.name, path.relative_to(root).as_posix())
        left_out = any(fnmatch(name, pattern) for name in names for pattern in exclude)
        return path.suffix.lower() in suffixes and not left_out

    found = files_in(root, contents="images", wanted=wanted)
    readable = [path for path in found.files if path.suffix.lower() in READ]
    others = [
        (path, UNREAD[path.suffix.lower()]) for path in found.files if path.suffix.lower() in UNREAD
    ]
    return readable, [*found.refused, *others]


def _decode(path: Path, stretch: bool) -> tuple[str, np.ndarray]:
    """Digest of the file, and its pixels (3, h, w) as uint8 or uint16, without alpha.

    Args:
        path: of the file.
        stretch: whether its values are stretched.
    """
    picture = read_picture(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    top = 2**picture.depth - 1
    pixels = stretched(picture.pixels) if stretch else picture.pixels
    values = pixels.add(1).mul_(top / 2).round_().numpy()
    values = values.astype(np.uint16 if picture.depth == 16 else np.uint8)
    return digest, np.repeat(values, 3, axis=0) if len(values) == 1 else values
