"""Layers between the frames of a clip: a convolution over neighbours, attention over all of them.

Each has one value, computed in two ways.  The plain one is torch's own differentiation.  The lean
one writes the gradient out, with one pass over the data for each term and one copy for each change
of layout: on a CPU the layers then cost a training step half as much.  It has no second
derivatives, and leaves attention on a GPU to torch's kernels.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from core.network.layers import Attention, NormConv, convolution, group_norm, zeroed


class Frames(NamedTuple):
    """How the frames of a batch of clips stand to each other.

    Args:
        number: of a clip.
        distance: log(1 + d) of later and of earlier frames, and whether it is the same one.
        nearness: 1 / max(1, d) to the frame before each and to the one behind it.
        joined: 0 of clips whose frames are independent images, 1 of the others; None of no such.
    """

    number: int
    distance: Float[Tensor, " b t t 3"]
    nearness: Float[Tensor, " b t 2"]
    joined: Float[Tensor, " b"] | None


def frames_of(times: Float[Tensor, " b t"], joined: Float[Tensor, " b"] | None = None) -> Frames:
    """The relations of frames at rising `times`, in frames."""
    d = times[:, None, :] - times[:, :, None]  # from query i to key j: t_j - t_i
    distance = torch.stack([d.clamp(min=0).log1p(), (-d).clamp(min=0).log1p(), (d == 0).to(d)], -1)
    near = 1 / times.diff(dim=1).clamp(min=1)
    nearness = torch.stack([F.pad(near, (1, 0)), F.pad(near, (0, 1))], -1)
    return Frames(times.shape[1], distance, nearness, joined)


class BetweenFrames(nn.Module):
    """x + a convolution over neighbouring frames, + attention over all of them; zero at first.

    The convolution weighs a neighbour at distance d by 1 / max(1, d); attention adds a function of
    the signed logarithm of the distance to its logits, in each head.
    Source: the bias after the relative positions of Harvey et al. 2022, arXiv:2205.11495, section
    4; zero at first after Blattmann et al. 2023, arXiv:2304.08818, section 3.1.

    Args:
        channels: of the input.
        heads: of attention.
        side: of the convolution in space, 1 or 3; 0 for none.
        lean: compute gradients in the lean way in training; see the module.
    """

    def __init__(self, channels: int, heads: int, side: int, *, lean: bool = True) -> None:
        super().__init__()
        self.motion = None
        if side:
            taps = zeroed(convolution(2, channels, 3 * channels, side))
            self.motion = NormConv(group_norm(channels), taps, lean=lean)
        self.attention = Attention(channels, heads)
        self.bias = nn.Linear(3, heads, bias=False)
        self.lean = lean

    def forward(self, x: Float[Tensor, " n c h w"], frames: Frames) -> Float[Tensor, " n c h w"]:
        """`x` of all frames, clip by clip, with what they say of each other."""
        if frames.number == 1:
            return x
        once = self.training or not torch.is_grad_enabled()  # no second derivatives are taken
        lean = self.lean and once and not torch.compiler.is_compiling()
        if self.motion is not None:
            near = frames.nearness.to(x)
            here = None if frames.joined is None else frames.joined.to(x)
            if here is not None:
                near = near * here[:, None, None]
            x = (_Moved.apply if lean else moved)(x, self.motion(x), near, here)
        attended = self._attended(x, frames, lean)
        if frames.joined is not None:
            attended = attended * _over(frames.joined.to(x).repeat_interleave(frames.number))
        return x + attended

    def _attended(
        self, x: Float[Tensor, " n c h w"], frames: Frames, lean: bool
    ) -> Float[Tensor, " n c h w"]:
        """Attention of each position to itself in the other frames."""
        layer, (n, c, height, width) = self.attention, x.shape
        assert layer.norm is not None
        # n c h w -> b t p c: a view of what lies as channels_last
        qkv = _linear(layer.norm(x), layer.qkv).permute(0, 2, 3, 1)
        qkv = qkv.reshape(-1, frames.number, height * width, 3 * c)
        bias = self.bias(frames.distance.to(x)).permute(0, 3, 1, 2).to(qkv)  # b heads t t
        mixed = (_Attended.apply if lean and x.is_cpu else attended)(qkv, bias)
        return _linear(mixed.reshape(n, height, width, c).permute(0, 3, 1, 2), layer.out)


def _linear(x: Float[Tensor, " n c h w"], layer: nn.Linear) -> Float[Tensor, " n k h w"]:
    """A linear layer of the channels: as a convolution it is twice as fast on a CPU."""
    return F.conv2d(x, layer.weight[..., None, None], layer.bias)


def _over(frames: Float[Tensor, " n"]) -> Float[Tensor, " n 1 1 1"]:
    return frames[:, None, None, None]


# --- the convolution -----------------------------------------------------------------------------


def moved(
    x: Float[Tensor, " n c h w"],
    taps: Float[Tensor, " n c3 h w"],
    near: Float[Tensor, " b t 2"],
    here: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, " n c h w"]:
    """y_t = x_t + here taps_t[1] + near_t[0] taps_(t-1)[0] + near_t[1] taps_(t+1)[2].

    Args:
        x: frames, clip by clip.
        taps: three thirds of the channels: for the frame behind, the frame itself, the one before.
        near: weights of the frame before and of the one behind, 0 where there is none.
        here: weight of the frame itself, 1 where None.
    """
    t = near.shape[1]
    before, own, behind = taps.unflatten(0, (-1, t)).chunk(3, dim=2)  # each b t c h w
    weights = near[..., None, None, None]  # b t 2 1 1 1
    own = own if here is None else own * here[:, None, None, None, None]
    back = F.pad(before[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)) * weights[:, :, 0]
    ahead = F.pad(behind[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1)) * weights[:, :, 1]
    return x + (own + back + ahead).flatten(0, 1)


class _Moved(torch.autograd.Function):
    """`moved`, added in place; no gradient of the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, near: Tensor, here: Tensor | None) -> Tensor:
        ctx.save_for_backward(near, here)
        ctx.dtype, t = taps.dtype, near.shape[1]
        before, own, behind = taps.unflatten(0, (-1, t)).chunk(3, dim=2)
        weights = near[..., None, None, None]
        own = own if here is None else own * here[:, None, None, None, None]
        y = x + own.flatten(0, 1)
        clips = y.unflatten(0, (-1, t))  # a view
        clips[:, 1:].addcmul_(before[:, :-1], weights[:, 1:, 0])
        clips[:, :-1].addcmul_(behind[:, 1:], weights[:, :-1, 1])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (g,), (near, here) = gradients, ctx.saved_tensors
        n, c, height, width = g.shape
        layout = torch.channels_last if g.is_cpu else torch.contiguous_format
        found = torch.empty(
            n, 3 * c, height, width, dtype=ctx.dtype, device=g.device, memory_format=layout
        )
        clips, weights = g.unflatten(0, (-1, near.shape[1])), near[..., None, None, None]
        before, own, behind = found.unflatten(0, (-1, near.shape[1])).chunk(3, dim=2)  # views
        torch.mul(clips[:, 1:], weights[:, 1:, 0], out=before[:, :-1])
        torch.mul(clips[:, :-1], weights[:, :-1, 1], out=behind[:, 1:])
        before[:, -1:], behind[:, :1] = 0, 0
        own.copy_(clips if here is None else clips * here[:, None, None, None, None])
        return g, found, None, None


