"""Intervals against SciPy's."""

import pytest
from scipy.stats import binomtest

from core.results.metrics import proportion


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (7, 10), (10, 10), (133, 200)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_proportion_is_scipys(hits, n, confidence):
    found = proportion(hits, n, confidence=confidence)
    known = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    assert (found.mean, found.n) == (hits / n, n)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)
