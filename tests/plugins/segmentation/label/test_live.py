"""The live prediction against the layers and tiles that it shortens."""

import numpy as np
import pytest
import torch

from core.features import Maps
from core.request import Machine
from plugins.segmentation.features.filters import Filters
from plugins.segmentation.heads.predicting import segmented
from plugins.segmentation.io.classes import IGNORE
from plugins.segmentation.label import live
from plugins.segmentation.request import Tiling


def mask_of(size):
    mask = np.full(size, IGNORE, np.uint8)
    mask[:9, :20], mask[-12:, 5:15] = 0, 2
    return mask


def nothing(done, total):
    pass


def noise(*size):
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def test_it_is_the_segmentation_of_the_whole_image():
    features, image = Filters(Machine(), scales=(1.0, 3.0)), noise(70, 90)
    found = live.kept(features, image, Tiling(), nothing)
    how = live.fitted({0: live.sample(found, mask_of((70, 90)))})
    expected = segmented(how.head, features(image[None]))
    result = live.predicted(found, how)
    assert torch.equal(result.labels, how.classes[expected.labels.long()].to(torch.uint8))
    assert set(result.labels.unique().tolist()) == {0, 2}  # nobody painted class 1
    sure = expected.uncertainty / np.log(2) * 255
    assert (sure - result.uncertainty.float()).abs().max() <= 0.51


def test_maps_coarser_than_pixels_are_upsampled_as_torch_does():
    draw = torch.Generator().manual_seed(0)
    values = tuple(torch.randn(1, 3, *g, generator=draw) for g in ((4, 6), (16, 24), (32, 48)))
    maps, weight = Maps(values, (32, 48), (30, 45)), torch.randn(2, 9, generator=draw)
    wide = [torch.nn.functional.interpolate(v, (32, 48), mode="bilinear") for v in values]
    expected = torch.einsum("oc,cyx->oyx", weight, torch.cat(wide, 1)[0])
    y, x = torch.arange(0, 30, 2), torch.arange(1, 45, 3)
    found = live._scores(maps, weight, y, x)
    torch.testing.assert_close(found, expected[:, y][:, :, x], atol=1e-5, rtol=1e-5)


def test_large_images_are_predicted_on_a_coarse_grid_that_covers_them(monkeypatch):
    monkeypatch.setattr(live, "SHOWN", 1000)
    features, size = Filters(Machine(), scales=(1.0,)), (131, 200)
    image = noise(*size) * 0.1
    image[:, :, 100:] += 0.8
    found = live.kept(features, image, Tiling(tile=64, margin=8), nothing)
    assert found.step == 6
    mask = np.full(size, IGNORE, np.uint8)
    mask[20:60, 10:40], mask[20:60, 150:190] = 0, 1
    result = live.predicted(found, live.fitted({0: live.sample(found, mask)}))
    assert result.labels.shape == (22, 34)
    assert bool((result.labels[:, :15] == 0).all())
    assert bool((result.labels[:, 18:] == 1).all())
    assert found.bytes < 4 * 24 * 131 * 200 / 10


@pytest.mark.slow
def test_a_stroke_on_512_pixels_costs_under_a_second_of_processor_time():
    """Of filters, and of maps as large as those of the prior of `train-prior`."""
    import time

    features, size = Filters(Machine()), (512, 512)
    filters = live.kept(features, noise(*size), Tiling(), nothing)
    (tile, _), *_ = filters.parts
    grids = ((96, 64), (96, 64), (64, 128), (64, 128), (32, 256), (32, 256)) * 3
    maps = Maps(tuple(torch.randn(1, c, g, g) for c, g in grids), size, size)
    for found in (filters, live.Kept(((tile, maps),), size, 1)):
        begun = time.process_time()
        live.predicted(found, live.fitted({0: live.sample(found, mask_of(size))}))
        assert time.process_time() - begun < 1
