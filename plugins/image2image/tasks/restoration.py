"""What tasks that restore a picture share: a first estimate, what it lacks, scores and views."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.results.metrics import psnr, ssim
from core.results.sheet import to_bytes
from core.task import Batch, Example, Figure, Panel, Scores

Target = Literal["residual", "image"]
MOST = 100.0  # dB, of pictures that are equal at 8 bits, so that means stay finite


def to_levels(x: Tensor) -> Tensor:
    """`x` in [-1, 1] rounded to the 256 levels of an 8-bit file, still in [-1, 1]."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def local_contrast(
    image: Float[Tensor, " b c h w"], side: int, known: Float[Tensor, " b 1 h w"] | None = None
) -> Float[Tensor, " b 1 h w"]:
    """The deviation of brightness over side x side pixels, the edge repeated beyond it.

    With `known`, of those where it is 1 alone; 0 where none is.
    """
    around = (side // 2,) * 4
    grey = image.mean(1, keepdim=True)

    def mean_of(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, around, mode="replicate"), side, 1)

    if known is None:
        mean, square = mean_of(grey), mean_of(grey**2)
    else:
        share = mean_of(known).clamp(min=0.5 / side**2)
        mean, square = mean_of(grey * known) / share, mean_of(grey**2 * known) / share
    return (square - mean**2).clamp(min=0).sqrt()


class Restoration:
    """A picture from one that lacks something: what is diffused is the picture or what is missing.

    What a first estimate lacks is diffused in units of the deviation to expect of it, which the
    network is given as a channel beside the estimate; that trains far faster than the picture.
    Source: conditioning by concatenation, Saharia et al. 2021 (SR3), arXiv:2104.07636, and 2022
    (Palette), arXiv:2111.05826; the residual after Li et al. 2021 (SRDiff), arXiv:2104.14951,
    section 3.2.

    Args:
        reference: what the first estimate is called in tables.
        target: what is diffused.
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

    # What each restoration says.

    def base(self, batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The first estimate, in [-1, 1]."""
        return batch["base"]

    def spread(self, batch: Batch) -> Float[Tensor, " b 1 h w"]:
        """The deviation to expect of what it lacks."""
        return batch["spread"]

    def agree(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The picture, or the nearest one that agrees with what was measured."""
        return image

    def counted(self, batch: Batch) -> Tensor | None:
        """1 where errors count in training; None for everywhere."""
        return None

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """Other methods' results by name, the reference among them."""
        return {self.reference: self.base(batch)}

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What is shown of what was given, by name."""
        return {}

    def further(self, written: Float[Tensor, " b 3 h w"], batch: Batch) -> dict[str, Tensor]:
        """More figures of a result at 8 bits, one number for each item."""
        return {}

    # What follows from it.

    def condition(self, batch: Batch) -> dict[str, Tensor]:
        """What the network is given: the estimate and, for a residual, log of its spread."""
        if self.target == "image":
            return {"image": self.base(batch)}
        return {"image": torch.cat([self.base(batch), self.spread(batch).log() + 3], dim=1)}

    def prepare(self, batch: Batch) -> Example:
        """The residual or the picture, conditioned on the first estimate."""
        x0 = batch["image"]
        if self.target == "residual":
            x0 = (x0 - self.base(batch)) / self.spread(batch)
        return Example(x0, self.condition(batch), self.counted(batch))

    def correct(self, x0: Tensor, batch: Batch) -> Tensor:
        """The estimate that agrees with what was measured."""
        if self.target == "image":
            return self.agree(x0, batch)
        base, spread = self.base(batch), self.spread(batch)
        return (self.agree(base + spread * x0, batch) - base) / spread

    def finish(self, x0: Tensor, batch: Batch) -> Tensor:
        """The restored pictures, in [-1, 1]."""
        image = x0
        if self.target == "residual":
            image = self.base(batch) + self.spread(batch) * x0
        return self.agree(image, batch).clamp(-1, 1)

    def written(self, image: Float[Tensor, " b 3 h w"], batch: Batch) -> Float[Tensor, " b 3 h w"]:
        """The picture as an 8-bit file holds it."""
        return to_levels(image)

    def score(self, results: Float[Tensor, " b k 3 h w"], batch: Batch) -> Scores:
        """Figures of the baselines, of one draw and of the mean of all, at 8 bits."""
        outputs = {**self.baselines(batch), "one sample": results[:, 0]}
        if results.shape[1] > 1:
            outputs[f"mean of {results.shape[1]}"] = results.mean(1)
        scores = {}
        for method, output in outputs.items():
            written = self.written(output, batch)
            scores[method] = {
                "psnr": psnr(written, batch["image"]).clamp(max=MOST),
                "ssim": ssim(written, batch["image"]),
                **self.further(written, batch),
            }
        return scores

    def show(self, results: Tensor, batch: Batch, titles: list[str]) -> list[Panel]:
        """What was given | baselines | one sample | mean | truth."""
        given = {**self.inputs(batch), **self.baselines(batch)}
        panels = []
        for i, title in enumerate(titles):
            images = {label: pictures[i] for label, pictures in given.items()}
            images["one sample"] = results[i, 0]
            if results.shape[1] > 1:
                images[f"mean of {results.shape[1]}"] = results[i].mean(0)
            images["truth"] = batch["image"][i]
            panels.append(Panel(title, {label: to_bytes(image) for label, image in images.items()}))
        return panels
