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
    """Colours for a grey picture, whose luma the result has exactly.

    Pictures without any colour teach nothing: their errors do not count in training.

    Args:
        target: what is diffused: the picture or the difference of its colours from grey.
    """

    def __init__(self, *, target: Target = "residual") -> None:
        super().__init__("grey", target)
        self.figures = {**self.figures, "luma": Figure("luma error", "levels", "lower")}

    def given(self, grey: Float[Tensor, " 1 h w"]) -> Batch:
        """A grey picture as a first estimate of its colours."""
        return {"base": grey.expand(3, -1, -1), "spread": self.expected(grey)}

    def degrade(self, item: Batch, index: int) -> Batch:
        """The 8-bit luma that Pillow gives the picture, and it as a first estimate."""
        grey = levels_luma(to_integers(item["image"][None]))[0].float() / 127.5 - 1
        return {**item, **self.given(grey)}

    @staticmethod
    def expected(grey: Float[Tensor, " 1 h w"]) -> Float[Tensor, " 1 h w"]:
        """The deviation of colours from their luma: 0.03 + 1.2 u (1 - u), u the luma in [0, 1].

        Fitted to the training photographs that have colours; black and white have little room.
        """
        return 0.03 + 0.3 * (1 - grey**2)

    def counted(self, batch: Batch) -> Tensor:
        """Everything of a picture that has colours."""
        image = batch["image"]
        apart = (image - image.mean(1, keepdim=True)).abs().amax((1, 2, 3), keepdim=True)
        return (apart > 1 / 255).to(image).expand_as(image)

    def agree(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The picture with the given luma, its colours within the range of files."""
        return with_luma(image, self.base(batch)[:, :1])

    def written(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """At 8 bits with the given luma to the last level."""
        levels = levels_with_luma(self.agree(image, batch), to_integers(self.base(batch)[:, :1]))
        return levels.to(image) / 127.5 - 1

    def further(self, written: Float[Tensor, " b 3 h w"], batch: Batch) -> dict[str, Tensor]:
        """The largest difference of an 8-bit luma from the one given."""
        given = to_integers(self.base(batch)[:, :1])
        apart = (levels_luma(to_integers(written)) - given).abs()
        return {"luma": apart.flatten(1).amax(1).double()}
