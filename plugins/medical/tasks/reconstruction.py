"""Reconstruction as a task: a prior's training example, its measurement, figures and panels.

The network is trained on images alone, and given nothing but their pixel spacing; measurements
enter when it is evaluated.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import InputError
from core.inverse.measurement import Measurement, misfit
from core.network.conditioning import Condition
from core.results.calibration import COVERAGE, calibration, local_std
from core.results.metrics import psnr, ssim
from core.results.scoring import ONE, name_of_mean, outputs, scores
from core.results.sheet import to_bytes
from core.task import Batch, Example, Figure, Method, Panel, Scores, Volume

AIR = -0.9
"""At or below it a pixel is air: calibration leaves it out, since every draw is right there."""
READING = (
    "The standard deviation shows what the measurement left open and the prior's draws filled in "
    "differently: where it is bright, trust edges and small structures less. Where it is dark the "
    "draws agree, which is no proof: what the prior never learned, all of them can get wrong alike."
)
"""How to read a map of the standard deviation."""
LIGHTER = 4
"""Errors and standard deviations are shown up to the window's width over it."""

NOISE_ALONE = "noise"
"""The start that is noise alone."""


def spacing_condition(
    pixel: Float[Tensor, " b"], gap: Float[Tensor, " b"] | None = None
) -> dict[str, Float[Tensor, "b n"]]:
    """The condition of a network that is given distances: their binary logarithms.

    Args:
        pixel: spacing of each image, in millimetres.
        gap: distance of adjacent slices, of a prior of stacks.
    """
    return {"vector": torch.stack([x.float().log2() for x in (pixel, gap) if x is not None], 1)}


