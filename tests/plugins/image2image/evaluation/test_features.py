"""Features: learned, named by their weights, kept."""

import pytest
import torch

from core.data import collate
from core.errors import InputError
from core.parts.config import configure
from core.parts.registry import Spec
from plugins.image2image.evaluation.features import learned, load, patches

PHOTOS = Spec("image2image/photos", {"size": 16, "patches": 512})
CROPS = Spec("image2image/photos", {"size": 32, "per_photo": 6})


def crops(split, spec=CROPS):
    dataset = configure("dataset", spec)(split)
    return collate(dataset, list(range(len(dataset))))["image"]


@pytest.mark.slow
def test_features_are_named_by_what_they_are_and_kept(extractor, place, monkeypatch, tmp_path):
    """The same options give the same name, from the file, from a damaged file and from nothing."""
    (kept,) = (place / "polymode").iterdir()
    told = []
    assert learned(PHOTOS, steps=60, seed=0, emit=told.append).name == extractor.name
    assert not told  # it was read
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert learned(PHOTOS, steps=60, seed=0, emit=told.append).name == extractor.name
    assert len(told) == 60
    assert kept.read_bytes() == whole
    assert extractor.name.startswith("photos features ")
    assert len(extractor.name.split()[-1]) == 8
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # where nothing can be kept
    assert learned(PHOTOS, steps=2, seed=0).name != learned(PHOTOS, steps=2, seed=1).name
    extractor.save(tmp_path / "mine.safetensors")
    again = load(tmp_path / "mine.safetensors")
    assert again.name.split()[-1] == extractor.name.split()[-1]
    x = crops("test")
    assert torch.equal(again.features(x), extractor.features(x))


def test_features_are_in_units_of_the_training_crops(extractor):
    found = extractor.features(crops("train", PHOTOS)).double()
    assert found.shape[1] > 20
    assert found.mean(0).abs().max() < 1e-4
    assert (found.std(0) - 1).abs().max() < 1e-4


def test_they_tell_photographs_apart_and_no_colour_is_needed(extractor):
    """Other crops of the nine photographs, grey: a guess is right once in nine times."""
    spec = Spec("image2image/photos", {"size": 16, "patches": 300, "seed": 5})
    dataset = configure("dataset", spec)("train")
    names = sorted({dataset.source(i) for i in range(300)})
    truth = torch.tensor([names.index(dataset.source(i)) for i in range(300)])
    grey = crops("train", spec).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert len(names) == 9
    assert (extractor.classes(grey) == truth).float().mean() > 2 / 9


def test_classes_are_learned_where_items_have_some(place):
    found = learned(Spec("image2image/digits"), steps=80, seed=0)
    test = configure("dataset", Spec("image2image/digits"))("test")
    batch = collate(test, list(range(len(test))))
    assert found.labelled
    assert (found.classes(batch["image"]) == batch["class"]).float().mean() > 0.8


def test_patches_are_the_squares_of_the_middle():
    x = torch.arange(2 * 1 * 7 * 10).view(2, 1, 7, 10).float()
    found = patches(x, 3)
    assert found.shape == (2, 2, 3, 1, 3, 3)
    for row in range(2):
        for column in range(3):
            known = x[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            assert torch.equal(found[:, row, column], known)
    assert torch.equal(patches(x, 6)[1, 0, 0], x[1, :, 0:6, 2:8])
    with pytest.raises(InputError, match="patch: expected at most 7, the side of the images"):
        patches(x, 8)


def test_what_no_features_come_from_is_refused(place, tmp_path):
    from core.storage import tensor_file

    with pytest.raises(InputError, match="one photograph cannot be told from others"):
        learned(Spec("image2image/photos", {"size": 16, "patches": 1}), steps=1, seed=0)
    tensor_file.save(tmp_path / "other.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(InputError, match="not a features file"):
        load(tmp_path / "other.safetensors")
