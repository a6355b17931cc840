"""U-Net for images of any size."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import InputError
from core.network.embedding import LevelEmbedding


def _norm(channels: int) -> nn.GroupNorm:
    groups = math.gcd(32, channels)
    return nn.GroupNorm(groups, channels)


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that says nothing at first, so that a residual branch begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the second's norm is scaled and shifted by the level (adaptive GN).

    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 3.1.
    """

    def __init__(self, inputs: int, outputs: int, level: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            _norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.level = nn.Sequential(nn.SiLU(), nn.Linear(level, 2 * outputs))
        self.norm = _norm(outputs)
        self.leave = nn.Sequential(
            nn.SiLU(), nn.Dropout(dropout), _zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        )
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(
        self, x: Float[Tensor, " b c h w"], level: Float[Tensor, " b d"]
    ) -> Float[Tensor, " b k h w"]:
        scale, shift = self.level(level)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(self.enter(x)) * (1 + scale) + shift
        return self.skip(x) + self.leave(h)


class Attention(nn.Module):
    """Self-attention over all positions."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c h w"]:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v)  # b heads (h w) d
        return x + self.out(mixed.transpose(-1, -2).reshape(b, c, h, w))


class _Stage(nn.Module):
    """A residual block, then attention if it is wanted at this resolution."""

    def __init__(self, block: ResidualBlock, attention: Attention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        x = self.block(x, level)
        return x if self.attention is None else self.attention(x)


class UNet2D(nn.Module):
    """F(x, level, condition) for pictures; a condition named "image" is concatenated to x.

    Any height and width: inputs are padded by reflection to the next multiple of the coarsest
    pixel and outputs are cropped.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Saharia et al. 2021, arXiv:2104.07636.

    Args:
        width: channels at full resolution, a multiple of 4.
        multipliers: channels at each resolution, in units of `width`; each but the first halves
            the picture.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        attention: downsampling factors at which positions attend to each other, for example (8,).
        head_channels: channels of an attention head.
        dropout: in residual blocks.
        patch: side of the squares of pixels folded into channels before the first layer; 2 costs
            a quarter of 1.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        conditions: Mapping[str, int],
        *,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 4, 4),
        blocks: int = 2,
        attention: tuple[int, ...] = (8,),
        head_channels: int = 32,
        dropout: float = 0.0,
        patch: int = 1,
    ) -> None:
        super().__init__()
        self._check(
            conditions, width, multipliers, blocks, attention, head_channels, dropout, patch
        )
        self.patch, self.condition = patch, conditions.get("image", 0)
        self.multiple = patch * 2 ** (len(multipliers) - 1)
        level = 4 * width
        self.level = LevelEmbedding(width, level)

        def stage(inputs: int, outputs: int, factor: int) -> _Stage:
            attend = Attention(outputs, head_channels) if factor in attention else None
            return _Stage(ResidualBlock(inputs, outputs, level, dropout), attend)

        self.enter = nn.Conv2d((channels + self.condition) * patch**2, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept, now = [width], width
        for depth, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(stage(now, width * multiplier, patch * 2**depth))
                now = width * multiplier
                kept.append(now)
            if depth < len(multipliers) - 1:
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                kept.append(now)
        deepest = self.multiple
        self.middle = nn.ModuleList([stage(now, now, deepest), stage(now, now, 0)])
        for depth, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(stage(now + kept.pop(), width * multiplier, patch * 2**depth))
                now = width * multiplier
            if depth:
                self.up.append(nn.Conv2d(now, now, 3, padding=1))
        self.leave = nn.Sequential(
            _norm(now), nn.SiLU(), _zeroed(nn.Conv2d(now, outputs * patch**2, 3, padding=1))
        )

    @staticmethod
    def _check(
        conditions: Mapping[str, int],
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        head_channels: int,
        dropout: float,
        patch: int,
    ) -> None:
        unknown = sorted(set(conditions) - {"image"})
        problems = [
            (unknown, f"takes no condition named {', '.join(unknown)}, only 'image'"),
            (width < 4 or width % 4, f"width: expected a multiple of 4, got {width}"),
            (not multipliers or min(multipliers, default=0) < 1, "multipliers: expected 1 or more"),
            (blocks < 1, f"blocks: expected at least 1, got {blocks}"),
            (head_channels < 1, f"head_channels: expected at least 1, got {head_channels}"),
            (not 0 <= dropout < 1, f"dropout: expected 0 to 1, got {dropout}"),
            (patch < 1, f"patch: expected at least 1, got {patch}"),
        ]
        factors = [max(patch, 1) * 2**depth for depth in range(len(multipliers))]
        outside = sorted(set(attention) - set(factors))
        problems.append((outside, f"attention: expected some of {factors}, got {outside}"))
        for factor, multiplier in zip(factors, multipliers, strict=True):
            c = width * multiplier
            split = factor in attention and c > head_channels > 0 and c % head_channels
            problems.append((split, f"head_channels: {head_channels} does not divide {c} channels"))
        wrong = [message for bad, message in problems if bad]
        if wrong:
            raise InputError("\n".join(f"network.{message}" for message in wrong))

    def forward(
        self,
        x: Float[Tensor, " b c h w"],
        level: Float[Tensor, " b"],
        condition: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, " b k h w"]:
        if self.condition:
            given = (condition or {}).get("image")
            if given is None:
                raise InputError("this network was made for a condition named 'image'; none given")
            x = torch.cat([x, given.to(x)], dim=1)
        height, width = x.shape[-2:]
        x = F.pixel_unshuffle(pad_to_multiple(x, self.multiple), self.patch)
        told = self.level(level)
        h = self.enter(x)
        kept = [h]
        for layer in self.down:
            h = layer(h, told) if isinstance(layer, _Stage) else layer(h)
            kept.append(h)
        for layer in self.middle:
            h = layer(h, told)
        for layer in self.up:
            if isinstance(layer, _Stage):
                h = layer(torch.cat([h, kept.pop()], dim=1), told)
            else:
                h = layer(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.leave(h), self.patch)[..., :height, :width]


def pad_to_multiple(x: Float[Tensor, " b c h w"], multiple: int) -> Float[Tensor, " b c y x"]:
    """`x` with rows and columns appended, by reflection where there are enough, else repeated."""
    down, right = (-x.shape[-2]) % multiple, (-x.shape[-1]) % multiple
    if not down and not right:
        return x
    enough = down < x.shape[-2] and right < x.shape[-1]
    return F.pad(x, (0, right, 0, down), mode="reflect" if enough else "replicate")
