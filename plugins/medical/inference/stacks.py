"""A prior of stacks of adjacent slices as the denoiser of a volume."""

import torch
from torch import Tensor

from core.denoiser.parameterization import Condition, Denoiser, FunctionDenoiser, Prediction


def of_stacks(denoise: Denoiser, slices: int) -> Denoiser:
    """The denoiser of a volume's slices by one of stacks: E[x0_k | x_(k-1), x_k, x_(k+1)].

    Each slice is estimated from itself and its neighbours, all at one level, so that what the
    slices have in common is learned rather than imposed.  Beyond the ends of a volume its slices
    are repeated by reflection.

    Args:
        denoise: of stacks, (b, slices * c, h, w).
        slices: of a stack, an odd number.
    """

    def ask(x: Tensor, t: Tensor, condition: Condition | None = None) -> Prediction:
        depth, channels = x.shape[:2]
        offsets = range(-(slices // 2), slices // 2 + 1)
        at = torch.tensor([[_reflected(k + o, depth) for o in offsets] for k in range(depth)])
        stacks = x[at.to(x.device)].flatten(1, 2)  # d, slices * c, h, w
        first = channels * (slices // 2)
        return Prediction(denoise(stacks, t, condition).x0[:, first : first + channels])

    return FunctionDenoiser(denoise.process, ask)


def _reflected(k: int, depth: int) -> int:
    """An index within 0 to depth - 1: beyond an end that many slices before it."""
    k = abs(k) % max(1, 2 * (depth - 1))
    return min(k, 2 * (depth - 1) - k) if depth > 1 else 0
