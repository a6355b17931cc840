"""A U-Net of clips: the U-Net of images, frame by frame, with layers between the frames."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import InputError
from core.network import conditioning
from core.network.embedding import sinusoidal
from core.network.layers import head_checks, heads_of, zeroed
from core.network.unet import Block, UNet, lay_out
from plugins.video.between import BetweenFrames, Frames, frames_of

CLEAN = 500.0  # log_snr, the level, of frames without noise: where it is clamped
TIMES, KNOWN_LEVEL, INDEPENDENT = "times", "known_level", "independent"


class UNet3D(nn.Module):
    """F(x, level, condition) of clips: a U-Net of images on each frame, with layers between frames.

    The condition "image" holds the known frames, 0 elsewhere, and behind them a mask, 1 where they
    are known: there they replace `x`, so that they enter clean.  A level is one a sample or one a
    frame; that of frames known whole is that of no noise.  Entries of the condition that need not
    be there: "times" (b, t) of the frames, in units of the usual distance and any order, by
    default 0, 1, ...; "known_level" (b, t), the level of known frames that carry noise;
    "independent" (b,), clips whose frames do not see each other.  Layers between frames begin at
    zero: the network is then that of images in each frame, and can `start` from a checkpoint of
    `core/unet` with the same options.
    Source: Ho et al. 2022, arXiv:2204.03458, section 3 (space and time apart, images among clips);
    Harvey et al. 2022, arXiv:2205.11495, section 4 (any frames given any others); a level for each
    frame, Chen et al. 2024, arXiv:2407.01392, section 3.

    Args:
        width: channels at full resolution.
        multipliers: channels at each resolution, in units of `width`; each but the first halves
            the frames.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        attention: downsampling factors at which the positions of a frame attend to each other.
        middle_attention: they do at the coarsest resolution.
        between: downsampling factors at which frames see each other; all by default.
        motion: convolution over neighbouring frames: none, at each position (frame), or three wide
            in space too (full).
        heads: heads of an attention layer; by default channels / `head_channels`.
        head_channels: channels of a head, 32 by default; give one of the two.
        groups: most groups of a norm.
        dropout: in residual blocks.
        recompute: what is computed again for the gradient in training rather than kept: norms and
            activations; whole blocks, for a third more time and far less memory; or nothing.
        patch: side of the squares of pixels folded into channels before the first layer.

    Raises:
        InputError: options that do not fit together, all at once.
    """

    required_level = "log_snr"  # in which `CLEAN` is stated

    def __init__(
        self,
        channels: int,
        outputs: int,
        conditions: Mapping[str, int],
        *,
        width: int = 64,
        multipliers: tuple[int | float, ...] = (1, 2, 4),
        blocks: int = 1,
        attention: tuple[int, ...] = (8,),
        middle_attention: bool = True,
        between: tuple[int, ...] | None = None,
        motion: Literal["none", "frame", "full"] = "frame",
        heads: int | None = None,
        head_channels: int | None = None,
        groups: int = 32,
        dropout: float = 0.0,
        recompute: Literal["nothing", "norms", "blocks"] = "norms",
        patch: int = 1,
    ) -> None:
        super().__init__()
        given = conditions.get("image", channels + 1)
        factors = [max(patch, 1) * 2**depth for depth in range(len(multipliers))]
        chosen = tuple(factors) if between is None else between
        sizes = [int(width * m) for m, f in zip(multipliers, factors, strict=True) if f in chosen]
        checks = [
            (
                given != channels + 1,
                f"condition 'image': expected {channels + 1} channels, the known frames and their "
                f"mask, got {given}",
            ),
            (
                not set(chosen) <= set(factors),
                f"between: expected some of {factors}, got {sorted(chosen)}",
            ),
            *head_checks(sizes, heads, head_channels),
        ]
        conditioning.check(conditions, checks, names=("image", "class", "vector"))
        self.known = "image" in conditions
        inner = dict(conditions)
        inner |= {"image": 1} if self.known else {}  # the mask; known frames replace the noisy ones
        self.image = UNet(
            channels, outputs, inner, width=width, multipliers=multipliers, blocks=blocks,
            attention=attention, middle_attention=middle_attention, heads=heads,
            head_channels=head_channels, groups=groups, dropout=dropout, recompute=recompute,
            patch=patch,
        )  # fmt: skip
        self.null_condition = conditioning.NullCondition(conditions, "zero")
        self.time_embedding = zeroed(nn.Linear(width, 4 * width))
        self.width = width
        sides = {"none": 0, "frame": 1, "full": 3}
        for factor, block in _blocks(self.image, factors):
            if factor in chosen:
                c = _channels(block)
                lean = recompute == "norms"
                block.between = BetweenFrames(
                    c, heads_of(c, heads, head_channels), sides[motion], lean=lean
                )
        lay_out(self.image)

    def forward(
        self,
        x: Float[Tensor, " b c t h w"],
        level: Float[Tensor, "..."],
        condition: conditioning.Condition | None = None,
    ) -> Float[Tensor, " b k t h w"]:
        given = self.null_condition(condition)
        b, _, t = x.shape[:3]
        rest = dict(condition or {})
        mask, whole = None, torch.zeros(b, t, dtype=torch.bool, device=x.device)
        if self.known:
            image = given["image"].to(x)
            mask = image[:, -1:]
            x = torch.where(mask > 0, image[:, :-1], x)  # known elements replace the noisy ones
            whole = mask.flatten(3).amin(-1)[:, 0] > 0
        times = rest.get(TIMES)
        times = torch.arange(t, device=x.device).expand(b, t) if times is None else times
        joined = 1 - rest[INDEPENDENT].float() if INDEPENDENT in rest else None
        levels = _levels(level, whole, rest.get(KNOWN_LEVEL))
        # Frames in the order of their times, as layers between neighbours expect them.
        times, order = times.double().sort(dim=1, stable=True)
        since = (times - times[:, :1]).float()
        inputs = x if mask is None else torch.cat([x, mask], dim=1)
        found = self._ordered(_taken(inputs, order), levels.gather(1, order), since, given,
                              frames_of(since, joined))  # fmt: skip
        return _taken(found, order.argsort(dim=1))

    def _ordered(
        self,
        x: Float[Tensor, " b c t h w"],
        levels: Float[Tensor, " b t"],
        since: Float[Tensor, " b t"],
        given: conditioning.Condition,
        frames: Frames,
    ) -> Float[Tensor, " b k t h w"]:
        """The output for frames in the order of their times since the first."""
        b, _, t = x.shape[:3]
        # Each frame is a sample of the U-Net of images: its level, its time, its clip's conditions.
        embedding = self.image.level_embedding(levels.flatten().to(x))
        embedding = embedding + self.time_embedding(sinusoidal(since.flatten(), self.width).to(x))
        each = {k: v.repeat_interleave(t, 0) for k, v in given.items() if k in ("class", "vector")}
        embedding = self.image.condition_embedding(embedding, each)
        flat = x.transpose(1, 2).flatten(0, 1)  # (b t) c h w
        return self.image.run(flat, embedding, frames=frames).unflatten(0, (b, t)).transpose(1, 2)

    def extended(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights to start from: those of a U-Net of images in their places, or this network's.

        The channels of a mask that images lack, and all layers between frames, begin at zero.
        """
        if any(name.startswith("image.") for name in weights):
            return dict(weights)
        own = {name: value.detach().clone() for name, value in self.state_dict().items()}
        first = weights.get("conv_in.weight")
        target = own["image.conv_in.weight"]
        found = own | {f"image.{name}": value for name, value in weights.items()}
        if first is not None and first.shape[1] < target.shape[1]:
            more = target.shape[1] - first.shape[1]
            found["image.conv_in.weight"] = F.pad(first, (0, 0, 0, 0, 0, more))
        return found


