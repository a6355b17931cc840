"""The contract of features of images."""

from collections.abc import Mapping
from typing import Any

import torch

from core.features import Features
from core.request import Machine


def check_features(build: Any, *, options: Mapping[str, Any] | None = None) -> None:
    """Assert that maps fit what they state, at any size, image by image and again.

    Args:
        build: the part.
        options: of it, where the defaults do not suffice.

    Raises:
        AssertionError: the part breaks its contract.
    """
    features = build(Machine(device="cpu", threads=1), **(options or {}))
    assert isinstance(features, Features), "has not the attributes of core.features.Features"
    assert len(features.digest()) == 64, "digest() is no SHA-256 in hexadecimal"
    draw = torch.Generator().manual_seed(0)
    least = features.least
    for size in ((least, least + 3), (2 * least + 5, least + 1)):
        images = 2 * torch.rand((2, 3, *size), generator=draw) - 1
        maps = features(images)
        assert maps.size == size, f"size is {maps.size} for images of {size}"
        assert all(a >= s for a, s in zip(maps.area, size, strict=True)), "area is less than size"
        channels = [value.shape[1] for value in maps.values]
        assert channels == list(features.channels), f"channels are {channels}"
        for value in maps.values:
            assert len(value) == 2, "a map lacks images"
            assert bool(value.isfinite().all()), "a map is not finite"
        again, alone = features(images), features(images[1:])
        for value, same, one in zip(maps.values, again.values, alone.values, strict=True):
            assert torch.equal(value, same), "the same images give other maps"
            apart = (value[1] - one[0]).abs().max()
            assert apart < 1e-3 * (1 + one.abs().max()), "maps of an image depend on its neighbours"
