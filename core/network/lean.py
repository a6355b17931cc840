"""Norm, activation and convolution in one, of which training keeps the input alone.

What the norm and the activation make is made again when the gradient of the convolution behind
them is wanted: cheap beside a convolution, and two thirds of a residual block's memory.  The norm's
own gradient is written out: a few passes over the data, where torch's chain takes many on a CPU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Change = Callable[[Tensor], Tensor]


class Normed(NamedTuple):
    """What SiLU(xhat w + b) is made of, xhat = (x + shift - mean) / std within groups of channels.

    Args:
        layer: its groups and epsilon are taken.
        w: (1 or b, c), the norm's weight or that and the level's scale.
        b: (1 or b, c), likewise.
        shift: (b, c), added to x first; None for nothing.
    """

    layer: nn.GroupNorm
    w: Tensor
    b: Tensor
    shift: Tensor | None = None


def _over(value: Float[Tensor, " b c"], x: Tensor) -> Tensor:
    return value.reshape(*value.shape, *[1] * (x.ndim - 2))


def activate(x: Tensor, normed: Normed) -> Tensor:
    """SiLU(xhat w + b), in place where no gradient could miss it."""
    layer, w, b, shift = normed
    x = x if shift is None else x + _over(shift, x).to(x)
    if len(w) == 1:
        h = F.group_norm(x, layer.num_groups, w[0], b[0], layer.eps)
    else:
        h = torch.addcmul(
            _over(b, x), F.group_norm(x, layer.num_groups, eps=layer.eps), _over(w, x)
        )
    return F.silu(h, inplace=not torch.is_grad_enabled())


class _Lean(torch.autograd.Function):
    """conv(change(SiLU(norm))) that keeps x and the norm's statistics alone for the gradient.

    Within a channel u = xhat w + b is slope x + rest, made again in one pass.
    """

    @staticmethod
    def forward(
        ctx: Any, conv: Any, change: Change | None, layer: nn.GroupNorm | None, x: Tensor,
        weight: Tensor, bias: Tensor, w: Tensor | None, b: Tensor | None, shift: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.conv, ctx.change, ctx.layer = conv, change, layer
        made, mean, scale = x, None, None
        if layer is not None and w is not None and b is not None:
            wide, one = _wide(x, shift), len(w) == 1
            size = (x.shape[0], x.shape[1], x.shape[2:].numel(), layer.num_groups, layer.eps)
            given = (w[0], b[0]) if one else (None, None)
            made, mean, scale = torch.native_group_norm(wide, *given, *size)
            made = made if one else torch.addcmul(_over(b, x), made, _over(w, x))
            made = F.silu(made, inplace=True)
        ctx.save_for_backward(x, weight, w, b, shift, mean, scale)
        return conv(made if change is None else change(made))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        given, weight, w, b, shift, mean, scale = ctx.saved_tensors
        needs, layer, change = ctx.needs_input_grad, ctx.layer, ctx.change
        x = u = given if layer is None else _wide(given, shift)
        statistics, groups = None, 0
        if layer is not None:
            groups = layer.num_groups
            statistics = _Statistics(*(_by_channel(v, x, layer) for v in (mean, scale)))
            slope = statistics.scale * w
            u = torch.addcmul(_over(b - statistics.mean * slope, x), x, _over(slope, x))
        leaf = made = u if layer is None else F.silu(u)
        if change is not None:
            with torch.enable_grad():
                leaf = leaf.detach().requires_grad_()
                made = change(leaf)
        asked = (any(needs[3:4] + needs[6:]), *needs[4:6])
        dx, *of_conv = _convolution_backward(gradients[0], made.detach(), weight, ctx.conv, asked)
        if dx is not None and change is not None:
            (dx,) = torch.autograd.grad(made, leaf, dx.to(made))
        dw = db = of_shift = None
        if dx is not None and statistics is not None:
            d = torch.ops.aten.silu_backward(dx.to(u), u)
            dx, dw, db = _norm_backward(d, x, statistics, w, groups)
            of_shift = None if shift is None else dx.sum(tuple(range(2, dx.ndim))).to(shift)
        dx = None if dx is None else dx.to(given)
        return None, None, None, dx, *of_conv, dw, db, of_shift


class _Statistics(NamedTuple):
    """The mean of each channel's group and one over its deviation, (b, c)."""

    mean: Tensor
    scale: Tensor


def _wide(x: Tensor, shift: Tensor | None) -> Tensor:
    """The sum x + shift, in single precision at least, as a norm sees it."""
    x = x if shift is None else x + _over(shift, x).to(x)
    return x.float() if x.element_size() == 2 else x


def _by_channel(of_group: Tensor, x: Tensor, layer: nn.GroupNorm) -> Float[Tensor, " b c"]:
    return of_group.reshape(len(x), -1).repeat_interleave(x.shape[1] // layer.num_groups, 1)


def _norm_backward(
    d: Tensor, x: Tensor, statistics: _Statistics, w: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, w and b where d is that of u = xhat w + b, the sums over space made once.

    db = sum d, dw = sum d xhat, dx = (d w - mean(d w) - xhat mean(d w xhat)) / std, means over a
    group and its space: they follow from db and dw.
    """
    (mean, scale), space = statistics, tuple(range(2, d.ndim))
    db = d.sum(space)
    dw = ((d * x).sum(space) - mean * db) * scale

    def of_group(value: Tensor) -> Tensor:
        split = (value * w).unflatten(1, (groups, -1))
        return split.mean(2, keepdim=True).expand_as(split).flatten(1) / x.shape[2:].numel()

    flat, along = of_group(db) * scale, of_group(dw) * scale**2
    dx = torch.addcmul(_over(mean * along - flat, x), d, _over(scale * w, x))
    dx.addcmul_(x, _over(along, x), value=-1)
    if len(w) == 1:
        db, dw = db.sum(0, keepdim=True), dw.sum(0, keepdim=True)
    return dx, dw, db


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, conv: Any, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of a convolution's input, weight and bias; None where not wanted."""
    found = torch.ops.aten.convolution_backward(
        gradient, x.to(gradient), weight.to(gradient), [weight.shape[0]], conv.stride,
        conv.padding, conv.dilation, False, [0] * len(conv.stride), 1, list(wanted),
    )  # fmt: skip
    return found[0], *(None if v is None else v.to(weight.dtype) for v in found[1:])


def convolve(
    x: Float[Tensor, " b c *space"],
    conv: Any,
    normed: Normed | None = None,
    change: Change | None = None,
    *,
    lean: bool = True,
) -> Float[Tensor, " b k *other"]:
    """conv(change(SiLU(norm(x)))); in training little is kept for the gradient.

    Args:
        x: the input.
        conv: a convolution.
        normed: what comes first; None for nothing.
        change: a linear change of size between the two; None for nothing.
        lean: keep little in training; there are no second and no forward-mode derivatives then.
    """
    if lean and torch.is_grad_enabled() and conv.training and not torch.compiler.is_compiling():
        layer, w, b, shift = normed or (None, None, None, None)
        found = _Lean.apply(conv, change, layer, x, conv.weight, conv.bias, w, b, shift)
        assert isinstance(found, Tensor)
        return found
    made = x if normed is None else activate(x, normed)
    return conv(made if change is None else change(made))
