"""Real handwritten digits that move and bounce: clips whose trajectories are known."""

import gzip
import hashlib
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from core.crops import FAR, check_options
from core.errors import InputError
from core.process.noise import derive, generator
from plugins.video.data.motion import Bounces, moving, placed

TRAIN = 1297  # digits of scikit-learn's file, from the first; the other 500 are for testing
MAGIC = 0x803  # of IDX files of unsigned bytes with three axes
MOST_BYTES = 1 << 28  # of an IDX file, unpacked
NAMES = {"train": "train-images", "test": "t10k-images"}
PART = 0.8  # of the digits, for training, where a folder has one file of them


@cache
def _embedded() -> np.ndarray:
    """Ink (n, 8, 8) in [0, 1] of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return (found.images / 16).astype(np.float32)


def read_idx(path: Path) -> np.ndarray:
    """Ink (n, h, w) in [0, 1] of an IDX file of images, as MNIST is given, compressed or not.

    Source of the format: LeCun, Cortes and Burges, the page of MNIST, "File formats".

    Raises:
        InputError: another kind of file, one that is cut off, or of more than 256 MiB.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if len(content) < 16 or struct.unpack(">I", content[:4])[0] != MAGIC:
        raise InputError(f"{path}: expected an IDX file of images (first bytes 00 00 08 03)")
    count, height, width = struct.unpack(">3I", content[4:16])
    expected = 16 + count * height * width
    if len(content) < expected or count < 1 or not 4 <= min(height, width) <= 1024:
        raise InputError(
            f"{path}: expected {count} images of {height}x{width} pixels in {expected} bytes, got "
            f"{len(content)}"
        )
    pixels = np.frombuffer(content, np.uint8, count * height * width, 16)
    return pixels.reshape(count, height, width).astype(np.float32) / 255


def _of_folder(root: Path, split: str) -> np.ndarray:
    """Digits of a split in a folder of MNIST's files, or of the part of the one that is there."""
    files: dict[str, Path] = {}
    for name, start in NAMES.items():
        found = sorted(root.glob(f"{start}[-.]idx3-ubyte*")) if root.is_dir() else []
        files |= {name: found[0]} if found else {}
    if not files:
        raise InputError(
            f"{root}: expected a folder with train-images-idx3-ubyte or t10k-images-idx3-ubyte "
            "(or .gz), the files of MNIST"
        )
    if len(files) == 2:
        return read_idx(files[split])
    (only,) = files.values()
    digits = read_idx(only)
    border = int(PART * len(digits))
    return digits[:border] if split == "train" else digits[border:]


class MovingDigits:
    """Handwritten digits that move with constant speed and bounce at the edges; no download.

    An item holds ``clip`` (1, t, size, size) in [-1, 1], -1 for paper, and ``centre``
    (digits, t, 2), the middles of the digits' boxes (row, column) as fractions of the frame, -1 to
    1.  Positions are real numbers; digits lie over each other by the larger ink.  Train and test
    have different digits.

    Args:
        size: side of a frame in pixels.
        frames: of a clip.
        count: clips of the split.
        digits: of a clip.
        side: of a digit in pixels; less than `size`.
        slowest: speed in pixels a frame, least.
        fastest: speed in pixels a frame, most.
        bounces: elastic, or at a new random speed and direction.
        root: folder with MNIST's IDX files of images, plain or .gz; by default the digits of
            scikit-learn.
        seed: random seed of the clips.
    """

    def __init__(
        self,
        split: str,
        *,
        size: int = 32,
        frames: int = 16,
        count: int = 20000,
        digits: int = 1,
        side: int = 14,
        slowest: float = 1.0,
        fastest: float = 2.5,
        bounces: Bounces = "elastic",
        root: Path | None = None,
        seed: int = 0,
    ) -> None:
        check_options(
            split,
            {
                "size": (size, 8, 1024),
                "frames": (frames, 1, 4096),
                "count": (count, 1, FAR),
                "digits": (digits, 1, 100),
                "side": (side, 4, size - 1),
                "slowest": (slowest, 0.0, size),
                "fastest": (fastest, slowest, size),
                "seed": (seed, 0, FAR),
            },
        )
        self._options = (split, size, frames, count, digits, side, slowest, fastest, bounces, seed)
        self._split, self._size, self._frames, self._count = split, size, frames, count
        self._number, self._side = digits, side
        self._bounces: Bounces = bounces
        self._speeds = (slowest, fastest)
        self._key = derive("video/moving_digits", split, seed)
        if root is None:
            self._digits = _embedded()[:TRAIN] if split == "train" else _embedded()[TRAIN:]
        else:
            self._digits = _of_folder(Path(root), split)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Float[Tensor, "..."]]:
        if not 0 <= index < self._count:
            raise IndexError(f"item {index} of {self._count}")
        random = generator(self._key, index)
        room = np.full(2, float(self._size - self._side))
        ink, centres = np.zeros((self._frames, self._size, self._size)), []
        for _ in range(self._number):
            patch = resized(self._digits[random.integers(len(self._digits))], self._side)
            corners = moving(random, self._frames, room, self._speeds, self._bounces)
            ink = np.maximum(ink, placed(patch, corners, self._size))
            centres.append((corners + self._side / 2) / (self._size / 2) - 1)
        clip = torch.from_numpy((2 * ink - 1).astype(np.float32)).clamp(-1, 1)[None]
        return {"clip": clip, "centre": torch.from_numpy(np.stack(centres).astype(np.float32))}

    def source(self, index: int) -> str:
        """The clip itself; clips of one split share digits."""
        return f"{self._split} clip {index}"

    def name(self, index: int) -> str:
        """Title of the item, such as ``test clip 3``."""
        return self.source(index)

    def digest(self) -> str:
        """SHA-256 of the options and of the digits."""
        whole = hashlib.sha256(repr(self._options).encode())
        whole.update(self._digits.tobytes())
        return whole.hexdigest()


def resized(ink: np.ndarray, side: int) -> np.ndarray:
    """The ink of a digit on a grid of `side` pixels: areas where it shrinks, else bilinear."""
    values = torch.from_numpy(ink)[None, None].double()
    shrinks = side < max(ink.shape)
    found = functional.interpolate(values, (side, side), mode="bilinear", antialias=shrinks)
    return found[0, 0].clamp(0, 1).numpy()
