"""Reconstruction: measurements, classical methods and draws against what can be worked out."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.inverse.measurement import Measurement, dot
from core.inverse.operators import Mask, Matrix
from core.inverse.posterior import diffpir, pigdm
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.noise import Noise
from core.process.schedules import edm
from core.sampler.ancestral import DDIM
from core.sampler.runge_kutta import Heun
from core.testing.distributions import Gaussian
from plugins.medical import classical, measuring, uncertainty
from plugins.medical.kspace import (
    fourier,
    inverse_fourier,
    root_sum_of_squares,
    sampling_mask,
    to_complex,
)
from plugins.medical.phantoms import rasterised, shepp_logan
from plugins.medical.phase import low_phase, smooth_phase, turned
from plugins.medical.raw import Geometry, KSpace, Sinogram
from plugins.medical.reconstruct import How, less_variation, reconstructed
from plugins.medical.scan import Scan
from plugins.medical.tasks import Ct, Mri


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def phantom(size=64):
    """The head as a slice in [-1, 1] and the finer one that it is the mean of."""
    fine = rasterised(shepp_logan(2.0 * size), 2 * size, 2 * size, 1.0).float()[None, None]
    return {
        "image": 2 * torch.nn.functional.avg_pool2d(fine, 2) - 1,
        "fine": 2 * fine - 1,
        "index": torch.tensor([0]),
    }


# --- the classical methods -----------------------------------------------------------------------


def test_least_squares_reach_the_solution_and_stop_at_the_noise():
    matrix = normal(30, 16, seed=1)
    x = normal(2, 1, 4, 4, seed=2)
    operator = Matrix(matrix, (1, 4, 4))
    y = operator.forward(x)
    for iterations in (40, 4000):  # and stays there
        exact = classical.least_squares(
            Measurement(operator, y), torch.zeros_like(x), iterations=iterations
        )
        assert (exact - x).abs().max() < 1e-5
    noisy = y + 0.1 * normal(*y.shape, seed=3)
    found = classical.least_squares(Measurement(operator, noisy, 0.1), torch.zeros_like(x))
    left = (noisy - operator.forward(found)).square().mean(1).sqrt()
    assert bool((left <= 0.1).all())
    alone = classical.least_squares(Measurement(operator, noisy[1:], 0.1), torch.zeros_like(x[1:]))
    assert torch.equal(alone, found[1:])


def test_the_gradient_and_the_divergence_are_adjoint():
    x, q = normal(2, 2, 5, 7, seed=1), normal(2, 2, 2, 5, 7, seed=2)
    left = (classical.gradient(x) * q).sum()
    right = -(x * classical.divergence(q)).sum()
    assert float(left - right) == pytest.approx(0, abs=1e-12)


def test_the_operator_norm_is_the_largest_singular_value():
    matrix = normal(9, 12, seed=4)
    found = classical.operator_norm(
        Matrix(matrix, (1, 3, 4)), torch.zeros(2, 1, 3, 4).double(), rounds=200
    )
    assert found.tolist() == pytest.approx([float(torch.linalg.matrix_norm(matrix, 2))] * 2)


@pytest.mark.parametrize("weight", [0.05, 0.4])
def test_total_variation_of_one_step_is_the_closed_form(weight):
    """A step of height h between halves of n pixels each in a row: each moves by weight / n."""
    n, h = 8, 1.0
    row = torch.cat([torch.zeros(n), torch.full((n,), h)]).double().expand(1, 1, 1, -1)
    measurement = Measurement(Mask(torch.ones(1)), row, 1.0)
    found = classical.total_variation(
        measurement, torch.zeros_like(row), weight=weight, iterations=4000
    )
    exact = torch.where(row > 0, h - weight / n, weight / n)
    assert (found - exact).abs().max() < 1e-3


def test_total_variation_is_scikit_images_where_all_is_measured():
    """Chambolle's method on |x - y|^2 / (2 weight) + TV(x), there with another discretised edge."""
    from skimage.restoration import denoise_tv_chambolle

    truth = rasterised(shepp_logan(48.0), 48, 48, 1.0).double()
    noisy = truth + 0.1 * normal(48, 48, seed=5)
    peer = denoise_tv_chambolle(noisy.numpy(), weight=0.15, eps=1e-9, max_num_iter=4000)
    measurement = Measurement(Mask(torch.ones(1)), noisy[None, None], 1.0)
    found = classical.total_variation(measurement, noisy[None, None], weight=0.15, iterations=4000)
    assert np.abs(found[0, 0].numpy() - peer).max() < 5e-3


