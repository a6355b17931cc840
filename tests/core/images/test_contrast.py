"""Stretching, by percentiles that are known without computing them."""

import torch

from core.images.contrast import MOST, stretched


def test_the_percentiles_of_a_ramp_become_the_ends_of_the_range():
    ramp = torch.linspace(-0.9, -0.5, 1001, dtype=torch.float64)
    image = ramp[torch.randperm(1001, generator=torch.Generator().manual_seed(0))].view(1, 7, 143)
    low, high = -0.9 + 0.4 * 0.01, -0.9 + 0.4 * 0.998
    expected = (2 * (image - low) / (high - low) - 1).clamp(-1, 1)
    torch.testing.assert_close(stretched(image), expected, atol=1e-9, rtol=0)


def test_brightness_and_contrast_do_not_matter_and_colours_stay():
    image = torch.rand(3, 20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    image[0] += 1
    torch.testing.assert_close(stretched(image * 0.02 - 0.7), stretched(image))
    middle = (stretched(image).abs() < 1).all(0)
    ratio = (stretched(image)[0] - stretched(image)[1])[middle] / (image[0] - image[1])[middle]
    torch.testing.assert_close(ratio, ratio[0].expand(len(ratio)))  # one factor for all channels


def test_an_image_of_one_value_stays_and_a_large_one_is_nearly_exact():
    flat = torch.full((1, 4, 4), 0.25)
    assert torch.equal(stretched(flat), flat)
    side = int(MOST**0.5) + 100
    large = torch.linspace(0, 1, side).expand(1, side, -1)
    low, high = 0.01, 0.998
    expected = (2 * (large[0, 0] - low) / (high - low) - 1).clamp(-1, 1)
    assert (stretched(large)[0, 5] - expected).abs().max() < 2e-3
