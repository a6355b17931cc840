"""LoDoPaB-CT: slices of chest CT from its HDF5 files."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.storage import files
from plugins.medical.io import raw

SIDE = 260.0  # of a slice, in millimetres


class Lodopab:
    """Ground-truth slices of LoDoPaB-CT, whose splits are by patient.

    An item holds ``image`` (1, size, size) in [-1, 1], the window's range, and ``pixel``, its pixel
    spacing in millimetres: slices are 260 mm wide (Leuschner et al. 2021, arXiv:1910.01113).

    Args:
        root: folder with ``ground_truth_train_000.hdf5`` and so on.
        size: side of a slice, in pixels; theirs of 362 are resampled by area.
        low: lower end of the window, in Hounsfield units.
        high: upper end of the window, in Hounsfield units.

    Raises:
        InputError: no such files.
    """

    def __init__(
        self, split: str, *, root: Path, size: int = 362, low: float = -1000.0, high: float = 1000.0
    ) -> None:
        if split not in ("train", "test") or not 8 <= size <= 362 or not low < high:
            raise InputError(
                f"expected split train or test, size 8 to 362 and low below high, got {split!r}, "
                f"{size}, {low:g} and {high:g}"
            )
        self._paths = sorted(root.glob(f"ground_truth_{split}_*.hdf5"))
        if not self._paths:
            raise InputError(
                f"{root}: contains no ground_truth_{split}_000.hdf5; expected LoDoPaB-CT"
            )
        self._split, self._size, self._window = split, size, (low, high)
        counts = [raw.lodopab(path)[0] for path in self._paths]
        self._places = [
            (path, n) for path, c in zip(self._paths, counts, strict=True) for n in range(c)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        _, values = raw.lodopab(*self._places[index])
        low, high = self._window
        picture = torch.from_numpy((np.asarray(values) - low) / (high - low) * 2 - 1).clamp(-1, 1)
        if self._size != picture.shape[-1]:
            picture = F.interpolate(picture[None, None], (self._size,) * 2, mode="area")[0, 0]
        return {"image": picture[None], "pixel": torch.tensor(SIDE / self._size)}

    def source(self, index: int) -> str:
        """The file of an item: patients are not published."""
        return self._places[index][0].stem

    def name(self, index: int) -> str:
        """``ground_truth_test_000, slice 12``; counted from 1."""
        return f"{self.source(index)}, slice {self._places[index][1] + 1}"

    def digest(self) -> str:
        """SHA-256 of the files' bytes and of the options."""
        whole = hashlib.sha256(repr((self._split, self._size, self._window)).encode())
        for path in self._paths:
            whole.update(files.digest(path).encode())
        return whole.hexdigest()
