"""Integrals of the exponential rules."""

import math

import pytest
import torch

from core.sampler.exponential import moments, phis

pytestmark = pytest.mark.battery


def test_phi_functions_are_their_integrals():
    """Against a fine midpoint sum of the definition, on both sides of the series' edge."""
    r = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for k in (1, 2, 3, 4):
        for z in (-6.0, -1.001, -0.999, -1e-9, 0.5, 3.0):
            values = ((1 - r) * z).exp() * r ** (k - 1) / math.factorial(k - 1)
            for count in (k, 4):
                assert phis(count, z)[k - 1] == pytest.approx(float(values.mean()), rel=1e-9)


def test_moments_are_the_integrals_that_the_rules_need():
    s = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for rate, h in ((1.0, 0.3), (2.0, 1.7), (-1.0, 0.8)):
        for k in (0, 1, 2, 3):
            values = rate * h * (-rate * h * (1 - s)).exp() * s**k
            assert moments(4, rate, h)[k] == pytest.approx(float(values.mean()), rel=1e-9)