# --- attention -----------------------------------------------------------------------------------


def attended(
    qkv: Float[Tensor, " b t p c3"], bias: Float[Tensor, " b heads t t"]
) -> Float[Tensor, " b t p c"]:
    """softmax(q k^T / sqrt(d) + bias) v over the frames, at each position and in each head.

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1.

    Args:
        qkv: queries, keys and values, heads side by side in each.
        bias: of the logits, the same at every position.
    """
    (b, t, p, _), heads = qkv.shape, bias.shape[1]
    q, k, v = qkv.view(b, t, p, 3, heads, -1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2).unbind(0)
    each = bias[:, None].expand(-1, p, -1, -1, -1).flatten(0, 1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=each)  # (b p) heads t d
    return mixed.unflatten(0, (b, p)).permute(0, 3, 1, 2, 4).flatten(3)


class _Attended(torch.autograd.Function):
    """`attended`, its matrices side by side in the batch of one product."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor) -> Tensor:
        (b, t, p, _), heads = qkv.shape, bias.shape[1]
        each = qkv.view(b, t, p, 3, heads, -1).permute(3, 0, 2, 4, 1, 5)  # 3 b p heads t d
        # Contiguous even where a view would do: bmm takes other strides one matrix at a time.
        each = each.reshape(3, b * p * heads, t, -1).contiguous()
        q, k, v = each.unbind(0)
        logits = torch.bmm(q, k.mT).unflatten(0, (b, p, heads))
        weights = torch.add(bias[:, None], logits, alpha=q.shape[-1] ** -0.5)
        weights = weights.softmax(-1).to(qkv.dtype).flatten(0, 2)
        ctx.save_for_backward(each, weights)
        ctx.sizes = b, t, p, heads
        mixed = torch.bmm(weights, v).view(b, p, heads, t, -1)
        return mixed.permute(0, 3, 1, 2, 4).reshape(b, t, p, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (b, t, p, heads), (each, weights) = ctx.sizes, ctx.saved_tensors
        q, k, v = each.unbind(0)
        g = gradients[0].reshape(b, t, p, heads, -1).permute(0, 2, 3, 1, 4)
        g = g.reshape(q.shape).contiguous()
        found, scale = each.new_empty(each.shape), q.shape[-1] ** -0.5
        torch.bmm(weights.mT, g, out=found[2])
        # Of the logits: w (dw - sum w dw), dw = g v^T
        d = torch.ops.aten._softmax_backward_data(torch.bmm(g, v.mT), weights, -1, weights.dtype)
        torch.bmm(d, k, out=found[0])
        torch.bmm(d.mT, q, out=found[1])
        found[:2].mul_(scale)
        dqkv = found.view(3, b, p, heads, t, -1).permute(1, 4, 2, 0, 3, 5).reshape(b, t, p, -1)
        return dqkv, d.view(b, p, heads, t, t).sum(1)
