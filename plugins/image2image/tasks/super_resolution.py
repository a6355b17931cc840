"""Super-resolution by iterative refinement.

Source: Saharia et al. 2021 (SR3), arXiv:2104.07636.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.process.noise import derive
from core.task import Batch, Figure
from plugins.image2image.operators.bicubic import Bicubic
from plugins.image2image.tasks.restoration import (
    Restoration,
    Target,
    local_contrast,
    to_levels,
)


def residual_spread(low: Float[Tensor, " b c y x"]) -> Float[Tensor, " b 1 y x"]:
    """The deviation to expect of what `low`'s bicubic enlargement lacks, from its local contrast.

    0.006 + 1.7 s / (1 + 5.5 s), s the deviation of brightness over 3x3 pixels: fitted to the
    training photographs at factor 4, where it spans 0.01 in sky to 0.2 at edges.
    """
    contrast = local_contrast(low, 3)
    return 0.006 + 1.7 * contrast / (1 + 5.5 * contrast)


class SR3(Restoration):
    """Super-resolution by iterative refinement: the enlarged picture is the condition.

    The low-resolution picture is the antialiased bicubic reduction, rounded to 8 bits as a file
    would be; its bicubic enlargement is concatenated to the noisy picture.
    Source: Saharia et al. 2021, arXiv:2104.07636; the residual target after Li et al. 2021
    (SRDiff), arXiv:2104.14951, section 3.2, here in units of the deviation to expect of it.

    Args:
        scale: factor of enlargement, at least 2.
        target: what is diffused: the picture itself, as in SR3, or what the enlargement lacks,
            in units of what its local contrast lets expect, which trains far faster.
        back_projections: rounds of x <- x + up(low - down(x)) on each estimate and each result;
            each brings its reduction closer to the input.
        augment: largest deviation of the noise that is added to the low-resolution picture in
            training, drawn evenly for each item and told to the network, so that it can follow
            another model in a cascade (Ho et al. 2022, JMLR 23, section 4); 0 for none.
        level: the deviation for all items, for a sweep; by default it is drawn.
        reduce: factor by which the pictures themselves are reduced before, for the first model of
            a cascade, whose results are smaller than they are.
        seed: of that noise.
    """

    def __init__(
        self,
        *,
        scale: int = 4,
        target: Target = "residual",
        back_projections: int = 0,
        augment: float = 0.0,
        level: float | None = None,
        reduce: int = 1,
        seed: int = 0,
    ) -> None:
        if reduce < 1:
            raise InputError(f"reduce: expected at least 1, got {reduce}")
        if back_projections < 0:
            raise InputError(f"back_projections: expected at least 0, got {back_projections}")
        if augment < 0:
            raise InputError(f"augment: expected at least 0, got {augment:g}")
        if level is not None and not 0 <= level <= augment:
            raise InputError(f"level: expected 0 to augment, which is {augment:g}, got {level:g}")
        super().__init__("bicubic", target)
        self.augment, self.level, self.reduce, self.seed = augment, level, reduce, seed
        if augment:
            self.conditions = {"image": self.conditions["image"] + 1}
        self.operator = Bicubic(factor=scale)
        self.scale = scale
        self.back_projections = back_projections
        self.figures = {
            **self.figures,
            "consistency": Figure("consistency MSE", "1e-5", "lower"),
        }

    def given(self, low: Float[Tensor, " b 3 y x"], level: float, noise: Tensor) -> Batch:
        """A low-resolution picture as the network is to see it.

        Raises:
            InputError: a level that it was not trained for.
        """
        if not 0 <= level <= self.augment:
            raise InputError(
                f"level: the model was trained for noise of 0 to {self.augment:g}, got {level:g}"
            )
        if not self.augment:
            return {"low": low}
        told = torch.full_like(low[:, :1, :1, :1], level)
        return {"low": low, "seen": low + level * noise, "level": told}

    def degrade(self, item: Batch, index: int) -> Batch:
        """The item, reduced if asked for; with augmentation, its low-resolution picture too."""
        if self.reduce > 1:
            image = Bicubic(factor=self.reduce).forward(item["image"][None])[0]
            item = {**item, "image": to_levels(image)}
        if not self.augment:
            return item
        key = np.array([derive("augment", self.seed), index], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key))
        level = self.augment * random.random() if self.level is None else self.level
        low = self.low({"image": item["image"][None]})
        noise = torch.from_numpy(random.standard_normal(low.shape, dtype=np.float32))
        return {**item, **{name: x[0] for name, x in self.given(low, level, noise).items()}}

    def low(self, batch: Batch) -> Float[Tensor, " b 3 y x"]:
        """The low-resolution picture that a camera's file would hold, in [-1, 1]."""
        given = batch.get("low")
        return to_levels(self.operator.forward(batch["image"])) if given is None else given

    def seen(self, batch: Batch) -> Float[Tensor, " b 3 y x"]:
        """What of it the network is given: itself, or itself with noise."""
        given = batch.get("seen")
        return self.low(batch) if given is None else given

    def base(self, batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The bicubic enlargement."""
        return self.operator.up(self.seen(batch))

    def condition(self, batch: Batch) -> dict[str, Tensor]:
        """What every restoration is given and, with augmentation, the level of the noise."""
        told = super().condition(batch)
        if self.augment:
            image = told["image"]
            level = batch["level"].expand(-1, 1, *image.shape[-2:]) / self.augment
            told = {"image": torch.cat([image, level], dim=1)}
        return told

    def spread(self, batch: Batch) -> Float[Tensor, " b 1 h w"]:
        """`residual_spread` at the size of the result."""
        low = self.seen(batch)
        size = (low.shape[-2] * self.scale, low.shape[-1] * self.scale)
        return F.interpolate(residual_spread(low), size, mode="bilinear", align_corners=False)

    def agree(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The picture after its rounds of back-projection."""
        if self.back_projections:
            low = self.low(batch)
            for _ in range(self.back_projections):
                image = image + self.operator.up(low - self.operator.forward(image))
        return image

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The low-resolution picture, as the network saw it."""
        return {"low-res": self.seen(batch)}

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """The enlargement of the picture without noise, and it after ten back-projections."""
        low = self.low(batch)
        image = up = self.operator.up(low)
        for _ in range(10):
            image = image + self.operator.up(low - self.operator.forward(image))
        return {self.reference: up, "bicubic + back-projection": image}

    def further(self, written: Float[Tensor, " b 3 h w"], batch: Batch) -> dict[str, Tensor]:
        """The squared error of its reduction, in units of [0, 1] squared as in SR3's table 1."""
        apart = (self.operator.forward(written) - self.low(batch)).double() / 2
        return {"consistency": apart.square().flatten(1).mean(1) * 1e5}
