"""Draws and processes for tests of measurements."""

from dataclasses import dataclass

import torch

from core.inverse.operators import Matrix
from core.process import schedules
from core.testing.distributions import Gaussian

PATHS = {
    "vp_linear": schedules.vp_linear(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
}


WORLD = Gaussian(0.3, 0.5)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Bare:
    """An operator that hides its pseudo-inverse."""

    whole: Matrix

    def forward(self, x):
        return self.whole.forward(x)

    def adjoint(self, y):
        return self.whole.adjoint(y)


def like(y, seed):
    """Random, of the shape and kind of y."""
    return torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed))
