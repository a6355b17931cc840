"""Layers: formulas, gradients recomputed, padding and folding."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from core.errors import InputError
from core.network.layers import (
    Attention,
    Resample,
    ResidualBlock,
    fold,
    group_norm,
    pad_to_multiple,
    unfold,
)
from core.network.unet import UNet

sys.path.insert(0, str(Path(__file__).parent))
from made_networks import TINY, drawn, stirred


def test_attention_is_the_softmax_written_out():
    layer = stirred(Attention(16, 2).double())
    x = drawn(2, 16, 3, 5, dtype=torch.float64)
    qkv = torch.einsum("kc,bcn->bkn", layer.qkv.weight, layer.norm(x).flatten(2))
    q, k, v = (part.unflatten(1, (2, 8)) for part in (qkv + layer.qkv.bias[:, None]).split(16, 1))
    share = torch.einsum("bhdn,bhdm->bhnm", q, k).div(8**0.5).softmax(-1)
    mixed = torch.einsum("bhdn,bhmn->bhdm", v, share).flatten(1, 2)
    said = torch.einsum("kc,bcn->bkn", layer.out.weight, mixed) + layer.out.bias[:, None]
    assert (layer(x) - x - said.unflatten(-1, (3, 5))).abs().max() < 1e-12


def test_attention_to_a_sequence_ignores_its_order_and_hears_its_elements():
    layer = stirred(Attention(16, 2, sequence=6).double())
    x, told = drawn(2, 16, 5, dtype=torch.float64), drawn(2, 4, 6, seed=1, dtype=torch.float64)
    assert (layer(x, told) - layer(x, told.flip(1))).abs().max() < 1e-12
    assert (layer(x, told) - layer(x, told.roll(1, 0))).abs().max() > 1e-3
    alone = layer(x, told[:, :1])  # one element: every position hears its value, weight 1
    value = layer.kv(told[:, 0])[:, 16:] @ layer.out.weight.T + layer.out.bias
    assert (alone - x - value[:, :, None]).abs().max() < 1e-12


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("way", [None, "up", "down"])
def test_a_residual_block_is_its_formula(scale_shift, way):
    resample = Resample(32, way, (2, 2), learned=False) if way else None
    block = ResidualBlock(32, 64, 12, scale_shift=scale_shift, resample=resample)
    block = stirred(block.double())
    x = drawn(2, 32, 4, 6, dtype=torch.float64)
    embedding = drawn(2, 12, seed=1, dtype=torch.float64)

    def resized(value):
        if way == "up":
            return value.repeat_interleave(2, -1).repeat_interleave(2, -2)
        if way == "down":
            return value.unflatten(-1, (-1, 2)).mean(-1).unflatten(-2, (-1, 2)).mean(-2)
        return value

    def normed(value, layer):
        groups = value.unflatten(1, (layer.num_groups, -1)).flatten(2)
        mean, variance = groups.mean(2), groups.var(2, unbiased=False)
        found = (groups - mean[..., None]) / (variance + layer.eps)[..., None].sqrt()
        found = found.reshape(value.shape)
        return found * layer.weight[:, None, None] + layer.bias[:, None, None]

    silu = lambda v: v * torch.sigmoid(v)  # noqa: E731
    first, second = block.in_layers, block.out_layers
    h = F.conv2d(resized(silu(normed(x, first.norm))), first.conv.weight, first.conv.bias, 1, 1)
    emb = (embedding @ block.emb_layers.weight.T + block.emb_layers.bias)[:, :, None, None]
    if scale_shift:
        h = normed(h, second.norm) * (1 + emb[:, :64]) + emb[:, 64:]
    else:
        h = normed(h + emb, second.norm)
    h = F.conv2d(silu(h), second.conv.weight, second.conv.bias, 1, 1)
    expected = h + F.conv2d(resized(x), block.skip.weight, block.skip.bias)
    assert (block(x, embedding) - expected).abs().max() < 1e-12
    with torch.no_grad():  # where activations are made in place
        assert (block(x, embedding) - expected).abs().max() < 1e-12


def test_nothing_that_is_given_is_changed_in_place():
    block, kept = stirred(ResidualBlock(32, 32, 12)), drawn(2, 32, 4, 6)
    x = kept.clone()
    with torch.no_grad():
        block(x, drawn(2, 12, seed=1))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("options", [{}, {"adaptive": "shift", "resample": "residual"}])
def test_gradients_made_again_are_those_of_plain_layers(options):
    """In training results of norms are made twice; in evaluation autograd keeps them."""
    network = stirred(UNet(2, 2, {"image": 1}, **TINY, **options).double())
    x = drawn(2, 2, 7, 8, dtype=torch.float64).requires_grad_()
    image = drawn(2, 1, 7, 8, seed=2, dtype=torch.float64).requires_grad_()
    level, weight = torch.tensor([3.0, -40.0]).double(), drawn(2, 2, 7, 8, seed=3).double()

    def gradients(training):
        network.train(training)
        output = network(x, level, {"image": image})
        asked = [x, image, *network.parameters()]
        return [output, *torch.autograd.grad((output * weight).sum(), asked)]

    for kept, again in zip(gradients(False), gradients(True), strict=True):
        assert (kept - again).abs().max() <= 1e-12 * kept.abs().max().clamp(min=1)


@pytest.mark.parametrize("way", [None, "up", "down"])
def test_gradients_are_those_of_finite_differences(way):
    resample = Resample(2, way, (2,), learned=False) if way else None
    norm = partial(group_norm, groups=2, group_channels=1)
    block = ResidualBlock(2, 4, 3, dims=1, norm=norm, resample=resample)
    block = stirred(block.double()).train()
    names = ("in_layers.norm.weight", "in_layers.conv.weight", "in_layers.conv.bias",
             "emb_layers.weight", "out_layers.norm.bias")  # fmt: skip
    parameters = dict(block.named_parameters())

    def called(x, embedding, *values):
        given = parameters | dict(zip(names, values, strict=True))
        return torch.func.functional_call(block, given, (x, embedding))

    x = drawn(2, 2, 4, dtype=torch.float64).requires_grad_()
    embedding = drawn(2, 3, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(called, (x, embedding, *(parameters[n] for n in names)))


def test_a_network_whose_weights_are_frozen_still_has_gradients_of_its_input():
    network = stirred(UNet(2, 2, {}, **TINY)).requires_grad_(False)
    found = []
    for training in (False, True):
        x = drawn(1, 2, 8, 8).requires_grad_()
        network.train(training)(x, torch.zeros(1)).square().sum().backward()
        found.append(x.grad)
    assert (found[0] - found[1]).abs().max() <= 1e-5 * found[0].abs().max()
    assert found[0].any()


@pytest.mark.slow
def test_whatever_is_recomputed_the_gradients_are_the_same():
    found = []
    for recompute in ("nothing", "norms", "blocks"):
        network = stirred(UNet(2, 2, {}, **TINY, recompute=recompute).double()).train()
        network(drawn(2, 2, 8, 8).double(), torch.ones(2).double()).square().sum().backward()
        found.append([p.grad for p in network.parameters()])
    for kept, *others in zip(*found, strict=True):
        assert all((kept - other).abs().max() < 1e-12 * (1 + kept.abs().max()) for other in others)


@pytest.mark.slow
def test_less_is_kept_the_more_is_recomputed():
    """Bytes that autograd keeps of one batch, parameters left out."""
    kept = {}
    for recompute in ("nothing", "norms", "blocks"):
        network = UNet(2, 2, {}, width=32, multipliers=(1, 1), blocks=2, recompute=recompute,
                       attention=())  # fmt: skip
        own = {p.data_ptr() for p in network.parameters()}
        seen = {}

        def keep(tensor, own=own, seen=seen):
            if tensor.data_ptr() not in own:
                seen[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = network(drawn(1, 2, 32, 32), torch.ones(1))
        kept[recompute] = sum(seen.values())
        del output
    # Of a block's six tensors two, then one; inputs on the way up are twice as wide.
    assert kept["norms"] < 0.5 * kept["nothing"]
    assert kept["blocks"] < 0.75 * kept["norms"]


def test_second_derivatives_are_had_for_the_asking_and_never_wrong():
    def penalty(recompute):
        plain = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": ()}
        network = UNet(2, 2, {}, **plain, middle_attention=False, recompute=recompute)
        network = stirred(network.double()).train()
        x = drawn(1, 2, 8, 8, dtype=torch.float64).requires_grad_()
        said = network(x, torch.ones(1).double()).square().sum()
        (slope,) = torch.autograd.grad(said, x, create_graph=True)
        slope.square().sum().backward()
        return network, x.grad

    network, found = penalty("nothing")

    def by_hand(x):
        at = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(network(at, torch.ones(1).double()).square().sum(), at)
        return slope.square().sum()

    x, way = drawn(1, 2, 8, 8, dtype=torch.float64), drawn(1, 2, 8, 8, seed=5).double()
    along = (by_hand(x + 1e-4 * way) - by_hand(x - 1e-4 * way)) / 2e-4
    assert float((found * way).sum()) == pytest.approx(float(along), rel=1e-5)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        penalty("norms")


def test_folding_is_pixel_unshuffle_and_its_inverse():
    x = drawn(2, 3, 6, 9)
    assert torch.equal(fold(x, 3), F.pixel_unshuffle(x, 3))
    for shape in ((2, 3, 6), (2, 3, 6, 9), (1, 2, 6, 3, 9)):
        x = drawn(*shape)
        assert torch.equal(unfold(fold(x, 3), 3), x)
    volume = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    assert fold(volume, 2)[0, :, 0, 0, 0].tolist() == volume[0, 0, :2, :2, :2].flatten().tolist()


def test_padding_reflects_where_it_can():
    x = torch.arange(5.0).reshape(1, 1, 1, 5)
    padded = pad_to_multiple(x.expand(1, 1, 4, 5), (4, 4))
    assert padded[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(x[..., :1].expand(1, 1, 4, 1), (4, 4))[0, 0, 0].tolist() == [0] * 4
    assert pad_to_multiple(x[0], (4,))[0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


def test_a_strided_convolution_pads_where_it_is_told_to():
    """Kernels of one element read the pixel that the padding puts under it."""
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    for after, first in (
        (False, x[..., ::2, ::2]),
        (True, F.pad(x, (0, 1, 0, 1))[..., 1::2, 1::2]),
    ):
        layer = Resample(1, "down", (2, 2), after=after)
        torch.nn.init.zeros_(layer.conv.weight)
        layer.conv.weight.data[0, 0, 1, 1] = 1
        torch.nn.init.zeros_(layer.conv.bias)
        assert torch.equal(layer(x), first)


@pytest.mark.parametrize("width", [16, 32, 48, 64, 96, 128, 512])
def test_groups_have_four_channels_at_least_as_in_edm(width):
    """Karras et al. 2022: min(32, channels // 4) groups; here the largest divisor up to that."""
    network = UNet(3, 3, {}, width=width, multipliers=(1,), blocks=1, attention=(), heads=1)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {m.num_channels for m in norms} == {width, 2 * width}
    for norm in norms:
        assert norm.num_groups == min(32, norm.num_channels // 4)


def test_groups_where_edm_s_number_does_not_divide_the_channels():
    assert [group_norm(c).num_groups for c in (2, 6, 20, 24, 130)] == [1, 1, 5, 6, 26]
    # Published layouts: 32 groups of all their widths, else the divisor that both share.
    published = [group_norm(c, group_channels=None).num_groups for c in (32, 48, 96, 128, 12)]
    assert published == [32, 16, 32, 32, 4]
    with pytest.raises(InputError, match="group_channels: expected at least 1, got 0"):
        UNet(3, 3, {}, group_channels=0)
