"""Tokens of patches: each where its patch is, of the blocks that were asked for."""

import pytest
import torch
from safetensors.torch import save_file

from core.errors import InputError
from core.network.vision_transformer import Sizes, VisionTransformer
from core.request import Machine
from core.weights.dino import DEVIATION, MEAN
from plugins.segmentation.features.vit import Vit

HERE = Machine(device="cpu", threads=1)
SIZES = Sizes(patch=8, width=64, depth=3, heads=1, hidden=24, grid=4)


@pytest.fixture
def weights(tmp_path):
    """Random ones, whose blocks add a number that says which they are and nothing else."""
    network = VisionTransformer(SIZES)
    draw = torch.Generator().manual_seed(0)
    state = {k: torch.randn(v.shape, generator=draw) for k, v in network.state_dict().items()}
    for name in state:
        if ".attn.proj." in name or ".mlp.fc2." in name or name == "pos_embed":
            state[name] = torch.zeros_like(state[name])
    for block in range(3):
        state[f"blocks.{block}.mlp.fc2.bias"] = torch.randn(64, generator=draw)
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", state


def test_a_token_is_of_its_patch_and_block(weights):
    path, state = weights
    features = Vit(HERE, weights=path, blocks=(2, 0))
    image = 2 * torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(1)) - 1
    maps = features(image)
    assert maps.area == maps.size == (24, 32)
    assert [tuple(v.shape) for v in maps.values] == [(2, 64, 3, 4)] * 2
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
    patch = (((image[1] + 1) / 2 - mean) / deviation)[:, 8:16, 24:32]
    embedded = torch.einsum("dcyx,cyx->d", state["patch_embed.proj.weight"], patch)
    embedded = embedded + state["patch_embed.proj.bias"]
    for value, last in zip(maps.values, (2, 0), strict=True):
        token = embedded + sum(state[f"blocks.{i}.mlp.fc2.bias"] for i in range(last + 1))
        expected = torch.nn.functional.layer_norm(
            token, (64,), state["norm.weight"], state["norm.bias"], 1e-6
        )
        torch.testing.assert_close(value[1, :, 1, 3], expected, atol=1e-4, rtol=1e-4)


def test_the_last_four_blocks_are_read_by_default(weights):
    assert len(Vit(HERE, weights=weights[0]).channels) == 3  # of a network of three
    one, two = (Vit(HERE, weights=weights[0], scale=scale).digest() for scale in (1.0, 2.0))
    assert one != two


@pytest.mark.parametrize(
    ("size", "scale", "grid", "area"),
    [
        ((30, 17), 1.0, (4, 3), (32, 24)),
        ((30, 17), 2.0, (8, 5), (32, 20)),
        ((8, 9), 1.0, (1, 2), (8, 16)),
    ],
)
def test_cells_cover_whole_patches(weights, size, scale, grid, area):
    maps = Vit(HERE, weights=weights[0], scale=scale)(torch.zeros(1, 3, *size))
    assert maps.size == size
    assert maps.area == area
    assert all(tuple(v.shape[-2:]) == grid for v in maps.values)


def test_a_block_that_is_not_there_is_refused(weights):
    with pytest.raises(InputError, match="has 3 blocks, 0 to 2; got 3"):
        Vit(HERE, weights=weights[0], blocks=(3,))
