"""From a user's photograph to what a model is given, and from its draws to a picture again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from core.errors import InputError
from core.task import Batch
from plugins.image2image.inference.editing import composed
from plugins.image2image.inference.masks import around, feathered
from plugins.image2image.io.pictures import Picture, as_stored, turned
from plugins.image2image.io.writing import check_writable
from plugins.image2image.operators import jpeg
from plugins.image2image.operators.luma import levels_luma, luma, to_integers
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.inpaint import Inpaint
from plugins.image2image.tasks.jpeg import JPEG
from plugins.image2image.tasks.super_resolution import SR3


@dataclass(frozen=True)
class Subject:
    """A photograph as a model sees it.

    Args:
        picture: what was read, upright and on its canvas.
        given: a batch of one: what its task's `base`, `spread` and `agree` look at.
        size: height and width of what the model draws.
        result: of the picture that it becomes.
        shown: the picture as it was given, for people.
        place: what the model drew (3, h, w) as the whole picture (3, y, x), upright.
        finish: that as a picture to be written, with all that is known exactly as it was.
    """

    picture: Picture
    given: Batch
    size: tuple[int, int]
    result: tuple[int, int]
    shown: Float[Tensor, " c h w"]
    place: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor], Picture]

    def check_writable(self, target: Path) -> None:
        """Refuse a place that what it becomes cannot be written to.

        Raises:
            InputError: as `check_writable`.
        """
        alpha, depth = self.picture.alpha is not None, self.picture.depth
        check_writable(target, alpha=alpha, depth=depth, size=self.result)


def _batch(given: Batch) -> Batch:
    return {name: value[None] for name, value in given.items()}


def enlarged(tasks: list[SR3], picture: Picture) -> Subject:
    """A picture for models that enlarge one after another; alpha is enlarged bicubically.

    Grey pictures go through them as equal channels and come back as their mean.
    """
    height, width = picture.pixels.shape[1:]
    size = (height, width)
    for task in tasks:
        size = (size[0] * task.scale, size[1] * task.scale)

    def finish(pixels: Tensor) -> Picture:
        alpha = picture.alpha
        if alpha is not None:
            for task in tasks:
                alpha = task.operator.up(alpha[None])[0].clamp(0, 1)
        return replace(picture, pixels=_channels(pixels, picture), alpha=alpha)

    given = {"low": picture.pixels.expand(3, -1, -1)[None]}
    return Subject(picture, given, size, size, picture.pixels, lambda drawn: drawn, finish)


def _channels(pixels: Float[Tensor, " 3 h w"], picture: Picture) -> Float[Tensor, " c h w"]:
    """As many channels as the picture has."""
    return pixels if len(picture.pixels) == 3 else pixels.mean(0, keepdim=True)


def colourised(task: Colourise, picture: Picture) -> Subject:
    """A grey picture, or the luma of one in colours, to be given colours.

    The result's luma is the grey: at 8 bits Pillow's ``convert("L")`` gives it to the last level,
    at 16 bits 0.299 R + 0.587 G + 0.114 B is within a level of it.
    """
    notes, grey, deep = list(picture.notes), picture.pixels, picture.depth == 16
    if len(grey) == 3:
        notes.append("its colours are left out; their luma is what is coloured")
        levels = levels_luma(to_integers(grey[None]))[0]
        grey = luma(grey[None])[0] if deep else levels.float() / 127.5 - 1
    elif picture.icc:
        notes.append("the colour profile is one of grey pictures and was left out")
    icc = picture.icc if len(picture.pixels) == 3 else None
    kept = replace(picture, icc=icc, notes=tuple(notes))
    given = _batch(task.given(grey))

    def finish(pixels: Tensor) -> Picture:
        held = task.agree(pixels[None], given) if deep else task.written(pixels[None], given)
        return replace(kept, pixels=held[0])

    size = (grey.shape[1], grey.shape[2])
    return Subject(kept, given, size, size, grey, lambda drawn: drawn, finish)


def completed(
    task: Inpaint, picture: Picture, fill: Bool[Tensor, " h w"], *, feather: int, reach: int
) -> Subject:
    """A picture whose holes are to be filled; every other pixel keeps its bits.

    Args:
        task: what is done.
        picture: on its canvas.
        fill: the holes.
        feather: pixels around them over which what is drawn is blended with what was there.
        reach: how far around them the model sees, in pixels.

    Raises:
        InputError: nothing is known but what the feather blends.
    """
    weights = feathered(fill, feather)
    hole = weights > 0
    if hole.all():
        raise InputError("feather: reaches every pixel, and nothing is known; use a smaller one")
    window = around(hole, reach)
    part = picture.pixels[:, *window]
    given = _batch(task.given(part.expand(3, -1, -1).contiguous(), hole[window]))

    def place(drawn: Tensor) -> Tensor:
        whole = picture.pixels.expand(3, -1, -1).clone()
        whole[:, *window] = drawn
        return whole

    def finish(pixels: Tensor) -> Picture:
        found = composed(picture.pixels, _channels(pixels, picture), weights)
        return replace(picture, pixels=found)

    size, result = (part.shape[1], part.shape[2]), (fill.shape[0], fill.shape[1])
    shown = picture.pixels.masked_fill(fill, 0.0)
    return Subject(picture, given, size, result, shown, place, finish)


def repaired(task: JPEG, picture: Picture, photo: Path) -> Subject:
    """A JPEG file to be restored, held to the coefficients that it stores.

    Blocks lie in the file as it was before its EXIF orientation turned it.

    Raises:
        InputError: another kind of file, or one that has changed since it was read.
    """
    if picture.format != "JPEG":
        raise InputError(
            f"{photo}: a {picture.format} file; JPEG restoration looks at what a JPEG file stores, "
            "so give the JPEG itself"
        )
    stored = as_stored(picture)
    try:
        file = jpeg.understood(photo.read_bytes(), stored.expand(3, -1, -1))
    except OSError as error:
        raise InputError(f"{photo}: cannot be read: {error.strerror}") from error
    height, width = stored.shape[1:]

    def place(drawn: Tensor) -> Tensor:
        return turned(drawn[:, :height, :width], picture.orientation)

    def finish(pixels: Tensor) -> Picture:
        return replace(picture, pixels=pixels if len(stored) == 3 else luma(pixels[None])[0])

    kept = replace(picture, notes=(*picture.notes, *file.notes))
    given = _batch(task.given(file))
    size = (file.decoded.shape[1], file.decoded.shape[2])
    result = (picture.pixels.shape[1], picture.pixels.shape[2])
    return Subject(kept, given, size, result, picture.pixels, place, finish)
