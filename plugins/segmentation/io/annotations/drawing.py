"""The annotation of an image: shapes with the names of their classes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from core.errors import InputError, brief
from plugins.segmentation.io.annotations.areas import Area
from plugins.segmentation.io.classes import IGNORE, MOST, Classes

BACKGROUND = "background"
BACKGROUNDS = (BACKGROUND, "_background_", "__background__")
IGNORED = "__ignore__"  # LabelMe's name of pixels without a class


class Shape(NamedTuple):
    """A shape in an image.

    Args:
        name: of its class.
        rank: of its class among the file's.
        area: its pixels, in an image of a height and width.
        group: of shapes that are one object; None for an object of its own.
    """

    name: str
    rank: int
    area: Callable[[tuple[int, int]], Area]
    group: object = None


@dataclass(frozen=True)
class Drawing:
    """The annotation of an image.

    Args:
        file: that holds it.
        image: the image's name as the file has it, with folders and suffix.
        size: height and width that the file states, if it does.
        shapes: later ones lie over earlier ones.
    """

    file: Path
    image: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]

    def __str__(self) -> str:
        return f"{self.file} of {brief(self.image)}"

    def _areas(self, size: tuple[int, int]) -> Iterable[tuple[Shape, Area]]:
        for shape in self.shapes:
            try:
                yield shape, shape.area(size)
            except ValueError as error:
                raise InputError(f"{self}: a shape of {brief(shape.name)}: {error}") from error

    def indices(
        self, classes: Classes, size: tuple[int, int], *, outside: bool = True, one: bool = False
    ) -> UInt8[np.ndarray, "h w"]:
        """Class indices of an image; `IGNORE` where there is none.

        Args:
            classes: of the shapes; the first stands for what is outside them, unless one is named
                background.
            size: height and width of the image.
            outside: whether pixels outside all shapes are background, or have no class.
            one: whether every shape is of the second class.

        Raises:
            InputError: a shape of an unknown class, or one that is not whole.
        """
        index = {name: i for i, name in enumerate(classes.names)}
        ground = next((index[name] for name in BACKGROUNDS if name in index), 0)
        index = {**dict.fromkeys(BACKGROUNDS, ground), **index, IGNORED: IGNORE}
        found = np.full(size, ground if outside else IGNORE, np.uint8)
        for shape, area in self._areas(size):
            if not one and shape.name not in index:
                raise InputError(
                    f"{self}: a shape of the class {brief(shape.name)}; classes are "
                    f"{', '.join(classes.names)}; rename it, or add it with --classes"
                )
            area.paint(found, 1 if one else index[shape.name])
        return found

    def objects(self, size: tuple[int, int]) -> Int[np.ndarray, "h w"]:
        """A number from 1 for each object, 0 outside; shapes of one group and class are one.

        Raises:
            InputError: a shape that is not whole.
        """
        found, known = np.zeros(size, np.int64), dict[object, int]()
        for place, (shape, area) in enumerate(self._areas(size)):
            if shape.name in (*BACKGROUNDS, IGNORED):
                area.paint(found, 0)
                continue
            key = (place,) if shape.group is None else (shape.name, shape.group)
            area.paint(found, known.setdefault(key, len(known) + 1))
        return found


def classes_drawn(drawings: Sequence[Drawing], names: Sequence[str]) -> Classes:
    """The classes of annotations: background, then those drawn in the files' order of them.

    Args:
        drawings: annotations of images.
        names: the classes, in order; background is put before them unless it is among them.

    Raises:
        InputError: names that are equal, or more classes than a segmentation has.
    """
    if names:
        if len(set(names)) < len(names) or not all(names):
            raise InputError(f"classes: expected names that differ, got {', '.join(names)}")
        chosen = tuple(names)
    else:
        drawn = {(shape.rank, shape.name) for one in drawings for shape in one.shapes}
        chosen = tuple(dict.fromkeys(name for _, name in sorted(drawn)))
        chosen = tuple(name for name in chosen if name not in (*BACKGROUNDS, IGNORED))
    if not set(chosen) & set(BACKGROUNDS):
        chosen = (BACKGROUND, *chosen)
    if len(chosen) > MOST:
        raise InputError(f"classes: {len(chosen)}, expected at most {MOST}; name some by --classes")
    return Classes(chosen, tuple(range(len(chosen))))
