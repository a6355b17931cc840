"""Features of a diffusion model: what its blocks have for the image with that noise."""

import pytest
import torch

from core.errors import InputError
from core.model import load_model
from core.network.taps import tapped
from core.process.schedules import beta_table
from core.request import Machine
from core.storage import checkpoint
from plugins.segmentation.features.diffusion import Diffusion
from plugins.segmentation.features.filters import Filters

HERE = Machine(device="cpu", threads=1)


def image(height=24, width=20, seed=0):
    return 2 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


def test_maps_are_the_blocks_of_the_image_with_noise(prior):
    features = Diffusion(HERE, checkpoint=prior, blocks=("up.1", "middle"), steps=(50, 250))
    maps = features(image())
    assert maps.size == maps.area == (24, 20)
    assert [v.shape[1] for v in maps.values] == list(features.channels)
    assert len(maps.values) == 4
    model = load_model(prior, machine=HERE)
    with torch.no_grad():
        for number, step in enumerate((50, 250)):
            snr = beta_table().log_snr((step + 1) / 1000)
            t = model.process.time_of_log_snr(snr)
            assert abs(float(model.process.log_snr(t) - snr)) < 1e-6
            alpha, sigma = (float(value) for value in model.process.alpha_sigma(t))
            x = alpha * image().mean(1, keepdim=True) + sigma * features.noise(1, (24, 20))
            with tapped(model.network, ["up.1", "middle"]) as found:
                model.denoise(x, t)
            for name, value in zip(("up.1", "middle"), maps.values[2 * number :], strict=False):
                torch.testing.assert_close(value, found[name])


def test_noise_is_the_same_for_all_images_and_steps(prior):
    """At zero images the first layer sees sigma eps, with the deviations of the chain."""
    features = Diffusion(HERE, checkpoint=prior, blocks=("conv_in",), steps=(50, 250))
    one, other = features(torch.zeros(2, 3, 24, 20)).values
    assert torch.equal(one[0], one[1])
    bias = load_model(prior, machine=HERE).network.conv_in.bias[:, None, None]
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0)
    ratio = float(((1 - kept[250]) / (1 - kept[50])).sqrt())
    # conv_in is linear in sigma eps, but for its bias.
    torch.testing.assert_close((one[0] - bias) * ratio, other[0] - bias, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(24, 20), (17, 33), (8, 8)])
def test_any_size_gives_maps_of_what_the_network_pads(prior, size):
    features = Diffusion(HERE, checkpoint=prior)
    maps = features(image(*size))
    multiple = 4  # two of the patch, two of the coarser level
    assert maps.area == tuple(-(-side // multiple) * multiple for side in size)
    assert all(maps.area[0] % v.shape[-2] == 0 for v in maps.values)
    assert all(v.shape[-1] < maps.area[1] for v in maps.values)  # coarser than the image


def test_an_image_is_read_alike_alone_and_among_others(prior):
    features = Diffusion(HERE, checkpoint=prior)
    alone, both = features(image()), features(torch.cat([image(), image(seed=1)]))
    for one, two in zip(alone.values, both.values, strict=True):
        torch.testing.assert_close(one[0], two[0], atol=1e-5, rtol=1e-4)


def test_images_are_stretched_where_those_that_the_model_learned_were(prior, tmp_path):
    assert not Diffusion(HERE, checkpoint=prior).stretch
    assert Diffusion(HERE, checkpoint=prior, stretch=True).stretch
    learned = {"name": "image2image/folder", "root": str(tmp_path), "stretch": True}
    saved = checkpoint.load(prior, groups=("model", "ema"))
    request = {**saved.state["request"], "dataset": learned}
    checkpoint.save(tmp_path, 1, saved.tensors, {**saved.state, "request": request})
    assert Diffusion(HERE, checkpoint=tmp_path).stretch
    assert not Diffusion(HERE, checkpoint=tmp_path, stretch=False).stretch


def test_filters_are_those_of_the_image_at_its_own_resolution(prior):
    features = Diffusion(HERE, checkpoint=prior, steps=(50,), filters=True)
    maps = features(image(17, 33))
    assert maps.area == maps.values[-1].shape[-2:] == (20, 36)
    (alone,) = Filters(HERE)(image(17, 33)).values
    assert torch.equal(maps.values[-1][..., :17, :33], alone)
    assert sum(features.channels) == sum(value.shape[1] for value in maps.values)


def test_the_digest_follows_everything_that_maps_depend_on(prior):
    digests = {
        Diffusion(HERE, checkpoint=prior, **options).digest()
        for options in (
            {}, {"steps": (50,)}, {"blocks": ("middle",)}, {"seed": 1}, {"stretch": True},
            {"filters": True},
        )
    }  # fmt: skip
    assert len(digests) == 6
    assert Diffusion(HERE, checkpoint=prior).digest() in digests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": ("up.9",)}, r"no block 'up.9'"),
        ({"steps": ()}, "steps: expected at least one"),
    ],
)
def test_bad_options_are_one_sentence(prior, options, message):
    with pytest.raises(InputError, match=message):
        Diffusion(HERE, checkpoint=prior, **options)
