"""Layers that networks share, for one, two or three axes of space."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from core.network.lean import Norm, Resize, convolve, norm_silu

CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def group_norm(
    channels: int, groups: int = 32, group_channels: int | None = 4, epsilon: float = 1e-5
) -> nn.GroupNorm:
    """Group normalisation.

    Source: Wu and He 2018, arXiv:1803.08494, section 3.1; the number of groups by the networks of
    Karras et al. 2022, arXiv:2206.00364 (in their code), min(32, channels // 4).

    Args:
        channels: of the input.
        groups: most groups.
        group_channels: fewest channels of a group, where there are as many; the number of groups is
            the largest divisor of the channels that both limits leave.  None: the greatest common
            divisor of `groups` and the channels.
        epsilon: added to the variance.
    """
    if group_channels is None:
        return nn.GroupNorm(math.gcd(groups, channels), channels, eps=epsilon)
    most = max(1, min(groups, channels // group_channels))
    count = next(n for n in range(most, 0, -1) if channels % n == 0)
    return nn.GroupNorm(count, channels, eps=epsilon)


GroupNorm = Callable[[int], nn.GroupNorm]  # channels -> their norm, its other options chosen


def convolution(dims: int, inputs: int, outputs: int, side: int = 3, stride: Any = 1) -> Any:
    """A convolution that keeps the size of its input, but for the stride."""
    return CONVOLUTIONS[dims](inputs, outputs, side, stride=stride, padding=side // 2)


def zeroed(layer: Any) -> Any:
    """A layer of zeros: a residual branch that ends in it begins as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


# --- up, down, padding -------------------------------------------------------------------------


class Resample(nn.Module):
    """Half or twice the size along some axes, with a 3-wide convolution or without.

    Args:
        channels: of the input and the output.
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
        if self.conv is not None and self.after:  # `resize` pads the halved axes, after the data
            self.conv.padding = tuple(0 if f == 2 else 1 for f in factors)

    def resize(self, x: Float[Tensor, " b c *space"]) -> Float[Tensor, " b c *other"]:
        """The part without weights, which comes before the convolution if there is one."""
        if self.way == "up":
            return F.interpolate(x, scale_factor=[float(f) for f in self.factors], mode="nearest")
        if self.conv is None:
            return POOLS[len(self.factors)](x, self.factors)
        if self.after:
            return F.pad(x, [n for f in reversed(self.factors) for n in (0, f - 1)])
        return x

    def forward(
        self, x: Float[Tensor, " b c *space"], embedding: Float[Tensor, " b d"] | None = None
    ) -> Float[Tensor, " b c *other"]:
        """`x` resized; the embedding is that of residual blocks that resample, and unused."""
        if self.conv is None:
            return self.resize(x)
        strided_alone = self.way == "down" and not self.after
        return convolve(x, self.conv, resize=None if strided_alone else self.resize, lean=self.lean)


def pad_to_multiple(
    x: Float[Tensor, " b c *space"], multiples: Sequence[int]
) -> Float[Tensor, " b c *larger"]:
    """`x` with elements appended: by reflection where there are enough, else the last repeated."""
    size = x.shape[2:]  # elements to append along each axis:
    more = [(-s) % m for s, m in zip(size, multiples, strict=True)]
    if not any(more):
        return x
    enough = all(m < s for m, s in zip(more, size, strict=True))
    pads = [n for m in reversed(more) for n in (0, m)]  # torch names the last axis first
    return F.pad(x, pads, mode="reflect" if enough else "replicate")


def crop(x: Float[Tensor, " b c *space"], size: Sequence[int]) -> Float[Tensor, " b c *smaller"]:
    """The first `size` elements along the axes of space."""
    return x[(..., *(slice(0, s) for s in size))]


def fold(x: Float[Tensor, " b c *space"], patch: int) -> Float[Tensor, " b k *coarse"]:
    """Cubes of `patch` elements a side as channels, as `torch.nn.functional.pixel_unshuffle`."""
    if patch == 1:
        return x
    b, c, *size = x.shape
    n = len(size)
    # b c (s1 p) (s2 p) ... -> b (c p p ...) s1 s2 ...
    x = x.reshape(b, c, *(part for s in size for part in (s // patch, patch)))
    order = [0, 1, *range(3, 3 + 2 * n, 2), *range(2, 2 + 2 * n, 2)]
    return x.permute(order).reshape(b, c * patch**n, *(s // patch for s in size))


def unfold(x: Float[Tensor, " b k *coarse"], patch: int) -> Float[Tensor, " b c *space"]:
    """The inverse of `fold`."""
    if patch == 1:
        return x
    b, k, *size = x.shape
    n = len(size)
    c = k // patch**n
    # b (c p p ...) s1 s2 ... -> b c (s1 p) (s2 p) ...
    x = x.reshape(b, c, *[patch] * n, *size)
    order = [0, 1, *(axis for i in range(n) for axis in (2 + n + i, 2 + i))]
    return x.permute(order).reshape(b, c, *(s * patch for s in size))


# --- residual blocks and attention -------------------------------------------------------------


class NormConv(nn.Module):
    """conv(SiLU(norm(x))); in training the input alone is kept for the gradient.

    Args:
        norm: the norm.
        conv: the convolution.
        dropout: between the activation and the convolution.
        lean: see `core.network.lean.convolve`.
    """

    def __init__(
        self, norm: nn.GroupNorm, conv: Any, *, dropout: float = 0.0, lean: bool = True
    ) -> None:
        super().__init__()
        self.norm, self.conv = norm, conv
        self.dropout, self.lean = dropout, lean

    def forward(
        self,
        x: Float[Tensor, " b c *space"],
        *,
        scale_shift: Float[Tensor, " b 2*c"] | None = None,
        shift: Float[Tensor, " b c"] | None = None,
        resize: Resize | None = None,
    ) -> Float[Tensor, " b k *other"]:
        """conv(resize(SiLU(norm(x + shift) (1 + scale) + shift2))).

        Args:
            x: the input.
            scale_shift: scale and shift2 of the norm's output, one after the other.
            shift: added before the norm.
            resize: a linear change of size.
        """
        w, b = self.norm.weight[None], self.norm.bias[None]
        if scale_shift is not None:
            # (xhat w + b) (1 + scale) + shift2 is a norm of weight w (1 + scale) in each sample.
            scale, shift2 = scale_shift.to(w).chunk(2, dim=1)
            w, b = w * (1 + scale), torch.addcmul(shift2, b, 1 + scale)
        norm = Norm(self.norm, w, b, shift)
        if self.dropout and self.training:  # a draw that must not be repeated in the backward pass
            h = norm_silu(x, norm)
            return self.conv(F.dropout(h if resize is None else resize(h), self.dropout))
        return convolve(x, self.conv, norm, resize, lean=self.lean)


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), 3 wide; the embedding enters at the second norm.

    The embedding gives scale and shift of the norm's output (adaptive group normalisation), or is
    added to its input.  A block may halve or double the size before the first convolution.
    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 3 and appendix A; Song et al. 2021,
    arXiv:2011.13456, appendix H, for the residual resampling.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        embedding: width of the embedding.
        dims: axes of space.
        dropout: before the second convolution.
        norm: makes the norms.
        scale_shift: adaptive group normalisation, rather than an addition.
        resample: changes the size, without weights.
        lean: see `core.network.lean.convolve`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        dims: int = 2,
        dropout: float = 0.0,
        norm: GroupNorm = group_norm,
        scale_shift: bool = True,
        resample: Resample | None = None,
        lean: bool = True,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        first = convolution(dims, inputs, outputs)
        self.in_layers = NormConv(norm(inputs), first, lean=lean)
        self.emb_layers = nn.Linear(embedding, (2 if scale_shift else 1) * outputs)
        last = zeroed(convolution(dims, outputs, outputs))
        self.out_layers = NormConv(norm(outputs), last, dropout=dropout, lean=lean)
        self.skip = convolution(dims, inputs, outputs, 1) if inputs != outputs else None

    def forward(
        self, x: Float[Tensor, " b c *space"], embedding: Float[Tensor, " b d"]
    ) -> Float[Tensor, " b k *other"]:
        emb = self.emb_layers(embedding)
        resize = None if self.resample is None else self.resample.resize
        h = self.in_layers(x, resize=resize)
        if self.scale_shift:
            h = self.out_layers(h, scale_shift=emb)
        else:
            h = self.out_layers(h, shift=emb)
        # The skip connection: resized, then projected to the output's channels.
        x = x if resize is None else resize(x)
        x = x if self.skip is None else self.skip(x)
        return h.add_(x) if not torch.is_grad_enabled() and h.dtype == x.dtype else x + h


class Attention(nn.Module):
    """Attention of all positions to each other, or to a sequence that is given.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; on images Ho et al. 2020,
    arXiv:2006.11239, appendix B; to a sequence Rombach et al. 2022, arXiv:2112.10752, section 3.3.

    Args:
        channels: of the positions.
        heads: a divisor of the channels.
        sequence: width of the sequence's elements; None for self-attention.
        norm: makes the norm before it; None for no norm.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        sequence: int | None = None,
        norm: GroupNorm | None = group_norm,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm = None if norm is None else norm(channels)
        if sequence is None:
            self.qkv = nn.Linear(channels, 3 * channels)
        else:
            self.q, self.kv = nn.Linear(channels, channels), nn.Linear(sequence, 2 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def _split(self, x: Float[Tensor, " b n k"], parts: int) -> tuple[Tensor, ...]:
        b, n, k = x.shape
        shaped = x.reshape(b, n, parts, self.heads, k // parts // self.heads)
        return shaped.permute(2, 0, 3, 1, 4).unbind(0)  # each b heads n d

    def attend(
        self,
        h: Float[Tensor, " b n c"],
        sequence: Float[Tensor, " b m k"] | None = None,
        bias: Float[Tensor, " b heads n m"] | None = None,
    ) -> Float[Tensor, " b n c"]:
        """The branch without norm and residual, of positions as a sequence.

        Args:
            h: queries are made from it, keys and values too where there is no `sequence`.
            sequence: keys and values are made from it.
            bias: added to q k^T / sqrt(d).
        """
        if sequence is None:
            q, k, v = self._split(self.qkv(h), 3)
        else:
            (q,), (k, v) = self._split(self.q(h), 1), self._split(self.kv(sequence.to(h)), 2)
        # softmax(q k^T / sqrt(d) + bias) v, eq. 1
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).reshape(h.shape))  # heads side by side

    def forward(
        self, x: Float[Tensor, " b c *space"], sequence: Float[Tensor, " b m k"] | None = None
    ) -> Float[Tensor, " b c *space"]:
        h = (x if self.norm is None else self.norm(x)).flatten(2).transpose(1, 2)
        return x + self.attend(h, sequence).transpose(1, 2).reshape(x.shape)


HEAD = 32  # channels of a head where neither their number nor their width is given


def heads_of(channels: int, heads: int | None, head_channels: int | None) -> int:
    """How many heads an attention layer has; one where a head would be wider than the layer."""
    return heads or max(1, channels // (head_channels or HEAD))


def head_checks(
    channels: Iterable[int], heads: int | None, head_channels: int | None
) -> list[tuple[bool, str]]:
    """Checks of heads for attention layers of these channels: (whether it fails, message)."""
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
    option = f"heads: {heads}" if heads else f"head_channels: {head_channels or HEAD}"
    for c in channels:
        uneven = c % heads_of(c, heads, head_channels) or (
            heads is None and c > (head_channels or HEAD) and c % (head_channels or HEAD)
        )
        found.append((bool(uneven), f"{option} does not divide {c} channels"))
    return found
