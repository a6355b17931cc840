"""Intervals against SciPy's."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from skimage import data as photographs
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from core.results.metrics import interval, proportion, psnr, ssim


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (7, 10), (10, 10), (133, 200)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_proportion_is_scipys(hits, n, confidence):
    found = proportion(hits, n, confidence=confidence)
    known = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    assert (found.mean, found.n) == (hits / n, n)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)


def picture(size=96):
    pixels = photographs.coffee()[100 : 100 + size, 200 : 200 + size]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_metrics_are_scikit_images():
    image = picture()
    noisy = (image + 0.2 * torch.randn(image.shape, generator=torch.Generator())).clamp(-1, 1)
    first, second = ((x[0].permute(1, 2, 0).double().numpy() + 1) / 2 for x in (noisy, image))
    assert float(psnr(noisy, image)) == pytest.approx(
        peak_signal_noise_ratio(second, first, data_range=1), abs=1e-9
    )
    _, local = structural_similarity(
        first, second, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    assert float(ssim(noisy, image)) == pytest.approx(local[5:-5, 5:-5].mean(), abs=1e-6)


def test_interval_of_independent_values_is_the_textbook_one():
    """One value per source: the bootstrap interval is mean +- 1.96 s / sqrt(n), to 10 %."""
    values = np.random.Generator(np.random.PCG64(1)).normal(5, 2, 400)
    found = interval(list(values), [str(i) for i in range(400)], confidence=0.95)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_interval_of_copies_is_that_of_their_sources():
    """Ten copies of each value carry no more information than one."""
    values = np.random.Generator(np.random.PCG64(1)).normal(5, 2, 40)
    names = [str(i) for i in range(40)]
    once = interval(list(values), names, confidence=0.95)
    copies = interval([v for v in values for _ in range(10)], [n for n in names for _ in range(10)],
                      confidence=0.95)  # fmt: skip
    assert copies.high - copies.low == pytest.approx(once.high - once.low, rel=0.1)
