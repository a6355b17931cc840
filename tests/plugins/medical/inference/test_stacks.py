"""A prior of stacks as the denoiser of a volume."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from core import runs
from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.inverse.measurement import Measurement
from core.inverse.operators import Mask
from core.inverse.posterior import diffpir
from core.parts.config import bind, configure
from core.parts.registry import Spec
from core.process.noise import Noise
from core.process.schedules import edm
from core.request import Machine, TrainRequest
from core.sampler.ancestral import DDIM
from core.sampler.runge_kutta import Heun
from core.scans import nifti
from core.scans.scan import Scan
from plugins.medical.inference.draws import How, reconstructed
from plugins.medical.inference.predictors import ReconstructCt
from plugins.medical.inference.reconstruct import prior_of, single
from plugins.medical.inference.spacing import Fit, Learned
from plugins.medical.inference.stacks import of_stacks
from plugins.medical.request import CtOptions, PosteriorOptions


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_each_slice_is_estimated_from_itself_and_its_neighbours():
    """By a denoiser that tells its inputs apart, with two channels a slice."""

    def denoise(x, t, condition=None):
        below, middle, above = x.chunk(3, dim=1)
        return Prediction(torch.cat([x[:, :2] * 0, 100 * below + 10 * middle + above, below], 1))

    process = edm()
    x = normal(5, 2, 4, 4)
    found = of_stacks(FunctionDenoiser(process, denoise), 3)(x, torch.ones(5)).x0
    assert torch.allclose(found[1:-1], 100 * x[:-2] + 10 * x[1:-1] + x[2:])


def test_beyond_its_ends_a_volume_is_reflected():
    process = edm()
    last = FunctionDenoiser(
        process,
        lambda x, t, condition=None: Prediction(x.roll(1, 1)),  # the slice before
    )
    after = FunctionDenoiser(
        process,
        lambda x, t, condition=None: Prediction(x.roll(-1, 1)),  # the slice behind
    )
    x = torch.arange(4.0).double()[:, None, None, None]
    assert of_stacks(after, 3)(x, torch.ones(4)).x0.flatten().tolist() == [1, 2, 3, 2]
    assert of_stacks(last, 3)(x, torch.ones(4)).x0.flatten().tolist() == [1, 0, 1, 2]
    assert of_stacks(last, 5)(x, torch.ones(4)).x0.flatten().tolist() == [1, 0, 1, 2]
    assert of_stacks(last, 3)(x[:1], torch.ones(1)).x0.flatten().tolist() == [0]


RHO, STD = 0.9, 0.5  # of a Gaussian whose slices are a Markov chain


def chain(process, slices):
    """The exact denoiser of a window of the chain, as a prior of stacks learns it."""
    apart = (torch.arange(slices)[:, None] - torch.arange(slices)).abs()
    covariance = STD**2 * RHO ** apart.double()

    def denoise(x, t, condition=None):
        alpha, sigma = (float(v) for v in process.alpha_sigma(t[0].double()))
        gain = (
            alpha
            * covariance
            @ torch.linalg.inv(
                alpha**2 * covariance + sigma**2 * torch.eye(slices, dtype=torch.float64)
            )
        )
        return Prediction(torch.einsum("ij,bjhw->bihw", gain, x))

    return FunctionDenoiser(process, denoise)


def test_draws_have_what_adjacent_slices_have_in_common():
    """Of a chain of slices with correlation 0.9: by single slices 0, by stacks most of it."""
    process, like = edm(), torch.zeros(12, 1, 40, 40, dtype=torch.float64)
    grid = configure("grid", Spec("core/karras", {"steps": 30, "sigma_max": 80.0}))(process)
    how = How(method=diffpir, solver=Heun(), grid=grid, at_once=5)
    nothing = Measurement(Mask(torch.zeros(1)), like, 0.1)

    def correlation(slices):
        denoise = chain(process, slices)
        drawn = reconstructed(denoise, nothing, replace(how, slices=slices), like, Noise(range(12)))
        rows = drawn[2:-2].flatten(1)
        return float((rows[1:] * rows[:-1]).mean() / rows.square().mean())

    assert abs(correlation(1)) < 4 / math.sqrt(7 * 1600)
    assert 0.7 < correlation(3) < 1


@pytest.mark.slow
def test_a_missing_slice_is_filled_in_from_its_neighbours():
    """Slice 4 is not measured: what its neighbours say of it, by the chain's closed form."""
    process, depth = edm(), 9
    truth = normal(depth, 1, 8, 8, seed=1)
    for k in range(1, depth):
        truth[k] = RHO * truth[k - 1] + math.sqrt(1 - RHO**2) * truth[k]
    truth = truth * STD
    seen = torch.ones(depth, 1, 1, 1, dtype=torch.float64)
    seen[4] = 0
    measurement = Measurement(Mask(seen), truth * seen, 0.01)
    grid = configure("grid", Spec("core/karras", {"steps": 40, "sigma_max": 80.0}))(process)
    exact = RHO / (1 + RHO**2) * (truth[3] + truth[5])

    def off(slices):
        how = How(method=diffpir, solver=DDIM(eta=1.0), grid=grid, slices=slices)
        draws = [
            reconstructed(
                chain(process, slices), measurement, how, torch.zeros_like(truth),
                Noise(range(100 * k, 100 * k + depth)),
            )[4]
            for k in range(8)
        ]  # fmt: skip
        return float((torch.stack(draws).mean(0) - exact).square().mean().sqrt())

    assert off(3) < 0.6 * off(1)


