"""Reconstruction as tasks: what a prior learns, what is measured of it, what is scored and shown.

The network is trained on pictures alone and is given nothing; measurements enter when it is asked.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from core.errors import InputError
from core.inverse.measurement import Measurement
from core.inverse.operators import Weighted
from core.process.noise import derive
from core.results.metrics import psnr, ssim
from core.results.sheet import to_bytes
from core.task import Batch, Example, Figure, Panel, Scores, Volume
from plugins.medical import classical
from plugins.medical.kspace import Fourier, Kind, fourier, to_complex, to_real
from plugins.medical.measuring import WATER, counted, geometry_of, of_counts, scanner
from plugins.medical.operators import Radon
from plugins.medical.phase import low_phase, smooth_phase, turned
from plugins.medical.slices import FINER
from plugins.medical.uncertainty import calibration, local_deviation, misfit


class Reconstruction(ABC):
    """What reconstructions share: pictures from measurements that say too little.

    A subclass says what is measured (`measured`), how a sample is looked at (`picture`), and the
    methods without a prior (`classical`), the reference among them.

    Args:
        reference: of `classical`.
        channels: of a sample.
    """

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
            shown = torch.stack([self.picture(x) for x in results.unbind(1)], 1)
            found[f"mean of {results.shape[1]}"] = {
                **self.figures_of(results.mean(1), measurement, batch),
                **calibration(shown, self.picture(batch["image"])),
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
        spread = local_deviation(drawn) if drawn.shape[1] > 1 else torch.zeros_like(truth)
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


# --- computed tomography -------------------------------------------------------------------------


class Ct(Reconstruction):
    """Computed tomography from few views: attenuation from noisy line integrals.

    Slices are square and in a window of Hounsfield units; what is measured of them are counts of
    photons, of the finer picture where the data have one, so that the model of reconstruction is
    not the one of simulation.
    Source: Song et al. 2022, arXiv:2111.08005 (a prior trained on pictures alone).

    Args:
        geometry: parallel beams, or fans from a source at twice the slice's side.
        views: how many angles.
        arc: that they are spread over, in degrees; by default half a turn, of fans a whole one.
        side: of a slice, in millimetres.
        photons: that each detector would count without a patient; 0 for no noise.
        model: deviation of line integrals from those of square pixels, without noise: what is
            finer than a pixel; measurements are trusted no further.
        low: Hounsfield units of -1 in the data.
        high: Hounsfield units of 1 in the data.
        total_variation: weight of the total variation in that method.
        seed: of the noise.

    Raises:
        InputError: an option out of its range.
    """

    def __init__(
        self,
        *,
        geometry: Literal["parallel", "fan"] = "parallel",
        views: int = 23,
        arc: float | None = None,
        side: float = 400.0,
        photons: float = 1e5,
        model: float = 0.02,
        low: float = -1000.0,
        high: float = 1000.0,
        total_variation: float = 8.0,
        seed: int = 0,
    ) -> None:
        problems = []
        if views < 1:
            problems.append(f"views: expected at least 1, got {views}")
        if not side > 0:
            problems.append(f"side: expected more than 0 mm, got {side:g}")
        if arc is not None and not 0 < arc <= 360:
            problems.append(f"arc: expected more than 0 to 360 degrees, got {arc:g}")
        if not model > 0:
            problems.append(f"model: expected more than 0, got {model:g}")
        if photons and not photons >= 1:
            problems.append(f"photons: expected at least 1, or 0 for no noise, got {photons:g}")
        if not low < high:
            problems.append(f"low, high: expected low below high, got {low:g} and {high:g}")
        if problems:
            raise InputError("\n".join(problems))
        super().__init__("FBP", 1)
        self.views, self.side, self.photons, self.seed = views, side, photons, seed
        self.model = model
        self._geometry, self._weight = geometry, total_variation
        self._arc = arc
        self._slope = WATER * (high - low) / 2000  # attenuation of the data's unit, and of its 0
        self._level = WATER * (1 + (high + low) / 2000)
        self._made: dict[tuple[tuple[int, int], int], Radon] = {}
        self.shown_as = (low, high, "HU")

    def scanner(self, height: int, width: int) -> Radon:
        """The operator for slices of a size."""
        return self._scanner((height, width), 1)

    def _scanner(self, size: tuple[int, int], finer: int) -> Radon:
        """The operator for slices `finer` times finer, with as many detectors in each's place."""
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
        """Line integrals of the data's values, weighted by how much they are trusted."""
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
        """Of the finer picture, a detector's mean over the rays that it sees."""
        if "fine" not in batch:
            return scan.forward(self._level + self._slope * batch["image"])
        rays = self._scanner(scan.shape, FINER).forward(self._level + self._slope * batch["fine"])
        return -(-rays).exp().unflatten(-1, (scan.detectors, FINER)).mean(-1).log()

    def degrade(self, item: Batch, index: int) -> Batch:
        """The item and its index, which its noise depends on."""
        return {**item, "index": torch.tensor(index)}

    def picture(self, x: Float[Tensor, " b 1 h w"]) -> Float[Tensor, " b 1 h w"]:
        """Within the window."""
        return x.clamp(-1, 1)

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


