"""Photographs as square crops: a set that needs no download, and the user's own folder.

Train and test hold different photographs.  Item i depends on the options and on i alone.
"""

import hashlib
import math
import os
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from core.errors import InputError
from plugins.image2image import io

# A photograph is drawn in proportion to its area, but none counts for more than this.
AREA_CAP = 512 * 512
FAR = 2**63 - 1

# Test: three colour photographs whose subjects (an animal, a still life, a night scene) are not in
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

# What pictures are called that `io` cannot read: named to the user, not passed over.
UNREADABLE = (
    *(".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
)


# --- crops -----------------------------------------------------------------------------------


class Crop(NamedTuple):
    """Where an item comes from.

    Args:
        photo: index of the photograph.
        top: first row.
        left: first column.
        turns: quarter turns after cutting.
        mirrored: left and right exchanged before turning.
    """

    photo: int
    top: int
    left: int
    turns: int = 0
    mirrored: bool = False


def shares(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Cumulative probability of drawing each photograph (height, width)."""
    areas = np.minimum([high * wide for high, wide in sizes], AREA_CAP).cumsum(dtype=np.float64)
    return areas / areas[-1]


def draw(
    seed: int, i: int, size: int, sizes: Sequence[tuple[int, int]], cumulative: np.ndarray
) -> Crop:
    """The i-th random crop: a function of its arguments alone."""
    # Philox is counter-based: every key is a stream of its own, neighbours included.
    random = np.random.Generator(np.random.Philox(key=np.array([seed, i], np.uint64)))
    photo = int(np.searchsorted(cumulative, random.random(), side="right"))
    high, wide = sizes[photo]
    top, left = random.integers(high - size + 1), random.integers(wide - size + 1)
    return Crop(photo, int(top), int(left), int(random.integers(4)), bool(random.integers(2)))


def lay_out(high: int, wide: int, size: int, count: int) -> list[tuple[int, int]]:
    """Corners of `count` squares spread evenly over a picture; they overlap only if they must.

    Fewer come back where the picture has fewer places.
    """
    grids = [(rows, math.ceil(count / rows)) for rows in range(1, count + 1)]
    rows, columns = min(
        grids,
        key=lambda g: (
            max(size * g[0] / high, 1) * max(size * g[1] / wide, 1),
            abs(math.log(high * g[1] / (wide * g[0]))),
        ),
    )
    cells = np.linspace(0, rows * columns - 1, count).round().astype(int).tolist()

    def start(cell: int, cells: int, length: int) -> int:
        middle = (2 * cell + 1) * length // (2 * cells)
        return min(max(middle - size // 2, 0), length - size)

    places = [(start(c // columns, rows, high), start(c % columns, columns, wide)) for c in cells]
    return list(dict.fromkeys(places))


def cut(pixels: np.ndarray, crop: Crop, size: int) -> Float[Tensor, " 3 size size"]:
    """The crop of integer pixels (3, h, w), in [-1, 1]."""
    patch = pixels[:, crop.top : crop.top + size, crop.left : crop.left + size]
    if crop.mirrored:
        patch = patch[:, :, ::-1]
    patch = np.ascontiguousarray(np.rot90(patch, crop.turns, axes=(1, 2)), dtype=np.float32)
    return torch.from_numpy(patch).mul_(2 / np.iinfo(pixels.dtype).max).sub_(1)


def _check(split: str, **ranges: tuple[float | int, float | int, float | int]) -> None:
    """Refuse what is out of its range; each is (value, least, most)."""
    problems = (
        [] if split in ("train", "test") else [f"split: expected train or test, got {split!r}"]
    )
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            within = f"at least {least}" if most == FAR else f"{least} to {most}"
            problems.append(f"{name}: expected {within}, got {value}")
    if problems:
        raise InputError("\n".join(problems))


class Plan:
    """Which crops a split has: random ones to train, laid-out ones to test.

    Args:
        split: ``train`` or ``test``.
        names: of the photographs.
        sizes: their heights and widths.
        size: side of the crops, in pixels.
        count: crops in all to train, crops per photograph to test.
        seed: of the random crops.
    """

    def __init__(
        self,
        split: str,
        names: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        size: int,
        count: int,
        seed: int,
    ) -> None:
        self.names, self.sizes, self.size, self.seed = tuple(names), tuple(sizes), size, seed
        self._cumulative = shares(self.sizes)
        self._length, self._fixed, self._numbers = count, list[Crop](), list[int]()
        if split == "test":
            for photo, (high, wide) in enumerate(self.sizes):
                places = lay_out(high, wide, size, count)
                self._fixed += [Crop(photo, top, left) for top, left in places]
                self._numbers += range(1, len(places) + 1)
            self._length = len(self._fixed)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Crop:
        if not 0 <= i < self._length:
            raise IndexError(f"item {i} of {self._length}")
        if self._fixed:
            return self._fixed[i]
        return draw(self.seed, i, self.size, self.sizes, self._cumulative)

    def source(self, i: int) -> str:
        """The photograph of item i."""
        return self.names[self[i].photo]

    def name(self, i: int) -> str:
        """``coffee, patch 3``; counted from 1, to test within each photograph."""
        return f"{self.source(i)}, patch {self._numbers[i] if self._numbers else i + 1}"

    def digest(self, photographs: Sequence[str]) -> str:
        """SHA-256 over the crops and the photographs' own digests."""
        drawn = [self.seed, self._length, AREA_CAP]
        crops = [tuple(crop) for crop in self._fixed] or drawn
        said = repr((self.size, crops, self.names, self.sizes, list(photographs)))
        return hashlib.sha256(said.encode()).hexdigest()


# --- the set that needs no download ------------------------------------------------------------


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
        patches: how many different random crops the training set has.
        per_photo: how many fixed crops of each photograph the test set has; they overlap only
            where the photograph is too small to hold them apart.
        seed: of the random crops; the test set does not depend on it.
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
        _check(
            split,
            size=(size, 1, SMALLEST_PHOTO_SIDE),
            patches=(patches, 1, FAR),
            per_photo=(per_photo, 1, 1024),
            seed=(seed, 0, FAR),
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
        """The photograph that item i is cut from: items that share it are not independent."""
        return self._plan.source(i)

    def name(self, i: int) -> str:
        """A title for people, as ``coffee, patch 3``."""
        return self._plan.name(i)

    def pixels(self, photo: int) -> np.ndarray:
        """A whole photograph, uint8 (3, h, w)."""
        return photograph(self._plan.names[photo])

    def digest(self) -> str:
        """SHA-256 that names these exact items, pixels included."""
        whole = [photograph(name).tobytes() for name in self._plan.names]
        return self._plan.digest([hashlib.sha256(pixels).hexdigest() for pixels in whole])


# --- the user's own folder -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Photo:
    """A usable file: its name in the folder, the digest of its bytes, its height and width."""

    name: str
    digest: str
    size: tuple[int, int]

    @property
    def place(self) -> float:
        """Where the content falls in [0, 1): below `test_fraction` is test."""
        return int(self.digest[:13], 16) / 16**13


class Folder(Dataset[dict[str, Tensor]]):
    """Crops of your own pictures: PNG, JPEG, TIFF, WebP and BMP, in a folder and those inside it.

    The content of a file decides its split: adding files moves no other, and of equal files one is
    used.  Files that are not used are listed with reasons in `skipped`, and a warning
    says so; hidden files and files that are not pictures are passed over.  Links are not followed
    out of the folder.  Transparency is dropped.  Every file is decoded once at the start.

    Args:
        root: the folder.
        size: side of the crops, in pixels; smaller pictures are left out.
        patches: how many different random crops the training set has.
        per_photo: how many fixed crops of each picture the test set has, fewer where they would be
            the same.
        test_fraction: share of the pictures kept for testing; approximate, as the content decides;
            0 for a folder of training pictures alone, 1 for one of test pictures.
        corrupt: whether a picture that cannot be read is left out (skip) or stops the run (refuse).
        seed: of the random crops; the split and the test set do not depend on it.
        cache_gib: memory for decoded pictures, in GiB, in each process; a larger set is decoded
            again and again, which is slow.
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
        corrupt: Literal["skip", "refuse"] = "skip",
        seed: int = 0,
        cache_gib: float = 1.0,
    ) -> None:
        _check(
            split,
            size=(size, 1, 65536),
            patches=(patches, 1, FAR),
            per_photo=(per_photo, 1, 1024),
            test_fraction=(test_fraction, 0.0, 1.0),
            seed=(seed, 0, FAR),
            cache_gib=(cache_gib, 0, FAR),
        )
        self.root = root
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._cached, self._cache_bytes = 0, int(cache_gib * 2**30)
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
        return {"image": cut(self.pixels(crop.photo), crop, self._plan.size)}

    def source(self, i: int) -> str:
        """The photograph that item i is cut from: items that share it are not independent."""
        return self._plan.source(i)

    def name(self, i: int) -> str:
        """A title for people, as ``holiday/beach.jpg, patch 3``."""
        return self._plan.name(i)

    def _usable(self, size: int, corrupt: str) -> list[Photo]:
        """Every picture in the folder that can be used, sorted; fills `skipped`."""
        found, damaged = find(self.root)
        small: list[tuple[Path, str]] = []
        seen: dict[str, Photo] = {}
        for path in found:
            name = path.relative_to(self.root).as_posix()
            try:
                digest, pixels = _decode(path)
            except InputError as error:
                damaged.append((path, str(error).removeprefix(f"{path}: ")))
                continue
            high, wide = pixels.shape[1:]
            if min(high, wide) < size:
                small.append((path, f"{wide} x {high} pixels, less than size {size}"))
            elif digest in seen:
                small.append((path, f"a copy of {seen[digest].name}"))
            else:
                seen[digest] = Photo(name, digest, (high, wide))
                self._keep(name, pixels)
        self.skipped = tuple(sorted(damaged + small))
        listed = "; ".join(f"{path}: {why}" for path, why in (*damaged, *small)[:20])
        if damaged and corrupt == "refuse":
            listed = "\n  ".join(f"{path}: {why}" for path, why in sorted(damaged))
            raise InputError(
                f"{self.root}: {len(damaged)} pictures cannot be used; mend or remove them, or set"
                f" corrupt to skip\n  {listed}"
            )
        if not seen:
            raise InputError(
                f"{self.root}: no picture here can be used; put {', '.join(io.FORMATS)} files of"
                f" at least {size} x {size} pixels in it{listed and f' ({listed})'}"
            )
        if self.skipped:
            more = len(self.skipped) - 20
            rest = f"; and {more} more, in Folder.skipped" if more > 0 else ""
            warnings.warn(
                f"{self.root}: {len(self.skipped)} files left out: {listed}{rest}", stacklevel=4
            )
        return list(seen.values())

    def _side(self, split: str, usable: list[Photo], fraction: float) -> list[Photo]:
        """The photographs of one split; both must have some, where both are asked for."""
        if fraction in (0, 1):
            if split == ("test" if fraction else "train"):
                return usable
            raise InputError(
                f"{self.root}: no picture falls on the {split} side at test_fraction {fraction:g}; "
                f"name another folder to {split}, or set test_fraction between 0 and 1"
            )
        test = [photo for photo in usable if photo.place < fraction]
        if 0 < len(test) < len(usable):
            return test if split == "test" else [p for p in usable if p.place >= fraction]
        if len(usable) == 1:
            raise InputError(f"{self.root}: has one usable picture; training and testing need two")
        places = sorted(photo.place for photo in usable)
        bound = (places[0] + places[1]) / 2 if not test else (places[-2] + places[-1]) / 2
        raise InputError(
            f"{self.root}: all {len(usable)} pictures fall on the {'test' if test else 'train'}"
            f" side at test_fraction {fraction:g}; add some, or set test_fraction to {bound:.6g}"
        )

    def _keep(self, name: str, pixels: np.ndarray) -> None:
        self._cache[name] = pixels
        self._cached += pixels.nbytes
        while len(self._cache) > 1 and self._cached > self._cache_bytes:
            self._cached -= self._cache.popitem(last=False)[1].nbytes

    def pixels(self, photo: int) -> np.ndarray:
        """A whole photograph (3, h, w), uint8 or uint16, from memory or decoded again.

        Raises:
            InputError: the file has changed or gone since the start.
        """
        name, digest = self._photos[photo].name, self._photos[photo].digest
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        now, pixels = _decode(self.root / name)
        if now != digest:
            raise InputError(f"{self.root / name}: changed while in use; start the run again")
        self._keep(name, pixels)
        return pixels

    def digest(self) -> str:
        """SHA-256 that names these exact items, by the files' bytes."""
        return self._plan.digest([photo.digest for photo in self._photos])


def find(root: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Pictures by suffix in `root` and below, sorted, and what looks like one but is not read.

    Raises:
        InputError: no such folder.
    """
    if not root.is_dir():
        what = "a file, not a folder" if root.exists() else "no such folder"
        raise InputError(f"{root}: {what}; root is the folder that holds your pictures")
    inside, found, refused = root.resolve(), [], []
    for folder, folders, files in os.walk(root, onerror=_raise):
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        refused += [(Path(folder, name), "a link to a folder, not followed") for name in linked]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(folder, name) for name in files if not name.startswith(".")):
            suffix = path.suffix.lower()
            if suffix in UNREADABLE:
                refused.append((path, f"{suffix} is not read; convert it to PNG or JPEG"))
            elif suffix in io.SUFFIXES:
                if path.is_symlink() and not path.resolve().is_relative_to(inside):
                    refused.append((path, "a link out of the folder, not followed"))
                else:
                    found.append(path)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix()), refused


def _raise(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _decode(path: Path) -> tuple[str, np.ndarray]:
    """Digest of the file's bytes, and its pixels (3, h, w) as uint8 or uint16, without alpha."""
    picture = io.read(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    top = 2**picture.depth - 1
    values = picture.pixels.add(1).mul_(top / 2).round_().numpy()
    values = values.astype(np.uint16 if picture.depth == 16 else np.uint8)
    return digest, np.repeat(values, 3, axis=0) if len(values) == 1 else values
