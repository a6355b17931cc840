"""Layers that networks share, for one, two or three axes of space."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from core.network.lean import Normed, activate, convolve

CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def norm(channels: int, groups: int = 32, epsilon: float = 1e-5) -> nn.GroupNorm:
    """Group normalisation with at most `groups` groups: as many as divide the channels."""
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=epsilon)


def convolution(dims: int, inputs: int, outputs: int, side: int = 3, stride: Any = 1) -> Any:
    """A convolution that keeps the size of its input, but for the stride."""
    return CONVOLUTIONS[dims](inputs, outputs, side, stride=stride, padding=side // 2)


def zeroed(layer: Any) -> Any:
    """A layer that says nothing at first, so that a residual branch begins as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


# --- up, down, padding -------------------------------------------------------------------------


class Resample(nn.Module):
    """Half or twice the size along some axes, with a 3-wide convolution or without.

    Args:
        way: down, by a strided convolution or the mean of neighbours; up, by repetition.
        factors: along each axis of space, 1 or 2.
        learned: whether there is a convolution.
        lean: see `core.network.lean.convolve`.
        after: pad a strided convolution behind the last element alone, as in DDPM's code, rather
            than on both sides.
    """

    def __init__(
        self,
        channels: int,
        way: Literal["up", "down"],
        factors: tuple[int, ...],
        *,
        learned: bool = True,
        after: bool = False,
        lean: bool = True,
    ) -> None:
        super().__init__()
        self.lean = lean
        self.way, self.factors, self.after = way, factors, after and way == "down"
        dims = len(factors)
        stride = factors if way == "down" else (1,) * dims
        self.conv = convolution(dims, channels, channels, stride=stride) if learned else None
        if self.conv is not None and self.after:
            self.conv.padding = tuple(0 if f == 2 else 1 for f in factors)

    def change(self, x: Tensor) -> Tensor:
        """What comes before the convolution, if there is one."""
        if self.way == "up":
            return F.interpolate(x, scale_factor=[float(f) for f in self.factors], mode="nearest")
        if self.conv is None:
            return POOLS[len(self.factors)](x, self.factors)
        if self.after:
            return F.pad(x, [n for f in reversed(self.factors) for n in (0, f - 1)])
        return x

    def forward(self, x: Float[Tensor, " b c *space"], level: Tensor | None = None) -> Tensor:
        if self.conv is None:
            return self.change(x)
        same = self.way == "down" and not self.after
        return convolve(x, self.conv, change=None if same else self.change, lean=self.lean)


