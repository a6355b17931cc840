"""Scans turned and reduced: no voxel is moved in the patient."""

import numpy as np
import pytest
from made_scans import WAYS, write_series

from core.scans import dicom, scan


@pytest.mark.parametrize("plane", scan.PLANES)
@pytest.mark.parametrize("ways", WAYS)
def test_a_plane_moves_no_voxel_and_is_undone(tmp_path, ways, plane):
    source = dicom.read(write_series(tmp_path / "in", ways=WAYS[ways]))
    turned_ = scan.canonical(source, plane)
    d, h, w = source.voxels.shape
    for k, i, j in ((0, 0, 0), (d - 1, 2, w - 1), (1, h - 1, 3)):
        (at,) = np.argwhere(turned_.voxels == source.voxels[k, i, j])
        there = turned_.affine @ [at[2], at[1], at[0], 1]
        assert there == pytest.approx(source.affine @ [j, i, k, 1], abs=1e-9)
    assert np.array_equal(scan.as_stored(turned_.voxels, source, plane), source.voxels)
    if plane == "axial" and ways != "oblique":
        assert (np.argmax(np.abs(turned_.affine[:3, :3]), axis=0) == [0, 1, 2]).all()
        assert (np.diag(turned_.affine)[:3] > 0).all()  # leftwards, backwards, headwards


def test_reduced_slices_are_means_that_lie_in_the_middle_of_theirs(tmp_path):
    source = dicom.read(write_series(tmp_path / "in"))
    small = scan.reduced(source, 3)
    assert small.voxels[1, 1, 2] == pytest.approx(source.voxels[1, 3:6, 6:9].mean())
    assert small.affine @ [2, 1, 1, 1] == pytest.approx(source.affine @ [7, 4, 1, 1])
