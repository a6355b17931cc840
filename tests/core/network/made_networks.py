"""Networks for tests: small ones, with weights that are not zero."""

import torch

TINY = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,)}


def stirred(network, seed=0):
    """The same network with known parameters, so that nothing hides behind a zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            base = 1.0 if p.ndim == 1 and bool((p == 1).all()) else 0.0
            size = 0.1 if p.ndim == 1 else p[0].numel() ** -0.5
            p.copy_(base + size * torch.randn(p.shape, generator=draw))
    return network


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