# --- magnetic resonance --------------------------------------------------------------------------


class Mri(Reconstruction):
    """Magnetic resonance from few frequencies: a complex picture from noisy k-space.

    Data of magnitudes are given a smooth phase.  The phase that the middle of k-space shows is part
    of the coils' sensitivities, so that the picture is nearly real.
    Source: Chung and Ye 2022, arXiv:2110.05243 (a prior of pictures and masked k-space).

    Args:
        mask: as of `medical/fourier`.
        acceleration: how many times fewer frequencies than all.
        centre: share of the lines, or of each side, that is always measured.
        noise: deviation of the noise of k-space, of the real and imaginary part each, where the
            brightest of the picture is 1.
        total_variation: weight of the total variation in that method.
        wavelets: weight of the wavelets' coefficients in that method.
        seed: of phase, mask and noise.

    Raises:
        InputError: an option out of its range.
    """

    def __init__(
        self,
        *,
        mask: Kind = "random",
        acceleration: float = 4.0,
        centre: float = 0.08,
        noise: float = 0.005,
        total_variation: float = 6.0,
        wavelets: float = 100.0,
        seed: int = 0,
    ) -> None:
        if not noise > 0:
            raise InputError(f"noise: expected more than 0, got {noise:g}")
        super().__init__("zero-filled", 2)
        self._fourier = Fourier(mask=mask, acceleration=acceleration, centre=centre, seed=seed)
        self.noise, self.seed = noise, seed
        self._weights = (total_variation, wavelets)

    def degrade(self, item: Batch, index: int) -> Batch:
        """The picture without its low phase, that phase in half turns, and its index."""
        magnitude = (item["image"][0] + 1) / 2
        random = np.random.Generator(np.random.Philox(key=derive(self.seed, "phase", index)))
        phased = turned(
            magnitude[None].to(torch.complex64), smooth_phase(random, *magnitude.shape)[None]
        )
        phase = low_phase(fourier(phased) + self._noise(phased.shape, index))
        return {
            "image": to_real(turned(phased, -phase))[0],
            "phase": (phase / torch.pi).clamp(-1, 1),
            "index": torch.tensor(index),
        }

    def _noise(self, shape: torch.Size, index: int) -> Complex[Tensor, "..."]:
        draw = torch.Generator().manual_seed(derive(self.seed, "k-space", index))
        parts = torch.randn(2, *shape, generator=draw)
        return self.noise * torch.complex(parts[0], parts[1])

    def measured(self, batch: Batch) -> Measurement:
        """The frequencies of the mask."""
        image = batch["image"]
        phase = torch.polar(torch.ones_like(batch["phase"]), torch.pi * batch["phase"])
        operator = self._fourier.given(sensitivities=phase)
        y = operator.forward(image)
        noise = torch.stack([self._noise(y.shape[1:], i) for i in batch["index"].tolist()])
        y = y + noise.to(y) * operator.measured(*image.shape[-2:]).to(image.device)
        return Measurement(operator, y, self.noise)

    def picture(self, x: Float[Tensor, " b 2 h w"]) -> Float[Tensor, " b 1 h w"]:
        """The magnitude, 0 to 1 as -1 to 1."""
        return (2 * to_complex(x).abs()[:, None] - 1).clamp(-1, 1)

    def classical(self, measurement: Measurement) -> dict[str, Tensor]:
        """Zero-filled, sparse wavelets, total variation."""
        zero = measurement.operator.adjoint(measurement.y)
        tv, wavelets = self._weights
        return {
            "zero-filled": zero,
            "wavelets": classical.sparse_wavelets(measurement, zero, weight=wavelets),
            "TV": classical.total_variation(measurement, zero, weight=tv),
        }
