"""Scans of public datasets: which part of what a file holds is the picture."""

import h5py
import numpy as np
import pytest

from plugins.medical.data.folders import fastmri_scan


@pytest.mark.parametrize(("rows", "first"), [(40, 10), (24, 0)])
def test_fastmri_is_cropped_from_the_middle_where_its_rows_are_oversampled(tmp_path, rows, first):
    """Two coils that each see the object in full: the root sum of squares is sqrt(2) times it."""
    image = np.random.default_rng(0).uniform(0.1, 1, (2, rows, 20))
    moved = np.fft.ifftshift(image, axes=(-2, -1))
    k = np.fft.fftshift(np.fft.fft2(moved, norm="ortho"), axes=(-2, -1))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = np.stack([k, 1j * k], 1).astype(np.complex64)
    found = fastmri_scan(tmp_path / "a.h5").voxels
    last = rows - first
    assert np.abs(found - np.sqrt(2) * image[:, first:last]).max() < 1e-5
