"""The U-Net of clips: that of images on each frame at first; frames in any order; known ones."""

import pytest
import torch

from core.errors import InputError
from core.network.unet import UNet
from plugins.video import between
from plugins.video.between import BetweenFrames, frames_of
from plugins.video.networks import UNet3D

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_channels": 8}


def perturbed(network, seed=0):
    """All weights away from zero, so that every layer counts."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return network.eval()


@pytest.fixture
def clips():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 5, 8, 8, generator=draw)


@pytest.mark.parametrize("motion", ["frame", "full"])
def test_started_from_images_it_is_their_network_in_each_frame(clips, motion):
    images = perturbed(UNet(3, 3, {}, **SMALL))
    network = UNet3D(3, 3, {"image": 4}, **SMALL, motion=motion).eval()
    network.load_state_dict(network.extended(images.state_dict()))
    level = torch.tensor([20.0, -90.0])
    unknown = {"image": torch.zeros(2, 4, 5, 8, 8)}
    found = network(clips, level, unknown)
    for t in range(5):
        torch.testing.assert_close(found[:, :, t], images(clips[:, :, t], level))
    assert network.extended(network.state_dict()).keys() == network.state_dict().keys()


def test_frames_in_another_order_give_the_output_in_that_order(clips):
    network = perturbed(UNet3D(3, 3, {"image": 4}, **SMALL))
    image = torch.zeros(2, 4, 5, 8, 8)
    image[:, :, 1] = 1
    times = torch.tensor([[0.0, 1.5, 2.0, 4.0, 9.0], [3.0, 0.5, 1.0, 7.0, 2.0]])
    level, order = torch.tensor([20.0, -90.0]), torch.tensor([3, 0, 4, 2, 1])
    found = network(clips, level, {"image": image, "times": times})
    again = network(
        clips[:, :, order], level, {"image": image[:, :, order], "times": times[:, order]}
    )
    torch.testing.assert_close(again, found[:, :, order], rtol=1e-4, atol=1e-5)
    moved = network(clips, level, {"image": image, "times": times + 100})
    torch.testing.assert_close(moved, found, rtol=1e-4, atol=1e-5)  # times are relative
    stretched = network(clips, level, {"image": image, "times": 2 * times})
    assert (stretched - found).abs().max() > 1e-3


def test_known_frames_replace_the_noise_and_have_a_level_of_their_own(clips):
    network = perturbed(UNet3D(3, 3, {"image": 4}, **SMALL))
    image = torch.zeros(2, 4, 5, 8, 8)
    image[:, :3, :2], image[:, 3, :2] = 0.3, 1
    level = torch.tensor([20.0, -90.0])
    found = network(clips, level, {"image": image})
    noisier = clips.clone()
    noisier[:, :, :2] += 5
    assert torch.equal(network(noisier, level, {"image": image}), found)
    assert not torch.equal(network(clips, level, {"image": 0.5 * image.round() + image}), found)
    each = torch.full((2, 5), 500.0)
    assert torch.equal(network(clips, level, {"image": image, "known_level": each}), found)
    noisy = network(clips, level, {"image": image, "known_level": each - 400})
    assert (noisy - found).abs().max() > 1e-4
    by_frame = level[:, None].expand(2, 5)[:, None, :, None, None]
    assert torch.equal(network(clips, by_frame, {"image": image}), found)


def test_independent_frames_do_not_see_each_other(clips):
    network = perturbed(UNet3D(3, 3, {}, **SMALL))
    level, other = torch.zeros(2), clips.clone()
    other[:, :, 4] += 1
    apart = {"independent": torch.tensor([True, False])}
    changed = (network(other, level, apart) - network(clips, level, apart)).abs()
    assert changed[0, :, :4].max() == 0
    assert changed[1, :, :4].amax((0, 2, 3)).min() > 1e-6
    alone = network(clips[:, :, :1], level)
    torch.testing.assert_close(network(clips, level, apart)[0, :, 0], alone[0, :, 0])


def test_the_convolution_over_frames_weighs_neighbours_by_their_distance():
    """With the tap of the frame before alone: y_t = x_t + silu(norm(x_(t-1))) / d."""
    layer = BetweenFrames(8, 1, 1).eval()
    assert layer.motion is not None
    with torch.no_grad():
        layer.motion.conv.weight[:8, :, 0, 0] = torch.eye(8)
    x = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    frames = frames_of(torch.tensor([[0.0, 1.0, 4.0, 4.5]]), torch.ones(1))
    activated = torch.nn.functional.silu(layer.motion.norm(x))
    expected = x.clone()
    for t, distance in ((1, 1.0), (2, 3.0), (3, 1.0)):
        expected[t] += activated[t - 1] / distance
    torch.testing.assert_close(layer(x, frames), expected)


@pytest.mark.parametrize("heads", [1, 2])
def test_gradients_between_frames_are_those_of_finite_differences(heads):
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()

    qkv, bias = normal(2, 3, 2, 12), normal(2, heads, 3, 3)
    assert torch.autograd.gradcheck(between._Attended.apply, (qkv, bias))
    torch.testing.assert_close(between._Attended.apply(qkv, bias), between.attended(qkv, bias))
    x, taps, near = normal(6, 2, 1, 2), normal(6, 6, 1, 2), torch.rand(2, 3, 2).double()
    near[:, 0, 0], near[:, 2, 1] = 0, 0
    for here in (None, torch.tensor([1.0, 0.0]).double()):
        given = (x, taps, near, here)
        assert torch.autograd.gradcheck(between._Moved.apply, given)
        torch.testing.assert_close(between._Moved.apply(*given), between.moved(*given))


def test_a_training_step_is_the_same_lean_or_plain(clips):
    """Gradients of a whole network, with one clip of independent frames."""
    found, first = {}, perturbed(UNet3D(3, 3, {"image": 4}, **SMALL)).state_dict()
    given = {"image": torch.zeros(2, 4, 5, 8, 8), "independent": torch.tensor([True, False])}
    for recompute in ("norms", "nothing"):
        network = UNet3D(3, 3, {"image": 4}, **SMALL, recompute=recompute).train()
        network.load_state_dict(first)
        network(clips, torch.tensor([20.0, -90.0]), given).square().mean().backward()
        found[recompute] = {name: p.grad for name, p in network.named_parameters()}
    torch.testing.assert_close(found["norms"], found["nothing"], rtol=1e-3, atol=1e-6)


def test_a_mask_of_another_width_is_refused():
    with pytest.raises(InputError, match="expected 4 channels, the known frames and their mask"):
        UNet3D(3, 3, {"image": 3}, **SMALL)
    with pytest.raises(InputError, match=r"between: expected some of \[1, 2\], got \[4\]"):
        UNet3D(3, 3, {}, **SMALL, between=(4,))