class Reconstruction(ABC):
    """An underdetermined inverse problem as a task.

    A subclass defines the measurement (`measured`), the real image of a sample (`values`), and the
    methods without a prior (`classical`, by the names in `methods`), with total variation among
    them: it is the best of them nearly everywhere, so that what beats it beats them.

    A prior of stacks learns several adjacent slices as channels.  What is measured, scored and
    shown is the middle one; a volume is reconstructed with `plugins.medical.inference.stacks`.

    Args:
        channels: of a slice.
        slices: adjacent slices of a sample.
        condition_on_pixel: whether the network is given the pixel spacing of its image, and of
            several slices their distance.
    """

    reference = "TV"

    reads: Mapping[str, str]
    conditions: Mapping[str, int]
    methods: tuple[str, ...]
    figures: Mapping[str, Figure] = {
        "psnr": Figure("PSNR", "dB", "higher"),
        "ssim": Figure("SSIM", "", "higher"),
        "residual": Figure("misfit", "times the noise", "lower", best=1.0),
        "rank": Figure("rank correlation of standard deviation and error", "", "higher"),
        "coverage": Figure("coverage of the 90 % interval", "%", "higher", best=100 * COVERAGE),
    }

    def __init__(self, channels: int, *, slices: int = 1, condition_on_pixel: bool = False) -> None:
        self.channels, self.slices = slices * channels, slices
        given = ("pixel", "gap") if slices > 1 else ("pixel",)
        numbers = dict.fromkeys(given if condition_on_pixel else (), "")
        self.reads = {"image": f"{slices} h w", **numbers}
        self.conditions = {"vector": len(numbers)} if numbers else {}
        self.shown_as: tuple[float, float, str] = (0.0, 1.0, "")  # values of -1 and 1, and the unit

    @abstractmethod
    def measured(self, batch: Batch) -> Measurement:
        """Simulated measurements of a batch; the noise of an item depends on its index."""

    @abstractmethod
    def values(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b 1 h w"]:
        """The real image of a sample; beyond [-1, 1], the prior's, where the measurement is."""

    def picture(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b 1 h w"]:
        """The real image of a sample that is scored and shown: `values` clipped to [-1, 1]."""
        return self.values(x).clamp(-1, 1)

    @abstractmethod
    def classical(self, measurement: Measurement) -> dict[str, Tensor]:
        """Reconstructions without a prior, as samples."""

    def variants(self, measurement: Measurement, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Classical reconstructions of other weights, which are chosen from but not compared.

        Args:
            measurement: as of `classical`.
            known: what `classical` gives.
        """
        return {}

    def begun(
        self, measurement: Measurement, known: dict[str, Tensor], name: str, like: Tensor
    ) -> Tensor:
        """The reconstruction called `name` that draws start from; of ``noise`` zeros.

        Args:
            measurement: as of `classical`.
            known: what `classical` gives; variants are added to it where one is asked for.
            name: of the start.
            like: images.

        Raises:
            InputError: no method has that name.
        """
        if name == NOISE_ALONE:
            return torch.zeros_like(like)
        if name not in known:
            known |= self.variants(measurement, known)
        self.check_start(name, *known)
        return known[name]

    def check_start(self, name: str, *known: str) -> None:
        """Refuse the name of a start that is neither ``noise`` nor a method.

        Raises:
            InputError: no method has that name.
        """
        if name not in (NOISE_ALONE, *self.methods, *known):
            methods = ", ".join(self.methods)
            raise InputError(f"start: expected {NOISE_ALONE}, {methods}, got {name!r}")

    def prepare(self, batch: Batch) -> Example:
        """Training example: the image, and its pixel spacing where that is a condition."""
        return Example(batch["image"], self.condition(batch))

    def condition(self, batch: Batch) -> Condition:
        """The condition of a network that is given distances; none of another."""
        return spacing_condition(batch["pixel"], batch.get("gap")) if self.conditions else {}

    def middle(self, x: Float[Tensor, " b n h w"]) -> Float[Tensor, " b c h w"]:
        """The middle one of a sample's slices."""
        channels = x.shape[1] // self.slices
        return x[:, channels * (self.slices // 2) :][:, :channels]

    def finish(self, x0: Tensor, batch: Batch) -> Tensor:
        """The sample itself, of several slices the middle one."""
        return self.middle(x0)

    def figures_of(
        self, x: Float[Tensor, " b c h w"], measurement: Measurement, batch: Batch
    ) -> dict[str, Float[Tensor, " b"]]:
        """Metrics of a reconstruction, one number per item."""
        shown, truth = self.picture(x), self.picture(self.middle(batch["image"]))
        return {
            "psnr": psnr(shown, truth),
            "ssim": ssim(shown, truth),
            "residual": misfit(measurement, x),
        }

    def score(self, results: Float[Tensor, " b k c h w"], batch: Batch) -> Scores:
        """Metrics of the classical methods, one draw, the mean of all draws, and calibration."""
        measurement = self.measured(batch)
        compared = outputs(self.classical(measurement), results)
        found = scores(compared, lambda x: self.figures_of(x, measurement, batch))
        if results.shape[1] > 1:
            truth = self.picture(self.middle(batch["image"]))
            shown = torch.stack([self.picture(x) for x in results.unbind(1)], 1)
            more = calibration(shown, truth, (truth > AIR) | (shown.mean(1) > AIR))
            mean = name_of_mean(results.shape[1])
            found[mean] = Method("mean", {**found[mean].figures, **more})
        return found

    def show(
        self, results: Float[Tensor, " b k c h w"], batch: Batch, titles: list[str]
    ) -> list[Panel]:
        """A viewer of all slices of each method, and images of each slice."""
        truth = self.picture(self.middle(batch["image"]))
        drawn = torch.stack([self.picture(x) for x in results.unbind(1)], 1)
        shown = {name: self.picture(x) for name, x in self.classical(self.measured(batch)).items()}
        shown["mean"], shown["truth"] = self.picture(results.mean(1)), truth
        error = (shown["mean"] - truth).abs()
        spread = local_std(drawn) if drawn.shape[1] > 1 else torch.zeros_like(truth)
        volumes = {name: self._volume(x) for name, x in shown.items()}
        unsure = {"error of the mean": error, "standard deviation of the draws": spread}
        panels = [
            Panel(f"{len(titles)} slices. Not a medical device", volumes=volumes),
            Panel(
                "Error and standard deviation",
                note=READING,
                volumes={name: self._amount(x) for name, x in unsure.items()},
            ),
        ]
        low, high, unit = self.shown_as
        white = f"white is {(high - low) / LIGHTER:g} {unit}".rstrip()
        for i, title in enumerate(titles):
            images = {name: to_bytes(x[i]) for name, x in shown.items() if name != "truth"}
            images |= {
                f"{name}, {white}": to_bytes(LIGHTER * x[i] - 1) for name, x in unsure.items()
            }
            images[ONE] = to_bytes(drawn[i, 0])
            images["truth"] = to_bytes(truth[i])
            panels.append(Panel(title, images))
        return panels

    def _volume(self, pictures: Float[Tensor, " b 1 h w"]) -> Volume:
        """Slices with their display range."""
        low, high, unit = self.shown_as
        unit_range = (pictures[:, 0].clamp(-1, 1).double() + 1) / 2
        voxels = (unit_range * 65535).round().cpu().numpy().astype(np.uint16)
        return Volume(voxels, low, high, unit)

    def _amount(self, x: Float[Tensor, " b 1 h w"]) -> Volume:
        """Amounts of 0 or more, such as errors, in a window of their own from 0."""
        low, high, unit = self.shown_as
        voxels = (x[:, 0].clamp(0, 2).double() / 2 * 65535).round().cpu().numpy().astype(np.uint16)
        white = (high - low) / LIGHTER
        return Volume(voxels, 0.0, high - low, unit, window=(white / 2, white))
