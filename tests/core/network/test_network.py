"""The networks' arithmetic, sizes and refusals; the contract is run over every registered one."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.denoiser.parameterization import NetworkDenoiser, v
from core.errors import InputError
from core.network.embedding import LevelEmbedding, fine_detail, positions, sinusoidal
from core.network.layers import (
    Attention,
    Resample,
    ResidualBlock,
    fold,
    group_norm,
    pad_to_multiple,
    unfold,
)
from core.network.mlp import MLP
from core.network.taps import blocks_of, tapped
from core.network.transformer import Transformer
from core.network.unet import UNet
from core.objective.denoising import Denoising
from core.objective.times import stratified
from core.objective.weighting import simple
from core.process.schedules import vp_cosine
from core.testing.distributions import Mixture

TINY = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,)}


def stirred(network, seed=0):
    """The same network with known parameters, so that nothing hides behind a zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            base = 1.0 if p.ndim == 1 and bool((p == 1).all()) else 0.0
            size = 0.1 if p.ndim == 1 else p[0].numel() ** -0.5
            p.copy_(base + size * torch.randn(p.shape, generator=draw))
    return network


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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


def test_a_new_network_says_zero_and_its_parameter_count_is_the_sum_by_hand():
    network = UNet(
        3, 3, {}, width=8, multipliers=(1,), blocks=1, attention=(), middle_attention=False
    )
    assert not network(torch.randn(1, 3, 8, 8), torch.zeros(1)).any()
    level, c = 32, 8
    block = lambda i, o: (  # noqa: E731
        2 * i
        + 9 * i * o
        + o
        + 2 * level * o
        + 2 * o
        + 2 * o
        + 9 * o * o
        + o
        + (i * o + o) * (i != o)
    )
    hand = (
        (c * level + level + level * level + level)  # level embedding
        + (9 * 3 * c + c)  # entry
        + block(c, c)  # down
        + 2 * block(c, c)  # middle
        + 2 * block(2 * c, c)  # up
        + (2 * c + 9 * c * 3 + 3)  # exit
    )
    assert sum(p.numel() for p in network.parameters()) == hand


SIZES = {1: [(1,), (37,)], 2: [(1, 1), (5, 31), (16, 16)], 3: [(3, 8, 9), (1, 2, 2)]}


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize(("dims", "size"), [(d, s) for d, sizes in SIZES.items() for s in sizes])
def test_any_size_comes_back_as_it_came(dims, size, patch):
    unet = UNet(3, 4, {}, dims=dims, width=8, multipliers=(1, 2), blocks=1, attention=(),
                patch=patch)  # fmt: skip
    transformer = Transformer(3, 4, {}, dims=dims, width=16, depth=1, head_channels=8, patch=patch)
    for network in (unet, transformer):
        assert network(torch.randn(2, 3, *size), torch.zeros(2)).shape == (2, 4, *size)


@pytest.mark.parametrize(("dims", "halved", "size"), [
    (1, "all", (4,)), (2, "all", (4, 4)), (3, "all", (4, 4, 4)), (3, "last_two", (8, 4, 4)),
    (2, "last_two", (4, 4)),
])  # fmt: skip
def test_the_axes_that_are_halved(dims, halved, size):
    network = UNet(1, 1, {}, dims=dims, halved=halved, width=8, multipliers=(1, 2), blocks=1,
                   attention=())  # fmt: skip
    with tapped(network, ["middle"]) as found:
        network(torch.randn(1, 1, *[8] * dims), torch.zeros(1))
    assert found["middle"].shape == (1, 16, *size)


