"""The loss of measured frequencies: its minimiser on Gaussian data, where that is known."""

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from core import runs
from core.denoiser.parameterization import FunctionDenoiser, Prediction, x0
from core.errors import InputError
from core.objective.times import uniform
from core.objective.weighting import simple
from core.parts.config import bind
from core.parts.registry import Spec
from core.process.schedules import edm
from core.request import Machine, TrainRequest
from core.scans import nifti
from core.scans.scan import Scan
from core.training.stopping import Stopped
from plugins.medical.inference.reconstruct import prior_of
from plugins.medical.tasks.measured import COILS, KSPACE, SAMPLED, Measured, measure
from plugins.medical.tasks.subsets import subsets

SIDE, SIGMA = 4, 0.5
NUMBERS = 2 * SIDE * SIDE  # real numbers of an image
PHASE = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
COIL = torch.polar(torch.ones_like(PHASE), 3 * PHASE)[None, None]


class Linear(nn.Module):
    """x -> (G + change) x, with a change to be learned."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix, self.change = matrix, nn.Parameter(torch.zeros_like(matrix))

    def forward(self, x, level, condition=None):
        assert not condition, "the network is given the measurement"
        return (x.flatten(1) @ (self.matrix + self.change).T).view_as(x)


def matrix_of(function):
    """The matrix of a linear map of images, whose result is flattened to real numbers."""
    basis = torch.eye(NUMBERS, dtype=torch.float64).view(NUMBERS, 2, SIDE, SIDE)
    return torch.view_as_real(function(basis)).flatten(1).T


def covariance():
    """Of images whose pixels, and whose frequencies, all depend on one another."""
    root = torch.randn(
        NUMBERS, NUMBERS, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    return root @ root.T / NUMBERS


def columns(*chosen):
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[:, list(chosen)] = True
    return mask


def gradient(matrix, mask, noise, stated):
    """The gradient of the expected loss at a linear network.

    The loss is quadratic in image, noise of the measurement and eps, so that its expectation is a
    mean over points of the same second moments: plus and minus the root of the covariance.
    """
    count = 3 * NUMBERS
    root = torch.block_diag(
        torch.linalg.cholesky(covariance()),
        noise * torch.eye(NUMBERS, dtype=torch.float64),
        torch.eye(NUMBERS, dtype=torch.float64),
    )
    points = torch.cat([root.T, -root.T]) * count**0.5
    image, measured, eps = (part.view(-1, 2, SIDE, SIDE) for part in points.split(NUMBERS, dim=1))
    coils, sampled = COIL.expand(len(points), -1, -1, -1), mask.expand(len(points), -1, -1)
    y = measure(image, coils, sampled)
    y = y + torch.complex(measured[:, 0], measured[:, 1])[:, None] * mask
    objective = Measured(edm(), x0(), simple(), uniform(), noise=stated)
    network = Linear(matrix)
    t = torch.full((len(points),), SIGMA, dtype=torch.float64)
    given = {KSPACE: y, COILS: coils, SAMPLED: sampled}
    objective.loss(network, torch.zeros_like(image), t, eps, given).mean().backward()
    return network.change.grad


def masked_denoiser(mask):
    """E[x0 | A x_t] of the Gaussian prior, as a matrix on A* A x_t."""
    forward = matrix_of(
        lambda x: measure(x, COIL.expand(len(x), -1, -1, -1), mask.expand(len(x), -1, -1))
    )
    seen = forward.T @ forward  # A* A, a projection
    both = seen @ (covariance() + SIGMA**2 * torch.eye(NUMBERS, dtype=torch.float64)) @ seen.T
    return covariance() @ seen.T @ torch.linalg.pinv(both, hermitian=True, rtol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("column", [0, 1, 3])
def test_the_denoiser_of_the_clean_prior_minimises_the_loss(noise, column):
    """Masks of the middle column and another: together they cover all frequencies."""
    mask = columns(2, column)
    best = masked_denoiser(mask)
    # Rounding of float64 is far below 1e-9, and gradients of wrong networks are far above.
    assert gradient(best, mask, noise, noise).abs().max() < 1e-9
    assert gradient(0.9 * best, mask, noise, noise).abs().max() > 1e-3
    whole = masked_denoiser(torch.ones_like(mask))
    assert gradient(whole, mask, noise, noise).abs().max() > 1e-3
    if noise:
        assert gradient(best, mask, noise, 0.0).abs().max() > 1e-3


def test_clean_images_have_the_ordinary_loss():
    from core.objective.denoising import Denoising

    draw = torch.Generator().manual_seed(0)
    image, eps = torch.randn(2, 3, 2, SIDE, SIDE, generator=draw, dtype=torch.float64).unbind(0)
    t = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    network = Linear(masked_denoiser(columns(1, 2)))
    parts = (edm(), x0(), simple(), uniform())
    ours = Measured(*parts).loss(network, image, t, eps)
    assert torch.equal(ours, Denoising(*parts).loss(network, image, t, eps))
    every = torch.ones(3, SIDE, SIDE, dtype=torch.bool)
    coils = torch.ones(3, 1, SIDE, SIDE, dtype=torch.complex128)
    given = {KSPACE: measure(image, coils, every), COILS: coils, SAMPLED: every}
    whole = Measured(*parts).loss(network, image, t, eps, given)  # by Parseval's theorem the same
    assert torch.allclose(whole, ours, rtol=1e-10)


def test_negative_noise_is_refused():
    with pytest.raises(InputError, match="expected noise >= 0, got -1"):
        Measured(edm(), x0(), simple(), uniform(), noise=-1.0)


# --- whole images ------------------------------------------------------------------------------


def spectrum(x):
    return torch.fft.fft2(torch.complex(x[:, 0], x[:, 1]))


@pytest.mark.parametrize("pattern", ["columns", "points"])
def test_subsets_give_the_clean_denoiser_where_frequencies_are_independent(pattern):
    """Though the network sees a quarter of the frequencies at a time."""
    side = 24
    draw = torch.Generator().manual_seed(0)
    power = torch.rand(side, side, generator=draw, dtype=torch.float64)
    seen = []

    def denoise(x, t, condition=None):
        k = spectrum(x)
        seen.append((k.abs() > 1e-9).double().mean().item())
        k = k * power / (power + t.view(-1, 1, 1) ** 2)
        image = torch.fft.ifft2(k)
        return Prediction(torch.stack([image.real, image.imag], 1))

    known = FunctionDenoiser(edm(), denoise)
    x = torch.randn(3, 2, side, side, generator=draw, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 3.0], dtype=torch.float64)
    whole = known(x, t).x0
    seen.clear()
    found = subsets(known, acceleration=4.0, centre=0.08, pattern=pattern)(x, t).x0
    assert torch.allclose(found, whole, atol=1e-12)
    assert len(seen) >= 4
    assert max(seen) < 0.27  # of 24 columns six, of 576 points 144
    assert torch.allclose(subsets(known, acceleration=1.0)(x, t).x0, whole, atol=1e-12)


# --- training ----------------------------------------------------------------------------------


def scans(folder):
    draw = np.random.Generator(np.random.PCG64(0))
    for patient in "abcd":
        voxels = draw.random((3, 20, 24)).astype(np.float32) * 100
        nifti.write(folder / f"{patient}.nii.gz", voxels, Scan(voxels, np.eye(4)), description="")
    return {"name": "medical/undersampled_scans", "root": folder, "size": 16, "pixel": 1.0}


def kspace(folder):
    """Files of fastMRI's layout, twice oversampled rows, every other column beside the middle."""
    draw = np.random.Generator(np.random.PCG64(0))
    mask = np.zeros(20, bool)
    mask[::2] = mask[7:13] = True
    for patient in "abcd":
        k = draw.normal(0, 1, (2, 1, 40, 20, 2))
        near = np.hypot(np.arange(40)[:, None] / 2 - 10, np.arange(20) - 10)
        k = (k[..., 0] + 1j * k[..., 1]) / (1 + near) ** 2 * mask
        with h5py.File(folder / f"{patient}.h5", "w") as file:
            file["kspace"], file["mask"] = k.astype(np.complex64), mask
            file.attrs["patient_id"] = patient
    return {"name": "medical/kspace_folder", "root": folder, "size": 16, "coils": 1}


@pytest.mark.slow
@pytest.mark.parametrize("files", [scans, kspace])
def test_a_prior_of_undersampled_kspace_trains_resumes_and_reconstructs(
    tmp_path, small_training, files
):
    (tmp_path / "data").mkdir()
    options = {
        **small_training, "dataset": files(tmp_path / "data"), "steps": 4, "batch": 4,
        "task": "medical/undersampled_mri", "objective": {"name": "medical/measured"},
        "guidance": {"name": "medical/subsets", "acceleration": 2.0, "centre": 0.3},
    }  # fmt: skip
    whole, parts, small = (tmp_path / name for name in ("whole", "parts", "small"))
    request = bind(TrainRequest, options)
    runs.train(request, whole)
    asked = iter(range(100))
    with pytest.raises(Stopped, match="step 2"):
        runs.train(request, parts, stop=lambda: next(asked) == 2)
    runs.train(request, parts)
    runs.train(request, small, machine=Machine(micro_batch=1))
    ours, again, one = (prior_of(run, Spec("medical/mri")) for run in (whole, parts, small))
    pairs = zip(ours.network.parameters(), again.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "resumed differs"
    pairs = zip(ours.network.parameters(), one.network.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs), "micro-batches differ"
