"""K-space that was never fully measured, as training data of a prior."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from core.results.scoring import outputs, scores
from core.results.sheet import to_bytes
from core.task import Batch, Example, Figure, Panel, Scores
from plugins.medical.operators.fourier import to_complex
from plugins.medical.tasks.measured import COILS, KSPACE, SAMPLED, combined, measure

SHOWN = 8  # draws of an item, at most


class UndersampledMri:
    """A prior of complex MR images, learned from undersampled k-space by `medical/measured`.

    An item is k-space with coil sensitivities and a sampling mask; nobody knows its image.  Its
    zero-filled image stands for the variable, whose shape it has.  The prior serves `medical/mri`.
    """

    channels: int = 2
    conditions: ClassVar[Mapping[str, int]] = {}
    reads: ClassVar[Mapping[str, str]] = {
        KSPACE: "coils h w", COILS: "coils h w", SAMPLED: "h w",
    }  # fmt: skip
    reference: ClassVar[str] = "zero-filled"
    figures: ClassVar[Mapping[str, Figure]] = {
        "residual": Figure("residual on measured frequencies", "times k-space", "lower"),
    }

    def prepare(self, batch: Batch) -> Example:
        """Training example: the zero-filled image, and its measurement for the objective."""
        measurement = _measurement(batch)
        return Example(combined(*measurement.values()), measurement)

    def finish(self, x0: Float[Tensor, " b 2 h w"], batch: Batch) -> Float[Tensor, " b 2 h w"]:
        """The sample itself."""
        return x0

    def score(self, results: Float[Tensor, " b k 2 h w"], batch: Batch) -> Scores:
        """|A x - y| / |y| of zero-filled images and of draws."""
        y, coils, sampled = _measurement(batch).values()

        def figures_of(x: Tensor) -> dict[str, Tensor]:
            error = (measure(x.to(y.real), coils, sampled) - y).flatten(1).abs().square().sum(1)
            size = y.flatten(1).abs().square().sum(1).clamp(min=1e-30)
            return {"residual": (error / size).sqrt()}

        return scores(outputs({self.reference: combined(y, coils, sampled)}, results), figures_of)

    def show(
        self, results: Float[Tensor, " b k 2 h w"], batch: Batch, titles: list[str]
    ) -> list[Panel]:
        """Magnitudes of the zero-filled image and of the first draws."""
        zero = combined(*_measurement(batch).values())
        panels = []
        for i, title in enumerate(titles):
            images = {self.reference: to_bytes(_magnitude(zero[i : i + 1])[0])}
            for k, draw in enumerate(results[i, :SHOWN]):
                images[f"sample {k + 1}"] = to_bytes(_magnitude(draw[None])[0])
            panels.append(Panel(title, images))
        return panels


def _measurement(batch: Batch) -> dict[str, Tensor]:
    sampled = batch[SAMPLED] != 0
    y = batch[KSPACE].to(torch.complex64) * sampled[:, None]
    return {KSPACE: y, COILS: batch[COILS].to(torch.complex64), SAMPLED: sampled}


def _magnitude(x: Float[Tensor, " b 2 h w"]) -> Float[Tensor, " b 1 h w"]:
    """[0, 1] mapped to [-1, 1]."""
    return 2 * to_complex(x).abs()[:, None] - 1
