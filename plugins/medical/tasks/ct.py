"""Computed tomography as a task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import InputError
from core.inverse.measurement import Measurement
from core.inverse.operators import Weighted
from core.process.noise import derive
from core.task import Batch
from plugins.medical.data.slices import FINER
from plugins.medical.operators.photons import counted, of_counts
from plugins.medical.operators.radon import Radon
from plugins.medical.request import Beam
from plugins.medical.tasks import classical
from plugins.medical.tasks.geometry import geometry_of, scanner
from plugins.medical.tasks.reconstruction import Reconstruction


class Ct(Reconstruction):
    """Sparse-view computed tomography: attenuation from noisy line integrals.

    Slices are square, in a window of Hounsfield units.  Photon counts are simulated on the finer
    image where the dataset has one, so that reconstruction does not invert its own model.
    Source: Song et al. 2022, arXiv:2111.08005 (a prior trained on images alone).

    Args:
        geometry: parallel beam, or fan beam from a source at twice the slice's side.
        views: number of views.
        arc: angular range in degrees; by default 180, fan beam 360.
        side: field of view of a slice, in millimetres.
        photons: I0, counts per detector in the unattenuated beam; 0 for no noise.
        model: standard deviation of the model error of line integrals (structure finer than a
            pixel); bounds the weight of a measurement.
        low: Hounsfield units of -1 in the data.
        high: Hounsfield units of 1 in the data.
        water: linear attenuation of water, per millimetre; 0.02 of LoDoPaB-CT.
        total_variation: weight of the penalty of the TV reconstruction.
        slices: adjacent slices of a sample: 3 for a prior of stacks, which volumes are
            reconstructed with.
        condition_on_pixel: whether the network is given the pixel spacing of its image, and of
            several slices their distance, in training from the dataset.
        seed: of the noise.

    Raises:
        InputError: an option out of its range.
    """

    methods = ("FBP", "CGLS", "TV")

    def __init__(
        self,
        *,
        geometry: Beam = "parallel",
        views: int = 23,
        arc: float | None = None,
        side: float = 400.0,
        photons: float = 1e5,
        model: float = 0.02,
        low: float = -1000.0,
        high: float = 1000.0,
        water: float = 0.0193,
        total_variation: float = 8.0,
        slices: Literal[1, 3] = 1,
        condition_on_pixel: bool = False,
        seed: int = 0,
    ) -> None:
        problems = []
        if views < 1:
            problems.append(f"views: expected at least 1, got {views}")
        if not side > 0:
            problems.append(f"side: expected more than 0 mm, got {side:g}")
        if arc is not None and not 0 < arc <= 360:
            problems.append(f"arc: expected a number in (0, 360] degrees, got {arc:g}")
        if not model > 0:
            problems.append(f"model: expected more than 0, got {model:g}")
        if photons and not photons >= 1:
            problems.append(f"photons: expected at least 1, or 0 for no noise, got {photons:g}")
        if not 0 < water <= 1:
            problems.append(f"water: expected a number in (0, 1] per mm, got {water:g}")
        if not low < high:
            problems.append(f"low, high: expected low below high, got {low:g} and {high:g}")
        if problems:
            raise InputError("\n".join(problems))
        super().__init__(1, slices=slices, condition_on_pixel=condition_on_pixel)
        self.views, self.side, self.photons, self.seed = views, side, photons, seed
        self.model = model
        self._geometry: Beam = geometry
        self._weight = total_variation
        self._arc = arc
        self._slope = water * (high - low) / 2000  # attenuation of 1 in the data, and of 0
        self._level = water * (1 + (high + low) / 2000)
        self._made: dict[tuple[tuple[int, int], int], Radon] = {}
        self.shown_as = (low, high, "HU")

    def scanner(self, height: int, width: int) -> Radon:
        """The operator for slices of a size."""
        return self._scanner((height, width), 1)

    def _scanner(self, size: tuple[int, int], finer: int) -> Radon:
        """The operator for slices and detectors `finer` times finer."""
        found = self._made.get((size, finer))
        if found is None:
            coarse = geometry_of(self._geometry, self.views, self._arc, size, self.side / size[1])
            if finer == 1:
                found = scanner(coarse)
            else:
                fine = replace(
                    coarse,
                    height=size[0] * finer,
                    width=size[1] * finer,
                    pixel_mm=coarse.pixel_mm / finer,
                    detector_spacing_mm=coarse.detector_spacing_mm / finer,
                )
                found = scanner(fine, finer * self._scanner(size, 1).detectors)
            self._made[size, finer] = found
        return found

    def measured(self, batch: Batch) -> Measurement:
        """Line integrals of the data's values, weighted by their inverse standard deviation."""
        scan = self.scanner(*batch["image"].shape[-2:])
        p = self._integrals(batch, scan)
        variance = torch.zeros_like(p)
        if self.photons:
            seeds = [derive(self.seed, "slice", index) for index in batch["index"].tolist()]
            rows = [counted(p[i : i + 1], self.photons, seed) for i, seed in enumerate(seeds)]
            p, variance = of_counts(torch.cat(rows), self.photons)
        return self.of_integrals(scan, p, variance)

    def of_integrals(
        self, scan: Radon, p: Float[Tensor, " b 1 v n"], variance: Float[Tensor, " b 1 v n"]
    ) -> Measurement:
        """Line integrals as a measurement of the data's values, by an operator of unit norm.

        Args:
            scan: the operator.
            p: line integrals of attenuation.
            variance: of their noise.
        """
        one = torch.ones(1, 1, *scan.shape).to(p)
        y = (p - self._level * scan.forward(one)) / self._slope
        norm = float(classical.operator_norm(scan, one))
        trust = self.model / (variance + self.model**2).sqrt() / norm
        return Measurement(Weighted(scan, trust), trust * y, self.model / self._slope / norm)

    def _integrals(self, batch: Batch, scan: Radon) -> Tensor:
        """Line integrals; of the finer image, of the mean intensity over each detector's rays."""
        if "fine" not in batch:
            return scan.forward(self._level + self._slope * self.middle(batch["image"]))
        fine = self._level + self._slope * self.middle(batch["fine"])
        rays = self._scanner(scan.shape, FINER).forward(fine)
        return -(-rays).exp().unflatten(-1, (scan.detectors, FINER)).mean(-1).log()

    def degrade(self, item: Batch, index: int) -> Batch:
        """The item and its index, which its noise depends on."""
        return {**item, "index": torch.tensor(index)}

    def values(self, x: Float[Tensor, " b 1 h w"]) -> Float[Tensor, " b 1 h w"]:
        """The image; attenuation is at least 0."""
        return x.clamp(min=min(-1.0, -self._level / self._slope))

    def classical(self, measurement: Measurement) -> dict[str, Tensor]:
        """FBP with Hann's window, least squares by conjugate gradients, total variation."""
        scan, y = measurement.operator, measurement.y
        if isinstance(scan, Weighted):
            scan, y = scan.operator, y / scan.weights
        assert isinstance(scan, Radon)
        air = torch.full((len(y), 1, *scan.shape), -1.0).to(y)
        found = {"FBP": air + scan.filtered_back_projection(y - scan.forward(air), window="hann")}
        found["CGLS"] = close = classical.least_squares(measurement, air)
        found["TV"] = classical.total_variation(measurement, close, weight=self._weight)
        return found

    def variants(self, measurement: Measurement, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Total variation of half and of twice the weight."""
        return classical.weighted_variation(measurement, known["TV"], weight=self._weight)