def test_tiles_and_parts_leave_a_pointwise_denoiser_as_it_is():
    process, y = edm(), normal(4, 1, 40, 40)
    pointwise = FunctionDenoiser(process, lambda x, t, condition=None: Prediction(0.5 * x))
    grid = configure("grid", Spec("core/karras", {"steps": 3, "sigma_max": 0.5}))(process)
    measurement = Measurement(Mask(torch.ones(1)), y, 0.1)
    whole, cut = (
        reconstructed(
            pointwise, measurement,
            How(method=diffpir, solver=DDIM(eta=1.0), grid=grid, tile=tile, at_once=3),
            y, Noise(range(4)),
        )
        for tile in (0, 16)
    )  # fmt: skip
    assert torch.allclose(whole, cut, atol=1e-6)


def test_the_distance_of_slices_is_given_and_compared():
    def fitted(gap, pixel=1.0, gaps=(1.0, 3.0), depth=4):
        scan = Scan(np.zeros((depth, 8, 8), np.float32), np.diag([1.0, 1.0, gap, 1.0]))
        return Fit(pixel).stacked(Learned(1.0, 2.0, gaps), scan)

    assert (fitted(2.0).gap, fitted(2.0).notes) == (2.0, ())
    assert fitted(2.0).condition(2)["vector"].tolist() == [[0.0, 1.0]] * 2
    assert fitted(5.0).gap == 3.0
    assert "learned slices 1 to 3 mm apart, those of this scan are 5 mm" in fitted(5.0).notes[0]
    assert fitted(5.0, gaps=None).gap == 5.0
    assert fitted(2.0, pixel=None).condition(2) is None
    assert "it has no neighbours" in fitted(2.0, depth=1).notes[0]


@pytest.mark.slow
def test_a_volume_is_reconstructed_by_a_trained_prior_of_stacks(tmp_path):
    voxels = np.random.default_rng(0).uniform(-1000, 400, (8, 40, 40)).astype(np.float32)
    (tmp_path / "scans").mkdir()
    nifti.write(tmp_path / "scans" / "a.nii", voxels, Scan(voxels, np.eye(4)), description="")
    request = {
        "task": {"name": "medical/ct", "condition_on_pixel": True, "slices": 3},
        "dataset": {"name": "medical/scan_folder", "root": str(tmp_path / "scans"), "size": 16,
                    "pixel_range": [1.0, 2.0], "slices": 3, "gap_range": [1.0, 2.0],
                    "test_share": 0.0},
        "network": {"name": "core/unet", "width": 8, "multipliers": [1, 2], "blocks": 1,
                    "attention": [], "middle_attention": False},
        "process": "core/edm", "parameterization": "core/edm", "weighting": "core/edm",
        "times": "core/log_normal", "steps": 2, "batch": 2, "warmup": 1,
    }  # fmt: skip
    runs.train(bind(TrainRequest, request), tmp_path / "run")
    predict = ReconstructCt(
        Machine(threads=1), tmp_path / "run", ct=CtOptions(views=9),
        posterior=PosteriorOptions(draws=2, steps=2, choose="none"),
    )  # fmt: skip
    predict(tmp_path / "scans" / "a.nii", tmp_path / "b.nii.gz")
    record = json.loads((tmp_path / "b-record.json").read_text())
    assert (record["pixel_given"], record["gap_given"], record["along"]) == (1.0, 1.0, 0.0)
    assert nifti.read(tmp_path / "b.nii.gz").voxels.shape == (8, 40, 40)
    with pytest.raises(InputError, match="a prior of stacks of slices requires volumes"):
        single(prior_of(tmp_path / "run", Spec("medical/ct")))
