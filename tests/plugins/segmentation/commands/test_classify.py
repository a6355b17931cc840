"""fit, predict and evaluate on images of discs, as a user runs them."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from core.errors import InputError
from plugins.segmentation.__main__ import app

FILTERS = "segmentation/filters"
NUMBERS = (0, 128)


def scene(seed, size=(72, 60)):
    """Bright discs on a dark ground, with noise; their mask."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, bool)
    for _ in range(4):
        cy, cx, r = draw.integers(size[0]), draw.integers(size[1]), draw.integers(6, 12)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < r**2
    grey = np.where(mask, 150, 90) + draw.normal(0, 12, size)
    return np.clip(grey, 0, 255).astype(np.uint8), mask


@pytest.fixture
def folder(tmp_path):
    for name, seeds in (("learned", (0, 1, 2)), ("other", (3, 4))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            grey, mask = scene(seed)
            Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / name / f"{seed}.png")
            numbers = np.where(mask, *NUMBERS[::-1]).astype(np.uint8)
            Image.fromarray(numbers).save(tmp_path / name / f"{seed}_mask.png")
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)


def fitted(folder, *more):
    out = folder / "classifier"
    words = ("fit", folder / "learned", "--features", FILTERS, "-o", out, "--threads", 1, *more)
    done = run(*words)
    assert done.exit_code == 0, done.output
    return out


def test_masks_of_other_images_have_their_numbers_and_what_goes_with_them(folder):
    out = fitted(folder, "--kind", "linear")
    done = run("predict", folder / "other" / "3.png", "--classifier", out, "-o", folder / "masks")
    assert done.exit_code == 0
    with Image.open(folder / "masks" / "3.png") as image:
        assert image.mode == "P"
        found = np.asarray(image)
    truth = scene(3)[1]
    assert found.shape == truth.shape
    assert set(np.unique(found)) == set(NUMBERS)
    assert ((found == 128) == truth).mean() > 0.97
    rows = list(csv.DictReader((folder / "masks" / "3-areas.csv").open()))
    assert [int(row["value"]) for row in rows] == [0, 128]
    assert [int(row["pixels"]) for row in rows] == [int((found == v).sum()) for v in NUMBERS]
    for name in ("3-overlay.png", "3-uncertainty.png"):
        with Image.open(folder / "masks" / name) as image:
            assert image.size == (60, 72)


def test_scores_are_of_the_masks_that_are_written(folder):
    out = fitted(folder, "--kind", "linear")
    done = run("evaluate", folder / "other", "--classifier", out)
    assert done.exit_code == 0
    stated = float(done.output.split("mean IoU")[1].split()[0])
    files = [folder / "other" / f"{seed}.png" for seed in (3, 4)]
    run("predict", *files, "--classifier", out, "-o", folder / "masks")
    found = np.stack([np.asarray(Image.open(folder / "masks" / f.name)) == 128 for f in files])
    truth = np.stack([scene(seed)[1] for seed in (3, 4)])
    each = [(found == v)[truth == v].sum() / ((found == v) | (truth == v)).sum() for v in (0, 1)]
    assert stated == pytest.approx(float(np.mean(each)), abs=1e-4)
    assert stated > 0.9


def test_with_stretched_images_their_brightness_does_not_matter(folder):
    options = "{name: segmentation/filters, scales: [1, 2], stretch: true}"
    out = fitted(folder, "--kind", "linear", "--features", options)
    with Image.open(folder / "other" / "3.png") as image:
        Image.fromarray(np.asarray(image)[..., 0] * np.uint16(40)).save(folder / "dim.png")
    run("predict", folder / "other" / "3.png", folder / "dim.png", "--classifier", out, "-o",
        folder / "masks")  # fmt: skip
    one, other = (np.asarray(Image.open(folder / "masks" / f"{n}.png")) for n in ("3", "dim"))
    assert (one != other).mean() < 1e-3
    assert ((one == 128) == scene(3)[1]).mean() > 0.97


@pytest.mark.slow
def test_an_ensemble_on_a_diffusion_models_features(folder, prior):
    out = folder / "classifier"
    words = ("fit", folder / "learned", "--checkpoint", prior, "-o", out, "--members", 3)
    done = run(*words, "--threads", 1)
    assert done.exit_code == 0, done.output
    done = run("evaluate", folder / "other", "--classifier", out)
    assert float(done.output.split("mean IoU")[1].split()[0]) > 0.8
    whole = folder / "whole"
    inside = shutil.copytree(prior, whole / "prior")
    words = ("fit", folder / "learned", "--checkpoint", inside, "-o", whole, "--kind", "linear")
    assert run(*words, "--threads", 1).exit_code == 0
    shutil.move(whole, folder / "elsewhere")
    assert run("evaluate", folder / "other", "--classifier", folder / "elsewhere").exit_code == 0
    moved = shutil.copytree(prior, folder / "moved" / "run")
    done = run("evaluate", folder / "other", "--classifier", out, "--prior", moved)
    assert done.exit_code == 0


