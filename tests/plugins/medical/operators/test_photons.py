"""Counts of photons against Poisson's law."""

import math

import pytest
import torch

from plugins.medical.operators.photons import counted


def test_counts_follow_poisson_and_depend_on_their_slice_alone():
    p = torch.full((3, 1, 50, 50), 2.0)
    counts = counted(p, 1000.0, 7)
    mean = 1000 * math.exp(-2)
    assert float(counts.mean()) == pytest.approx(mean, abs=4 * math.sqrt(mean / 7500))
    assert float(counts.var()) == pytest.approx(mean, rel=0.1)
    assert torch.equal(counted(p[:2], 1000.0, 7), counts[:2])
    assert not torch.equal(counts[0], counts[1])
