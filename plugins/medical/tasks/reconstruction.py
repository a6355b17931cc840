"""Reconstruction as a task: a prior's training example, its measurement, figures and panels.

The network is trained on pictures alone and is given nothing; measurements enter when it is asked.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.inverse.measurement import Measurement, misfit
from core.results.calibration import calibration, local_std
from core.results.metrics import psnr, ssim
from core.results.sheet import to_bytes
from core.task import Batch, Example, Figure, Panel, Scores, Volume

AIR = -0.9
"""At or below it a pixel is air: calibration leaves it out, since every draw is right there."""


class Reconstruction(ABC):
    """What reconstructions share: pictures from measurements that say too little.

    A subclass says what is measured (`measured`), how a sample is looked at (`picture`), and the
    methods without a prior (`classical`), the reference among them.

    Args:
        reference: of `classical`.
        channels: of a sample.
    """

    reads: Mapping[str, str] = {"image": "1 h w"}
    conditions: Mapping[str, int] = {}
    figures: Mapping[str, Figure] = {
        "psnr": Figure("PSNR", "dB", "higher"),
        "ssim": Figure("SSIM", "", "higher"),
        "residual": Figure("misfit", "times the noise", "lower"),
        "rank": Figure("spread and error, rank correlation", "", "higher"),
        "coverage": Figure("truth within the 90 % interval", "%", "higher"),
    }

    def __init__(self, reference: str, channels: int) -> None:
        self.reference, self.channels = reference, channels
        self.shown_as: tuple[float, float, str] = (0.0, 1.0, "")  # of -1, of 1, and the unit

    @abstractmethod
    def measured(self, batch: Batch) -> Measurement:
        """What is measured of a batch; the noise of an item follows from its index."""

    @abstractmethod
    def picture(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b 1 h w"]:
        """A sample as it is scored and shown, in [-1, 1]."""

    @abstractmethod
    def classical(self, measurement: Measurement) -> dict[str, Tensor]:
        """Reconstructions without a prior, as samples."""

    def prepare(self, batch: Batch) -> Example:
        """The picture, and no condition."""
        return Example(batch["image"])

    def finish(self, x0: Tensor, batch: Batch) -> Tensor:
        """The sample as it is."""
        return x0

    def figures_of(
        self, x: Float[Tensor, " b c h w"], measurement: Measurement, batch: Batch
    ) -> dict[str, Float[Tensor, " b"]]:
        """A result's figures, one number for each item."""
        shown, truth = self.picture(x), self.picture(batch["image"])
        return {
            "psnr": psnr(shown, truth),
            "ssim": ssim(shown, truth),
            "residual": misfit(measurement, x),
        }

    def score(self, results: Float[Tensor, " b k c h w"], batch: Batch) -> Scores:
        """Figures of the classical methods, of one draw, of the mean of all and of their spread."""
        measurement = self.measured(batch)
        outputs = {**self.classical(measurement), "one sample": results[:, 0]}
        found = {method: self.figures_of(x, measurement, batch) for method, x in outputs.items()}
        if results.shape[1] > 1:
            truth = self.picture(batch["image"])
            shown = torch.stack([self.picture(x) for x in results.unbind(1)], 1)
            found[f"mean of {results.shape[1]}"] = {
                **self.figures_of(results.mean(1), measurement, batch),
                **calibration(shown, truth, (truth > AIR) | (shown.mean(1) > AIR)),
            }
        return found

    def show(
        self, results: Float[Tensor, " b k c h w"], batch: Batch, titles: list[str]
    ) -> list[Panel]:
        """All slices of each method to leaf through in a window, and pictures of each slice."""
        truth = self.picture(batch["image"])
        drawn = torch.stack([self.picture(x) for x in results.unbind(1)], 1)
        shown = {name: self.picture(x) for name, x in self.classical(self.measured(batch)).items()}
        shown["mean"], shown["truth"] = self.picture(results.mean(1)), truth
        error = (shown["mean"] - truth).abs()
        spread = local_std(drawn) if drawn.shape[1] > 1 else torch.zeros_like(truth)
        volumes = {name: self._volume(x) for name, x in shown.items()}
        volumes["error of the mean"] = self._volume(4 * error - 1)
        volumes["deviation of the draws"] = self._volume(4 * spread - 1)
        panels = [Panel(f"{len(titles)} slices. Not a medical device", volumes=volumes)]
        for i, title in enumerate(titles):
            images = {name: to_bytes(x[i]) for name, x in shown.items() if name != "truth"}
            images["error of the mean, x4"] = to_bytes(4 * error[i] - 1)
            images["deviation of the draws, x4"] = to_bytes(4 * spread[i] - 1)
            images["one sample"] = to_bytes(drawn[i, 0])
            images["truth"] = to_bytes(truth[i])
            panels.append(Panel(title, images))
        return panels

    def _volume(self, pictures: Float[Tensor, " b 1 h w"]) -> Volume:
        """Slices in the units that they are shown in."""
        low, high, unit = self.shown_as
        share = (pictures[:, 0].clamp(-1, 1).double() + 1) / 2
        voxels = (share * 65535).round().cpu().numpy().astype(np.uint16)
        return Volume(voxels, low, high, unit)