def test_large_images_are_segmented_in_tiles(folder):
    """A tile that sees as far as the filters reach gives the whole image's mask."""
    grey, _ = scene(5, size=(200, 180))
    Image.fromarray(grey).save(folder / "large.png")
    words = ("--kind", "linear", "--overwrite", "--features",
             "{name: segmentation/filters, scales: [1, 2]}")  # fmt: skip
    masks = []
    for tile in (512, 64):
        out = fitted(folder, *words, "--tile", tile, "--margin", 16)
        run("predict", folder / "large.png", "--classifier", out, "-o", folder / f"{tile}")
        masks.append(np.asarray(Image.open(folder / f"{tile}" / "large.png")))
    assert (masks[0] != masks[1]).mean() < 1e-3


def refused(*words):
    with pytest.raises(InputError) as caught:
        run(*words)
    return str(caught.value)


def test_bad_input_is_one_sentence(folder):
    learned, out = folder / "learned", folder / "classifier"
    fit = ("fit", learned, "--features", FILTERS, "-o", out)
    assert "expected --checkpoint of a diffusion model" in refused("fit", learned, "-o", out)
    assert "margin: expected less than half of the tile's 128" in refused(*fit, "--tile", 128)
    assert "at least" not in refused("fit", folder / "nothing", "--features", FILTERS, "-o", out)
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(learned / "1_mask.png")
    assert "6 x 5 pixels, its image" in refused(*fit)
    Image.fromarray(np.full((72, 60), 9, np.uint8)).save(learned / "1_mask.png")
    assert "568 pixels have the label 128" in refused(*fit, "--classes", "a", "--classes", "b")
    for seed in (0, 1, 2):
        Image.fromarray(np.zeros((72, 60), np.uint8)).save(learned / f"{seed}_mask.png")
    assert "are of class 0; label some of another" in refused(*fit)
    for seed in (0, 1, 2):
        Image.fromarray(np.full((72, 60), 255, np.uint8)).save(learned / f"{seed}_mask.png")
    assert "no pixel has one" in refused(*fit)
    for seed in (0, 1, 2):
        (learned / f"{seed}_mask.png").unlink()
    assert "masks: none found" in refused(*fit)
    assert "no classifier; give the folder" in refused(
        "predict", learned / "0.png", "--classifier", out, "-o", folder / "masks"
    )
    assert "a folder; use: polymode apply" in refused(
        "predict", learned, "--classifier", out, "-o", folder / "masks"
    )


def test_a_folder_without_images_is_named(folder):
    (folder / "empty").mkdir()
    out = fitted(folder, "--kind", "linear")
    assert "no image; add images" in refused("suggest", folder / "empty", "--classifier", out)
    assert "no image to label" in refused("label", folder / "empty", "--classes", "a")
    prior = ("train-prior", folder / "empty", "-o", folder / "run")
    assert "no usable image; add PNG" in refused(*prior)


def test_16_bits_and_transparency_are_read_as_the_same_image_in_8_bits(folder):
    out = fitted(folder, "--kind", "linear")
    with Image.open(folder / "other" / "3.png") as image:
        pixels = np.asarray(image)
    grey = pixels[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    alpha = np.full((*grey.shape, 1), 255, np.uint8)
    alpha[:5] = 0
    Image.fromarray(np.concatenate([pixels, alpha], 2)).save(folder / "clear.png")
    files = (folder / "other" / "3.png", folder / "deep.png", folder / "clear.png")
    run("predict", *files, "--classifier", out, "-o", folder / "masks")
    masks = [np.asarray(Image.open(folder / "masks" / file.name)) for file in files]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0][5:], masks[2][5:])


@pytest.mark.slow
def test_an_image_of_20000_pixels_is_read_tile_by_tile(folder, monkeypatch):
    """Repeated to 20,000 columns an image has the repeated mask; no features are of all of it."""
    from plugins.segmentation.features.filters import Filters

    sizes, call = [], Filters.__call__

    def spied(self, images):
        sizes.append(images.shape[-1])
        return call(self, images)

    monkeypatch.setattr(Filters, "__call__", spied)
    few = "{name: segmentation/filters, scales: [1]}"
    out = fitted(folder, "--kind", "linear", "--features", few, "--overwrite")
    grey, _ = scene(5, size=(64, 80))
    Image.fromarray(np.tile(grey, (1, 250))).save(folder / "wide.png")
    Image.fromarray(np.tile(grey, (1, 3))).save(folder / "three.png")
    files = (folder / "wide.png", folder / "three.png")
    run("predict", *files, "--classifier", out, "-o", folder / "masks")
    wide, three = (np.asarray(Image.open(folder / "masks" / file.name)) for file in files)
    assert wide.shape == (64, 20_000)
    assert max(sizes) <= 512
    middle = np.tile(three[:, 80:160], (1, 248))
    assert (wide[:, 80:-80] != middle).mean() < 1e-3


