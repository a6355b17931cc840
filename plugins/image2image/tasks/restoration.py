"""Base of the restoration tasks: first estimate, residual, scores and panels."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.results.metrics import psnr, ssim
from core.results.scoring import outputs, scores
from core.results.sheet import to_bytes
from core.task import Batch, Example, Figure, Panel, Scores

Target = Literal["residual", "image"]
MOST = 100.0  # dB, of images that are equal at 8 bits, so that means are finite


def to_levels(x: Tensor) -> Tensor:
    """`x` in [-1, 1] rounded to the 256 levels of an 8-bit file, still in [-1, 1]."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def local_contrast(
    image: Float[Tensor, " b c h w"], side: int, known: Float[Tensor, " b 1 h w"] | None = None
) -> Float[Tensor, " b 1 h w"]:
    """Standard deviation of brightness over side x side pixels, edges replicated.

    With `known`, over the pixels where it is 1; 0 where there are none.
    """
    around = (side // 2,) * 4
    grey = image.mean(1, keepdim=True)

    def mean_of(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, around, mode="replicate"), side, 1)

    if known is None:
        mean, square = mean_of(grey), mean_of(grey**2)
    else:
        fraction = mean_of(known).clamp(min=0.5 / side**2)
        mean, square = mean_of(grey * known) / fraction, mean_of(grey**2 * known) / fraction
    return (square - mean**2).clamp(min=0).sqrt()


class Restoration:
    """A restoration task: the diffused x0 is the image or the residual of a first estimate.

    The residual is diffused in units of its expected standard deviation, which is a condition
    channel beside the first estimate; that trains far faster than the image.
    Source: conditioning by concatenation, Saharia et al. 2021 (SR3), arXiv:2104.07636, and 2022
    (Palette), arXiv:2111.05826; the residual after Li et al. 2021 (SRDiff), arXiv:2104.14951,
    section 3.2.

    Args:
        reference: name of the first estimate in tables.
        target: the diffused x0: the residual of the first estimate, or the image.
    """

    channels = 3
    reads: Mapping[str, str] = {"image": "3 h w"}

    def __init__(self, reference: str, target: Target) -> None:
        self.reference, self.target = reference, target
        self.conditions: Mapping[str, int] = {"image": 3 if target == "image" else 4}
        self.figures: Mapping[str, Figure] = {
            "psnr": Figure("PSNR", "dB", "higher"),
            "ssim": Figure("SSIM", "", "higher"),
        }

    # Of each task.

    def base(self, batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The first estimate, in [-1, 1]."""
        return batch["base"]

    def residual_std(self, batch: Batch) -> Float[Tensor, " b 1 h w"]:
        """The expected standard deviation of its residual."""
        return batch["residual_std"]

    def make_consistent(
        self, image: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> Float[Tensor, " b 3 h w"]:
        """The image made consistent with the measurement; by default the image itself."""
        return image

    def loss_mask(self, batch: Batch) -> Tensor | None:
        """The loss mask: 1 where errors count in training; None for everywhere."""
        return None

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """Results of baselines by name, the reference among them."""
        return {self.reference: self.base(batch)}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The measurement as images to show, by name."""
        return {}

    def further_figures(
        self, written: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> dict[str, Tensor]:
        """Further figures of a result at 8 bits, one value for each item."""
        return {}

    # Of all.

    def condition(self, batch: Batch) -> dict[str, Tensor]:
        """The condition: the first estimate and, for a residual, log of its standard deviation."""
        if self.target == "image":
            return {"image": self.base(batch)}
        return {"image": torch.cat([self.base(batch), self.residual_std(batch).log() + 3], dim=1)}

    def prepare(self, batch: Batch) -> Example:
        """Training example: residual or image as x0, its condition and loss mask."""
        x0 = batch["image"]
        if self.target == "residual":
            x0 = (x0 - self.base(batch)) / self.residual_std(batch)
        return Example(x0, self.condition(batch), self.loss_mask(batch))

    def correct(self, x0: Tensor, batch: Batch) -> Tensor:
        """The estimate of x0 made consistent with the measurement."""
        if self.target == "image":
            return self.make_consistent(x0, batch)
        base, std = self.base(batch), self.residual_std(batch)
        return (self.make_consistent(base + std * x0, batch) - base) / std

    def finish(self, x0: Tensor, batch: Batch) -> Tensor:
        """The restored images, in [-1, 1]."""
        image = x0
        if self.target == "residual":
            image = self.base(batch) + self.residual_std(batch) * x0
        return self.make_consistent(image, batch).clamp(-1, 1)

    def written(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The image rounded as in an 8-bit file."""
        return to_levels(image)

    def score(self, results: Float[Tensor, " b k 3 h w"], batch: Batch) -> Scores:
        """Figures of the baselines, of one draw and of the mean of draws, at 8 bits."""
        compared = outputs(self.baselines(batch), results)
        return scores(compared, lambda x: self.figures_of(x, batch))

    def figures_of(
        self, output: Float[Tensor, " b 3 h w"], batch: Batch
    ) -> dict[str, Float[Tensor, " b"]]:
        """A result's figures at 8 bits, one number for each item."""
        written = self.written(output, batch)
        return {
            "psnr": psnr(written, batch["image"]).clamp(max=MOST),
            "ssim": ssim(written, batch["image"]),
            **self.further_figures(written, batch),
        }

    def show(self, results: Tensor, batch: Batch, titles: list[str]) -> list[Panel]:
        """Panels: measurement | baselines | one sample | mean | truth."""
        compared = outputs(self.baselines(batch), results)
        given = {**self.inputs(batch), **{name: x for name, (_, x) in compared.items()}}
        panels = []
        for i, title in enumerate(titles):
            images = {label: pictures[i] for label, pictures in given.items()}
            images["truth"] = batch["image"][i]
            panels.append(Panel(title, {label: to_bytes(image) for label, image in images.items()}))
        return panels
