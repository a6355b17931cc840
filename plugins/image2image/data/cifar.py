"""CIFAR-10 from the binary files of its authors."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.data import check_split
from core.errors import InputError
from core.storage import files

SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE  # a class, then red, green and blue, row by row
FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class CIFAR10(Dataset[dict[str, Tensor]]):
    """CIFAR-10 of 32x32 pixels in the binary version of its authors; nothing is downloaded.

    An item holds ``image`` (3, 32, 32) in [-1, 1] and ``class``, 0 to 9.  The splits are the
    authors'.
    Source of the format: Krizhevsky 2009, Learning multiple layers of features from tiny images,
    and the set's own page, section "Binary version".

    Args:
        root: the folder ``cifar-10-batches-bin`` of ``cifar-10-binary.tar.gz``.
    """

    def __init__(self, split: str, *, root: Path) -> None:
        check_split(split)
        self._split, self._digest = split, hashlib.sha256()
        records = np.concatenate([self._read(root / name) for name in FILES[split]])
        self._classes, self._pixels = records[:, 0], records[:, 1:].reshape(-1, 3, SIDE, SIDE)

    def _read(self, path: Path) -> np.ndarray:
        try:
            with files.open_regular(path) as file:
                found = file.read()
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}; root must be cifar-10-batches-bin, from "
                "cifar-10-binary.tar.gz (the Python version holds pickles, which are not read)"
            ) from error
        if not found or len(found) % RECORD:
            raise InputError(
                f"{path}: {len(found)} bytes are not a multiple of {RECORD}, the record size; "
                "unpack the archive again"
            )
        records = np.frombuffer(found, np.uint8).reshape(-1, RECORD)
        if records[:, 0].max() >= len(CLASSES):
            raise InputError(f"{path}: class {records[:, 0].max()}; expected 0 to 9")
        self._digest.update(found)
        return records

    def __len__(self) -> int:
        return len(self._classes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = torch.from_numpy(self._pixels[index].astype(np.float32)) / 127.5 - 1
        return {"image": image, "class": torch.tensor(int(self._classes[index]))}

    def source(self, index: int) -> str:
        """The item itself: the files do not state the origin of an image."""
        return f"{self._split} {index}"

    def name(self, index: int) -> str:
        """Title of the item, such as ``test 12, a dog``."""
        kind = CLASSES[self._classes[index]]
        return f"{self.source(index)}, {'an' if kind[0] == 'a' else 'a'} {kind}"

    def digest(self) -> str:
        """SHA-256 of the split's files."""
        return self._digest.hexdigest()
