"""The nearest of many slices, against NumPy's search of all at once."""

import numpy as np
import pytest
import torch

from core.errors import InputError
from plugins.medical.evaluation.memorisation import nearest


def test_the_nearest_slice_is_the_one_of_all_batches():
    draw = torch.Generator().manual_seed(0)
    images, others = (torch.randn(n, 1, 6, 5, generator=draw) for n in (4, 11))
    error, where = nearest(images, iter(others.split(3)))
    apart = (images[:, None] - others).square().double().numpy().mean((2, 3, 4))
    assert where.tolist() == apart.argmin(1).tolist()
    assert max(where.tolist()) > 2  # beyond the first batch
    assert error.numpy() == pytest.approx(apart.min(1), rel=1e-5)
    assert np.isfinite(error.numpy()).all()


def test_slices_of_another_size_are_refused():
    with pytest.raises(InputError, match="expected slices of 5x6, as the samples, got 6x6"):
        nearest(torch.zeros(1, 1, 6, 5), iter([torch.zeros(1, 1, 6, 6)]))
