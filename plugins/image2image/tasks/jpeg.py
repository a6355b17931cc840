"""JPEG restoration, consistent with the coefficients that the file stores.

Source: Saharia et al. 2022 (Palette), arXiv:2111.05826.
"""

from jaxtyping import Float
from torch import Tensor

from core.errors import InputError
from core.process.noise import derive, generator
from core.task import Batch
from plugins.image2image.operators import jpeg
from plugins.image2image.tasks.restoration import (
    Restoration,
    Target,
    local_contrast,
)


class JPEG(Restoration):
    """JPEG restoration: an image from its file of quality 5 to 30, with the file's coefficients.

    Files are written by Pillow; P(q) ~ exp(-q / 10).  Each estimate is projected onto the set of
    images with the same quantised coefficients.

    Args:
        quality: quality of all files; 0 for a random one for each.
        target: the diffused x0: the image, or the residual of the decoded file.
        seed: random seed of the qualities.
    """

    ROUNDS = 10  # of alternating projections onto coefficients and range, at the end

    def __init__(self, *, quality: int = 0, target: Target = "residual", seed: int = 0) -> None:
        if not 0 <= quality <= 100:
            raise InputError(f"quality: expected 1 to 100, or 0 for a random one, got {quality}")
        super().__init__("JPEG file", target)
        self.quality, self.seed = quality, seed

    def degrade(self, item: Batch, index: int) -> Batch:
        """The decoded file, its quantisation tables and coefficients."""
        height, width = item["image"].shape[-2:]
        if height % 16 or width % 16:
            raise InputError(
                f"JPEG restoration is trained on crops with sides that are multiples of 16, got "
                f"{width}x{height}; change dataset.size"
            )
        drawn = generator(derive("quality", self.seed), index).random()
        file = jpeg.encode(item["image"], self.quality or jpeg.quality(drawn))
        return {**item, **self.given(file)}

    def given(self, file: jpeg.File) -> Batch:
        """A JPEG file as an input of the task."""
        return {
            "base": file.decoded,
            "residual_std": self.expected_std(file)[None],
            "tables": file.tables,
            "luma": file.luma,
            "chroma": file.chroma,
        }

    @staticmethod
    def expected_std(file: jpeg.File) -> Float[Tensor, " h w"]:
        """Expected standard deviation of a file's residual, from its tables and local contrast.

        0.015 + 0.045 q + 0.55 s / (1 + 2.7 s), q the mean of the 16 first luma steps and s the
        standard deviation of brightness over 7x7 pixels: fitted to the training photographs.
        """
        step = file.tables[0, :4, :4].mean() / 127.5
        contrast = local_contrast(file.decoded[None], 7)[0, 0]
        return 0.015 + 0.045 * step + 0.55 * contrast / (1 + 2.7 * contrast)

    def make_consistent(
        self, image: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> Float[Tensor, " b 3 h w"]:
        """The nearest image with the file's quantised coefficients."""
        return jpeg.project(image, batch["tables"], batch["luma"], batch["chroma"])

    def finish(self, x0: Tensor, batch: Batch) -> Tensor:
        """The restored images, in [-1, 1] and near the file's coefficients.

        Source: alternating projections onto two convex sets, Bregman 1965.
        """
        image = super().finish(x0, batch)
        for _ in range(self.ROUNDS):
            image = self.make_consistent(image, batch).clamp(-1, 1)
        return image
