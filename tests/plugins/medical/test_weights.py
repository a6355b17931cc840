"""The priors that come with the plug-in, on the scans that come with pydicom."""

import shutil
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from scan_slices import case, default

from core.results.metrics import psnr

WEIGHTS = Path(__file__).resolve().parents[3] / "plugins/medical/weights"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "task"),
    [
        ("ct", "CT_small.dcm", {"views": 23}),
        ("mri", "MR_small.dcm", {"acceleration": 2.0}),
        ("mri", "MR_small.dcm", {"acceleration": 3.0}),
        ("mri", "MR_small.dcm", {"acceleration": 8.0}),  # too few lines to leave any out
    ],
)
def test_the_default_is_not_below_the_best_classical_method(kind, name, task, tmp_path):
    """By more than 0.1 dB, on pixels finer than any that the priors learned."""
    shutil.copy(get_testdata_file(name), tmp_path)
    measured = case(WEIGHTS / kind, tmp_path, kind, task, [0], 64)
    found = default(measured, 4)
    ours = float(psnr(found.mean.clamp(-1, 1), measured.truth))
    classical = {n: float(psnr(x, measured.truth)) for n, x in found.classical.items()}
    assert ours > max(classical.values()) - 0.1, classical
    assert ours > min(classical.values()) + 1  # they differ, and it is not the worst of them
