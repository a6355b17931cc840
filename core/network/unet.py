"""U-Net in one, two or three dimensions, of any size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.network import conditioning
from core.network.embedding import LevelEmbedding, fine_detail
from core.network.layers import (
    Attention,
    Resample,
    ResidualBlock,
    convolution,
    crop,
    fold,
    head_checks,
    heads_of,
    norm,
    pad_to_multiple,
    unfold,
    zeroed,
)
from core.network.lean import Normed, convolve


class Block(nn.Module):
    """Any of: a residual block, attention among positions, to a sequence, a change of size."""

    def __init__(
        self,
        residual: ResidualBlock | None = None,
        attention: Attention | None = None,
        cross: Attention | None = None,
        resample: nn.Module | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.residual, self.attention, self.cross = residual, attention, cross
        self.resample, self.recompute = resample, recompute

    def _run(self, x: Tensor, level: Tensor, sequence: Tensor | None) -> Tensor:
        if self.residual is not None:
            x = self.residual(x, level)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross is not None:
            x = self.cross(x, sequence)
        return x if self.resample is None else self.resample(x, level)

    def forward(self, x: Tensor, level: Tensor, sequence: Tensor | None = None) -> Tensor:
        if self.recompute and self.training and torch.is_grad_enabled():
            found = checkpoint(self._run, x, level, sequence, use_reentrant=False)
            assert isinstance(found, Tensor)
            return found
        return self._run(x, level, sequence)


class Middle(nn.Module):
    """Two residual blocks at the coarsest size, attention between them."""

    def __init__(self, first: Block, second: Block) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, level: Tensor, sequence: Tensor | None = None) -> Tensor:
        return self.second(self.first(x, level, sequence), level, sequence)


@dataclass(frozen=True, kw_only=True)
class _Kit:
    """How the blocks of a U-Net are made; the fields are its options."""

    level: int
    dims: int
    dropout: float
    groups: int
    epsilon: float
    scale_shift: bool
    heads: int | None
    head_channels: int | None
    sequence: int | None
    resample: str
    halving: tuple[int, ...]
    after: bool
    recompute: bool
    lean: bool

    def residual(self, inputs: int, outputs: int, change: Resample | None = None) -> ResidualBlock:
        return ResidualBlock(
            inputs,
            outputs,
            self.level,
            dims=self.dims,
            dropout=self.dropout,
            groups=self.groups,
            epsilon=self.epsilon,
            scale_shift=self.scale_shift,
            resample=change,
            lean=self.lean,
        )

    def attend(self, c: int, sequence: int | None = None, *, normed: bool = True) -> Attention:
        heads = heads_of(c, self.heads, self.head_channels)
        return Attention(
            c, heads, sequence=sequence, groups=self.groups, epsilon=self.epsilon, normed=normed
        )

    def block(
        self,
        inputs: int,
        c: int,
        *,
        here: bool,
        normed: bool = True,
        resample: nn.Module | None = None,
    ) -> Block:
        """A residual block, attention where it is wanted `here`, and a change of size."""
        cross = here and self.sequence is not None
        return Block(
            self.residual(inputs, c),
            self.attend(c, normed=normed) if here else None,
            self.attend(c, self.sequence) if cross else None,
            resample,
            self.recompute,
        )

    def change(self, c: int, way: Literal["up", "down"]) -> nn.Module:
        """Half or twice the size."""
        learned = self.resample == "conv"
        plain = Resample(c, way, self.halving, learned=learned, after=self.after, lean=self.lean)
        return self.residual(c, c, plain) if self.resample == "residual" else plain

    def way_down(self, sizes: list[int], here: list[bool], blocks: int) -> nn.ModuleList:
        """Blocks of every resolution, each followed by a block that halves, but for the last."""
        found, now = nn.ModuleList(), sizes[0]
        for depth, c in enumerate(sizes):
            for _ in range(blocks):
                found.append(self.block(now, c, here=here[depth]))
                now = c
            if depth < len(sizes) - 1:
                found.append(Block(resample=self.change(now, "down"), recompute=self.recompute))
        return found

    def way_up(self, sizes: list[int], here: list[bool], blocks: int) -> nn.ModuleList:
        """Blocks that are given what the way down kept; the last of a resolution doubles."""
        kept = [sizes[0]]
        for depth, c in enumerate(sizes):
            kept += [c] * (blocks + (depth < len(sizes) - 1))
        found, now = nn.ModuleList(), sizes[-1]
        for depth, c in reversed(list(enumerate(sizes))):
            for number in range(blocks + 1):
                doubles = depth and number == blocks
                change = self.change(c, "up") if doubles else None
                found.append(self.block(now + kept.pop(), c, here=here[depth], resample=change))
                now = c
        return found


class UNet(nn.Module):
    """F(x, level, condition): a U-Net that published ADM and DDPM weights fit.

    Conditions are those of `core.network.conditioning`.  Any size: inputs are padded behind their
    last element, by reflection, to the next multiple of the coarsest cell, and outputs cropped.
    Blocks are named ``down.0``, ..., ``middle``, ``up.0``, ...; see `core.network.taps`.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal and Nichol 2021,
    arXiv:2105.05233 (ADM), section 3; image condition Saharia et al. 2021, arXiv:2104.07636.

    Args:
        dims: axes of space: 1 for signals, 2 for pictures, 3 for volumes and clips.
        width: channels at full resolution.
        multipliers: channels at each resolution, in units of `width`; each but the first halves
            the sample.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        attention: downsampling factors at which positions attend to each other, for example (8,).
        middle_attention: positions attend to each other at the coarsest resolution.
        middle_norm: a norm before that attention.
        heads: heads of an attention layer; by default channels / `head_channels`.
        head_channels: channels of a head, 32 by default; give one of the two.
        adaptive: the level scales and shifts a norm's output (ADM), or is added before it (DDPM).
        resample: halve and double by a convolution, in a residual block (ADM's
            ``resblock_updown``), or by means and repetition alone.
        halved: axes that are halved: all, or the last two (clips, thick slices).
        downsample_padding: a strided convolution pads both sides, or behind the last element alone
            (DDPM's code).
        groups: most groups of a norm; the largest divisor they share with the channels is taken.
        epsilon: added to a norm's variance.
        level_features: of the level: sinusoids, or waves of random frequencies (for
            log-SNR levels).
        sine_first: sines before cosines among the sinusoids.
        frequency_shift: 1 for DDPM's sinusoids, 0 for ADM's.
        fourier_scale: deviation of the random frequencies.
        input_octaves: sin and cos of 2^n pi x are put beside the input for each n, for likelihoods;
            7 and 8 are usual.
        dropout: in residual blocks.
        recompute: what is computed again for the gradient in training rather than kept: norms and
            activations, which costs next to nothing; whole blocks, for a third more time and
            far less memory; or nothing, which second derivatives want.
        patch: side of the cubes of elements folded into channels before the first layer; in
            pictures 2 costs a quarter of 1.

    Raises:
        InputError: options that do not fit together, all at once.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        conditions: Mapping[str, int],
        *,
        dims: Literal[1, 2, 3] = 2,
        width: int = 64,
        multipliers: tuple[int | float, ...] = (1, 2, 4, 4),
        blocks: int = 2,
        attention: tuple[int, ...] = (8,),
        middle_attention: bool = True,
        middle_norm: bool = True,
        heads: int | None = None,
        head_channels: int | None = None,
        adaptive: Literal["scale_shift", "shift"] = "scale_shift",
        resample: Literal["conv", "residual", "pool"] = "conv",
        halved: Literal["all", "last_two"] = "all",
        downsample_padding: Literal["both", "after"] = "both",
        groups: int = 32,
        epsilon: float = 1e-5,
        level_features: Literal["sinusoidal", "fourier"] = "sinusoidal",
        sine_first: bool = False,
        frequency_shift: Literal[0, 1] = 0,
        fourier_scale: float = 16.0,
        input_octaves: tuple[int, ...] = (),
        dropout: float = 0.0,
        recompute: Literal["nothing", "norms", "blocks"] = "norms",
        patch: int = 1,
    ) -> None:
        super().__init__()
        sizes = [int(width * m) for m in multipliers]
        factors = [max(patch, 1) * 2**depth for depth in range(len(sizes))]
        attending = [c for f, c in zip(factors, sizes, strict=True) if f in attention]
        attending += sizes[-1:] * middle_attention
        checks = [
            (width < 1, f"width: expected at least 1, got {width}"),
            (min(sizes, default=0) < 1, f"multipliers: expected channels, got {sizes}"),
            (blocks < 1, f"blocks: expected at least 1, got {blocks}"),
            (not 0 <= dropout < 1, f"dropout: expected 0 to 1, got {dropout}"),
            (patch < 1, f"patch: expected at least 1, got {patch}"),
            (groups < 1, f"groups: expected at least 1, got {groups}"),
            (epsilon <= 0, f"epsilon: expected more than 0, got {epsilon}"),
            (dims == 1 and halved == "last_two", "halved: last_two wants dims 2 or 3, got 1"),
            (
                not set(attention) <= set(factors),
                f"attention: expected some of {factors}, got {sorted(attention)}",
            ),
            *head_checks(attending, heads, head_channels),
        ]
        conditioning.check(conditions, checks)
        halving = tuple(2 if halved == "all" or dims - i <= 2 else 1 for i in range(dims))
        self.lean = recompute == "norms"
        self.patch, self.conditions, self.octaves = patch, dict(conditions), input_octaves
        self.multiples = tuple(patch * f ** (len(sizes) - 1) for f in halving)
        self.level = LevelEmbedding(
            width,
            4 * width,
            kind=level_features,
            sine_first=sine_first,
            shift=frequency_shift,
            scale=fourier_scale,
        )
        self.told = conditioning.Told(conditions, 4 * width)
        kit = _Kit(
            level=4 * width,
            dims=dims,
            dropout=dropout,
            groups=groups,
            epsilon=epsilon,
            scale_shift=adaptive == "scale_shift",
            heads=heads,
            head_channels=head_channels,
            sequence=conditions.get("sequence"),
            resample=resample,
            halving=halving,
            after=downsample_padding == "after",
            recompute=recompute == "blocks",
            lean=recompute == "norms",
        )
        here = [f in attention for f in factors]
        whole = channels * (1 + 2 * len(input_octaves)) + conditions.get("image", 0)
        self.enter = convolution(dims, whole * patch**dims, sizes[0])
        self.down = kit.way_down(sizes, here, blocks)
        self.middle = Middle(
            kit.block(sizes[-1], sizes[-1], here=middle_attention, normed=middle_norm),
            Block(kit.residual(sizes[-1], sizes[-1]), recompute=kit.recompute),
        )
        self.up = kit.way_up(sizes, here, blocks)
        self.norm = norm(sizes[0], groups, epsilon)
        self.leave = zeroed(convolution(dims, sizes[0], outputs * patch**dims))
        if dims == 2:  # the layout in which convolutions of pictures are fastest
            for parameter in self.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def forward(
        self,
        x: Float[Tensor, " b c *space"],
        level: Float[Tensor, " b"],
        condition: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, " b k *space"]:
        given = conditioning.asked(self.conditions, condition)
        size = x.shape[2:]
        x = conditioning.beside(fine_detail(x, self.octaves) if self.octaves else x, given)
        h = fold(pad_to_multiple(x, self.multiples), self.patch)
        if h.ndim == 4:
            h = h.contiguous(memory_format=torch.channels_last)
        told = F.silu(self.told(self.level(level), given))
        sequence = given.get("sequence")
        h = self.enter(h)
        kept = [h]
        for block in self.down:
            h = block(h, told, sequence)
            kept.append(h)
        h = self.middle(h, told, sequence)
        for block in self.up:
            h = block(torch.cat([h, kept.pop()], dim=1), told, sequence)
        last = Normed(self.norm, self.norm.weight[None], self.norm.bias[None])
        h = convolve(h, self.leave, last, lean=self.lean)
        return crop(unfold(h, self.patch), size)
