"""Photon counts: Poisson noise, and line integrals from counts."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.process.noise import derive, generator


def counted(p: Float[Tensor, " d c v n"], photons: float, seed: int) -> Float[Tensor, " d c v n"]:
    """Photon counts of line integrals p: Poisson with mean I0 e^-p.

    Args:
        p: line integrals of attenuation.
        photons: I0, counts per detector in the unattenuated beam.
        seed: slice i depends on it and on i alone.
    """
    rows = []
    for number, row in enumerate(p.double().cpu().numpy()):
        random = generator(derive(seed, "photons", number))
        rows.append(random.poisson(photons * np.exp(-row)))
    return torch.from_numpy(np.stack(rows)).to(p)


def of_counts(counts: Tensor, photons: float) -> tuple[Tensor, Tensor]:
    """Line integrals -log(N / I0) of counts N, and their variance 1 / N to first order.

    A count of 0 is replaced by 1/2.
    """
    seen = counts.clamp(min=0.5)
    return -(seen / photons).log(), 1 / seen