def test_an_overlay_in_strips_is_the_whole_overlay(folder, monkeypatch):
    from plugins.segmentation.io import masks
    from plugins.segmentation.io.classes import Classes

    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    labels = draw.integers(0, 3, (40, 30), dtype=np.uint8)
    classes = Classes(("a", "b", "c"), (0, 1, 2))
    masks.write_overlay(folder / "whole.png", pixels, labels, classes)
    monkeypatch.setattr(masks, "STRIP", 7)
    masks.write_overlay(folder / "strips.png", pixels, labels, classes)
    assert (folder / "whole.png").read_bytes() == (folder / "strips.png").read_bytes()


def test_a_mask_of_instances_has_one_class_of_objects(folder):
    for seed in (0, 1, 2):
        _, mask = scene(seed)
        numbers = (mask * np.arange(250, 250 + 60)).astype(np.uint16)  # 255 among them
        Image.fromarray(numbers).save(folder / "learned" / f"{seed}_mask.png")
    out = fitted(folder, "--kind", "linear", "--instances")
    run("predict", folder / "other" / "3.png", "--classifier", out, "-o", folder / "masks")
    found = np.asarray(Image.open(folder / "masks" / "3.png"))
    assert ((found == 1) == scene(3)[1]).mean() > 0.97


@pytest.mark.slow
def test_objects_are_counted_measured_and_scored(folder):
    """Discs that lie apart: every one is found, and its row is of its pixels."""
    y, x = np.mgrid[:72, :60]
    for seed in (3, 4):
        numbers = np.zeros((72, 60), np.uint8)
        for number, (cy, cx) in enumerate(((15, 15), (20, 45), (50, 20)), start=1):
            numbers[(y - cy) ** 2 + (x - cx) ** 2 < 100] = 80 * number
        Image.fromarray(numbers).save(folder / "other" / f"{seed}_mask.png")
        grey = np.where(numbers > 0, 150, 90) + np.random.default_rng(seed).normal(0, 8, (72, 60))
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "other" / f"{seed}.png")
    out = fitted(folder, "--kind", "linear", "--instances")
    how = ("--objects", "watershed", "--min-area", 30, "--classifier", out)
    done = run("predict", folder / "other" / "3.png", *how, "-o", folder / "masks")
    assert "; 3 objects" in done.output
    with Image.open(folder / "masks" / "3-instances.png") as image:
        assert image.mode == "I;16"
        found = np.asarray(image)
    rows = list(csv.DictReader((folder / "masks" / "3-objects.csv").open()))
    assert [int(row["area"]) for row in rows] == np.bincount(found.ravel())[1:].tolist()
    assert float(rows[1]["centroid_x"]) == pytest.approx(45, abs=1)
    assert float(rows[1]["mean_intensity"]) == pytest.approx(150 / 255, abs=0.02)
    done = run("evaluate", folder / "other", "--instances", *how, "-o", folder / "scores")
    line = next(line for line in done.output.splitlines() if line.startswith("AP 0.5 "))
    assert line.split(maxsplit=2)[2] == "1.0000  (1.0000 to 1.0000)"
    assert (folder / "scores" / "metrics.json").exists()
    assert "give --instances if every object" in refused("evaluate", folder / "other", *how)


def test_results_are_not_replaced_unasked(folder):
    fitted(folder, "--kind", "linear")
    words = ("fit", folder / "learned", "--features", FILTERS, "-o", folder / "classifier")
    assert "already there" in refused(*words)
    one = ("predict", folder / "other" / "3.png", "--classifier", folder / "classifier")
    assert run(*one, "-o", folder / "masks").exit_code == 0
    assert "already there" in refused(*one, "-o", folder / "masks")


def test_features_that_have_changed_are_noticed(folder):
    out = fitted(folder, "--kind", "linear")
    record = (out / "classifier.json").read_text()
    (out / "classifier.json").write_text(record.replace("0.7", "0.8"))
    words = ("predict", folder / "other" / "3.png", "--classifier", out, "-o", folder / "masks")
    assert "have changed since it was fitted" in refused(*words)
    (out / "classifier.json").write_text("{")
    assert "cannot be read" in refused(*words)
