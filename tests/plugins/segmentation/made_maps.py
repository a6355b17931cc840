"""Maps of noise on several grids, and the upsampled tensor that the code never makes."""

import torch
from torch.nn import functional as F

from core.features import Maps


def noise_maps(batch=1, area=(24, 40), size=(21, 37), grids=((3, 5), (6, 10), (6, 10), (24, 40))):
    draw = torch.Generator().manual_seed(0)
    values = tuple(torch.randn(batch, 2 + i, *grid, generator=draw) for i, grid in enumerate(grids))
    return Maps(values, area, size)


def eager(maps):
    """Every map upsampled by torch and concatenated: (b, k, h, w)."""
    wide = [
        F.interpolate(value, maps.area, mode="bilinear", align_corners=False)
        for value in maps.values
    ]
    return torch.cat(wide, 1)[..., : maps.size[0], : maps.size[1]]