def test_a_volume_that_does_not_change_along_an_axis_is_treated_as_a_picture():
    """Convolutions of 3-D kernels that are zero off the middle slice are the 2-D ones."""
    flat = stirred(UNet(1, 1, {}, width=8, multipliers=(1, 2), blocks=1, attention=())).eval()
    deep = UNet(1, 1, {}, dims=3, halved="last_two", width=8, multipliers=(1, 2), blocks=1,
                attention=()).eval()  # fmt: skip
    state = {}
    for name, value in deep.state_dict().items():
        given = flat.state_dict()[name]
        if value.ndim == 5 and value.shape[2] == 3:
            state[name] = F.pad(given[:, :, None], (0, 0, 0, 0, 1, 1))
        else:
            state[name] = given.reshape(value.shape)
    deep.load_state_dict(state)
    x = drawn(1, 1, 8, 8)
    expected = flat(x, torch.ones(1))
    found = deep(x[:, :, None].expand(1, 1, 4, 8, 8), torch.ones(1))
    assert (found - expected[:, :, None]).abs().max() < 1e-5 * expected.abs().max()


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


def test_sinusoids_are_those_of_the_formula():
    found = sinusoidal(torch.tensor([3.0]), 4)[0]
    cosines, sines = [math.cos(3.0), math.cos(0.03)], [math.sin(3.0), math.sin(0.03)]
    assert found.tolist() == pytest.approx(cosines + sines)
    turned = sinusoidal(torch.tensor([3.0]), 4, sine_first=True)[0]
    assert turned.tolist() == pytest.approx(sines + cosines)
    ddpm = sinusoidal(torch.tensor([3.0]), 4, shift=1)[0]
    assert ddpm.tolist() == pytest.approx([math.cos(3.0), math.cos(3e-4), math.sin(3.0), 3e-4])
    assert sinusoidal(torch.tensor([3.0]), 5).shape == (1, 5)


def test_fourier_features_stay_as_drawn_and_tell_levels_apart():
    layer = LevelEmbedding(64, 32, kind="fourier")
    assert "frequencies" in layer.state_dict()
    assert "frequencies" not in dict(layer.named_parameters())
    # Waves of deviation 16 in c_noise: E cos(2 pi f d) = exp(-(2 pi 16 d)^2 / 2), nothing at 0.1.
    layer.linear1 = torch.nn.Identity()
    layer.linear2 = torch.nn.Identity()
    with torch.no_grad():
        layer.frequencies.copy_(16 * drawn(32))
    angles = 2 * math.pi * torch.tensor([0.0, 0.1])[:, None] * layer.frequencies
    found = layer(torch.tensor([0.0, 20.0]))
    assert torch.allclose(found, F.silu(torch.cat([angles.cos(), angles.sin()], 1)), atol=1e-4)


def test_fine_detail_is_made_large():
    x = torch.tensor([[[0.0, 1 / 256]]])
    found = fine_detail(x, (7,))
    assert found.shape == (1, 3, 2)
    assert found[0, 1].tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert found[0, 2].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    network = UNet(1, 1, {"image": 2}, **TINY, input_octaves=(7, 8))
    assert network.conv_in.weight.shape[1] == 1 * 5 + 2


def test_positions_differ_and_do_not_depend_on_the_size_of_the_grid():
    found = positions((3, 4), 32, torch.device("cpu")).reshape(3, 4, 32)
    assert len(found.flatten(0, 1).unique(dim=0)) == 12
    assert torch.equal(found, positions((5, 9), 32, torch.device("cpu")).reshape(5, 9, 32)[:3, :4])


KINDS = {"unet": lambda given: UNet(2, 2, given, **TINY), "transformer": lambda given: Transformer(
    2, 2, given, width=16, depth=2, head_channels=8, patch=2)}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_condition_is_heard_and_reaches_its_own_sample_only(kind):
    numbers = {"image": 1, "class": 5, "vector": 3, "sequence": 4}
    network = stirred(KINDS[kind](numbers)).eval()
    x, level = drawn(2, 2, 8, 8), torch.tensor([1.0, 50.0])
    given = {"image": drawn(2, 1, 8, 8, seed=1), "class": torch.tensor([1, 4]),
             "vector": drawn(2, 3, seed=2), "sequence": drawn(2, 6, 4, seed=3)}  # fmt: skip
    plain = network(x, level, given)
    for name, value in given.items():
        changed = value.clone()
        changed[0] = 2 if name == "class" else value[0] + 1
        other = network(x, level, {**given, name: changed})
        assert (other[0] - plain[0]).abs().max() > 1e-5, name
        assert (other[1] - plain[1]).abs().max() < 1e-5, name
    network.train()
    network(x, level, given).square().sum().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None]
    with pytest.raises(
        InputError, match="condition named 'vector' and 'sequence'; got image, class"
    ):
        network(x, level, {"image": given["image"], "class": given["class"]})
    with pytest.raises(InputError, match=r"'image': expected the size of the input, \(8, 8\)"):
        network(x, level, {**given, "image": given["image"][..., :4]})


