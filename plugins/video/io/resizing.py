"""Frames on another grid."""

import numpy as np
import torch
from torch.nn import functional


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame uint8 (h, w, 3) of another size, antialiased bilinear; itself where it has it."""
    if pixels.shape[:2] == size:
        return pixels
    values = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    values = functional.interpolate(values, size, mode="bilinear", antialias=True)
    return values[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