def test_sparse_wavelets_of_a_whole_measurement_are_a_soft_threshold():
    import pywt

    y = normal(1, 1, 16, 16, seed=6)
    measurement = Measurement(Mask(torch.ones(1)), y, 1.0)
    found = classical.sparse_wavelets(
        measurement, torch.zeros_like(y), weight=0.3, iterations=300, wavelet="haar"
    )
    parts = pywt.wavedec2(y[0, 0].numpy(), "haar", mode="periodization", level=4)
    parts[1:] = [tuple(pywt.threshold(x, 0.3, "soft") for x in level) for level in parts[1:]]
    exact = pywt.waverec2(parts, "haar", mode="periodization")
    assert np.abs(found[0, 0].numpy() - exact).max() < 1e-6


@pytest.mark.parametrize("weight", [0.1, 10.0])
def test_less_variation_along_slices_is_the_closed_form(weight):
    x = torch.tensor([0.0, 0, 0, 1, 1]).double()[:, None]
    found = less_variation(x, weight, iterations=3000)[:, 0]
    exact = [2 / 5] * 5 if weight > 1 else [weight / 3] * 3 + [1 - weight / 2] * 2
    assert found.tolist() == pytest.approx(exact, abs=1e-3)
    assert torch.equal(less_variation(x[:1], weight), x[:1])  # a slice alone varies with none


# --- measurements --------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_ct_measures_the_slice_to_its_noise(geometry):
    task, batch = Ct(geometry=geometry, side=200.0, photons=1e6), phantom()
    measurement = task.measured(batch)
    x = normal(1, 1, 64, 64, dtype=torch.float32)
    y = normal(*measurement.y.shape, seed=1, dtype=torch.float32)
    operator = measurement.operator
    left, right = dot(operator.forward(x), y), dot(x, operator.adjoint(y))
    assert float(left - right) == pytest.approx(0, abs=1e-3 * float(left.abs()))
    assert float(classical.operator_norm(operator, x)) <= 1.001
    assert 0.3 < float(uncertainty.misfit(measurement, batch["image"])) < 1.5


def test_without_finer_structure_the_misfit_is_that_of_photons_alone():
    """Of counts N: -log(N / I) has variance 1 / N; the model's own share is made small."""
    task, batch = Ct(side=100.0, photons=3e4, model=1e-4), phantom()
    batch.pop("fine")
    assert float(uncertainty.misfit(task.measured(batch), batch["image"])) == pytest.approx(
        1, abs=0.05
    )


