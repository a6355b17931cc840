"""Image files as model inputs: cropped, filled or enlarged for a task, and back again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from core.errors import InputError
from core.images.pictures import Picture, as_stored, turned
from core.images.writing import check_writable
from core.task import Batch
from plugins.image2image.inference.colours import is_grey, shown_colours, with_colours_of
from plugins.image2image.inference.editing import composite
from plugins.image2image.inference.masks import around, feathered
from plugins.image2image.operators import jpeg
from plugins.image2image.operators.bicubic import back_projected, resized
from plugins.image2image.operators.jpeg_decoding import smoothest
from plugins.image2image.operators.luma import levels_luma, luma, to_integers
from plugins.image2image.request import Degradation
from plugins.image2image.tasks.colourise import Colourise
from plugins.image2image.tasks.inpaint import Inpaint
from plugins.image2image.tasks.jpeg import JPEG
from plugins.image2image.tasks.super_resolution import SR3


@dataclass(frozen=True)
class InputImage:
    """An image file prepared for a model.

    Args:
        picture: the file's pixels and metadata, upright and on its canvas.
        batch: a batch of one, as the task's `base`, `residual_std` and `make_consistent` read it.
        model_size: height and width of the model's output.
        result_size: height and width of the result.
        preview: the input image, for the contact sheet.
        paste: a draw (3, h, w) -> the whole image (3, y, x), upright.
        finish: the whole image -> the output file, known values exact.
    """

    picture: Picture
    batch: Batch
    model_size: tuple[int, int]
    result_size: tuple[int, int]
    preview: Float[Tensor, " c h w"]
    paste: Callable[[Tensor], Tensor]
    finish: Callable[[Tensor], Picture]

    def check_writable(self, target: Path) -> None:
        """Refuse an output path that cannot hold the result.

        Raises:
            InputError: as `check_writable`.
        """
        alpha, depth = self.picture.alpha is not None, self.picture.depth
        check_writable(target, alpha=alpha, depth=depth, size=self.result_size)


def _batch(item: Batch) -> Batch:
    return {name: value[None] for name, value in item.items()}


ROUNDS = 10  # of back-projection at a size that is not the model's


def for_upscaling(
    tasks: list[SR3], picture: Picture, path: Path, result: tuple[int, int] | None = None
) -> InputImage:
    """An image for one or more super-resolution models in turn; alpha is upscaled bicubically.

    Grey images are given as three equal channels and returned as their mean; transparent pixels
    have the colours of visible ones around.  A JPEG file for a model that learned from clean images
    is decoded smoothly first: its reduction is known only to the file's quantisation.

    Args:
        tasks: tasks of the models.
        picture: the image file.
        path: its path.
        result: height and width of the result, to which the models' is resized so that its
            reduction is the image; by default what the models make.

    Raises:
        InputError: the file has changed since it was read.
    """
    height, width = picture.pixels.shape[1:]
    model = (height, width)
    for task in tasks:
        model = task.operator.enlarged(model)
    size = result or model

    def finish(pixels: Tensor) -> Picture:
        alpha = picture.alpha
        if alpha is not None:
            alpha = resized(alpha[None], *size)[0].clamp(0, 1)
        return replace(picture, pixels=with_colours_of(picture.pixels, pixels), alpha=alpha)

    low, kept = shown_colours(picture).expand(3, -1, -1), picture
    if picture.format == "JPEG" and tasks[0].degradation.jpeg == 100:
        file, stored = _coefficients(path, as_stored(picture)), as_stored(picture).shape
        low = turned(smoothest(file)[:, : stored[1], : stored[2]], picture.orientation)
        note = "a JPEG file, and the model learned from clean images: its ringing was smoothed"
        kept = replace(picture, notes=(*picture.notes, *(file.notes or (note,))))
    rounds = 0 if tasks[0].degradation != Degradation() else ROUNDS

    def paste(draw: Tensor) -> Tensor:
        if size == model:
            return draw
        return back_projected(resized(draw[None], *size), low[None], rounds)[0].clamp(-1, 1)

    return InputImage(kept, {"low": low[None]}, model, size, picture.pixels, paste, finish)


def for_colourisation(task: Colourise, picture: Picture) -> InputImage:
    """A grey image, or the luma of a colour image, for colourisation.

    The luma of the result is the input: exactly, by Pillow's ``convert("L")``, at 8 bits; at 16
    bits 0.299 R + 0.587 G + 0.114 B differs by less than a level.
    """
    notes, grey, deep = list(picture.notes), picture.pixels, picture.depth == 16
    if len(grey) == 3:
        notes.append("the colours were discarded; their luma is colourised")
        levels = levels_luma(to_integers(grey[None]))[0]
        grey = luma(grey[None])[0] if deep else levels.float() / 127.5 - 1
    elif picture.icc:
        notes.append("the colour profile is for grey images and was discarded")
    icc = picture.icc if len(picture.pixels) == 3 else None
    kept = replace(picture, icc=icc, notes=tuple(notes))
    given = _batch(task.given(grey))

    def finish(pixels: Tensor) -> Picture:
        held = (
            task.make_consistent(pixels[None], given) if deep else task.written(pixels[None], given)
        )
        return replace(kept, pixels=held[0])

    size = (grey.shape[1], grey.shape[2])
    return InputImage(kept, given, size, size, grey, lambda draw: draw, finish)


def for_inpainting(
    task: Inpaint, picture: Picture, fill: Bool[Tensor, " h w"], *, feather: int, reach: int
) -> InputImage:
    """An image for inpainting or uncropping; every pixel outside the holes keeps its bits.

    Args:
        task: the task.
        picture: the image on its canvas.
        fill: the holes.
        feather: width in pixels around the holes over which draw and input are blended.
        reach: width in pixels around the holes of the model's field of view.

    Raises:
        InputError: no pixel is known outside the feather.
    """
    weights = feathered(fill, feather)
    hole = weights > 0
    if hole.all():
        raise InputError("feather: reaches every pixel, so that none is known; use a smaller one")
    window = around(hole, reach)
    part = shown_colours(picture)[:, *window]
    given = _batch(task.given(part.expand(3, -1, -1).contiguous(), hole[window]))

    def paste(draw: Tensor) -> Tensor:
        whole = picture.pixels.expand(3, -1, -1).clone()
        whole[:, *window] = draw
        return whole

    def finish(pixels: Tensor) -> Picture:
        found = composite(picture.pixels, with_colours_of(picture.pixels, pixels), weights)
        return replace(picture, pixels=found)

    size, result = (part.shape[1], part.shape[2]), (fill.shape[0], fill.shape[1])
    shown = picture.pixels.masked_fill(fill, 0.0)
    return InputImage(picture, given, size, result, shown, paste, finish)


def for_jpeg(task: JPEG, picture: Picture, path: Path) -> InputImage:
    """A JPEG file for restoration, constrained to its stored coefficients.

    Blocks are those of the stored image, before its EXIF orientation is applied.

    Raises:
        InputError: not a JPEG file, or one that has changed since it was read.
    """
    if picture.format != "JPEG":
        raise InputError(
            f"{path}: a {picture.format} file; JPEG restoration reads the coefficients of a JPEG "
            "file; give the JPEG itself"
        )
    stored = as_stored(picture)
    file = _coefficients(path, stored)
    height, width = stored.shape[1:]

    def paste(draw: Tensor) -> Tensor:
        return turned(draw[:, :height, :width], picture.orientation)

    def finish(pixels: Tensor) -> Picture:
        if is_grey(stored):
            pixels = luma(pixels[None])[0].expand(len(stored), -1, -1)
        return replace(picture, pixels=pixels)

    kept = replace(picture, notes=(*picture.notes, *file.notes))
    given = _batch(task.given(file))
    size = (file.decoded.shape[1], file.decoded.shape[2])
    result = (picture.pixels.shape[1], picture.pixels.shape[2])
    return InputImage(kept, given, size, result, picture.pixels, paste, finish)


def _coefficients(path: Path, stored: Float[Tensor, " c h w"]) -> jpeg.File:
    """What a JPEG file says, beside the pixels as they lie in it.

    Raises:
        InputError: it has changed since it was read.
    """
    try:
        return jpeg.understood(path.read_bytes(), stored.expand(3, -1, -1))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
