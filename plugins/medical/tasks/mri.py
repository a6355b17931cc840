"""Magnetic resonance as a task."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from core.errors import InputError
from core.inverse.measurement import Measurement
from core.process.noise import derive, generator
from core.task import Batch
from plugins.medical.operators.fourier import Fourier, fourier, to_complex, to_real, white_noise
from plugins.medical.operators.nonuniform import NonUniform
from plugins.medical.operators.phase import low_phase, smooth_phase, turned
from plugins.medical.request import SamplingMask
from plugins.medical.tasks import classical
from plugins.medical.tasks.reconstruction import Reconstruction


class Mri(Reconstruction):
    """Accelerated magnetic resonance imaging: a complex image from undersampled, noisy k-space.

    Magnitude data get a smooth simulated phase.  The low-frequency phase is absorbed into the coil
    sensitivities, so that the image is nearly real.
    Source: Chung and Ye 2022, arXiv:2110.05243 (a prior of images and masked k-space).

    Args:
        mask: sampling pattern, as of `medical/fourier`.
        acceleration: acceleration factor R.
        centre: fraction of the lines, or of each side, that is fully sampled in the centre.
        noise: standard deviation of the real and imaginary part of k-space noise each, for images
            with maximum 1.
        total_variation: weight of the penalty of the TV reconstruction.
        wavelets: weight of the l1 penalty of the wavelet reconstruction.
        slices: adjacent slices of a sample: 3 for a prior of stacks, which volumes are
            reconstructed with.
        condition_on_pixel: whether the network is given the pixel spacing of its image, and of
            several slices their distance, in training from the dataset.
        seed: of phase, mask and noise.

    Raises:
        InputError: an option out of its range.
    """

    methods = ("zero-filled", "wavelets", "TV")

    def __init__(
        self,
        *,
        mask: SamplingMask = "random",
        acceleration: float = 4.0,
        centre: float = 0.08,
        noise: float = 0.005,
        total_variation: float = 6.0,
        wavelets: float = 100.0,
        slices: Literal[1, 3] = 1,
        condition_on_pixel: bool = False,
        seed: int = 0,
    ) -> None:
        if not noise > 0:
            raise InputError(f"noise: expected more than 0, got {noise:g}")
        super().__init__(2, slices=slices, condition_on_pixel=condition_on_pixel)
        self._fourier = Fourier(mask=mask, acceleration=acceleration, centre=centre, seed=seed)
        self.noise, self.seed = noise, seed
        self._weights = (total_variation, wavelets)

    def degrade(self, item: Batch, index: int) -> Batch:
        """The image without its low-frequency phase, that phase over pi, and the index."""
        magnitude = (item["image"] + 1) / 2  # slices h w
        random = generator(derive(self.seed, "phase", index))
        smooth = smooth_phase(random, *magnitude.shape[1:])[None].expand_as(magnitude)
        phased = turned(magnitude.to(torch.complex64), smooth)
        phase = low_phase(fourier(phased) + self._noise(phased.shape, index))
        kept = {name: item[name] for name in self.reads if name != "image"}
        mine = self.slices // 2
        return {
            "image": to_real(turned(phased, -phase)).flatten(0, 1),
            "phase": (phase / torch.pi).clamp(-1, 1)[mine : mine + 1],
            "index": torch.tensor(index),
            **kept,
        }

    def _noise(self, shape: torch.Size, index: int) -> Complex[Tensor, "..."]:
        return white_noise(shape, std=self.noise, key=(self.seed, "k-space", index))

    def measured(self, batch: Batch) -> Measurement:
        """Undersampled k-space."""
        image = self.middle(batch["image"])
        phase = torch.polar(torch.ones_like(batch["phase"]), torch.pi * batch["phase"])
        operator = self._fourier.given(sensitivities=phase)
        y = operator.forward(image)
        noise = torch.stack([self._noise(y.shape[1:], i) for i in batch["index"].tolist()])
        y = y + noise.to(y) * operator.measured(*image.shape[-2:]).to(image.device)
        return Measurement(operator, y, self.noise)

    def values(self, x: Float[Tensor, " b 2 h w"]) -> Float[Tensor, " b 1 h w"]:
        """The magnitude, [0, 1] mapped to [-1, 1]."""
        return 2 * to_complex(x).abs()[:, None] - 1

    def classical(self, measurement: Measurement) -> dict[str, Tensor]:
        """Zero-filled (gridded, of a trajectory), sparse wavelets, total variation."""
        operator = measurement.operator
        back = operator.gridded if isinstance(operator, NonUniform) else operator.adjoint
        zero = back(measurement.y)
        tv, wavelets = self._weights
        return {
            "zero-filled": zero,
            "wavelets": classical.sparse_wavelets(measurement, zero, weight=wavelets),
            "TV": classical.total_variation(measurement, zero, weight=tv),
        }

    def variants(self, measurement: Measurement, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Total variation of half and of twice the weight."""
        return classical.weighted_variation(measurement, known["TV"], weight=self._weights[0])