def pad_to_multiple(
    x: Float[Tensor, " b c *space"], multiples: Sequence[int]
) -> Float[Tensor, " b c *larger"]:
    """`x` with elements appended: by reflection where there are enough, else the last repeated."""
    size = x.shape[2:]
    more = [(-s) % m for s, m in zip(size, multiples, strict=True)]
    if not any(more):
        return x
    enough = all(m < s for m, s in zip(more, size, strict=True))
    pads = [n for m in reversed(more) for n in (0, m)]
    return F.pad(x, pads, mode="reflect" if enough else "replicate")


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first `size` elements along the axes of space."""
    return x[(..., *(slice(0, s) for s in size))]


def fold(x: Float[Tensor, " b c *space"], patch: int) -> Float[Tensor, " b k *coarse"]:
    """Cubes of `patch` elements a side as channels, as `torch.nn.functional.pixel_unshuffle`."""
    if patch == 1:
        return x
    b, c, *size = x.shape
    n = len(size)
    x = x.reshape(b, c, *(part for s in size for part in (s // patch, patch)))
    order = [0, 1, *range(3, 3 + 2 * n, 2), *range(2, 2 + 2 * n, 2)]
    return x.permute(order).reshape(b, c * patch**n, *(s // patch for s in size))


def unfold(x: Float[Tensor, " b k *coarse"], patch: int) -> Float[Tensor, " b c *space"]:
    """What `fold` folded."""
    if patch == 1:
        return x
    b, k, *size = x.shape
    n = len(size)
    c = k // patch**n
    x = x.reshape(b, c, *[patch] * n, *size)
    order = [0, 1, *(axis for i in range(n) for axis in (2 + n + i, 2 + i))]
    return x.permute(order).reshape(b, c, *(s * patch for s in size))


# --- residual blocks and attention -------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two 3-wide convolutions, each behind a norm and SiLU; the level enters between them.

    Scale and shift of the second norm follow from the level (adaptive group normalisation), or the
    level is added before it.  A block may halve or double the size between norm and convolution.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 3 and appendix A; Song et al. 2021,
    arXiv:2011.13456, appendix H, for the residual resampling.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        level: int,
        *,
        dims: int = 2,
        dropout: float = 0.0,
        groups: int = 32,
        epsilon: float = 1e-5,
        scale_shift: bool = True,
        resample: Resample | None = None,
        lean: bool = True,
    ) -> None:
        super().__init__()
        self.scale_shift, self.dropout, self.change = scale_shift, dropout, resample
        self.lean = lean
        self.norm1 = norm(inputs, groups, epsilon)
        self.conv1 = convolution(dims, inputs, outputs)
        self.level = nn.Linear(level, (2 if scale_shift else 1) * outputs)
        self.norm2 = norm(outputs, groups, epsilon)
        self.conv2 = zeroed(convolution(dims, outputs, outputs))
        self.skip = convolution(dims, inputs, outputs, 1) if inputs != outputs else None

    def forward(
        self, x: Float[Tensor, " b c *space"], level: Float[Tensor, " b d"]
    ) -> Float[Tensor, " b k *other"]:
        told = self.level(level)
        first = Normed(self.norm1, self.norm1.weight[None], self.norm1.bias[None])
        h = convolve(x, self.conv1, first, self.change, lean=self.lean)
        w, b = self.norm2.weight[None], self.norm2.bias[None]
        if self.scale_shift:
            scale, shift = told.to(w).chunk(2, dim=1)
            second = Normed(self.norm2, w * (1 + scale), torch.addcmul(shift, b, 1 + scale))
        else:
            second = Normed(self.norm2, w, b, told)
        if self.dropout and self.training:  # a draw that must not be made twice
            h = self.conv2(F.dropout(activate(h, second), self.dropout))
        else:
            h = convolve(h, self.conv2, second, lean=self.lean)
        x = x if self.change is None else self.change(x)
        x = x if self.skip is None else self.skip(x)
        return h.add_(x) if not torch.is_grad_enabled() and h.dtype == x.dtype else x + h


class Attention(nn.Module):
    """Attention of all positions to each other, or to a sequence that is given.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; on pictures Ho et al. 2020,
    arXiv:2006.11239, appendix B; to a sequence Rombach et al. 2022, arXiv:2112.10752, section 3.3.

    Args:
        channels: of the positions.
        heads: a divisor of the channels.
        sequence: width of the sequence's elements; None for self-attention.
        normed: group normalisation before it.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        sequence: int | None = None,
        groups: int = 32,
        epsilon: float = 1e-5,
        normed: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm(channels, groups, epsilon) if normed else None
        if sequence is None:
            self.qkv = nn.Linear(channels, 3 * channels)
        else:
            self.q, self.kv = nn.Linear(channels, channels), nn.Linear(sequence, 2 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def _split(self, x: Float[Tensor, " b n k"], parts: int) -> tuple[Tensor, ...]:
        b, n, k = x.shape
        shaped = x.reshape(b, n, parts, self.heads, k // parts // self.heads)
        return shaped.permute(2, 0, 3, 1, 4).unbind(0)  # each b heads n d

    def forward(
        self, x: Float[Tensor, " b c *space"], sequence: Float[Tensor, " b m k"] | None = None
    ) -> Float[Tensor, " b c *space"]:
        b, c, *size = x.shape
        h = (x if self.norm is None else self.norm(x)).flatten(2).transpose(1, 2)
        if sequence is None:
            q, k, v = self._split(self.qkv(h), 3)
        else:
            (q,), (k, v) = self._split(self.q(h), 1), self._split(self.kv(sequence.to(h)), 2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = self.out(mixed.transpose(1, 2).reshape(b, -1, c))
        return x + mixed.transpose(1, 2).reshape(b, c, *size)


HEAD = 32  # channels of a head where neither their number nor their width is given


def heads_of(channels: int, heads: int | None, head_channels: int | None) -> int:
    """How many heads an attention layer has; one where a head would be wider than the layer."""
    return heads or max(1, channels // (head_channels or HEAD))


def head_checks(
    channels: Iterable[int], heads: int | None, head_channels: int | None
) -> list[tuple[bool, str]]:
    """What may be wrong with heads for layers of these channels: (whether it is, what)."""
    found = [
        (heads is not None and head_channels is not None, "heads: give heads or head_channels"),
        (heads is not None and heads < 1, f"heads: expected at least 1, got {heads}"),
        (
            head_channels is not None and head_channels < 1,
            f"head_channels: expected at least 1, got {head_channels}",
        ),
    ]
    if any(wrong for wrong, _ in found):
        return found
    said = f"heads: {heads}" if heads else f"head_channels: {head_channels or HEAD}"
    for c in channels:
        uneven = c % heads_of(c, heads, head_channels) or (
            heads is None and c > (head_channels or HEAD) and c % (head_channels or HEAD)
        )
        found.append((bool(uneven), f"{said} does not divide {c} channels"))
    return found
