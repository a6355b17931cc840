"""U-Net in one, two or three dimensions, of any size."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.network import conditioning
from core.network.embedding import LevelEmbedding, fine_detail
from core.network.layers import (
    Attention,
    GroupNorm,
    NormConv,
    Resample,
    ResidualBlock,
    convolution,
    crop,
    fold,
    group_norm,
    head_checks,
    heads_of,
    pad_to_multiple,
    unfold,
    zeroed,
)


class Block(nn.Module):
    """Any of: a residual block, self-attention, cross-attention, a change of size; in this order.

    Args:
        residual: the residual block.
        attention: among positions.
        cross: to the sequence.
        resample: half or twice the size; a `Resample` or a residual block with one.
        recompute: keep the input alone in training and compute the block again for the gradient.

    Attributes:
        between: a layer before the change of size in which samples of the batch meet, such as the
            frames of a clip, called with `UNet.run`'s `frames`; set by the network that has one.
    """

    between: nn.Module | None

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
        self.between = None

    def _run(self, x: Tensor, embedding: Tensor, sequence: Tensor | None, frames: Any) -> Tensor:
        if self.residual is not None:
            x = self.residual(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross is not None:
            x = self.cross(x, sequence)
        if self.between is not None:
            x = self.between(x, frames)
        return x if self.resample is None else self.resample(x, embedding)

    def forward(
        self,
        x: Float[Tensor, " b c *space"],
        embedding: Float[Tensor, " b d"],
        sequence: Float[Tensor, " b m e"] | None = None,
        frames: Any = None,
    ) -> Float[Tensor, " b c2 *other"]:
        if self.recompute and self.training and torch.is_grad_enabled():
            found = checkpoint(self._run, x, embedding, sequence, frames, use_reentrant=False)
            assert isinstance(found, Tensor)
            return found
        return self._run(x, embedding, sequence, frames)


class Middle(nn.Module):
    """Two residual blocks at the coarsest size, attention between them."""

    def __init__(self, first: Block, second: Block) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(
        self,
        x: Float[Tensor, " b c *space"],
        embedding: Float[Tensor, " b d"],
        sequence: Float[Tensor, " b m e"] | None = None,
        frames: Any = None,
    ) -> Float[Tensor, " b c *space"]:
        x = self.first(x, embedding, sequence, frames)
        return self.second(x, embedding, sequence, frames)


class Stage(NamedTuple):
    """A resolution of a U-Net.

    Args:
        channels: of its blocks.
        factor: of downsampling.
        attends: whether positions attend to each other.
    """

    channels: int
    factor: int
    attends: bool


@dataclass(frozen=True)
class _Builder:
    """Makes the blocks of a U-Net.

    Args:
        residual: (inputs, outputs, resample) -> a residual block.
        attention: (channels, width of the sequence or None) -> attention.
        resample: (channels, way) -> a change of size.
        output: (inputs, outputs) -> a norm, SiLU and a convolution that starts at zero.
        in_residual: changes of size are made in residual blocks.
        sequence: width of the condition "sequence"; None where there is none.
        recompute: see `Block`.
    """

    residual: Callable[..., ResidualBlock]
    attention: Callable[..., Attention]
    resample: Callable[..., Resample]
    output: Callable[[int, int], NormConv]
    in_residual: bool
    sequence: int | None
    recompute: bool

    def block(
        self, inputs: int, outputs: int, attends: bool, resample: nn.Module | None = None
    ) -> Block:
        """A residual block, attention behind it where it `attends`, and a change of size."""
        residual, attention, cross = self.residual(inputs, outputs), None, None
        if attends:
            attention = self.attention(outputs)
        if attends and self.sequence is not None:
            cross = self.attention(outputs, self.sequence)
        return Block(residual, attention, cross, resample, self.recompute)

    def resampling(self, channels: int, way: Literal["up", "down"]) -> nn.Module:
        """Half or twice the size, in a residual block or not."""
        plain = self.resample(channels, way)
        return self.residual(channels, channels, resample=plain) if self.in_residual else plain

    def down(self, stages: Sequence[Stage], blocks: int) -> nn.ModuleList:
        """Blocks of every resolution, each but the first behind one that halves."""
        found, now = nn.ModuleList(), stages[0].channels
        for depth, stage in enumerate(stages):
            if depth > 0:
                halves = self.resampling(now, "down")
                found.append(Block(resample=halves, recompute=self.recompute))
            for _ in range(blocks):
                found.append(self.block(now, stage.channels, stage.attends))
                now = stage.channels
        return found

    def middle(self, channels: int, attends: bool, *, normed: bool) -> Middle:
        """Two blocks of the coarsest resolution, attention between them with a norm or without."""
        first = self.block(channels, channels, attends)
        # diffusers leaves this one norm out where norms are adaptive and attention has no groups.
        if first.attention is not None and not normed:
            first.attention.norm = None
        return Middle(first, self.block(channels, channels, False))

    def up(self, stages: Sequence[Stage], blocks: int) -> nn.ModuleList:
        """Blocks that take the outputs of `down`, last first; the last of a resolution doubles."""
        kept = [stages[0].channels]  # channels of the first convolution and of each block of `down`
        for depth, stage in enumerate(stages):
            if depth > 0:
                kept.append(stages[depth - 1].channels)
            kept += [stage.channels] * blocks
        # Each block takes the last kept output beside its input, so kept channels go last first.
        found, now = nn.ModuleList(), stages[-1].channels
        for depth, stage in reversed(list(enumerate(stages))):
            for number in range(blocks + 1):
                doubles = depth > 0 and number == blocks
                resample = self.resampling(stage.channels, "up") if doubles else None
                inputs = now + kept.pop()
                found.append(self.block(inputs, stage.channels, stage.attends, resample))
                now = stage.channels
        return found


def _halving(halved: str, dims: int) -> tuple[int, ...]:
    """The factor on each axis where the resolution halves."""
    return tuple(2 if halved == "all" or dims - i <= 2 else 1 for i in range(dims))


def _builder(
    norm: GroupNorm,
    embedding: int,
    sequence: int | None,
    *,
    dims: int,
    dropout: float,
    adaptive: str,
    heads: int | None,
    head_channels: int | None,
    resample: str,
    halved: str,
    downsample_padding: str,
    recompute: str,
) -> _Builder:
    """The builder of a U-Net's options; `embedding` is the width of the level's embedding."""
    lean = recompute == "norms"

    def attention(channels: int, sequence: int | None = None) -> Attention:
        count = heads_of(channels, heads, head_channels)
        return Attention(channels, count, sequence=sequence, norm=norm)

    def output(inputs: int, outputs: int) -> NormConv:
        return NormConv(norm(inputs), zeroed(convolution(dims, inputs, outputs)), lean=lean)

    return _Builder(
        residual=partial(
            ResidualBlock,
            embedding=embedding,
            dims=dims,
            dropout=dropout,
            norm=norm,
            scale_shift=adaptive == "scale_shift",
            lean=lean,
        ),
        attention=attention,
        resample=partial(
            Resample,
            factors=_halving(halved, dims),
            learned=resample == "conv",
            after=downsample_padding == "after",
            lean=lean,
        ),
        output=output,
        in_residual=resample == "residual",
        sequence=sequence,
        recompute=recompute == "blocks",
    )


def _stages(
    width: int, multipliers: Sequence[int | float], patch: int, attention: Collection[int]
) -> list[Stage]:
    factors = [max(patch, 1) * 2**depth for depth in range(len(multipliers))]
    return [
        Stage(int(width * multiplier), factor, factor in attention)
        for multiplier, factor in zip(multipliers, factors, strict=True)
    ]


def _attending(stages: Sequence[Stage], middle: bool) -> list[int]:
    """Channels of the layers of attention; of the coarsest stage where the `middle` attends."""
    found = [stage.channels for stage in stages if stage.attends]
    return found + [stage.channels for stage in stages[-1:]] if middle else found


def _layout_checks(
    stages: Sequence[Stage], dims: int, halved: str, attention: Collection[int]
) -> list[tuple[bool, str]]:
    """Checks of resolutions and axes: (whether it fails, message)."""
    sizes, factors = [stage.channels for stage in stages], [stage.factor for stage in stages]
    return [
        (min(sizes, default=0) < 1, f"multipliers: expected channels, got {sizes}"),
        (
            not set(attention) <= set(factors),
            f"attention: expected some of {factors}, got {sorted(attention)}",
        ),
        (dims == 1 and halved == "last_two", "halved: last_two requires dims 2 or 3, got 1"),
    ]


def _range_checks(
    counts: Mapping[str, int | None], dropout: float, epsilon: float
) -> list[tuple[bool, str]]:
    """Checks of numbers, of those counts that are given."""
    return [
        *conditioning.at_least(1, {name: n for name, n in counts.items() if n is not None}),
        (not 0 <= dropout < 1, f"dropout: expected 0 to 1, got {dropout}"),
        (epsilon <= 0, f"epsilon: expected more than 0, got {epsilon}"),
    ]


class UNet(nn.Module):
    """F(x, level, condition): a U-Net that published ADM and DDPM weights fit.

    Conditions are those of `core.network.conditioning`.  Any size: inputs are padded behind their
    last element, by reflection, to the next multiple of the coarsest cell, and outputs cropped.
    Blocks are named ``down.0``, ..., ``middle``, ``up.0``, ...; see `core.network.taps`.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal and Nichol 2021,
    arXiv:2105.05233 (ADM), section 3; image condition Saharia et al. 2021, arXiv:2104.07636.

    Args:
        dims: axes of space: 1 for signals, 2 for images, 3 for volumes and clips.
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
        groups: most groups of a norm.
        group_channels: fewest channels of a norm's group (EDM); null for the greatest common
            divisor of `groups` and the channels as the number of groups, which is the layout of
            published weights and of checkpoints of format 1.
        epsilon: added to a norm's variance.
        level_features: of the level: sinusoids, or waves of random frequencies, which require the
            level log_snr.
        sine_first: sines before cosines among the sinusoids.
        frequency_shift: 1 for DDPM's sinusoids, 0 for ADM's.
        fourier_scale: standard deviation of the random frequencies.
        input_octaves: sin and cos of 2^n pi x for each n, as further channels of the input, for
            likelihoods; 7 and 8 are usual.
        dropout: in residual blocks.
        recompute: what is computed again for the gradient in training rather than kept: norms and
            activations, which costs next to nothing; whole blocks, for a third more time and
            far less memory; or nothing, which second derivatives require.
        patch: side of the cubes of elements folded into channels before the first layer; in
            images 2 costs a quarter of 1.
        null: of an image, a vector or a sequence where a sample has no condition: zeros, or
            learned; a class always has a learned one.

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
        group_channels: int | None = 4,
        epsilon: float = 1e-5,
        level_features: Literal["sinusoidal", "fourier"] = "sinusoidal",
        sine_first: bool = False,
        frequency_shift: Literal[0, 1] = 0,
        fourier_scale: float = 16.0,
        input_octaves: tuple[int, ...] = (),
        dropout: float = 0.0,
        recompute: Literal["nothing", "norms", "blocks"] = "norms",
        patch: int = 1,
        null: Literal["zero", "learned"] = "zero",
    ) -> None:
        super().__init__()
        stages = _stages(width, multipliers, patch, attention)
        counts = {"width": width, "blocks": blocks, "patch": patch, "groups": groups}
        checks = _range_checks({**counts, "group_channels": group_channels}, dropout, epsilon)
        checks += _layout_checks(stages, dims, halved, attention)
        checks += head_checks(_attending(stages, middle_attention), heads, head_channels)
        conditioning.check(conditions, checks)
        self.patch, self.octaves = patch, input_octaves
        self.null_condition = conditioning.NullCondition(conditions, null)
        self.multiples = tuple(patch * f ** (len(stages) - 1) for f in _halving(halved, dims))
        self.level_embedding = LevelEmbedding(
            width, 4 * width, kind=level_features, sine_first=sine_first, shift=frequency_shift,
            scale=fourier_scale,
        )  # fmt: skip
        self.condition_embedding = conditioning.ConditionEmbedding(conditions, 4 * width)
        norm = partial(group_norm, groups=groups, group_channels=group_channels, epsilon=epsilon)
        build = _builder(
            norm, 4 * width, conditions.get("sequence"), dims=dims, dropout=dropout,
            adaptive=adaptive, heads=heads, head_channels=head_channels, resample=resample,
            halved=halved, downsample_padding=downsample_padding, recompute=recompute,
        )  # fmt: skip
        inputs = channels * (1 + 2 * len(input_octaves)) + conditions.get("image", 0)
        self.conv_in = convolution(dims, inputs * patch**dims, stages[0].channels)
        self.down = build.down(stages, blocks)
        self.middle = build.middle(stages[-1].channels, middle_attention, normed=middle_norm)
        self.up = build.up(stages, blocks)
        self.conv_out = build.output(stages[0].channels, outputs * patch**dims)
        lay_out(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "UNet":
        """As of every module, moves and conversions; weights take the layout of their device."""
        super()._apply(fn, recurse)
        lay_out(self)
        return self

    @property
    def required_level(self) -> str | None:
        """The level that its embedding is made for, by a parameterization's name; None for any."""
        return "log_snr" if self.level_embedding.fourier else None

    def forward(
        self,
        x: Float[Tensor, " b c *space"],
        level: Float[Tensor, " b"],
        condition: conditioning.Condition | None = None,
    ) -> Float[Tensor, " b k *space"]:
        given = self.null_condition(condition)
        # Inputs: fine detail and the image condition are channels.
        x = conditioning.concatenated(fine_detail(x, self.octaves) if self.octaves else x, given)
        embedding = self.condition_embedding(self.level_embedding(level), given)
        return self.run(x, embedding, given.get("sequence"))

    def run(
        self,
        x: Float[Tensor, " b c *space"],
        embedding: Float[Tensor, " b d"],
        sequence: Float[Tensor, " b m e"] | None = None,
        frames: Any = None,
    ) -> Float[Tensor, " b k *space"]:
        """The output for all channels of the input and the embedding of level and condition.

        Args:
            x: noisy sample, fine detail and image condition as channels.
            embedding: of level, class and vector; for each sample.
            sequence: the condition of that name.
            frames: passed to the layers `Block.between`.
        """
        size, embedding = x.shape[2:], F.silu(embedding)
        # Padded, folded into patches.
        h = fold(pad_to_multiple(x, self.multiples), self.patch)
        if h.ndim == 4:
            h = h.contiguous(memory_format=_layout(h))
        # Down, keeping every output; through the middle; up, each block with what was kept.
        h = self.conv_in(h)
        kept = [h]
        for block in self.down:
            h = block(h, embedding, sequence, frames)
            kept.append(h)
        h = self.middle(h, embedding, sequence, frames)
        for block in self.up:
            h = block(torch.cat([h, kept.pop()], dim=1), embedding, sequence, frames)
        return crop(unfold(self.conv_out(h), self.patch), size)


def _layout(x: Tensor) -> torch.memory_format:
    """The memory format in which the network is fastest.

    Convolutions are faster in channels_last; but on a GPU group normalisation has no kernel for it,
    so that every norm would copy its input twice.
    """
    return torch.channels_last if x.is_cpu else torch.contiguous_format


def lay_out(network: nn.Module) -> None:
    """Lay out the weights of convolutions of images as those are fastest with."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=_layout(parameter))
