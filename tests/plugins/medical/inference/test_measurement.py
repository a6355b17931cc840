"""Raw data as measurements, and measurements simulated of scans, against closed forms."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.scans import dicom
from core.scans.scan import Scan
from plugins.medical.inference import measurement as measuring
from plugins.medical.io.acquisition import Geometry, KSpace, Sinogram
from plugins.medical.operators import nonuniform
from plugins.medical.operators.fourier import (
    fourier,
    inverse_fourier,
    root_sum_of_squares,
    to_complex,
)
from plugins.medical.operators.photons import counted
from plugins.medical.operators.sampling import sampling_mask
from plugins.medical.request import WATER, CtOptions, MriOptions
from plugins.medical.tasks import classical
from plugins.medical.tasks.ct import Ct
from plugins.medical.tasks.geometry import scanner
from plugins.medical.tasks.mri import Mri

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_phantoms import phantom


def test_the_variance_that_counts_are_given_is_that_of_their_logarithm():
    geometry = Geometry(kind="parallel", views=50, height=8, width=8, pixel_mm=1.0,
                        detector_spacing_mm=1.0, units="counts", photons=2000.0)  # fmt: skip
    p = torch.full((4, 1, 50, 60), 1.5)
    counts = counted(p, 2000.0, 1)[:, 0].numpy()
    found, variance = measuring.integrals(Sinogram(counts, geometry))
    scaled = (found - p) / variance.sqrt()
    assert float(scaled.std()) == pytest.approx(1, abs=0.03)
    assert abs(float(scaled.mean())) < 0.1  # the logarithm's own bias is half a variance


@pytest.mark.parametrize("p", [0.0, 1.5, 3.0])
def test_the_variance_of_line_integrals_is_that_of_the_counts_they_were(p):
    """By NumPy's Poisson draws: -log(N / I0) varies by e^p / I0, to first order in 1 / N."""
    photons, n = 5000.0, 20000
    geometry = Geometry(kind="parallel", views=1, height=8, width=8, pixel_mm=1.0,
                        detector_spacing_mm=1.0, photons=photons)  # fmt: skip
    mean = photons * np.exp(-p)
    seen = -np.log(np.random.default_rng(0).poisson(mean, n) / photons)
    _, variance = measuring.integrals(Sinogram(np.full((1, 1, 12), p, np.float32), geometry))
    assert variance.unique().numel() == 1
    within = 4 * np.sqrt(2 / n) + 3 / mean
    assert float(variance[0, 0, 0, 0]) == pytest.approx(seen.var(), rel=within)


