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
    """Inpainting: a hole is filled, known pixels keep their bits.

    Holes are free-form strokes and rectangles over 10 to 40 % of an image, or one or all of its
    sides (uncropping), random for each item.  The loss is masked to the hole.

    Args:
        holes: kind of the random masks.
        target: the diffused x0: the image, or the residual of a smooth filling of the hole.
        seed: random seed of the masks.
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
        """An image and its hole as an input of the task; pixels in the hole are not used."""
        known = (~hole)[None, None].to(image)
        contrast = local_contrast(image[None], 7, known)
        filled = harmonic(torch.cat([image[None], contrast], 1), hole[None, None])[0]
        std = self.expected_std(filled[3], hole)
        return {"hole": hole[None], "base": filled[:3], "residual_std": std[None]}

    def degrade(self, item: Batch, index: int) -> Batch:
        """A random hole, and the image with it filled smoothly."""
        height, width = item["image"].shape[-2:]
        hole = random_mask(self.seed, index, height, width, self.holes)
        return {**item, **self.given(item["image"], hole)}

    @staticmethod
    def expected_std(
        contrast: Float[Tensor, " h w"], hole: Bool[Tensor, " h w"]
    ) -> Float[Tensor, " h w"]:
        """Expected standard deviation of the residual of a smooth filling.

        0.01 + 0.02 log d + s / (1 + 2.4 s) with s = c (1.3 + 3.5 log d), d the distance to the
        nearest known pixel and c the standard deviation of brightness over the known ones of 7x7
        pixels, filled into the hole as the image is: fitted to the training photographs, where it
        is 0.02 in sky to 0.4 deep in a texture.  The term without c exceeds the fit, so that an
        object in a plain hole is not hundreds of standard deviations away.  0.01 outside the hole,
        where the first estimate is the image.
        """
        from scipy.ndimage import distance_transform_edt

        far = torch.from_numpy(distance_transform_edt(hole.numpy())).float().clamp(min=1).log()
        grown = contrast * (1.3 + 3.5 * far)
        return torch.where(hole, 0.01 + 0.02 * far + grown / (1 + 2.4 * grown), 0.01)

    def loss_mask(self, batch: Batch) -> Tensor:
        """1 in the hole."""
        return batch["hole"].float().expand_as(batch["base"])

    def make_consistent(
        self, image: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> Float[Tensor, " b 3 h w"]:
        """The image with its known pixels replaced by the input's."""
        return torch.where(batch["hole"], image, self.base(batch))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The image with a grey hole."""
        return {"input": batch["image"].masked_fill(batch["hole"], 0)}

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """The smooth, total-variation and biharmonic fillings."""
        image, hole = batch["image"], batch["hole"]
        return {
            self.reference: self.base(batch),
            "total variation": total_variation(image, hole),
            "biharmonic": biharmonic(image, hole),
        }

    def further_figures(
        self, written: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> dict[str, Tensor]:
        """PSNR over the hole, and the fraction of known pixels that changed."""
        hole = batch["hole"]
        squares = (written - batch["image"]).double().square() / 4 * hole
        error = squares.flatten(1).sum(1) / (3 * hole.flatten(1).sum(1))
        changed = (to_integers(written) != to_integers(batch["image"])).any(1, keepdim=True) & ~hole
        return {
            "hole": (-10 * error.log10()).clamp(max=MOST),
            "known": changed.flatten(1).double().mean(1),
        }


class Uncrop(Inpaint):
    """Uncropping: half of each item is filled, along one side or around all four.

    Args:
        target: the diffused x0: the image, or the residual of a smooth filling.
        seed: random seed of the sides.
    """

    def __init__(self, *, target: Target = "residual", seed: int = 0) -> None:
        super().__init__(holes="uncrop", target=target, seed=seed)
