"""Classes of a segmentation: names, the numbers that masks have for them, and colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError
from core.images.pictures import reason
from core.storage import json_file
from core.storage.files import write_json

NAMES = "classes.json"  # in a folder of masks
IGNORE = 255  # the index of pixels without a class
MOST = 250  # classes: a byte, without the number of pixels that have none
# Paul Tol's bright scheme, which the colour-blind tell apart, and black for the first class.
COLOURS = (
    (0, 0, 0), (238, 102, 119), (68, 119, 170), (34, 136, 51), (204, 187, 68), (102, 204, 238),
    (170, 51, 119), (187, 187, 187), (238, 153, 17), (153, 153, 255), (119, 68, 17), (0, 153, 136),
)  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """The classes of a classifier, in order.

    Args:
        names: of the classes.
        values: the number of each in masks.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def colour(self, index: int) -> tuple[int, int, int]:
        """Of a class in masks and overlays; beyond the scheme by the golden angle."""
        if index < len(COLOURS):
            return COLOURS[index]
        hue = index * 0.618034 % 1 * 6
        part = [min(max(abs((hue + shift) % 6 - 3) - 1, 0), 1) for shift in (0, 4, 2)]
        return tuple(round(60 + 180 * one) for one in part)  # type: ignore[return-value]

    def indices(self, labels: np.ndarray, name: str, *, ignore: Sequence[int]) -> np.ndarray:
        """Class indices (h, w) uint8 of a mask's numbers; `IGNORE` where there is none.

        Raises:
            InputError: a number that no class has.
        """
        found = np.full(labels.shape, IGNORE, np.uint8)
        for index, value in enumerate(self.values):
            found[labels == value] = index
        unknown = (found == IGNORE) & ~np.isin(labels, ignore)
        if unknown.any():
            numbers = ", ".join(map(str, np.unique(labels[unknown])[:5].tolist()))
            raise InputError(
                f"{name}: {int(unknown.sum())} pixels have the label {numbers}; classes are "
                f"{', '.join(f'{v} ({n})' for n, v in zip(self.names, self.values, strict=True))}; "
                "correct the mask, or name the label with --ignore"
            )
        return found

    def as_json(self) -> list[dict[str, Any]]:
        """For a classifier's record."""
        return [{"name": n, "value": v} for n, v in zip(self.names, self.values, strict=True)]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> "Classes":
        """The classes of a record."""
        return cls(tuple(str(r["name"]) for r in rows), tuple(int(r["value"]) for r in rows))


def classes_of(
    masks: Sequence[np.ndarray], names: Sequence[str], *, ignore: Sequence[int]
) -> Classes:
    """The classes of masks: the numbers that they have, or 0, 1, ... where names are given.

    Args:
        masks: numbers (h, w).
        names: of the classes 0, 1, ...; none for those of the numbers found.
        ignore: numbers of pixels without a class.

    Raises:
        InputError: more numbers than a segmentation has, as masks of instances have.
    """
    if names:
        if len(set(names)) < len(names) or not all(names):
            raise InputError(f"classes: expected names that differ, got {', '.join(names)}")
        return Classes(tuple(names), tuple(range(len(names))))
    found = sorted({int(v) for mask in masks for v in np.unique(mask)} - set(ignore))
    if len(found) > MOST:
        raise InputError(
            f"masks: {len(found)} different labels, at most {MOST} are classes; if each object has "
            "a number of its own, give --instances"
        )
    return Classes(tuple(f"class {value}" for value in found), tuple(found))


def write_classes(folder: Path, classes: Classes) -> None:
    """The names of the classes of a folder's masks, and the number of each in them.

    Raises:
        InputError: it cannot be written.
    """
    try:
        write_json(folder / NAMES, classes.as_json())
    except OSError as error:
        raise InputError(f"{folder / NAMES}: cannot be written: {reason(error)}") from error


def stored_classes(folder: Path) -> Classes | None:
    """The classes that `write_classes` wrote into a folder of masks; None where it did not.

    Raises:
        InputError: a file that cannot be read, or no classes of different names and numbers.
    """
    path = folder / NAMES
    try:
        found = Classes.from_json(json_file.read(path))
    except FileNotFoundError:
        return None
    except (OSError, json_file.NotJson) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f'{path}: expected a list of {{"name": ..., "value": ...}}, one for each class; name '
            "the classes with --classes, or delete the file"
        ) from error
    if len({*found.names}) < len(found) or len({*found.values}) < len(found) or not found.names:
        raise InputError(f"{path}: expected classes of different names and values")
    return found