def _levels(
    level: Tensor, whole: Bool[Tensor, " b t"], known: Tensor | None
) -> Float[Tensor, " b t"]:
    """The level of each frame, that of known ones `known`, or clean.

    Raises:
        InputError: levels that vary within a frame.
    """
    if level.ndim == 5:  # times of elements, as objectives and samplers state them
        level = level.flatten(3)[:, 0]
        if level.shape[-1] > 1 and bool((level != level[..., :1]).any()):
            raise InputError("level: expected one a sample or one a frame, got one an element")
        level = level[..., 0]
    level = level[:, None] if level.ndim == 1 else level
    clean = torch.full_like(whole, CLEAN, dtype=level.dtype) if known is None else known.to(level)
    return torch.where(whole, clean, level.expand_as(clean))


def _taken(x: Float[Tensor, " b c t h w"], order: Tensor) -> Float[Tensor, " b c t h w"]:
    """Frames of each clip in another order."""
    if bool((order == torch.arange(order.shape[1], device=order.device)).all()):
        return x
    return torch.stack([clip[:, places] for clip, places in zip(x, order, strict=True)])


def _channels(block: Block) -> int:
    """Channels behind a block's residual block."""
    assert block.residual is not None
    return block.residual.out_layers.conv.out_channels


def _blocks(network: UNet, factors: list[int]) -> list[tuple[int, Block]]:
    """Each block with a residual block, and the downsampling factor of its resolution."""
    found, depth = [], 0
    for block in network.down:
        assert isinstance(block, Block)
        depth += block.residual is None  # a change of size alone
        if block.residual is not None:
            found.append((factors[depth], block))
    found.append((factors[-1], network.middle.first))
    for block in network.up:
        assert isinstance(block, Block)
        found.append((factors[depth], block))
        depth -= block.resample is not None
    return found
