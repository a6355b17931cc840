"""Colourisation: colours for a grey image.

Source: Saharia et al. 2022 (Palette), arXiv:2111.05826.
"""

from jaxtyping import Float
from torch import Tensor

from core.task import Batch, Figure
from plugins.image2image.operators.luma import levels_luma, levels_with_luma, to_integers, with_luma
from plugins.image2image.tasks.restoration import (
    Restoration,
    Target,
)


class Colourise(Restoration):
    """Colourisation: colours for a grey image, whose luma is kept exactly.

    Grey training images are masked out of the loss.

    Args:
        target: the diffused x0: the image, or the difference of its colours from grey.
    """

    def __init__(self, *, target: Target = "residual") -> None:
        super().__init__("grey", target)
        self.figures = {**self.figures, "luma": Figure("luma error", "levels", "lower")}

    def given(self, grey: Float[Tensor, " 1 h w"]) -> Batch:
        """A grey image as an input of the task."""
        return {"base": grey.expand(3, -1, -1), "residual_std": self.expected_std(grey)}

    def degrade(self, item: Batch, index: int) -> Batch:
        """The 8-bit luma of the image by Pillow, as first estimate."""
        grey = levels_luma(to_integers(item["image"][None]))[0].float() / 127.5 - 1
        return {**item, **self.given(grey)}

    @staticmethod
    def expected_std(grey: Float[Tensor, " 1 h w"]) -> Float[Tensor, " 1 h w"]:
        """Expected standard deviation of colours around their luma u in [0, 1].

        0.03 + 1.2 u (1 - u), fitted to the colour photographs of the training set.
        """
        return 0.03 + 0.3 * (1 - grey**2)

    def loss_mask(self, batch: Batch) -> Tensor:
        """1 for every pixel of a colour image, 0 for a grey image."""
        image = batch["image"]
        chroma = (image - image.mean(1, keepdim=True)).abs().amax((1, 2, 3), keepdim=True)
        return (chroma > 1 / 255).to(image).expand_as(image)

    def make_consistent(
        self, image: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> Float[Tensor, " b 3 h w"]:
        """The image with the given luma, its colours within [-1, 1]."""
        return with_luma(image, self.base(batch)[:, :1])

    def written(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The image at 8 bits, whose luma by Pillow is exactly the given one."""
        levels = levels_with_luma(
            self.make_consistent(image, batch), to_integers(self.base(batch)[:, :1])
        )
        return levels.to(image) / 127.5 - 1

    def further_figures(
        self, written: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> dict[str, Tensor]:
        """The largest error of the 8-bit luma."""
        given = to_integers(self.base(batch)[:, :1])
        apart = (levels_luma(to_integers(written)) - given).abs()
        return {"luma": apart.flatten(1).amax(1).double()}
