"""The region of an image that may change, from the options of a command."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from core.errors import InputError
from core.parts.config import plain

if TYPE_CHECKING:
    from torch import Tensor

    from plugins.image2image.io.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class Region:
    """The region of an image that may change: a group of options.

    Args:
        mask: mask image of the same size; white pixels are filled.
        invert: invert the mask: white pixels are kept.
        box: rectangles to fill, in pixels, each ``x,y,width,height``; repeatable.
        transparent: fill pixels whose alpha is below one half.
        extend: extensions of the canvas, each as ``right=25%`` or ``left=64``; repeatable.
        grow: dilation of the region, in pixels.
        feather: width in pixels around the region over which the result is blended.
    """

    mask: Path | None = None
    invert: bool = False
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
        from plugins.image2image.io.reading import read_picture

        return self.on(read_picture(path), needed=needed)

    def on(self, picture: "Picture", *, needed: bool = False) -> "tuple[Picture, Tensor | None]":
        """The same for an image that has been read."""
        from plugins.image2image.inference import masks

        height, width = picture.pixels.shape[1:]
        found = [masks.box(text, height, width) for text in self.box]
        if self.mask is not None:
            found.append(masks.read_mask(self.mask, height, width, invert=self.invert))
        elif self.invert:
            raise InputError("invert: there is no mask to invert; give --mask")
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
