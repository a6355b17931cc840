"""Features of a user's vision transformer: tokens of patches, of DINO or DINOv2.

Source: Oquab et al. 2023, arXiv:2304.07193, section 7.4; Amir et al. 2021, arXiv:2112.05814.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.features import Maps
from core.model import device_of
from core.request import Machine
from core.storage import tensor_file
from core.weights.dino import DEVIATION, MEAN, load

READ = 4  # of the last blocks, by default


class Vit:
    """Tokens of patches of a vision transformer that you bring: DINO or DINOv2 in safetensors.

    Nothing is fetched and nothing unpickled.  Each token is a cell of `patch` pixels; at a `scale`
    of 2 the image is enlarged first, so that cells are half as large.
    Source: Oquab et al. 2023, arXiv:2304.07193, section 7.4.

    Args:
        weights: the safetensors file, or the folder that `save_pretrained` of Hugging Face wrote.
        blocks: numbers of the blocks whose tokens are read, from 0; by default the last four.
        scale: factor by which images are enlarged first.
        stretch: images are stretched between percentiles of their values before that.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        weights: Path,
        blocks: tuple[Annotated[int, Ge(0)], ...] = (),
        scale: Annotated[float, Ge(0.25), Le(8)] = 1.0,
        stretch: bool = False,
    ) -> None:
        self._device, self._scale, self.stretch = device_of(machine), scale, stretch
        self._network = load(weights).network.to(self._device)
        sizes = self._network.sizes
        last = range(max(0, sizes.depth - READ), sizes.depth)
        self._blocks = tuple(dict.fromkeys(blocks)) or tuple(last)
        if max(self._blocks) >= sizes.depth:
            raise InputError(
                f"blocks: {weights} has {sizes.depth} blocks, 0 to {sizes.depth - 1}; got "
                f"{max(self._blocks)}"
            )
        self.least = math.ceil(sizes.patch / scale)

    @property
    def channels(self) -> Sequence[int]:
        """Channels of a token, for each block."""
        return (self._network.sizes.width,) * len(self._blocks)

    def digest(self) -> str:
        """SHA-256 of weights and options."""
        weights = {name: value.cpu() for name, value in self._network.state_dict().items()}
        found = hashlib.sha256(tensor_file.seal(weights).encode())
        stretch = ("stretch",) if self.stretch else ()
        found.update(repr((self._blocks, self._scale, *stretch)).encode())
        return found.hexdigest()

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, " b 3 h w"]) -> Maps:
        """The maps of RGB images in [-1, 1]; what lacks to whole patches is mirrored on."""
        patch, size = self._network.sizes.patch, (images.shape[-2], images.shape[-1])
        x = images.to(self._device)
        if self._scale != 1:
            wide = tuple(max(patch, round(side * self._scale)) for side in size)
            x = F.interpolate(x, wide, mode="bicubic", antialias=self._scale < 1)
        inside = (x.shape[-2], x.shape[-1])
        down, right = (-side % patch for side in inside)
        # Of an image smaller than what lacks, the edge is repeated.
        ways = "reflect" if down < inside[0] and right < inside[1] else "replicate"
        x = F.pad(x, (0, right, 0, down), mode=ways)
        mean, deviation = (
            torch.tensor(v, device=x.device)[:, None, None] for v in (MEAN, DEVIATION)
        )
        shown = ((x + 1) / 2).clamp(0, 1)
        values = self._network.patches((shown - mean) / deviation, self._blocks)
        # The area that the patches cover, in pixels of the image as it was.
        area = tuple(
            round((side + more) * original / side)
            for side, more, original in zip(inside, (down, right), size, strict=True)
        )
        return Maps(tuple(value.float() for value in values), (area[0], area[1]), size)
