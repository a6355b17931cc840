"""The arithmetic of `core.network.layers.NormConv`, of which training keeps the input alone.

The norm's and the activation's outputs are recomputed when the gradient of the convolution behind
them is computed: cheap beside a convolution, and two thirds of a residual block's memory.  The
norm's own gradient is written out: a few passes over the data, where torch's chain takes many on a
CPU.  Time and memory were measured on CPUs only (core/README.md), never on a GPU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Resize = Callable[[Tensor], Tensor]


class Norm(NamedTuple):
    """Group normalisation of x + shift with weight `w` and bias `b`.

    Args:
        layer: its groups and epsilon are used; its weight and bias are not.
        w: of each channel, or of each channel and sample.
        b: likewise.
        shift: added to x first; None for nothing.
    """

    layer: nn.GroupNorm
    w: Float[Tensor, " #b c"]
    b: Float[Tensor, " #b c"]
    shift: Float[Tensor, " b c"] | None = None


def _over(value: Float[Tensor, " b c"], x: Tensor) -> Tensor:
    return value.reshape(*value.shape, *[1] * (x.ndim - 2))


def norm_silu(x: Float[Tensor, " b c *space"], norm: Norm) -> Float[Tensor, " b c *space"]:
    """SiLU(xhat w + b), xhat = (x + shift - mean) / std in each group; no gradient is left out.

    In place where autograd does not record.
    """
    layer, w, b, shift = norm
    x = x if shift is None else x + _over(shift, x).to(x)
    if len(w) == 1:
        h = F.group_norm(x, layer.num_groups, w[0], b[0], layer.eps)
    else:
        h = torch.addcmul(
            _over(b, x), F.group_norm(x, layer.num_groups, eps=layer.eps), _over(w, x)
        )
    return F.silu(h, inplace=not torch.is_grad_enabled())


class _NormConv(torch.autograd.Function):
    """conv(resize(SiLU(norm(x)))) that keeps x and the norm's statistics alone for the gradient.

    Within a channel u = xhat w + b is slope x + rest, recomputed in one pass.
    """

    @staticmethod
    def forward(
        ctx: Any, conv: Any, resize: Resize | None, layer: nn.GroupNorm | None, x: Tensor,
        weight: Tensor, bias: Tensor, w: Tensor | None, b: Tensor | None, shift: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.conv, ctx.resize, ctx.layer = conv, resize, layer
        h, mean, scale = x, None, None
        if layer is not None and w is not None and b is not None:
            wide, shared = _shifted(x, shift), len(w) == 1
            size = (x.shape[0], x.shape[1], x.shape[2:].numel(), layer.num_groups, layer.eps)
            affine = (w[0], b[0]) if shared else (None, None)
            h, mean, scale = torch.native_group_norm(wide, *affine, *size)
            h = h if shared else torch.addcmul(_over(b, x), h, _over(w, x))
            h = F.silu(h, inplace=True)
        ctx.save_for_backward(x, weight, w, b, shift, mean, scale)
        return conv(h if resize is None else resize(h))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        saved, weight, w, b, shift, mean, scale = ctx.saved_tensors
        needs, layer, resize = ctx.needs_input_grad, ctx.layer, ctx.resize
        # Recompute the convolution's input: u before the activation, h behind it.
        x = u = saved if layer is None else _shifted(saved, shift)
        statistics, groups = None, 0
        if layer is not None:
            groups = layer.num_groups
            statistics = _Statistics(*(_by_channel(v, x, layer) for v in (mean, scale)))
            slope = statistics.scale * w
            u = torch.addcmul(_over(b - statistics.mean * slope, x), x, _over(slope, x))
        leaf = h = u if layer is None else F.silu(u)
        if resize is not None:
            with torch.enable_grad():
                leaf = leaf.detach().requires_grad_()
                h = resize(leaf)
        # Back through the convolution and the resizing ...
        required = (any(needs[3:4] + needs[6:]), *needs[4:6])
        dx, *of_conv = _convolution_backward(gradients[0], h.detach(), weight, ctx.conv, required)
        if dx is not None and resize is not None:
            (dx,) = torch.autograd.grad(h, leaf, dx.to(h))
        # ... and through the activation and the norm.
        dw = db = dshift = None
        if dx is not None and statistics is not None:
            d = torch.ops.aten.silu_backward(dx.to(u), u)
            dx, dw, db = _norm_backward(d, x, statistics, w, groups)
            dshift = None if shift is None else dx.sum(tuple(range(2, dx.ndim))).to(shift)
        dx = None if dx is None else dx.to(saved)
        return None, None, None, dx, *of_conv, dw, db, dshift


class _Statistics(NamedTuple):
    """The mean of each channel's group and the reciprocal of its standard deviation."""

    mean: Float[Tensor, " b c"]
    scale: Float[Tensor, " b c"]


