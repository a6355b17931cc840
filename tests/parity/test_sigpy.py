"""Coil-weighted, masked Fourier transforms beside sigpy's linear operators."""

import numpy as np
import pytest
import torch

from plugins.medical.operators.coils import espirit
from plugins.medical.operators.ellipses import rasterised, shepp_logan
from plugins.medical.operators.fourier import Fourier, fourier
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


def test_espirit_is_sigpys(agree):
    """Where both see the object; their power iteration needs many steps where maps are close."""
    from sigpy.mri.app import EspiritCalib

    line = np.linspace(-1, 1, 48)
    turns = np.arange(6) * 2 * np.pi / 6
    away = [(line - 1.5 * np.cos(t), line[:, None] - 1.5 * np.sin(t)) for t in turns]
    coils = np.stack([
        np.exp(1j * (t + 0.8 * (x * np.cos(t) - y * np.sin(t)))) / (x**2 + y**2)
        for t, (x, y) in zip(turns, away, strict=True)
    ])  # fmt: skip
    image = rasterised(shepp_logan(192.0), 48, 48, 4.0).numpy()
    k = fourier(torch.from_numpy(coils * image))
    peer = EspiritCalib(
        k.numpy(), calib_width=20, thresh=0.02, kernel_width=6, crop=0.9, max_iter=1000,
        show_pbar=False,
    ).run()  # fmt: skip
    ours = espirit(k[:, 14:34, 14:34], 48, 48).numpy()
    both = (np.abs(ours).sum(0) > 0) & (np.abs(peer).sum(0) > 0)
    either = (np.abs(ours).sum(0) > 0) | (np.abs(peer).sum(0) > 0)
    assert both.sum() > 0.98 * either.sum() > 500  # eigenvalues at the limit of 0.9 may differ
    found, expected = (torch.view_as_real(torch.from_numpy(x[:, both])) for x in (ours, peer))
    agree("`espirit`", "6 coils, 48x48", found, expected, 1e-4)