@pytest.mark.parametrize(("low", "high"), [(-1000.0, 1000.0), (-500.0, 1500.0)])
def test_a_picture_of_water_attenuates_as_water_whatever_the_window(low, high):
    """A square of 120 mm of 0 HU, seen along its columns at angle 0."""
    task = Ct(low=low, high=high, side=120.0, views=4, photons=0.0)
    water = torch.full((1, 1, 32, 32), 2 * (0 - low) / (high - low) - 1)
    measurement = task.measured({"image": water, "index": torch.tensor([0])})
    assert float(uncertainty.misfit(measurement, water)) < 1e-3
    p = task._integrals({"image": water}, task.scanner(32, 32))
    assert float(p[0, 0, 0, p.shape[-1] // 2]) == pytest.approx(measuring.WATER * 120, rel=1e-5)


def test_scanners_are_told_apart_by_both_sides():
    task = Ct(side=64.0, views=3)
    for size in ((16, 32), (16, 24), (24, 32)):
        assert task.scanner(*size).shape == size
    assert task.scanner(16, 32).pixel == 2.0


def test_counts_follow_poisson_and_depend_on_their_slice_alone():
    p = torch.full((3, 1, 50, 50), 2.0)
    counts = measuring.counted(p, 1000.0, 7)
    mean = 1000 * math.exp(-2)
    assert float(counts.mean()) == pytest.approx(mean, abs=4 * math.sqrt(mean / 7500))
    assert float(counts.var()) == pytest.approx(mean, rel=0.1)
    assert torch.equal(measuring.counted(p[:2], 1000.0, 7), counts[:2])
    assert not torch.equal(counts[0], counts[1])


def test_the_variance_that_counts_are_given_is_that_of_their_logarithm():
    geometry = Geometry(kind="parallel", views=50, height=8, width=8, pixel_mm=1.0,
                        detector_spacing_mm=1.0, units="counts", photons=2000.0)  # fmt: skip
    p = torch.full((4, 1, 50, 60), 1.5)
    counts = measuring.counted(p, 2000.0, 1)[:, 0].numpy()
    found, variance = measuring.integrals(Sinogram(counts, geometry))
    scaled = (found - p) / variance.sqrt()
    assert float(scaled.std()) == pytest.approx(1, abs=0.03)
    assert abs(float(scaled.mean())) < 0.1  # the logarithm's own bias is half a variance


def test_a_simulated_sinogram_is_water_along_its_lines():
    """A slab of water: attenuation times its thickness where lines go straight through."""
    voxels = np.full((1, 32, 32), -1000.0, np.float32)
    voxels[:, 8:24, :] = 0
    scan = Scan(voxels, np.diag([2.0, 2, 2, 1]), "CT")
    geometry = Geometry(kind="parallel", views=2, height=32, width=32, pixel_mm=2.0,
                        detector_spacing_mm=2.0)  # fmt: skip
    found = measuring.simulated_ct(scan, geometry, 0)
    along_y = found.values[0, 0]
    assert along_y[len(along_y) // 2] == pytest.approx(measuring.WATER * 16 * 2, rel=1e-5)
    with pytest.raises(InputError, match="CT is simulated of CT"):
        measuring.simulated_ct(Scan(voxels, np.eye(4), "MR"), geometry, 0)
    with pytest.raises(InputError, match="of square ones"):
        measuring.simulated_ct(Scan(voxels, np.diag([2.0, 3, 2, 1]), "CT"), geometry, 0)


def test_mri_measures_the_slice_to_its_noise():
    task = Mri(noise=0.01)
    item = task.degrade({"image": phantom()["image"][0]}, 3)
    batch = {name: value[None] for name, value in item.items()}
    measurement = task.measured(batch)
    seen = measurement.y != 0
    count = int(seen.sum())
    assert count == 64 * 16
    misfit = uncertainty.misfit(measurement, batch["image"])
    assert float(misfit) == pytest.approx(1, abs=4 / math.sqrt(4 * count))
    assert (task.picture(batch["image"]) - phantom()["image"]).abs().max() < 1e-5


def test_the_low_phase_takes_a_smooth_phase_out():
    magnitude = (phantom(128)["image"][0] + 1) / 2
    random = np.random.default_rng(0)
    phased = turned(magnitude.to(torch.complex64), smooth_phase(random, 128, 128)[None])
    left = turned(phased, -low_phase(fourier(phased)))
    assert float(left.imag.norm() / left.norm()) < 0.2
    assert float(phased.imag.norm() / phased.norm()) > 0.3
    assert torch.allclose(left.abs(), phased.abs(), atol=1e-6)


def test_simulated_kspace_reads_back_as_the_scan_that_it_is_of():
    """Wholly sampled without noise: the magnitude of the inverse transform."""
    voxels = ((phantom()["image"][0].numpy() + 1) * 500).astype(np.float32)
    kspace = measuring.simulated_mri(Scan(voxels, np.eye(4), "MR"), acceleration=1.0, noise=0.0)
    back = inverse_fourier(torch.from_numpy(kspace.values))[:, 0].abs().numpy()
    assert np.abs(back - voxels).max() < 1e-2
    measurement, bright = measuring.measured_mri(kspace, noise=1.0)
    picture = to_complex(measurement.operator.adjoint(measurement.y)).abs().numpy() * bright
    assert np.abs(picture - voxels).max() < 1e-2


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


def test_the_middle_is_what_is_wholly_measured():
    mask = torch.zeros(32, 40, dtype=torch.bool)
    mask[:, 17:23] = True
    assert measuring.middle(mask) == (16, 3)
    mask[3] = False
    assert measuring.middle(mask) == (12, 3)


# --- draws and what they say ---------------------------------------------------------------------


def test_draws_of_a_gaussian_have_its_posterior():
    """PiGDM is exact there: mean and variance of the measured and of the unmeasured."""
    world, process, n = Gaussian(0.2, 0.5), edm(), 4000
    y = torch.full((n, 1, 1, 2), 0.9, dtype=torch.float64)
    mask = torch.tensor([1.0, 0.0]).double()
    grid = configure("grid", Spec("core/karras", {"steps": 60, "sigma_max": 80.0}))(process)
    how = How(method=partial(pigdm, data_std=0.5), solver=Heun(), grid=grid)
    measurement = Measurement(Mask(mask), y * mask, 0.3)
    noise = Noise(range(n))
    found = reconstructed(world.denoiser(process), measurement, how, torch.zeros_like(y), noise)
    gain = 0.25 / (0.25 + 0.09)
    means = [0.2 + gain * 0.7, 0.2]
    spreads = [math.sqrt(0.25 * 0.09 / 0.34), 0.5]
    for at, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        values = found[:, 0, 0, at]
        assert float(values.mean()) == pytest.approx(mean, abs=0.03)
        assert float(values.std()) == pytest.approx(spread, rel=0.06)


def test_parts_of_a_batch_are_asked_alone_and_give_the_same():
    asked, process, y = [], edm(), normal(5, 1, 4, 4)

    @partial(FunctionDenoiser, process)
    def denoise(x, t, condition=None):
        asked.append(len(x))
        return Prediction(0.5 * x)

    grid = configure("grid", Spec("core/karras", {"steps": 3, "sigma_max": 0.5}))(process)
    found = []
    for size in (2, 8):
        how = How(method=diffpir, solver=DDIM(eta=1.0), grid=grid, at_once=size)
        measurement = Measurement(Mask(torch.ones(1)), y, 0.1)
        found.append(reconstructed(denoise, measurement, how, y, Noise(range(5))))
    assert max(asked[:9]) == 2
    assert torch.equal(found[0], found[1])


def test_slices_are_held_to_each_other_where_it_is_wanted():
    process, y = edm(), normal(6, 1, 4, 4)
    grid = configure("grid", Spec("core/karras", {"steps": 4, "sigma_max": 0.5}))(process)
    measurement = Measurement(Mask(torch.zeros(1)), torch.zeros_like(y), 0.1)

    @partial(FunctionDenoiser, process)
    def as_it_is(x, t, condition=None):
        return Prediction(x)

    def jump(along):
        how = How(method=diffpir, solver=DDIM(), grid=grid, along=along)
        found = reconstructed(as_it_is, measurement, how, y, Noise(range(6)))
        return float(found.diff(dim=0).abs().mean())

    assert jump(1.0) < 0.6 * jump(0.0)


def test_intervals_hold_nine_tenths_of_a_truth_that_is_another_draw():
    """Pictures of one pixel: neighbours, whose variances are averaged, would make it cautious."""
    n = 4000
    spread = 0.05 * (1 + normal(n, 1, 1, 1, seed=1).abs())
    draws = spread[:, None] * normal(n, 8, 1, 1, 1, seed=2)
    truth = spread * normal(n, 1, 1, 1, seed=3)
    held = uncertainty.calibration(draws, truth)["coverage"]
    assert float(held.mean()) == pytest.approx(90, abs=4 * 100 * math.sqrt(0.09 / n))
    # Draws that agree too well hold less.
    held = uncertainty.calibration(draws / 4, truth)["coverage"]
    assert float(held.mean()) < 50


def test_a_spread_that_follows_the_error_is_ranked_so():
    spread = torch.linspace(0.01, 0.2, 60).double().expand(2, 1, 60, 60)
    draws = spread[:, None] * normal(2, 8, 1, 60, 60, seed=2)
    follows = uncertainty.calibration(draws, spread * normal(2, 1, 60, 60, seed=3))["rank"]
    against = uncertainty.calibration(draws, spread.flip(-1) * normal(2, 1, 60, 60, seed=3))["rank"]
    assert bool((follows > 0.3).all())
    assert bool((against < -0.3).all())


def test_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    a, b = normal(200, seed=1), normal(200, seed=2)
    b = b + 0.5 * a
    assert float(uncertainty.rank_correlation(a, b)) == pytest.approx(spearmanr(a, b)[0])


@pytest.mark.parametrize(
    ("build", "options", "reason"),
    [
        (Ct, {"views": 0}, "views"),
        (Ct, {"side": 0.0}, "side"),
        (Ct, {"photons": 0.5}, "photons"),
        (Ct, {"model": 0.0}, "model"),
        (Ct, {"low": 3.0, "high": 1.0}, "low, high"),
        (Mri, {"noise": 0.0}, "noise"),
        (Mri, {"acceleration": 0.5}, "acceleration"),
    ],
)
def test_options_out_of_range_are_refused(build, options, reason):
    with pytest.raises(InputError, match=reason):
        build(**options)