def test_features_are_tapped_by_name_and_nothing_stays_behind():
    network = stirred(UNet(3, 3, {}, width=8, multipliers=(1, 2, 2), blocks=1, attention=()))
    x, level = drawn(1, 3, 16, 16), torch.zeros(1)
    plain = network(x, level)
    names = list(blocks_of(network))
    assert names[:2] == ["conv_in", "down.0"]
    with tapped(network, names) as features:
        assert torch.equal(network(x, level), plain)
    assert list(features) == names
    # What is tapped is what the network goes on with: the last block makes the output.
    assert (network.conv_out(features["up.5"]) - plain).abs().max() < 1e-5
    shapes = {name: tuple(value.shape[1:]) for name, value in features.items()}
    assert shapes["middle"] == (16, 4, 4)
    assert shapes["up.1"] == (16, 8, 8)
    assert shapes["up.5"] == (8, 16, 16)
    assert not any(m._forward_hooks for m in network.modules())
    with (
        pytest.raises(InputError, match=r"no block 'up.6'.*did you mean"),
        tapped(network, ["up.6"]),
    ):
        pass


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


def test_channels_follow_width_and_multipliers():
    network = UNet(3, 3, {}, width=24, multipliers=(0.5, 1, 2), blocks=1, attention=(),
                   middle_attention=False)  # fmt: skip
    assert network.conv_in.out_channels == 12
    assert network.middle.first.residual.in_layers.conv.out_channels == 48


def test_impossible_networks_are_refused_with_every_problem():
    with pytest.raises(InputError) as caught:
        UNet(3, 3, {"label": 1}, width=0, attention=(5,), patch=0, dropout=1.0, epsilon=0.0)
    words = ("network: takes no condition named 'label'", "network.width", "network.attention",
             "network.patch", "network.dropout", "network.epsilon")  # fmt: skip
    for said in words:
        assert said in str(caught.value)
    with pytest.raises(InputError, match="head_channels: 8 does not divide 20 channels"):
        UNet(3, 3, {}, width=20, multipliers=(1,), attention=(1,), head_channels=8)
    with pytest.raises(InputError, match="heads: 3 does not divide 8 channels"):
        UNet(3, 3, {}, width=8, multipliers=(1,), attention=(), heads=3)
    with pytest.raises(InputError, match="give heads or head_channels"):
        Transformer(3, 3, {}, heads=3, head_channels=8)
    with pytest.raises(InputError, match="network: condition 'class': expected at least 1"):
        Transformer(3, 3, {"class": 0}, depth=0)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_near_single(kind):
    """bfloat16 keeps 8 bits: 1 % of the output, forward and gradient, also where made again."""
    network = stirred(KINDS[kind]({})).train()
    x, level, found = drawn(2, 2, 8, 8), torch.tensor([1.0, 50.0]), []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = network(x, level)
            loss = output.float().square().mean()
        loss.backward()
        grads = torch.cat([p.grad.flatten() for p in network.parameters()])
        found.append((output.float().detach(), grads))
    for single, half in zip(*found, strict=True):
        assert single.dtype == half.dtype
        assert float((single - half).norm() / single.norm()) < 0.05
    assert not np.isclose(float((found[0][0] - found[1][0]).abs().max()), 0)


def test_a_transformer_begins_as_nothing_and_hears_where_it_is():
    network = Transformer(2, 2, {}, width=16, depth=2, head_channels=8, patch=2)
    x, level = drawn(1, 2, 8, 8), torch.ones(1)
    assert not network(x, level).any()
    # adaLN-Zero: whatever a layer holds, its branches are closed at first.
    layer = network.block[0]
    h = drawn(1, 5, 16)
    assert torch.equal(layer(h, drawn(1, 16, seed=1), None), h)
    # The same patch everywhere: only positions can tell one from another.
    stirred(network)
    said = network(torch.ones(1, 2, 8, 8), level)
    assert (said[..., :2, :2] - said[..., 2:4, :2]).abs().max() > 1e-3


