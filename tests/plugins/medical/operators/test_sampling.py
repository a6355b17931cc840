"""Masks of k-space: as many frequencies as stated, and where they are to be."""

import numpy as np
import pytest
import torch

from core.errors import InputError
from plugins.medical.operators.sampling import sampling_mask

KINDS = ("random", "equispaced", "density", "poisson", "radial")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("acceleration", [4.0, 8.0])
def test_masks_measure_what_they_say(kind, acceleration):
    mask = sampling_mask(kind, 64, 80, acceleration=acceleration, centre=0.08, seed=3)
    assert 0.9 * acceleration < 1 / float(mask.double().mean()) < 1.1 * acceleration
    assert mask[32 - 2 : 32 + 2, 40 - 3 : 40 + 3].all()
    again = sampling_mask(kind, 64, 80, acceleration=acceleration, centre=0.08, seed=3)
    other = sampling_mask(kind, 64, 80, acceleration=acceleration, centre=0.08, seed=4)
    assert torch.equal(mask, again)
    assert not torch.equal(mask, other)
    if kind in ("random", "equispaced"):
        assert (mask == mask[:1]).all()  # whole columns


def test_equispaced_columns_are_evenly_apart():
    columns = sampling_mask("equispaced", 1, 128, acceleration=4.0, centre=0.08, seed=1)[0]
    at = np.flatnonzero(columns.numpy())
    outside = at[(at < 59) | (at > 68)]
    gaps = np.diff(outside)
    gaps = gaps[gaps < 10]  # but across the middle
    assert gaps.max() - gaps.min() <= 1


def test_points_of_a_poisson_disc_keep_their_distance():
    """None outside the middle has another within the least distance; free points do."""

    def nearest(kind):
        mask = sampling_mask(kind, 64, 64, acceleration=8.0, centre=0.05, seed=0).numpy()
        mask[30:35, 30:35] = False
        at = np.argwhere(mask)
        apart = np.hypot(*(at[:, None] - at).transpose(2, 0, 1)) + 1e9 * np.eye(len(at))
        radius = np.hypot(*((at - 32) / 32).T)
        return apart.min(1)[(radius > 0.8)].min()

    assert nearest("poisson") >= 2
    assert nearest("density") < 2


def test_a_centre_of_more_than_all_is_refused():
    with pytest.raises(InputError, match="more than the 4 of acceleration factor 4"):
        sampling_mask("random", 16, 16, acceleration=4.0, centre=0.5)
    with pytest.raises(InputError, match="more than the 64 of acceleration factor 4"):
        sampling_mask("density", 16, 16, acceleration=4.0, centre=0.6)
