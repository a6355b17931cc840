"""The region of an image that may change, from the options of a command."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from core.errors import InputError
from core.parts.config import plain

if TYPE_CHECKING:
    from torch import Tensor

    from core.images.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class Region:
    """The region of an image that may change: a group of options.

    Args:
        mask: mask image: white, or what is painted in any colour, is filled; or a folder of masks,
            each named as its image.
        invert: invert the mask: what would be filled is kept.
        resize_mask: resize a mask of another size to the image's.
        box: rectangles to fill, in pixels, each ``x,y,width,height``; repeatable.
        transparent: fill pixels whose alpha is below one half.
        extend: extensions of the canvas, each as ``right=25%`` or ``left=64``; repeatable.
        grow: dilation of the region, in pixels.
        feather: width in pixels around the region over which the result is blended.
    """

    mask: Path | None = None
    invert: bool = False
    resize_mask: bool = False
    box: tuple[str, ...] = ()
    transparent: bool = False
    extend: tuple[str, ...] = ()
    grow: Annotated[int, Ge(0), Le(1024)] = 0
    feather: Annotated[int, Ge(0), Le(1024)] = 0

    @property
    def about(self) -> dict[str, Any]:
        """The options as JSON's types, for the record."""
        return {**plain(self), "mask": self.mask and self.mask.name}

    def of(self, path: Path, *, needed: bool = False) -> "tuple[Picture, Tensor | None]":
        """The image on its extended canvas, and the mask of pixels to fill; None for all.

        Raises:
            InputError: as in `inference.masks`; or no region where one is needed, or options of a
                region without one.
        """
        from core.images.reading import read_picture

        return self.on(read_picture(path), path, needed=needed)

    def on(
        self, picture: "Picture", path: Path, *, needed: bool = False
    ) -> "tuple[Picture, Tensor | None]":
        """The same for an image that was read; its notes say how a mask was read."""
        from plugins.image2image.inference import masks

        height, width = picture.pixels.shape[1:]
        found = [masks.box(text, height, width) for text in self.box]
        if (mask := mask_for(self.mask, path)) is not None:
            painted, notes = masks.read_mask(
                mask, picture.pixels, invert=self.invert, resize=self.resize_mask
            )
            found.append(painted)
            picture = replace(picture, notes=(*picture.notes, *notes))
        elif self.invert or self.resize_mask:
            raise InputError("invert, resize_mask: there is no mask; give --mask")
        if self.transparent:
            found.append(masks.transparent(picture))
        margins = masks.margins(self.extend, height, width)
        if not found and not self.extend:
            if needed:
                raise InputError("no region to fill; give --mask, --box, --transparent or --extend")
            if self.grow or self.feather:
                raise InputError("grow, feather: require a region; give --mask, --box or --extend")
            return picture, None
        picture, fill = masks.extended(picture, margins)
        inner = fill[margins.top : margins.top + height, margins.left : margins.left + width]
        for one in found:
            inner |= one
        masks.check_mask(fill, some_known=False)
        fill = masks.grown(fill, self.grow)
        masks.check_mask(fill, some_known=needed)
        if picture.alpha is not None:
            picture = replace(picture, alpha=picture.alpha.masked_fill(fill, 1.0))
        return picture, fill


def mask_for(mask: Path | None, image: Path) -> Path | None:
    """The mask of an image: the file itself, or the one in a folder that has the image's name.

    In a folder it is named as the image, with any suffix or one more: of ``a.jpg``, ``a.jpg``,
    ``a.jpg.png`` or ``a.png``.  That of ``photos/trip/a.jpg`` is sought in ``masks/trip`` first.

    Raises:
        InputError: no such mask, or several.
    """
    if mask is None or not mask.is_dir():
        return mask
    parents = image.absolute().parent.parts[1:]
    for depth in range(len(parents), -1, -1):  # the deepest folder of such names first
        folder = mask.joinpath(*parents[len(parents) - depth :])
        if depth and not folder.is_dir():
            continue
        names, stems = _images_in(folder, folder.stat().st_mtime_ns)
        for named in (
            [folder / image.name] if image.name in names else [],
            stems.get(image.name, []),
            stems.get(image.stem, []),
        ):
            if len(named) > 1:
                both = " and ".join(file.name for file in named)
                raise InputError(f"{mask}: {both} are both masks of {image.name}; keep one")
            if named:
                return named[0]
    raise InputError(
        f"{image}: no mask in the folder {mask}; expected an image named {image.stem}.png or with "
        "another suffix, or leave this image out"
    )


def mask_beside(mask: Path, image: Path) -> Path | None:
    """`mask_for`, or None where there is no such mask."""
    try:
        return mask_for(mask, image)
    except (InputError, OSError):
        return None


@lru_cache(maxsize=64)
def _images_in(folder: Path, changed: int) -> tuple[frozenset[str], dict[str, list[Path]]]:
    """Names of the images in a folder that last `changed` then, and the images by stem."""
    from core.images.formats import READ

    stems: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in READ:
            stems.setdefault(file.stem, []).append(file)
    return frozenset(file.name for files in stems.values() for file in files), stems
