"""The region of an image that may change, from the options of a command."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from plugins.image2image.io.pictures import Picture


@dataclass(frozen=True)
class Region:
    """The region of an image that may change; the fields are the options of that name."""

    mask: Path | None = None
    invert: bool = False
    boxes: tuple[str, ...] = ()
    transparent: bool = False
    extend: tuple[str, ...] = ()
    grow: int = 0
    feather: int = 0

    @property
    def about(self) -> dict[str, Any]:
        """The options as JSON's types, for the record."""
        return {
            "mask": self.mask and self.mask.name,
            "invert": self.invert,
            "box": list(self.boxes),
            "transparent": self.transparent,
            "extend": list(self.extend),
            "grow": self.grow,
            "feather": self.feather,
        }

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
        found = [masks.box(text, height, width) for text in self.boxes]
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
