"""Images of a prior with labels of a classifier, and what reads them."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from core.errors import InputError
from core.request import Machine
from plugins.segmentation.__main__ import app
from plugins.segmentation.data.folder import LabelledFolder
from plugins.segmentation.inference import generate as generating
from plugins.segmentation.inference.classifier import Whole
from plugins.segmentation.io.classes import Classes
from plugins.segmentation.request import GenerateRequest

DARK = Classes(("dark", "bright"), (3, 9))


class Threshold:
    """Bright pixels are of the second class, and it is the less certain the brighter the image."""

    classes = DARK

    def __call__(self, image):
        grey = image.mean(0)
        uncertainty = torch.full_like(grey, float((1 + grey.mean()) / 2))
        return Whole((grey > 0).byte(), uncertainty, uncertainty)


@pytest.fixture
def made(tmp_path, prior, monkeypatch):
    monkeypatch.setattr(generating, "load", lambda folder, machine: Threshold())
    request = GenerateRequest(
        checkpoint=prior, classifier=tmp_path, count=10, discard=0.3, steps=2, batch=4
    )
    result = generating.generate(request, tmp_path / "made", machine=Machine(threads=1))
    assert result.kept == 7
    return tmp_path / "made"


def test_the_most_uncertain_images_are_left_out_and_labels_are_of_the_written_pixels(made):
    rows = list(csv.DictReader((made / "generated.csv").open()))
    assert len(rows) == 10
    kept = sorted((float(row["uncertainty"]), row["image"]) for row in rows if row["kept"] == "1")
    lost = [float(row["uncertainty"]) for row in rows if row["kept"] == "0"]
    assert len(lost) == 3
    assert min(lost) >= kept[-1][0]
    names = {path.name for path in made.iterdir()} - {"generated.csv", "classes.json"}
    assert names == {f"{name}{end}.png" for _, name in kept for end in ("", "_mask")}
    for value, name in kept:
        with (
            Image.open(made / f"{name}.png") as image,
            Image.open(made / f"{name}_mask.png") as mask,
        ):
            grey, numbers = np.asarray(image).astype(float), np.asarray(mask)
        assert grey.shape == numbers.shape
        assert value == pytest.approx(grey.mean() / 255, abs=1e-5)
        assert np.array_equal(numbers, np.where(grey > 127.5, 9, 3))


def test_they_are_a_labelled_folder_with_the_classes_names(made):
    assert json.loads((made / "classes.json").read_text())[1] == {"name": "bright", "value": 9}
    data = LabelledFolder("train", root=made, size=8, patches=5, test_fraction=0.0)
    assert data.classes == DARK
    assert set(torch.unique(data[0]["labels"]).tolist()) <= {0, 1}


def test_bad_requests_of_images_are_one_sentence(tmp_path, prior, made):
    request = GenerateRequest(checkpoint=prior, classifier=tmp_path, count=10)
    with pytest.raises(InputError, match="not an empty folder"):
        generating.generate(request, made)
    none = GenerateRequest(checkpoint=prior, classifier=tmp_path, count=1, discard=0.6)
    with pytest.raises(InputError, match="leaves none"):
        generating.generate(none, tmp_path / "other", machine=Machine(threads=1))


def test_a_run_of_another_task_is_no_classifier(tmp_path, prior):
    words = ["generate", "--checkpoint", str(prior), "--classifier", str(prior), "-o",
             str(tmp_path / "out"), "--threads", "1"]  # fmt: skip
    with pytest.raises(InputError, match=r"no classifier; .*core/generate"):
        CliRunner().invoke(app, words, catch_exceptions=False)
