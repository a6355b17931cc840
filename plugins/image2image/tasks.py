"""Tasks on pictures."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.errors import InputError
from core.metrics import psnr, ssim
from core.sheet import to_bytes
from core.task import Batch, Example, Figure, Panel, Scores
from plugins.image2image.operators import Bicubic


def to_levels(x: Tensor) -> Tensor:
    """`x` in [-1, 1] rounded to the 256 levels of an 8-bit file, still in [-1, 1]."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def residual_spread(low: Float[Tensor, " b c y x"]) -> Float[Tensor, " b 1 y x"]:
    """The deviation to expect of what `low`'s bicubic enlargement lacks, from its local contrast.

    0.006 + 1.7 s / (1 + 5.5 s), s the deviation of brightness over 3x3 pixels: fitted to the
    training photographs at factor 4, where it spans 0.01 in sky to 0.2 at edges.
    """
    grey = F.pad(low.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    mean, square = F.avg_pool2d(grey, 3, 1), F.avg_pool2d(grey**2, 3, 1)
    contrast = (square - mean**2).clamp(min=0).sqrt()
    return 0.006 + 1.7 * contrast / (1 + 5.5 * contrast)


class SR3:
    """Super-resolution by iterative refinement: the enlarged picture is the condition.

    The low-resolution picture is the antialiased bicubic reduction, rounded to 8 bits as a file
    would be; its bicubic enlargement is concatenated to the noisy picture.
    Source: Saharia et al. 2021, arXiv:2104.07636; the residual target after Li et al. 2021
    (SRDiff), arXiv:2104.14951, section 3.2, here in units of the deviation to expect of it.

    Args:
        scale: factor of enlargement, at least 2.
        target: what is diffused: the picture itself, as in SR3, or what the enlargement lacks,
            in units of what its local contrast lets expect, which trains far faster.
        back_projections: rounds of x <- x + up(low - down(x)) on each result; each brings its
            reduction closer to the input.
    """

    def __init__(
        self,
        *,
        scale: int = 4,
        target: Literal["residual", "image"] = "residual",
        back_projections: int = 0,
    ) -> None:
        if back_projections < 0:
            raise InputError(f"back_projections: expected at least 0, got {back_projections}")
        self.operator = Bicubic(factor=scale)
        self.scale, self.target = scale, target
        self.back_projections = back_projections
        self.channels = 3
        self.conditions: Mapping[str, int] = {"image": 3 if target == "image" else 4}
        self.reference = "bicubic"
        self.figures: Mapping[str, Figure] = {
            "psnr": Figure("PSNR", "dB", "higher"),
            "ssim": Figure("SSIM", "", "higher"),
            "consistency": Figure("consistency MSE", "1e-5", "lower"),
        }

    def low(self, image: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b 3 y x"]:
        """The low-resolution picture that a camera's file would hold, in [-1, 1]."""
        return to_levels(self.operator.forward(image))

    def condition(self, low: Float[Tensor, " b 3 y x"]) -> Mapping[str, Tensor]:
        """What the network is given: the enlargement and, for a residual, log of its spread."""
        up = self.operator.up(low)
        if self.target == "image":
            return {"image": up}
        return {"image": torch.cat([up, self.spread(low).log() + 3], dim=1)}

    def spread(self, low: Float[Tensor, " b 3 y x"]) -> Float[Tensor, " b 1 h w"]:
        """`residual_spread` at the size of the result."""
        size = (low.shape[-2] * self.scale, low.shape[-1] * self.scale)
        return F.interpolate(residual_spread(low), size, mode="bilinear", align_corners=False)

    def prepare(self, batch: Batch) -> Example:
        """The residual or the picture, conditioned on the enlarged reduction."""
        low = self.low(batch["image"])
        condition = self.condition(low)
        if self.target == "image":
            return Example(batch["image"], condition)
        return Example((batch["image"] - self.operator.up(low)) / self.spread(low), condition)

    def restore(
        self, x0: Float[Tensor, " b 3 h w"], low: Float[Tensor, " b 3 y x"]
    ) -> Float[Tensor, " b 3 h w"]:
        """A draw of the diffused variable as a picture in [-1, 1]."""
        image = x0
        if self.target == "residual":
            image = self.operator.up(low) + self.spread(low) * x0
        for _ in range(self.back_projections):
            image = image + self.operator.up(low - self.operator.forward(image))
        return image.clamp(-1, 1)

    def finish(self, x0: Tensor, batch: Batch) -> Tensor:
        """The restored pictures."""
        return self.restore(x0, self.low(batch["image"]))

    def score(self, results: Float[Tensor, " b k 3 h w"], batch: Batch) -> Scores:
        """PSNR, SSIM and consistency of bicubic, of one draw and of the mean of all, at 8 bits."""
        truth, low = batch["image"], self.low(batch["image"])
        outputs = {"bicubic": self.operator.up(low), "one sample": results[:, 0]}
        if results.shape[1] > 1:
            outputs[f"mean of {results.shape[1]}"] = results.mean(1)
        scores = {}
        for method, output in outputs.items():
            written = to_levels(output)
            # In units of [0, 1] squared, as in SR3's table 1.
            apart = (self.operator.forward(written) - low).double() / 2
            scores[method] = {
                "psnr": psnr(written, truth).clamp(max=100),  # equal at 8 bits: keep means finite
                "ssim": ssim(written, truth),
                "consistency": apart.square().flatten(1).mean(1) * 1e5,
            }
        return scores

    def show(self, results: Tensor, batch: Batch, titles: list[str]) -> list[Panel]:
        """low-res | bicubic | one sample | mean | spread | truth."""
        truth, low = batch["image"], self.low(batch["image"])
        up, panels = self.operator.up(low), []
        for i, title in enumerate(titles):
            images = {"low-res": low[i], "bicubic": up[i], "one sample": results[i, 0]}
            if results.shape[1] > 1:
                images[f"mean of {results.shape[1]}"] = results[i].mean(0)
            images["truth"] = truth[i]
            panels.append(Panel(title, {label: to_bytes(image) for label, image in images.items()}))
        return panels
