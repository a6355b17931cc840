"""Photographs as crops: found in the originals by search, apart between train and test."""

import hashlib
import pickle
import shutil
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from core.errors import InputError
from core.parts.signature import part_options
from plugins.image2image.data import folder as data
from plugins.image2image.io.pictures import Picture
from plugins.image2image.io.writing import write_picture

RNG = np.random.default_rng(0)


def occurrences(patch, photo):
    """Where the (h, w, 3) patch lies in the photograph, by exact comparison."""
    patch, photo = (pixels.astype(int) @ [65536, 256, 1] for pixels in (patch, photo))
    high, wide = (n - m + 1 for n, m in zip(photo.shape, patch.shape, strict=True))
    rows, columns = np.nonzero(photo[:high, :wide] == patch[0, 0])
    for y, x in np.ndindex(patch.shape):
        if not len(rows):
            break
        same = photo[rows + y, columns + x] == patch[y, x]
        rows, columns = rows[same], columns[same]
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def bytes_of(item):
    return (
        np.rint((item["image"].double().numpy() + 1) / 2 * 255).astype(np.uint8).transpose(1, 2, 0)
    )


def original(name):
    values = getattr(skimage.data, name)()
    return values if values.ndim == 3 else np.stack([values] * 3, -1)


# --- photographs ---------------------------------------------------------------------------------


def test_every_test_patch_lies_in_its_photograph_upright_and_apart():
    photos = data.Photos("test")
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


def test_every_training_crop_lies_in_its_photograph_in_one_of_eight_ways():
    photos, ways = data.Photos("train"), set()
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


def flipped(patch, mirrored):
    return patch[:, ::-1] if mirrored else patch


def test_no_photograph_is_on_both_sides():
    digests = {
        split: {hashlib.sha256(original(name).tobytes()).hexdigest() for name in names}
        for split, names in (("train", data.TRAIN_PHOTOS), ("test", data.TEST_PHOTOS))
    }
    assert not digests["train"] & digests["test"]
    drawn = {data.Photos("train").source(i) for i in range(2000)}
    assert drawn == set(data.TRAIN_PHOTOS)


def test_photographs_are_drawn_in_proportion_to_their_capped_area():
    photos, n = data.Photos("train", seed=3), 6000
    counts = dict.fromkeys(data.TRAIN_PHOTOS, 0)
    for i in range(n):
        counts[photos.source(i)] += 1
    areas = {name: min(original(name)[..., 0].size, 512 * 512) for name in counts}
    for name, count in counts.items():
        share = areas[name] / sum(areas.values())
        # five standard errors of a binomial count: one in 10^5 over nine photographs
        assert abs(count - n * share) < 5 * (n * share * (1 - share)) ** 0.5


def test_positions_reach_every_edge():
    sizes = [(70, 66)]
    crops = [data.draw(0, i, 64, sizes, data.shares(sizes)) for i in range(500)]
    assert {crop.top for crop in crops} == set(range(7))
    assert {crop.left for crop in crops} == set(range(3))


def test_an_item_depends_on_its_index_alone():
    one, other = data.Photos("train"), pickle.loads(pickle.dumps(data.Photos("train")))
    backwards = {i: other[i]["image"] for i in reversed(range(20))}
    for i in range(20):
        assert torch.equal(one[i]["image"], backwards[i])
        assert torch.equal(one[i]["image"], one[i]["image"])
    assert not torch.equal(one[0]["image"], data.Photos("train", seed=1)[0]["image"])
    assert torch.equal(one[7]["image"], data.Photos("train", patches=8)[7]["image"])
    assert one.digest() == other.digest()
    assert one[0]["image"].dtype == torch.float32
    with pytest.raises(IndexError):
        one[len(one)]


def test_the_digest_names_the_items(monkeypatch):
    test, train = data.Photos("test"), data.Photos("train")
    digests = [
        test.digest(),
        train.digest(),
        data.Photos("test", size=32).digest(),
        data.Photos("test", per_photo=4).digest(),
        data.Photos("train", seed=1).digest(),
        data.Photos("train", patches=10).digest(),
    ]
    assert len(set(digests)) == len(digests)
    assert data.Photos("test", seed=9, patches=5).digest() == test.digest()
    changed = data.photograph("coffee").copy()
    changed[0, 0, 0] ^= 1
    before, whole = test.digest(), data.photograph
    monkeypatch.setattr(data, "photograph", lambda n: changed if n == "coffee" else whole(n))
    assert data.Photos("test").digest() != before


