"""Draws without a global seed: each sample has a stream of its own.

Sample i depends on seed i alone, whatever the batch, the device or the order.  Seeds of training
draws are derived from (seed, step, index), so that resuming needs one integer.
"""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def derive(*keys: int | str) -> int:
    """A 63-bit seed that depends on every one of `keys` and on their order.

    Neighbouring keys give unrelated seeds; `seed + i` would give overlapping runs of them.
    """
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


class Noise:
    """Streams of standard normal and uniform draws, one per sample.

    Draws are made on the CPU and then moved: CPU and GPU generators give different numbers for
    one seed.

    Args:
        seeds: one for each sample of the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    @classmethod
    def of(cls, *keys: int | str, each: Iterable[int | str]) -> "Noise":
        """One stream for every entry of `each`, seeded by (keys, entry)."""
        return cls([derive(*keys, one) for one in each])

    def __len__(self) -> int:
        return len(self._streams)

    def like(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """A normal draw with the shape, dtype and device of `x`, whose batch is this noise's."""
        return self.normal(x.shape[1:], x.dtype).to(x.device)

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, " b *shape"]:
        """A normal draw (b, *shape) on the CPU."""
        rows = [torch.randn(tuple(shape), generator=s, dtype=dtype) for s in self._streams]
        return torch.stack(rows)

    def uniform(self) -> Float64[Tensor, " b"]:
        """A uniform draw in [0, 1) for each sample, on the CPU."""
        draws = [torch.rand((), generator=s, dtype=torch.float64) for s in self._streams]
        return torch.stack(draws)