def test_a_simulated_sinogram_is_water_along_its_lines():
    """A slab of water: attenuation times its thickness where lines go straight through."""
    voxels = np.full((1, 32, 32), -1000.0, np.float32)
    voxels[:, 8:24, :] = 0
    scan = Scan(voxels, np.diag([2.0, 2, 2, 1]), "CT")
    geometry = Geometry(kind="parallel", views=2, height=32, width=32, pixel_mm=2.0,
                        detector_spacing_mm=2.0)  # fmt: skip
    found = measuring.simulated_ct(scan, geometry, 0)
    along_y = found.values[0, 0]
    assert along_y[len(along_y) // 2] == pytest.approx(WATER * 16 * 2, rel=1e-5)
    with pytest.raises(InputError, match="from a CT scan"):
        measuring.simulated_ct(Scan(voxels, np.eye(4), "MR"), geometry, 0)
    with pytest.raises(InputError, match="square pixels"):
        measuring.simulated_ct(Scan(voxels, np.diag([2.0, 3, 2, 1]), "CT"), geometry, 0)


def test_simulated_kspace_reads_back_as_the_scan_that_it_is_of():
    """Wholly sampled without noise: the magnitude of the inverse transform."""
    voxels = ((phantom()["image"][0].numpy() + 1) * 500).astype(np.float32)
    whole = MriOptions(acceleration=1.0, noise=0.0)
    kspace = measuring.simulated_mri(Scan(voxels, np.eye(4), "MR"), whole, 0)
    back = inverse_fourier(torch.from_numpy(kspace.values))[:, 0].abs().numpy()
    assert np.abs(back - voxels).max() < 1e-2
    measurement, bright = measuring.measured_mri(kspace, noise=1.0)
    picture = to_complex(measurement.operator.adjoint(measurement.y)).abs().numpy() * bright
    assert np.abs(picture - voxels).max() < 1e-2


def noisy_kspace(coils=1, std=0.3):
    """K-space of the head with white noise of that standard deviation in each part."""
    picture = (phantom()["image"] + 1) / 2
    k = fourier(picture.expand(1, coils, 64, 64).to(torch.complex64))
    noise = np.random.default_rng(0).normal(0, std, (2, *k.shape)).astype(np.float32)
    return (k + torch.from_numpy(noise[0] + 1j * noise[1])).numpy()


@pytest.mark.parametrize("padded", ["", "columns", "corners", "coil"])
def test_the_noise_is_estimated_from_what_was_measured(padded):
    """Zeros of padding, of an elliptical acquisition and of a broken coil are not noise."""
    k = noisy_kspace(coils=3)
    far = np.hypot(*(np.mgrid[:64, :64] - 32))
    if padded == "columns":
        k[..., :12] = k[..., -12:] = 0
    elif padded == "corners":
        k[..., far > 31] = 0
    elif padded == "coil":
        k[:, 1:] = 0
    found = measuring.corner_std(torch.from_numpy(k), torch.ones(64, 64, dtype=torch.bool))
    assert found == pytest.approx(0.3, rel=0.1)


def test_a_stated_noise_level_is_used_as_it_is():
    kspace = KSpace(noisy_kspace(), np.ones((64, 64), bool), 0.5)
    measurement, bright = measuring.measured_mri(kspace)
    assert measurement.noise_std * bright == pytest.approx(0.5)


def test_modalities_that_the_values_do_not_show_are_declared():
    """Soft tissue of CT without air, and magnetic resonance with values below -500."""
    soft = Scan(np.linspace(-200, 300, 256, dtype=np.float32).reshape(1, 16, 16), np.eye(4))
    with pytest.raises(InputError, match="declare it with --modality ct"):
        measuring.sparse_ct(soft, CtOptions(), 0)
    with pytest.raises(InputError, match="values down to -200 may be Hounsfield units"):
        measuring.simulated_mri(soft, MriOptions(), 0)
    assert measuring.sparse_ct(replace(soft, modality="CT"), CtOptions(), 0).values.any()
    assert measuring.simulated_mri(replace(soft, modality="MR"), MriOptions(), 0).values.any()
    with pytest.raises(InputError, match="cannot be simulated from a CT scan"):
        measuring.simulated_mri(replace(soft, modality="CT"), MriOptions(), 0)
    with pytest.raises(InputError, match="is MR by its header"):
        measuring.sparse_ct(replace(soft, modality="MR"), CtOptions(), 0)


@pytest.mark.parametrize(("stated", "said"), [("PT", "is PT by"), ("?", "is of another modality")])
def test_a_header_of_another_modality_is_believed(stated, said):
    origin = dicom.Origin("1.2", "1.3", "1.4", (), Path("slice.dcm"), modality=stated)
    uptake = Scan(np.ones((1, 16, 16), np.float32), np.eye(4), origin=origin)
    with pytest.raises(InputError, match=f"from MR; this scan {said}"):
        measuring.simulated_mri(uptake, MriOptions(), 0)
    with pytest.raises(InputError, match=f"this one {said}"):
        measuring.sparse_ct(uptake, CtOptions(), 0)


def test_several_coils_are_estimated_and_unfold_what_one_could_not():
    """Four coils in the corners, every second column: their picture is that of all frequencies."""
    picture = (phantom()["image"][0] + 1) / 2
    at, down = torch.linspace(-1, 1, 64).expand(64, 64), torch.linspace(-1, 1, 64)[:, None]
    coils = torch.stack([
        torch.polar((-((down - y) ** 2 + (at - x) ** 2) / 2).exp(), 0.5 * x * at)
        for y in (-0.8, 0.8)
        for x in (-0.8, 0.8)
    ])  # fmt: skip
    seen = (picture * coils)[None]
    mask = sampling_mask("equispaced", 64, 64, acceleration=2.0, centre=0.2)
    k = fourier(seen) * mask
    measurement, bright = measuring.measured_mri(KSpace(k.numpy(), mask.numpy(), 1e-3))
    found = classical.least_squares(
        measurement, torch.zeros(1, 2, 64, 64), iterations=100, discrepancy=0.1
    )
    whole = root_sum_of_squares(seen) / bright
    assert (to_complex(found).abs() - whole).norm() < 0.03 * whole.norm()
    zero_filled = root_sum_of_squares(inverse_fourier(k)) / bright
    assert (zero_filled - whole).norm() > 0.1 * whole.norm()


def test_scale_and_water_of_a_sinogram_are_those_of_its_scanner():
    """LoDoPaB-CT's: a disc of water, in units of 81.35858 / m, is 0 HU whatever that is."""
    about = {
        "kind": "parallel", "views": 60, "height": 48, "width": 48, "pixel_mm": 2.0,
        "detector_spacing_mm": 2.0,
    }  # fmt: skip
    disc = (
        torch.hypot(*torch.meshgrid(*[torch.arange(48) - 23.5] * 2, indexing="ij")) < 15
    ).float()
    task = Ct()
    for water, scale in ((0.02, 81.35858), (0.0193, 1.0)):
        geometry = Geometry(**about, scale=scale, water_per_mm=water)
        p = scanner(geometry).forward(water * disc[None, None]) / scale
        found, variance = measuring.integrals(Sinogram(p[:, 0].numpy(), geometry))
        assert not variance.any()
        measurement = task.of_integrals(scanner(geometry), found, variance)
        x = task.classical(measurement)["FBP"][0, 0]
        assert float(x[20:28, 20:28].mean()) == pytest.approx(0, abs=0.01)  # 0 HU of +-1000
    geometry = Geometry(**about, photons=1e4, water_per_mm=0.02)
    _, variance = measuring.integrals(Sinogram(np.ones((1, 60, 48), np.float32), geometry))
    assert variance.unique().item() == pytest.approx(math.e / 1e4 * (0.0193 / 0.02) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("coils", [1, 4])
def test_spokes_are_a_measurement_of_the_image(coils):
    """Least squares of its own maps give the magnitude back, with the noise that is stated."""
    pytest.importorskip(nonuniform.LIBRARY)
    picture = (phantom()["image"][0] + 1) / 2
    at, down = torch.linspace(-1, 1, 64).expand(64, 64), torch.linspace(-1, 1, 64)[:, None]
    maps = torch.stack([
        torch.polar((-((down - y) ** 2 + (at - x) ** 2) / 2).exp(), 0.5 * x * at)
        for y in (-0.8, 0.8)
        for x in (-0.8, 0.8)
    ])[:coils]  # fmt: skip
    maps = maps if coils > 1 else torch.polar(torch.ones(64, 64), 0.5 * at)[None]
    trajectory = nonuniform.radial(90, 64).float()
    operator = nonuniform.NonUniform(trajectory, 64, 64)
    seen = (picture * maps)[None]
    k = operator.sampled(seen)[:, :, None]
    kspace = KSpace(
        k.numpy(), np.ones((1, len(trajectory)), bool), 1e-3,
        trajectory=trajectory.numpy(), image=(64, 64),
    )  # fmt: skip
    measurement, bright = measuring.measured_mri(kspace)
    assert measurement.noise_std * bright == pytest.approx(1e-3)
    whole = root_sum_of_squares(seen) / bright
    start = measurement.operator.gridded(measurement.y)
    found = classical.least_squares(measurement, start, iterations=60, discrepancy=0.1)
    away = [float((to_complex(x).abs() - whole).norm() / whole.norm()) for x in (found, start)]
    assert away[0] < 0.6 * away[1]
    assert away[0] < 0.2  # the corners of k-space are not sampled, and edges have energy there
    task = Mri()
    known = task.classical(measurement)
    assert torch.equal(known["zero-filled"], start)
    with pytest.raises(InputError, match="along a trajectory is not undersampled"):
        measuring.undersampled(kspace, MriOptions(), 0)
