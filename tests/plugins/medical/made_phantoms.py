"""A phantom for tests."""

import torch

from plugins.medical.operators.ellipses import rasterised, shepp_logan


def phantom(size=64):
    """The head as a slice in [-1, 1] and the finer one that it is the mean of."""
    fine = rasterised(shepp_logan(2.0 * size), 2 * size, 2 * size, 1.0).float()[None, None]
    return {
        "image": 2 * torch.nn.functional.avg_pool2d(fine, 2) - 1,
        "fine": 2 * fine - 1,
        "index": torch.tensor([0]),
    }
