"""Photographs as crops: found in the originals by search, apart between train and test."""

import hashlib
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import InputError
from core.images.pictures import Picture
from core.images.writing import write_picture
from core.storage import memory
from plugins.image2image.data.folder import Folder

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_images import bytes_of, flipped, occurrences

RNG = np.random.default_rng(0)


# --- photographs ---------------------------------------------------------------------------------


# --- a folder ------------------------------------------------------------------------------------


def picture(path, side=80, seed=None):
    draw = np.random.default_rng(abs(hash(path.name)) if seed is None else seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw.integers(0, 256, (side, side + 6, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Twelve images in three formats and two folders."""
    root = tmp_path / "pictures"
    for k in range(12):
        suffix = ("png", "bmp", "tif")[k % 3]
        picture(root / ("a", "b/c")[k % 2] / f"{k:02}.{suffix}", seed=k)
    return root


def sources(dataset):
    return {dataset.source(i) for i in range(len(dataset))}


def both(root, **options):
    options = {"test_fraction": 0.4, "patches": 400, **options}
    return Folder("train", root=root, **options), Folder("test", root=root, **options)


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
    (folder / "holiday.jxl").write_bytes(b"jxl")
    picture(folder / "small.png", side=40)
    for name in ("README.txt", ".DS_Store", "._whole.png", "whole.xmp", "Thumbs.db"):
        (folder / name).write_bytes(b"\0\0")
    with pytest.warns(UserWarning, match="4 files skipped") as caught:
        dataset = Folder("train", root=folder, test_fraction=0.4)
    assert len(caught) == 1
    reasons = {path.name: why for path, why in dataset.skipped}
    assert sorted(reasons) == ["cut.png", "holiday.jxl", "small.png", "text.png"]
    assert "not an image" in reasons["text.png"]
    assert "damaged or cut off" in reasons["cut.png"]
    assert "convert it" in reasons["holiday.jxl"]
    assert "46 x 40" in reasons["small.png"]
    with pytest.raises(InputError) as refused:
        Folder("train", root=folder, test_fraction=0.4, corrupt="refuse")
    assert all(name in str(refused.value) for name in ("text.png", "cut.png", "holiday.jxl"))
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
        ("none", "does not exist"),
        ("file", "is a file"),
        ("empty", "no usable image"),
        ("one", "two are required"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            Folder("train", root=tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(("fraction", "empty"), [(1e-6, "test"), (1 - 1e-6, "train")])
def test_a_split_that_would_be_empty_has_the_image_nearest_to_it(folder, fraction, empty):
    def place(path):
        return int(hashlib.sha256(path.read_bytes()).hexdigest()[:13], 16) / 16**13

    paths = [path for path in folder.rglob("*") if path.is_file()]
    nearest = (min if empty == "test" else max)(paths, key=place)
    name = str(nearest.relative_to(folder))
    with pytest.warns(UserWarning, match=f"nearest, {name}, is used for it") as caught:
        train, test = both(folder, test_fraction=fraction)
    assert len(caught) == 1
    alone, rest = (sources(one) for one in ((test, train) if empty == "test" else (train, test)))
    assert (len(alone), len(rest)) == (1, 11)
    assert not alone & rest
    chosen = test if empty == "test" else train
    assert chosen.name(0).startswith(name)


@pytest.mark.parametrize(
    ("fraction", "split", "other"), [(0.0, "train", "test"), (1.0, "test", "train")]
)
def test_a_folder_can_be_for_one_split_alone(folder, fraction, split, other):
    options = {"root": folder, "test_fraction": fraction, "patches": 400}
    assert len(sources(Folder(split, **options))) == 12
    with pytest.raises(InputError, match=f"no image is in the {other} split"):
        Folder(other, **options)


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
        dataset = Folder(
            split, root=tmp_path, patches=1, per_photo=1, test_fraction=sum(places) / 2
        )
        values = dataset[0]["image"].double().numpy()
        levels = np.sort(np.rint((values + 1) / 2 * 65535).astype(int).reshape(3, -1))
        np.testing.assert_array_equal(levels, np.sort(np.stack([deep.ravel()] * 3).astype(int)))


def test_memory_is_bounded_and_does_not_change_the_items(folder):
    whole = Folder("train", root=folder, test_fraction=0.4)
    tight = Folder("train", root=folder, test_fraction=0.4, cache_gib=45_000 / 2**30)
    for i in range(50):
        assert torch.equal(whole[i]["image"], tight[i]["image"])
        assert 0 < tight._cache.held <= 45_000  # two images of 80 x 86 x 3 bytes
    assert whole.digest() == tight.digest()


def test_a_file_that_changes_in_use_is_refused(folder):
    dataset = Folder("test", root=folder, test_fraction=0.4, cache_gib=0.0)
    for name in sources(dataset):
        picture(folder / name, seed=999)
    with pytest.raises(InputError, match="changed while in use"):
        [dataset[i] for i in range(len(dataset))]


def test_a_clean_folder_warns_of_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both(folder)


def test_what_the_memory_of_now_does_not_hold_is_not_skipped(folder, monkeypatch):
    """Else the data, and what is trained on them, would depend on what else the machine does."""
    monkeypatch.setattr(memory, "free", lambda: 1000)
    with pytest.raises(memory.NotEnough, match="cut it into smaller images"):
        Folder("train", root=folder, test_fraction=0.4)


def test_recoloured_crops_are_those_crops_and_are_another_dataset(folder):
    plain, changed = Folder("train", root=folder), Folder("train", root=folder, colour=0.2)
    assert plain.digest() != changed.digest()
    assert Folder("test", root=folder, colour=0.2).digest() == Folder("test", root=folder).digest()
    assert torch.equal(changed[3]["image"], changed[3]["image"])
    one, other = plain[3]["image"], changed[3]["image"]
    ranks = [sorted(range(64), key=v[k, :, 0].tolist().__getitem__) for v in (one, other) for k in
             range(3)]  # fmt: skip
    assert sorted(ranks[:3]) == sorted(ranks[3:])  # monotonic, each channel of one


def test_stretched_images_have_the_percentiles_of_their_files_at_the_ends(tmp_path):
    values = np.random.default_rng(0).normal(30, 4, (80, 80)).clip(0, 255).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "dim.png")
    plain, other = (
        Folder("train", root=tmp_path, test_fraction=0.0, size=80, stretch=stretch)
        for stretch in (False, True)
    )
    assert plain.digest() != other.digest()
    low, high = np.percentile(values, (1, 99.8))
    expected = 2 * (plain[0]["image"].add(1).mul(127.5) - low) / (high - low) - 1
    found = other[0]["image"]
    assert found.sub(expected.clamp(-1, 1)).abs().max() < 1 / 127.5 + 1e-4  # at 8 bits
    assert (found.min(), found.max()) == (-1, 1)