@pytest.mark.parametrize("high", [300, 64, 100])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 12])
def test_layouts_stay_inside_and_apart_where_there_is_room(high, count):
    places = data.lay_out(high, 640, 64, count)
    assert len(places) == len(set(places)) == count
    for k, (y, x) in enumerate(places):
        assert 0 <= y <= high - 64
        assert 0 <= x <= 576
        if count <= (high // 64) * 10:
            assert all(abs(y - v) >= 64 or abs(x - u) >= 64 for v, u in places[:k])


def test_room_counts_for_more_than_an_even_grid():
    """Two rows of five are closer to squares here, but 127 pixels do not hold two rows of 64."""
    places = data.lay_out(127, 600, 64, 9)
    lefts = sorted(left for _, left in places)
    assert len(lefts) == 9
    assert all(then - now >= 64 for now, then in pairwise(lefts))


def test_a_picture_as_small_as_a_crop_gives_it_once():
    assert data.lay_out(64, 64, 64, 4) == [(0, 0)]
    plan = data.Plan("test", ("a", "b"), [(64, 64), (200, 200)], 64, 4, 0)
    assert [plan.name(i) for i in range(len(plan))] == [
        "a, patch 1",
        *(f"b, patch {k}" for k in (1, 2, 3, 4)),
    ]


def test_options_out_of_range_are_refused_together():
    with pytest.raises(InputError) as caught:
        data.Photos("val", size=301, patches=0, seed=-1)
    assert str(caught.value).splitlines() == [
        "split: expected train or test, got 'val'",
        "size: expected 1 to 300, got 301",
        "patches: expected at least 1, got 0",
        "seed: expected at least 0, got -1",
    ]
    assert data.Photos("test", size=300)[0]["image"].shape == (3, 300, 300)


@pytest.mark.parametrize("name", ["photos", "folder"])
def test_every_option_is_explained(name):
    options = part_options("dataset", f"image2image/{name}")
    assert options
    assert all(option.meaning for option in options)


# --- a folder ------------------------------------------------------------------------------------


def picture(path, side=80, seed=None):
    draw = np.random.default_rng(abs(hash(path.name)) if seed is None else seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw.integers(0, 256, (side, side + 6, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures in three formats and two folders."""
    root = tmp_path / "pictures"
    for k in range(12):
        suffix = ("png", "bmp", "tif")[k % 3]
        picture(root / ("a", "b/c")[k % 2] / f"{k:02}.{suffix}", seed=k)
    return root


def sources(dataset):
    return {dataset.source(i) for i in range(len(dataset))}


def both(root, **options):
    options = {"test_fraction": 0.4, "patches": 400, **options}
    return data.Folder("train", root=root, **options), data.Folder("test", root=root, **options)


def test_crops_of_a_folder_lie_in_their_files(folder):
    train, test = both(folder)
    assert not sources(train) & sources(test)
    assert len(sources(train) | sources(test)) == 12
    for i in range(len(test)):
        photo = np.asarray(Image.open(folder / test.source(i)))
        assert occurrences(bytes_of(test[i]), photo)
    for i in range(30):
        photo = np.asarray(Image.open(folder / train.source(i)))
        patch = bytes_of(train[i])
        assert any(
            any(occurrences(flipped(np.rot90(patch, -k), m), photo))
            for k in range(4)
            for m in (0, 1)
        )


def test_the_split_is_the_one_computed_from_the_files_by_hand(folder):
    expected = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.*")
        if int(hashlib.sha256(path.read_bytes()).hexdigest()[:13], 16) < 0.4 * 16**13
    }
    assert sources(both(folder)[1]) == expected


def test_copies_stay_on_one_side_and_more_files_move_none(folder):
    train, test = both(folder)
    for path in list(folder.rglob("*.png")):
        shutil.copy(path, folder / f"copy of {path.name}")
    for k in range(20):
        picture(folder / f"new{k}.png", seed=100 + k)
    with pytest.warns(UserWarning, match="a copy of"):
        more_train, more_test = both(folder)
    content = [
        {hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sources(dataset)}
        for dataset in (train, test, more_train, more_test)
    ]
    assert not content[2] & content[3]
    assert content[0] <= content[2]
    assert content[1] <= content[3]


def test_what_cannot_be_used_is_named_and_what_is_no_picture_is_passed_over(folder):
    (folder / "text.png").write_text("hello")
    whole = picture(folder / "whole.png", seed=50).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "holiday.heic").write_bytes(b"ftypheic")
    picture(folder / "small.png", side=40)
    for name in ("README.txt", ".DS_Store", "._whole.png", "whole.xmp", "Thumbs.db"):
        (folder / name).write_bytes(b"\0\0")
    with pytest.warns(UserWarning, match="4 files left out") as caught:
        dataset = data.Folder("train", root=folder, test_fraction=0.4)
    assert len(caught) == 1
    reasons = {path.name: why for path, why in dataset.skipped}
    assert sorted(reasons) == ["cut.png", "holiday.heic", "small.png", "text.png"]
    assert "not a picture" in reasons["text.png"]
    assert "damaged or cut off" in reasons["cut.png"]
    assert "convert it" in reasons["holiday.heic"]
    assert "46 x 40" in reasons["small.png"]
    with pytest.raises(InputError) as refused:
        data.Folder("train", root=folder, test_fraction=0.4, corrupt="refuse")
    assert all(name in str(refused.value) for name in ("text.png", "cut.png", "holiday.heic"))
    assert "small.png" not in str(refused.value)


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    secret = picture(tmp_path / "outside" / "secret.png")
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    with pytest.warns(UserWarning, match="not followed"):
        train, test = both(folder)
    assert sorted(path.name for path, _ in train.skipped) == ["link.png", "linked"]
    assert len(sources(train) | sources(test)) == 12


def test_folders_without_pictures_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "one" / "a.png")
    for name, said in [
        ("none", "no such folder"),
        ("file", "a file, not a folder"),
        ("empty", "no picture here can be used"),
        ("one", "training and testing need two"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            data.Folder("train", root=tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_an_empty_side_is_refused_with_a_fraction_that_works(folder, fraction):
    with pytest.raises(InputError, match="set test_fraction to") as caught:
        data.Folder("train", root=folder, test_fraction=fraction)
    suggested = float(str(caught.value).rsplit(" ", 1)[1])
    train, test = both(folder, test_fraction=suggested)
    assert {len(sources(train)), len(sources(test))} == {1, 11}


@pytest.mark.parametrize(
    ("fraction", "split", "other"), [(0.0, "train", "test"), (1.0, "test", "train")]
)
def test_a_folder_can_be_for_one_split_alone(folder, fraction, split, other):
    options = {"root": folder, "test_fraction": fraction, "patches": 400}
    assert len(sources(data.Folder(split, **options))) == 12
    with pytest.raises(InputError, match=f"no picture falls on the {other} side"):
        data.Folder(other, **options)


def test_grey_alpha_and_sixteen_bits_become_three_channels(tmp_path):
    deep = RNG.integers(0, 65536, (64, 64, 1), dtype=np.uint16)
    grey = torch.from_numpy(deep[..., 0].astype(np.float32))[None] / 65535 * 2 - 1
    clear = Picture(grey.expand(3, -1, -1), torch.zeros(1, 64, 64), depth=16)
    write_picture(tmp_path / "grey.png", replace(clear, pixels=grey, alpha=None))
    write_picture(tmp_path / "clear.png", clear)
    for split in ("train", "test"):
        places = sorted(
            int(hashlib.sha256(p.read_bytes()).hexdigest()[:13], 16) / 16**13
            for p in tmp_path.glob("*.png")
        )
        dataset = data.Folder(
            split, root=tmp_path, patches=1, per_photo=1, test_fraction=sum(places) / 2
        )
        values = dataset[0]["image"].double().numpy()
        levels = np.sort(np.rint((values + 1) / 2 * 65535).astype(int).reshape(3, -1))
        np.testing.assert_array_equal(levels, np.sort(np.stack([deep.ravel()] * 3).astype(int)))


def test_memory_is_bounded_and_does_not_change_the_items(folder):
    whole = data.Folder("train", root=folder, test_fraction=0.4)
    tight = data.Folder("train", root=folder, test_fraction=0.4, cache_gib=45_000 / 2**30)
    for i in range(50):
        assert torch.equal(whole[i]["image"], tight[i]["image"])
        held = sum(pixels.nbytes for pixels in tight._cache.values())
        assert held == tight._cached <= 45_000  # two pictures of 80 x 86 x 3 bytes
    assert whole.digest() == tight.digest()


def test_a_file_that_changes_in_use_is_refused(folder):
    dataset = data.Folder("test", root=folder, test_fraction=0.4, cache_gib=0.0)
    for name in sources(dataset):
        picture(folder / name, seed=999)
    with pytest.raises(InputError, match="changed while in use"):
        [dataset[i] for i in range(len(dataset))]


def test_a_clean_folder_warns_of_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both(folder)