# --- vectors ------------------------------------------------------------------------------------


def test_a_residual_mlp_is_its_formula():
    network = stirred(MLP(2, 3, {}, width=8, depth=1).double())
    x, level = drawn(4, 2, dtype=torch.float64), torch.tensor([1.0, -40.0, 300.0, 7.0]).double()
    silu = lambda v: v * torch.sigmoid(v)  # noqa: E731
    linear = lambda layer, v: v @ layer.weight.T + layer.bias  # noqa: E731
    embedding = silu(network.level_embedding(level))
    h, (layer,) = linear(network.linear_in, x), network.block
    shift, scale = linear(layer.modulation, embedding).split(8, dim=1)
    xhat = (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    u = linear(layer.linear_in, xhat * (1 + scale) + shift)
    h = h + linear(layer.linear_out, silu(u))
    assert (network(x, level) - linear(network.linear_out, silu(h))).abs().max() < 1e-12


def test_a_new_mlp_outputs_zero_and_takes_vectors_alone():
    network = MLP(2, 4, {"class": 3, "vector": 5, "image": 1}, width=8, depth=2, dropout=0.5)
    given = {"class": torch.tensor([0, 2]), "vector": drawn(2, 5), "image": drawn(2, 1)}
    assert not network(drawn(2, 2), torch.ones(2), given).any()
    assert list(blocks_of(network)) == ["linear_in", "block.0", "block.1"]
    with pytest.raises(InputError, match=r"expects vectors of 2 numbers.*\(3, 8, 8\).*core/unet"):
        network(drawn(2, 3, 8, 8), torch.ones(2), given)
    with pytest.raises(InputError) as caught:
        MLP(2, 2, {"sequence": 4}, width=0, depth=0, dropout=1.0)
    for words in ("no condition named 'sequence', only image, class, vector", "width", "depth",
                  "dropout"):  # fmt: skip
        assert words in str(caught.value)


@pytest.mark.slow
def test_an_mlp_learns_a_mixture_that_no_linear_denoiser_knows():
    """Eight Gaussians on a circle, where noise joins neighbours: half the linear error."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 0.7 * torch.stack([angles.cos(), angles.sin()], dim=1)
    world = Mixture(means, 0.05, torch.full((8,), 0.125, dtype=torch.float64))
    process, draw = vp_cosine(), torch.Generator().manual_seed(0)
    objective = Denoising(process, v(), simple(), stratified())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = MLP(2, 2, {}, width=64, depth=3)
    optimizer = torch.optim.AdamW(network.parameters())

    def noisy(n, first=process.t_first, last=process.t_max):
        x0, eps = world.draw(n, draw).float(), torch.randn(n, 2, generator=draw)
        t = (torch.rand(n, generator=draw, dtype=torch.float64) + torch.arange(n)) / n
        return x0, first + (last - first) * t, eps

    for step in range(300):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 300)
        x0, t, eps = noisy(256)
        optimizer.zero_grad()
        objective.loss(network, x0, t, eps).mean().backward()
        optimizer.step()
    x0, t, eps = noisy(4000, 0.1, 0.4)
    alpha, sigma = (level[:, None] for level in process.alpha_sigma(t))
    x, exact = (alpha * x0 + sigma * eps).float(), world.denoiser(process)
    variance = 0.7**2 / 2 + 0.05**2  # of a coordinate; the mean is 0
    linear = alpha * variance / (alpha**2 * variance + sigma**2) * x
    with torch.no_grad():
        learned = NetworkDenoiser(network.eval(), process, v())(x, t).x0
    truth = exact(x, t).x0
    error = [float((x0 - truth).square().mean().sqrt()) for x0 in (learned, linear)]
    assert error[0] < error[1] / 2, error
