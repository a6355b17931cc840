"""Super-resolution by iterative refinement.

Source: Saharia et al. 2021 (SR3), arXiv:2104.07636.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.process.noise import derive, generator
from core.task import Batch, Figure
from plugins.image2image.operators.bicubic import Bicubic, back_projected, resized
from plugins.image2image.operators.degradation import degraded
from plugins.image2image.request import Degradation
from plugins.image2image.tasks.restoration import (
    Restoration,
    Target,
    local_contrast,
    to_levels,
)


def expected_residual_std(low: Float[Tensor, " b c y x"]) -> Float[Tensor, " b 1 y x"]:
    """Expected standard deviation of the residual of bicubic upsampling, from local contrast.

    0.006 + 1.7 s / (1 + 5.5 s), s the standard deviation of brightness over 3x3 pixels of `low`:
    fitted to the training photographs at factor 4, where it is 0.01 in sky to 0.2 at edges.
    """
    contrast = local_contrast(low, 3)
    return 0.006 + 1.7 * contrast / (1 + 5.5 * contrast)


class SR3(Restoration):
    """Super-resolution by iterative refinement: the bicubic upsampling is the condition.

    The low-resolution image is the antialiased bicubic reduction, rounded to 8 bits as in a file;
    its bicubic upsampling is concatenated to the noisy image.
    Source: Saharia et al. 2021, arXiv:2104.07636; the residual target after Li et al. 2021
    (SRDiff), arXiv:2104.14951, section 3.2, here in units of its expected standard
    deviation.

    Args:
        scale: upscaling factor, above 1; sides of images learned from are multiples of a whole one.
        target: the diffused x0: the image itself, as in SR3, or the residual of bicubic upsampling
            in units of its expected standard deviation, which trains far faster.
        unit: factor of that standard deviation, which is fitted at a scale of 4.
        back_projections: rounds of x <- x + up(low - down(x)) on each estimate and each result;
            each brings its reduction closer to the input.
        augment: conditioning augmentation (Ho et al. 2022, JMLR 23, section 4), for the second
            model of a cascade: largest standard deviation of the noise added to the low-resolution
            image in training, uniform for each item and a condition of the network; 0 for none.
        level: the same standard deviation for all items, for a sweep; by default it is random.
        reduce: factor by which the images themselves are reduced first, for the first model of a
            cascade, whose results are smaller than the images.
        seed: random seed of that noise, and of degradations.
        degradation: a group of options.

    Raises:
        InputError: options out of range, or back-projections of a degraded image, whose reduction
            the input is not.
    """

    def __init__(
        self,
        *,
        scale: int | float = 4,
        target: Target = "residual",
        unit: float = 1.0,
        back_projections: int = 0,
        augment: float = 0.0,
        level: float | None = None,
        reduce: int = 1,
        seed: int = 0,
        degradation: Degradation = Degradation(),
    ) -> None:
        if reduce < 1:
            raise InputError(f"reduce: expected at least 1, got {reduce}")
        if not 0 < unit < math.inf:
            raise InputError(f"unit: expected above 0, got {unit:g}")
        if back_projections < 0:
            raise InputError(f"back_projections: expected at least 0, got {back_projections}")
        if augment < 0:
            raise InputError(f"augment: expected at least 0, got {augment:g}")
        if level is not None and not 0 <= level <= augment:
            raise InputError(f"level: expected 0 to augment, which is {augment:g}, got {level:g}")
        if degradation != Degradation() and scale % 1:
            raise InputError(f"scale: expected a whole number with degradations, got {scale:g}")
        if degradation != Degradation() and back_projections:
            raise InputError(
                "back_projections: expected 0 for a task with degradations: its input is not the "
                f"reduction of the result; got {back_projections}"
            )
        super().__init__("bicubic", target)
        self.degradation = degradation
        self.augment, self.level, self.reduce, self.seed = augment, level, reduce, seed
        if augment:
            self.conditions = {"image": self.conditions["image"] + 1}
        self.operator = Bicubic(factor=scale)
        self.scale, self.unit = self.operator.factor, unit
        self.back_projections = back_projections
        self.figures = {
            **self.figures,
            "consistency": Figure("consistency MSE", "1e-5", "lower"),
        }

    def given(self, low: Float[Tensor, " b 3 y x"], level: float, noise: Tensor) -> Batch:
        """A low-resolution image as an input of the task.

        Raises:
            InputError: a level outside training.
        """
        if not 0 <= level <= self.augment:
            raise InputError(
                f"level: expected 0 to {self.augment:g}, the model's ``augment``, got {level:g}"
            )
        if not self.augment:
            return {"low": low}
        levels = torch.full_like(low[:, :1, :1, :1], level)
        return {"low": low, "noisy_low": low + level * noise, "level": levels}

    def degrade(self, item: Batch, index: int) -> Batch:
        """The item, reduced by `reduce`; with augmentation, the noisy low-resolution image too."""
        if self.reduce > 1:
            image = Bicubic(factor=self.reduce).forward(item["image"][None])[0]
            item = {**item, "image": to_levels(image)}
        if self.degradation != Degradation():
            low = degraded(item["image"], int(self.scale), self.degradation, self.seed, index)
            item = {**item, "low": low}
        if not self.augment:
            return item
        random = generator(derive("augment", self.seed), index)
        level = self.augment * random.random() if self.level is None else self.level
        low = self.low({name: x[None] for name, x in item.items() if name in ("image", "low")})
        noise = torch.from_numpy(random.standard_normal(low.shape, dtype=np.float32))
        return {**item, **{name: x[0] for name, x in self.given(low, level, noise).items()}}

    def low(self, batch: Batch) -> Float[Tensor, " b 3 y x"]:
        """The low-resolution image at 8 bits, in [-1, 1]."""
        given = batch.get("low")
        return to_levels(self.operator.forward(batch["image"])) if given is None else given

    def noisy_low(self, batch: Batch) -> Float[Tensor, " b 3 y x"]:
        """The low-resolution image, with noise where there is conditioning augmentation."""
        given = batch.get("noisy_low")
        return self.low(batch) if given is None else given

    def base(self, batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The bicubic upsampling."""
        return resized(self.noisy_low(batch), *self.size(batch))

    def size(self, batch: Batch) -> tuple[int, int]:
        """Height and width of the result: the image's where there is one."""
        image = batch.get("image")
        low = self.low(batch) if image is None else image
        size = (low.shape[-2], low.shape[-1])
        return self.operator.enlarged(size) if image is None else size

    def condition(self, batch: Batch) -> dict[str, Tensor]:
        """The first estimate, its residual's scale and, with augmentation, the noise level."""
        condition = super().condition(batch)
        if self.augment:
            image = condition["image"]
            level = batch["level"].expand(-1, 1, *image.shape[-2:]) / self.augment
            condition = {"image": torch.cat([image, level], dim=1)}
        return condition

    def residual_std(self, batch: Batch) -> Float[Tensor, " b 1 h w"]:
        """`expected_residual_std` at the size of the result."""
        std = self.unit * expected_residual_std(self.noisy_low(batch))
        return F.interpolate(std, self.size(batch), mode="bilinear", align_corners=False)

    def make_consistent(
        self, image: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> Float[Tensor, " b 3 h w"]:
        """The image after the rounds of back-projection."""
        return back_projected(image, self.low(batch), self.back_projections)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The low-resolution image, with its augmentation noise."""
        return {"low-res": self.noisy_low(batch)}

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """Bicubic upsampling of the image without noise, and that after ten back-projections."""
        low = self.low(batch)
        up = resized(low, *self.size(batch))
        return {self.reference: up, "bicubic + back-projection": back_projected(up, low, 10)}

    def further_figures(
        self, written: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> dict[str, Tensor]:
        """Consistency: the MSE of the reduction, in [0, 1] units as in SR3's table 1."""
        low = self.low(batch)
        error = (resized(written, *low.shape[-2:]) - low).double() / 2
        return {"consistency": error.square().flatten(1).mean(1) * 1e5}