def _shifted(x: Tensor, shift: Tensor | None) -> Tensor:
    """The norm's input x + shift, in single precision at least.

    The kernel for GPUs takes one layout alone.
    """
    x = x if shift is None else x + _over(shift, x).to(x)
    x = x.float() if x.element_size() == 2 else x
    return x if x.is_cpu else x.contiguous()


def _by_channel(of_group: Tensor, x: Tensor, layer: nn.GroupNorm) -> Float[Tensor, " b c"]:
    return of_group.reshape(len(x), -1).repeat_interleave(x.shape[1] // layer.num_groups, 1)


def _norm_backward(
    d: Tensor, x: Tensor, statistics: _Statistics, w: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, w and b where d is that of u = xhat w + b; each sum over space is made once.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3, with the means over a group's
    channels and space: dx = (d w - mean(d w) - xhat mean(d w xhat)) / std.
    """
    (mean, scale), space = statistics, tuple(range(2, d.ndim))
    # db = sum d, dw = sum d xhat with xhat = (x - mean) scale; both means of dx follow from them.
    db = d.sum(space)
    dw = ((d * x).sum(space) - mean * db) * scale

    def group_mean(value: Tensor) -> Tensor:
        split = (value * w).unflatten(1, (groups, -1))
        return split.mean(2, keepdim=True).expand_as(split).flatten(1) / x.shape[2:].numel()

    # dx = d w scale - (x - mean) along - flat, its terms in x gathered for two passes over it.
    flat, along = group_mean(db) * scale, group_mean(dw) * scale**2
    dx = torch.addcmul(_over(mean * along - flat, x), d, _over(scale * w, x))
    dx.addcmul_(x, _over(along, x), value=-1)
    if len(w) == 1:
        db, dw = db.sum(0, keepdim=True), dw.sum(0, keepdim=True)
    return dx, dw, db


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, conv: Any, required: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of a convolution's input, weight and bias; None where not required."""
    found = torch.ops.aten.convolution_backward(
        gradient, x.to(gradient), weight.to(gradient), [weight.shape[0]], conv.stride,
        conv.padding, conv.dilation, False, [0] * len(conv.stride), 1, list(required),
    )  # fmt: skip
    return found[0], *(None if v is None else v.to(weight.dtype) for v in found[1:])


def convolve(
    x: Float[Tensor, " b c *space"],
    conv: Any,
    norm: Norm | None = None,
    resize: Resize | None = None,
    *,
    lean: bool = True,
) -> Float[Tensor, " b k *other"]:
    """conv(resize(SiLU(norm(x)))); in training x alone is kept for the gradient.

    Args:
        x: the input.
        conv: a convolution.
        norm: norm and activation before it; None for neither.
        resize: a linear change of size between the two; None for none.
        lean: keep x alone in training; there are no second and no forward-mode derivatives then.
    """
    if lean and torch.is_grad_enabled() and conv.training and not torch.compiler.is_compiling():
        layer, w, b, shift = norm or (None, None, None, None)
        found = _NormConv.apply(conv, resize, layer, x, conv.weight, conv.bias, w, b, shift)
        assert isinstance(found, Tensor)
        return found
    h = x if norm is None else norm_silu(x, norm)
    return conv(h if resize is None else resize(h))
