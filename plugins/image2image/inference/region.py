"""What of a picture may change, as the options of a command say it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from plugins.image2image.io.pictures import Picture


@dataclass(frozen=True)
class Region:
    """What of a picture may change, as a user says it; the fields are the options of that name."""

    mask: Path | None = None
    invert: bool = False
    boxes: tuple[str, ...] = ()
    transparent: bool = False
    extend: tuple[str, ...] = ()
    grow: int = 0
    feather: int = 0

    @property
    def about(self) -> dict[str, Any]:
        """For the record."""
        return {
            "mask": self.mask and self.mask.name,
            "invert": self.invert,
            "box": list(self.boxes),
            "transparent": self.transparent,
            "extend": list(self.extend),
            "grow": self.grow,
            "feather": self.feather,
        }

    def of(self, photo: Path, *, needed: bool = False) -> "tuple[Picture, Tensor | None]":
        """The picture, on its larger canvas, and what may change of it; None for everything.

        Raises:
            InputError: see `inference.masks`; or no region where one is needed, or options of a
                region without one.
        """
        from plugins.image2image.io.reading import read_picture

        return self.on(read_picture(photo), needed=needed)

    def on(self, picture: "Picture", *, needed: bool = False) -> "tuple[Picture, Tensor | None]":
        """The same of a picture that was read."""
        from plugins.image2image.inference import masks

        height, width = picture.pixels.shape[1:]
        found = [masks.box(text, height, width) for text in self.boxes]
        if self.mask is not None:
            found.append(masks.read_mask(self.mask, height, width, invert=self.invert))
        elif self.invert:
            raise InputError("invert: turns a mask round, and there is none; give --mask")
        if self.transparent:
            found.append(masks.transparent(picture))
        margins = masks.margins(self.extend, height, width)
        if not found and not self.extend:
            if needed:
                raise InputError(
                    "nothing says what to fill; give --mask, --box, --transparent or --extend"
                )
            if self.grow or self.feather:
                raise InputError("grow, feather: want a region; give --mask, --box or --extend")
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
