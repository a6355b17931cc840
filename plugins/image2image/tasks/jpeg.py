"""JPEG restoration, held to the coefficients that the file stores.

Source: Saharia et al. 2022 (Palette), arXiv:2111.05826.
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive
from core.task import Batch
from plugins.image2image.operators import jpeg
from plugins.image2image.tasks.restoration import (
    Restoration,
    Target,
    local_contrast,
)


class JPEG(Restoration):
    """A picture from a JPEG file of quality 5 to 30, whose coefficients the result has.

    Files are real ones, written by Pillow; P(q) ~ exp(-q / 10).  Each estimate is projected onto
    the pictures of which the same file would have been made.

    Args:
        quality: of all files; 0 draws one for each.
        target: what is diffused: the picture or what the file lacks.
        seed: of the qualities.
    """

    ROUNDS = 10  # of projections onto the file's coefficients and onto the range, at the end

    def __init__(self, *, quality: int = 0, target: Target = "residual", seed: int = 0) -> None:
        if not 0 <= quality <= 100:
            raise InputError(f"quality: expected 1 to 100, or 0 to draw it, got {quality}")
        super().__init__("JPEG file", target)
        self.quality, self.seed = quality, seed

    def degrade(self, item: Batch, index: int) -> Batch:
        """The file's picture, its steps and coefficients."""
        height, width = item["image"].shape[-2:]
        if height % 16 or width % 16:
            raise InputError(
                f"JPEG restoration learns from crops whose sides are multiples of 16, got "
                f"{width}x{height}; set the dataset's size so"
            )
        key = np.array([derive("quality", self.seed), index], np.uint64)
        drawn = np.random.Generator(np.random.Philox(key=key)).random()
        file = jpeg.encode(item["image"], self.quality or jpeg.quality(drawn))
        return {**item, **self.given(file)}

    def given(self, file: jpeg.File) -> Batch:
        """A file's picture, its steps and coefficients."""
        return {
            "base": file.decoded,
            "spread": self.expected(file)[None],
            "tables": file.tables,
            "luma": file.luma,
            "chroma": file.chroma,
        }

    @staticmethod
    def expected(file: jpeg.File) -> Float[Tensor, " h w"]:
        """The deviation of what a file lacks, from its steps and its local contrast.

        0.015 + 0.045 q + 0.55 s / (1 + 2.7 s), q the mean of the 16 finest luma steps and s the
        deviation of brightness over 7x7 pixels: fitted to the training photographs.
        """
        step = file.tables[0, :4, :4].mean() / 127.5
        contrast = local_contrast(file.decoded[None], 7)[0, 0]
        return 0.015 + 0.045 * step + 0.55 * contrast / (1 + 2.7 * contrast)

    def agree(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The nearest picture of which the same file would have been made."""
        return jpeg.project(image, batch["tables"], batch["luma"], batch["chroma"])

    def finish(self, x0: Tensor, batch: Batch) -> Tensor:
        """The restored pictures, in [-1, 1], as near to the file's coefficients as the range lets.

        Source: projections in turn onto two convex sets, Bregman 1965.
        """
        image = super().finish(x0, batch)
        for _ in range(self.ROUNDS):
            image = self.agree(image, batch).clamp(-1, 1)
        return image
