"""Notes on finished reconstructions: when there are any, and what they name."""

import numpy as np
import torch

from core.scans.scan import Scan
from plugins.medical.inference.remarks import remarks
from plugins.medical.inference.volume import Found, Scale
from plugins.medical.io.acquisition import Geometry, KSpace, Sinogram

SHAPE = (2, 1, 8, 8)
HU = Scale(-1000.0, 1000.0)
SINOGRAM = Sinogram(
    np.zeros((2, 3, 8), np.float32),
    Geometry(kind="parallel", views=3, height=8, width=8, pixel_mm=1.0, detector_spacing_mm=1.0),
)
KSPACE = KSpace(np.ones((2, 1, 8, 8), np.complex64), np.ones((8, 8), bool))


def found(value=0.0, misfit=1.0):
    image = torch.full(SHAPE, value)
    return Found(image, torch.zeros(SHAPE), {}, torch.full((2,), misfit))


def scan(value):
    return Scan(np.full((2, 8, 8), value, np.float32), np.eye(4), "CT")


def test_a_result_that_explains_its_measurement_has_no_remark():
    for measured in (SINOGRAM, KSPACE):
        assert remarks(found(misfit=1.6), HU, measured, None) == ()


def test_a_misfit_names_what_to_try():
    (note,) = remarks(found(misfit=5.0), HU, SINOGRAM, None)
    assert "misses the measurement by 5.0 times its noise" in note
    assert "detector_offset_mm" in note
    (note,) = remarks(found(misfit=5.0), Scale(0.0, 1.0), KSPACE, None)
    assert "--noise (5 times as high" in note
    (note,) = remarks(found(misfit=5.0), HU, SINOGRAM, scan(0))
    assert "detector_offset_mm" not in note  # its geometry is ours


def test_values_beyond_the_window_are_counted_in_the_scan_or_the_result():
    (note,) = remarks(found(0.9), HU, SINOGRAM, scan(2500))
    assert "128 voxels (100 %) are outside of the -1000 to 1000 HU" in note
    (note,) = remarks(found(1.5), HU, SINOGRAM, None)
    assert "check the units in the JSON" in note
    assert remarks(found(), HU, SINOGRAM, scan(-1024)) == ()  # padding is air
    (note,) = remarks(found(), Scale(-200.0, 1000.0), SINOGRAM, scan(-700))
    assert "-200 to 1000 HU" in note
    assert remarks(found(1.5), Scale(0.0, 1.0), KSPACE, None) == ()  # a percentile is its window
