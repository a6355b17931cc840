"""Photographs as crops: found in the originals by search, apart between train and test."""

import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

from core.errors import InputError
from core.parts.signature import part_options
from plugins.image2image.data.photos import TEST_PHOTOS, TRAIN_PHOTOS, Photos, photograph

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import bytes_of, flipped, occurrences


def original(name):
    values = getattr(skimage.data, name)()
    return values if values.ndim == 3 else np.stack([values] * 3, -1)


def test_every_test_patch_lies_in_its_photograph_upright_and_apart():
    photos = Photos("test")
    assert len(photos) == 24
    corners = {}
    for i in range(len(photos)):
        assert photos.name(i) == f"{photos.source(i)}, patch {i % 8 + 1}"
        found = occurrences(bytes_of(photos[i]), original(photos.source(i)))
        assert len(found) == 1
        corners.setdefault(photos.source(i), []).append(found[0])
    assert sorted(corners) == ["chelsea", "coffee", "rocket"]
    for places in corners.values():
        for k, (y, x) in enumerate(places):
            assert all(max(abs(y - v), abs(x - u)) >= 64 for v, u in places[:k])


@pytest.mark.slow
def test_every_training_crop_lies_in_its_photograph_in_one_of_eight_ways():
    photos, ways = Photos("train"), set()
    for i in range(60):
        patch, photo = bytes_of(photos[i]), original(photos.source(i))
        hits = [
            (turns, mirrored)
            for turns in range(4)
            for mirrored in (False, True)
            if occurrences(flipped(np.rot90(patch, -turns), mirrored), photo)
        ]
        assert hits
        ways.update(hits if len(hits) == 1 else [])  # a black crop fits every way
    assert len(ways) == 8


def test_no_photograph_is_on_both_sides():
    digests = {
        split: {hashlib.sha256(original(name).tobytes()).hexdigest() for name in names}
        for split, names in (("train", TRAIN_PHOTOS), ("test", TEST_PHOTOS))
    }
    assert not digests["train"] & digests["test"]
    drawn = {Photos("train").source(i) for i in range(2000)}
    assert drawn == set(TRAIN_PHOTOS)


def test_photographs_are_drawn_in_proportion_to_their_capped_area():
    photos, n = Photos("train", seed=3), 6000
    counts = dict.fromkeys(TRAIN_PHOTOS, 0)
    for i in range(n):
        counts[photos.source(i)] += 1
    areas = {name: min(original(name)[..., 0].size, 512 * 512) for name in counts}
    for name, count in counts.items():
        share = areas[name] / sum(areas.values())
        # five standard errors of a binomial count: one in 10^5 over nine photographs
        assert abs(count - n * share) < 5 * (n * share * (1 - share)) ** 0.5


def test_an_item_depends_on_its_index_alone():
    one, other = Photos("train"), pickle.loads(pickle.dumps(Photos("train")))
    backwards = {i: other[i]["image"] for i in reversed(range(20))}
    for i in range(20):
        assert torch.equal(one[i]["image"], backwards[i])
        assert torch.equal(one[i]["image"], one[i]["image"])
    assert not torch.equal(one[0]["image"], Photos("train", seed=1)[0]["image"])
    assert torch.equal(one[7]["image"], Photos("train", patches=8)[7]["image"])
    assert one.digest() == other.digest()
    assert one[0]["image"].dtype == torch.float32
    with pytest.raises(IndexError):
        one[len(one)]


def test_the_digest_names_the_items(monkeypatch):
    test, train = Photos("test"), Photos("train")
    digests = [
        test.digest(),
        train.digest(),
        Photos("test", size=32).digest(),
        Photos("test", per_photo=4).digest(),
        Photos("train", seed=1).digest(),
        Photos("train", patches=10).digest(),
    ]
    assert len(set(digests)) == len(digests)
    assert Photos("test", seed=9, patches=5).digest() == test.digest()
    changed = photograph("coffee").copy()
    changed[0, 0, 0] ^= 1
    before, whole = test.digest(), photograph
    monkeypatch.setattr(
        "plugins.image2image.data.photos.photograph",
        lambda name: changed if name == "coffee" else whole(name),
    )
    assert Photos("test").digest() != before


def test_options_out_of_range_are_refused_together():
    with pytest.raises(InputError) as caught:
        Photos("val", size=301, patches=0, seed=-1)
    assert str(caught.value).splitlines() == [
        "split: expected train or test, got 'val'",
        "size: expected 1 to 300, got 301",
        "patches: expected at least 1, got 0",
        "seed: expected at least 0, got -1",
    ]
    assert Photos("test", size=300)[0]["image"].shape == (3, 300, 300)


@pytest.mark.parametrize("name", ["photos", "folder"])
def test_every_option_is_explained(name):
    options = part_options("dataset", f"image2image/{name}")
    assert options
    assert all(option.meaning for option in options)
