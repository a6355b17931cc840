"""Inpainting and uncropping: holes filled, known pixels kept.

Source: Saharia et al. 2022 (Palette), arXiv:2111.05826.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.task import Batch, Figure
from plugins.image2image.operators.luma import to_integers
from plugins.image2image.tasks.classical import biharmonic, harmonic, total_variation
from plugins.image2image.tasks.random_masks import Kind, random_mask
from plugins.image2image.tasks.restoration import (
    MOST,
    Restoration,
    Target,
    local_contrast,
)


class Inpaint(Restoration):
    """What is in a hole; the pixels around it stay as they are to the last bit.

    Free-form strokes and rectangles over 10 to 40 % of a picture, or one or all sides of it
    (uncropping), drawn anew for each item.  Errors count in the hole alone.

    Args:
        holes: of which kind.
        target: what is diffused: the picture or what a smooth filling of the hole lacks.
        seed: of the masks.
    """

    def __init__(
        self,
        *,
        holes: Kind = "inpaint",
        target: Target = "residual",
        seed: int = 0,
    ) -> None:
        super().__init__("smooth filling", target)
        self.holes: Kind = holes
        self.seed = seed
        self.figures = {
            **self.figures,
            "hole": Figure("PSNR in the hole", "dB", "higher"),
            "known": Figure("known pixels changed", "", "lower"),
        }

    def given(self, image: Float[Tensor, " 3 h w"], hole: Bool[Tensor, " h w"]) -> Batch:
        """A picture with its hole filled smoothly; what is in the hole is not looked at."""
        known = (~hole)[None, None].to(image)
        contrast = local_contrast(image[None], 7, known)
        filled = harmonic(torch.cat([image[None], contrast], 1), hole[None, None])[0]
        spread = self.expected(filled[3], hole)
        return {"hole": hole[None], "base": filled[:3], "spread": spread[None]}

    def degrade(self, item: Batch, index: int) -> Batch:
        """A mask and the picture with its hole filled smoothly."""
        height, width = item["image"].shape[-2:]
        hole = random_mask(self.seed, index, height, width, self.holes)
        return {**item, **self.given(item["image"], hole)}

    @staticmethod
    def expected(
        contrast: Float[Tensor, " h w"], hole: Bool[Tensor, " h w"]
    ) -> Float[Tensor, " h w"]:
        """The deviation of what a smooth filling lacks, from the contrast of what is around it.

        0.01 + 0.02 log d + s / (1 + 2.4 s) with s = c (1.3 + 3.5 log d), d the distance to what is
        known in pixels and c the deviation of brightness over the known of 7x7 pixels, continued
        into the hole as the picture is: fitted to the training photographs, where it spans 0.02
        in sky to 0.4 deep in a texture.  The part without c is more than the fit's, so that an
        object in a plain hole is not hundreds of deviations away.  0.01 outside, where the first
        estimate is the picture.
        """
        from scipy.ndimage import distance_transform_edt

        far = torch.from_numpy(distance_transform_edt(hole.numpy())).float().clamp(min=1).log()
        grown = contrast * (1.3 + 3.5 * far)
        return torch.where(hole, 0.01 + 0.02 * far + grown / (1 + 2.4 * grown), 0.01)

    def counted(self, batch: Batch) -> Tensor:
        """The hole."""
        return batch["hole"].float().expand_as(batch["base"])

    def agree(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The picture with the known pixels put back."""
        return torch.where(batch["hole"], image, self.base(batch))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The picture with its hole in grey."""
        return {"input": batch["image"].masked_fill(batch["hole"], 0)}

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """The smooth filling, one of little total variation, and the biharmonic one."""
        image, hole = batch["image"], batch["hole"]
        return {
            self.reference: self.base(batch),
            "total variation": total_variation(image, hole),
            "biharmonic": biharmonic(image, hole),
        }

    def further(self, written: Float[Tensor, " b 3 h w"], batch: Batch) -> dict[str, Tensor]:
        """PSNR over the hole, and the share of known pixels that are not as they were."""
        hole = batch["hole"]
        squares = (written - batch["image"]).double().square() / 4 * hole
        error = squares.flatten(1).sum(1) / (3 * hole.flatten(1).sum(1))
        changed = (to_integers(written) != to_integers(batch["image"])).any(1, keepdim=True) & ~hole
        return {
            "hole": (-10 * error.log10()).clamp(max=MOST),
            "known": changed.flatten(1).double().mean(1),
        }


class Uncrop(Inpaint):
    """What lies beyond a picture's edge: half of each item, along one side or around all four.

    Args:
        target: what is diffused: the picture or what a smooth continuation lacks.
        seed: of the sides.
    """

    def __init__(self, *, target: Target = "residual", seed: int = 0) -> None:
        super().__init__(holes="uncrop", target=target, seed=seed)
