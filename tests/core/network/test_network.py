"""The networks' arithmetic, sizes and refusals; the contract is run over every registered one."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.errors import InputError
from core.network.taps import blocks_of, tapped
from core.network.transformer import Transformer
from core.network.unet import UNet

sys.path.insert(0, str(Path(__file__).parent))
from made_networks import TINY, drawn, stirred


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


def test_a_network_stops_after_the_last_tapped_block():
    network = stirred(UNet(3, 3, {}, width=8, multipliers=(1, 2, 2), blocks=1, attention=()))
    x, level = drawn(1, 3, 16, 16), torch.zeros(1)
    ran = []
    for name in ("up.3", "up.4"):
        blocks_of(network)[name].register_forward_hook(lambda *_, name=name: ran.append(name))
    with tapped(network, ["up.3", "middle"]) as whole:
        network(x, level)
    assert ran == ["up.3", "up.4"]
    with tapped(network, ["up.3", "middle"], stop=True) as features:
        network(x, level)
        raise AssertionError("the call did not end the context")
    assert ran == ["up.3", "up.4", "up.3"]
    assert features.keys() == whole.keys()
    assert all(torch.equal(features[name], whole[name]) for name in whole)
    assert network(x, level).shape == x.shape  # and nothing stays behind


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
