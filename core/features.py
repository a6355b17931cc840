"""Features of images: maps at several resolutions, which a pixel classifier reads."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


class Maps(NamedTuple):
    """Maps of a batch of images, each on a grid of its own.

    A map's cells divide the area covered evenly, as `interpolate(align_corners=False)` has it; the
    images are the top left of that area, which is larger where a network pads them.

    Args:
        values: one for each entry of the features' `channels`.
        area: height and width of the area covered, in pixels.
        size: height and width of the images.
    """

    values: tuple[Float[Tensor, " b c y x"], ...]
    area: tuple[int, int]
    size: tuple[int, int]


@runtime_checkable
class Features(Protocol):
    """Maps of images for pixel classifiers: a registered part of the kind ``features``.

    Built from a `core.request.Machine`; its options are keyword-only.  Its constructor raises
    `InputError` for what no image could be read with, such as a checkpoint of another task.

    Attributes:
        least: smallest side of an image in pixels; smaller ones are padded by whoever calls.
        stretch: whether whole images go through `core.images.contrast.stretched` before they are
            cut and read, by whoever calls.
    """

    least: int
    stretch: bool

    @property
    def channels(self) -> Sequence[int]:
        """Channels of each map."""
        ...

    def digest(self) -> str:
        """SHA-256 of everything that the maps depend on but the image: weights and options."""
        ...

    def __call__(self, images: Float[Tensor, " b 3 h w"]) -> Maps:
        """The maps of RGB images in [-1, 1], of any size; the same images give the same maps."""
        ...
