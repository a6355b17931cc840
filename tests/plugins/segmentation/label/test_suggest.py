"""suggest, as a user runs it: the image that the classifier has never seen the like of is first."""

import csv

import numpy as np
import torch
from made_sessions import SIZE, disc, images
from PIL import Image
from typer.testing import CliRunner

from plugins.segmentation.__main__ import app
from plugins.segmentation.inference.suggest import least_certain


def run(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_the_tenth_that_is_least_certain_counts():
    values = torch.arange(200.0).view(10, 20)
    assert least_certain(values[torch.randperm(10)]) == sum(range(180, 200)) / 20


def test_images_without_a_mask_are_listed_the_least_certain_first(tmp_path):
    folder = images(tmp_path / "in", ("a", "b", "c"))
    Image.fromarray(disc().astype(np.uint8)).save(folder / "a_mask.png")
    Image.fromarray(np.full((*SIZE, 3), 115, np.uint8)).save(folder / "c.png")  # between both
    out, table = tmp_path / "classifier", tmp_path / "next.csv"
    words = ("fit", folder, "--features", "segmentation/filters", "--kind", "linear", "-o", out)
    assert run(*words).exit_code == 0
    done = run("suggest", folder, "--classifier", out, "-o", table)
    assert done.exit_code == 0, done.output
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["image"]) for row in rows] == [("1", "c"), ("2", "b")]
    assert float(rows[0]["uncertainty"]) > float(rows[1]["uncertainty"])
    again = run("suggest", folder, "--classifier", out, "-o", table)
    assert again.exit_code != 0  # nothing is replaced


def test_with_nothing_left_to_label_it_says_so(tmp_path):
    folder = images(tmp_path / "in", ("a",))
    Image.fromarray(disc().astype(np.uint8)).save(folder / "a_mask.png")
    done = run("suggest", folder, "--classifier", tmp_path)
    assert "all 1 images have a mask" in str(done.exception)
