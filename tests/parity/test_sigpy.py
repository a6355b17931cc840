"""Coil-weighted, masked Fourier transforms beside sigpy's linear operators."""

import numpy as np
import pytest
import torch

from plugins.medical.operators.fourier import Fourier
from plugins.medical.operators.sampling import sampling_mask

pytestmark = pytest.mark.parity
sigpy = pytest.importorskip("sigpy", reason="sigpy is not installed")


@pytest.mark.parametrize("kind", ["random", "density", "radial"])
def test_forward_and_adjoint_are_sigpys(kind):
    from sigpy.mri.linop import Sense

    draw = np.random.default_rng(0)
    coils = draw.normal(size=(4, 24, 32)) + 1j * draw.normal(size=(4, 24, 32))
    mask = sampling_mask(kind, 24, 32, acceleration=3.0, centre=0.1)
    peer = Sense(coils, weights=mask.numpy().astype(float))
    ours = Fourier().given(frequencies=mask, sensitivities=torch.from_numpy(coils))
    x = draw.normal(size=(24, 32)) + 1j * draw.normal(size=(24, 32))
    y = draw.normal(size=coils.shape) + 1j * draw.normal(size=coils.shape)
    pair = torch.from_numpy(np.stack([x.real, x.imag]))[None]
    assert np.abs(ours.forward(pair)[0].numpy() - peer * x).max() < 1e-12
    back = ours.adjoint(torch.from_numpy(y)[None])[0].numpy()
    assert np.abs(back[0] + 1j * back[1] - peer.H * y).max() < 1e-12
