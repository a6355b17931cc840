"""Images with odd sides: every measurement and classical method, against the image itself."""

from typing import get_args

import numpy as np
import pytest
import torch

from core.scans.scan import Scan
from plugins.medical.inference import measurement as measuring
from plugins.medical.io.acquisition import KSpace
from plugins.medical.operators.ellipses import rasterised, shepp_logan
from plugins.medical.operators.fourier import fourier, inverse_fourier, root_sum_of_squares
from plugins.medical.request import WATER, MriOptions, SamplingMask
from plugins.medical.tasks import classical
from plugins.medical.tasks.ct import Ct
from plugins.medical.tasks.geometry import geometry_of, scanner
from plugins.medical.tasks.mri import Mri

SIDES = pytest.mark.parametrize(("height", "width"), [(31, 37), (31, 38), (32, 37)])


def head(height, width):
    return rasterised(shepp_logan(float(min(height, width))), height, width, 1.0).float()


def apart(found, truth):
    return float((found - truth).abs().max())


@SIDES
def test_wavelets_without_a_threshold_give_the_image_back(height, width):
    x = torch.randn(2, 2, height, width, generator=torch.Generator().manual_seed(0)).double()
    assert apart(classical.shrunk(x, torch.zeros(2), "db4"), x) < 1e-12


@SIDES
@pytest.mark.parametrize("coils", [1, 3])
def test_mri_methods_give_a_whole_measurement_back(height, width, coils):
    """Of all frequencies and little noise; of several coils their root sum of squares."""
    down = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    maps = torch.stack([torch.polar(1 + 0.3 * n * down, 0.4 * n * down) for n in range(coils)])
    seen = (head(height, width) * maps)[None]
    mask = np.ones((height, width), bool)
    measurement, bright = measuring.measured_mri(KSpace(fourier(seen).numpy(), mask, 1e-4))
    truth, task = root_sum_of_squares(seen) / bright, Mri()
    for name, x in task.classical(measurement).items():
        assert apart((task.picture(x)[:, 0] + 1) / 2, truth.clamp(max=1)) < 0.02, name


@SIDES
@pytest.mark.parametrize("mask", get_args(SamplingMask))
def test_simulated_kspace_is_that_of_the_scan_where_it_is_sampled(height, width, mask):
    scan = Scan(head(height, width).numpy()[None], np.eye(4), "MR")
    found = measuring.simulated_mri(scan, MriOptions(mask=mask, noise=0.0), 0)
    whole = measuring.simulated_mri(scan, MriOptions(acceleration=1.0, centre=1.0, noise=0.0), 0)
    assert found.mask[height // 2, width // 2]
    assert np.array_equal(found.values, whole.values * found.mask)
    back = inverse_fourier(torch.from_numpy(whole.values))[:, 0].abs()
    assert apart(back, torch.from_numpy(scan.voxels)) < 1e-5


@SIDES
@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_ct_methods_give_an_object_back_where_it_is(height, width, beam):
    """Nearer to it than to the same object a quarter of a pixel beside it."""

    def blob(down, right):
        rows, columns = torch.arange(height)[:, None] - down, torch.arange(width) - right
        return 2 * (-(rows**2 + columns**2) / 2 / 4**2).exp()[None, None] - 1

    x = blob(18.0, 14.0)
    scan = scanner(geometry_of(beam, 90, None, (height, width), 1.0))
    p = scan.forward(WATER * (1 + x))  # the window of -1000 to 1000 HU
    task = Ct()
    for name, found in task.classical(task.of_integrals(scan, p, torch.zeros_like(p))).items():
        error = (found - x).norm()
        for down, right in ((-0.25, 0), (0.25, 0), (0, -0.25), (0, 0.25)):
            assert error < (found - blob(18 + down, 14 + right)).norm(), name
        assert float(error) < 0.05 * (height * width) ** 0.5, name
