"""Sums over the elements of each sample that do not depend on its batch."""

import torch
from jaxtyping import Float
from torch import Tensor


def row_sum(values: Float[Tensor, " b *shape"]) -> Float[Tensor, " b"]:
    """Sum over every axis but the first, by halving: elementwise additions in a fixed order.

    A library's reduction chooses its order by the layout of the whole tensor, so that a sample
    alone may round otherwise than in a batch.  Halving also rounds less: log2 n times, not n.
    """
    flat = values.reshape(len(values), -1)
    while flat.shape[1] > 1:
        half = flat.shape[1] // 2
        paired = flat[:, :half] + flat[:, half : 2 * half]
        flat = torch.cat([paired, flat[:, 2 * half :]], dim=1)
    return flat[:, 0]


def row_mean(values: Float[Tensor, " b *shape"]) -> Float[Tensor, " b"]:
    """Mean over every axis but the first; see `row_sum`."""
    return row_sum(values) / values[0].numel()
