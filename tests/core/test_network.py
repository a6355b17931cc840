"""The U-Net's sizes, refusals and arithmetic; the contract is run over every registered network."""

import pytest
import torch
from torch.nn import functional as F

from core.errors import InputError
from core.network.embedding import sinusoidal
from core.network.unet import Attention, UNet2D, pad_to_multiple


def test_attention_is_the_softmax_written_out():
    torch.random.default_generator.manual_seed(0)
    layer = Attention(16, 8).double()
    torch.nn.init.normal_(layer.out.weight)
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    qkv = F.conv2d(layer.norm(x), layer.qkv.weight, layer.qkv.bias).flatten(2)
    q, k, v = (part.unflatten(1, (2, 8)) for part in qkv.split(16, dim=1))
    share = torch.einsum("bhdn,bhdm->bhnm", q, k).div(8**0.5).softmax(-1)
    mixed = torch.einsum("bhnm,bhdm->bhdn", share, v).flatten(1, 2).unflatten(-1, (3, 5))
    expected = x + F.conv2d(mixed, layer.out.weight, layer.out.bias)
    assert (layer(x) - expected).abs().max() < 1e-12


def test_a_new_network_says_zero_and_its_parameter_count_is_the_sum_by_hand():
    network = UNet2D(3, 3, {}, width=8, multipliers=(1,), blocks=1, attention=())
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


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (5, 31), (16, 16)])
def test_any_size_comes_back_as_it_came(size, patch):
    network = UNet2D(3, 4, {}, width=8, multipliers=(1, 2), blocks=1, attention=(), patch=patch)
    assert network(torch.randn(2, 3, *size), torch.zeros(2)).shape == (2, 4, *size)


def test_padding_reflects_where_it_can():
    x = torch.arange(5.0).reshape(1, 1, 1, 5)
    assert pad_to_multiple(x.expand(1, 1, 4, 5), 4)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(x[..., :1].expand(1, 1, 4, 1), 4)[0, 0, 0].tolist() == [0, 0, 0, 0]


def test_sinusoids_are_those_of_the_formula():
    found = sinusoidal(torch.tensor([3.0]), 4)[0]
    expected = torch.tensor([3.0, 0.03]).cos().tolist() + torch.tensor([3.0, 0.03]).sin().tolist()
    assert found.tolist() == pytest.approx(expected)


def test_impossible_networks_are_refused_with_every_problem():
    with pytest.raises(InputError) as caught:
        UNet2D(3, 3, {"label": 1}, width=6, attention=(5,), patch=0, dropout=1.0)
    for words in ("no condition named label", "width", "attention", "patch", "dropout"):
        assert words in str(caught.value)
    with pytest.raises(InputError, match="does not divide"):
        UNet2D(3, 3, {}, width=20, multipliers=(1,), attention=(1,), head_channels=8)


def test_a_missing_condition_is_said():
    network = UNet2D(3, 3, {"image": 3}, width=8, multipliers=(1,), blocks=1, attention=())
    with pytest.raises(InputError, match="condition named 'image'; none given"):
        network(torch.zeros(1, 3, 8, 8), torch.zeros(1))
