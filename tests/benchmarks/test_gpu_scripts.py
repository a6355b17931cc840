"""The GPU scripts on a CPU: one step, the figures they write, and weights that commands take."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import InputError
from core.model import load_model
from core.storage import checkpoint

SCRIPTS = Path(__file__).parent / "gpu"


@pytest.fixture
def script(monkeypatch):
    """Import a script as running it does, with its folder first on the path."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name):
        for module in (name, "record"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return importlib.import_module(name)

    return load


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model", "tables"),
    [
        pytest.param("medical", "ct", {"23 views", "10 views"}, marks=pytest.mark.slow),
        ("image2image", "x4", {"scores"}),
    ],
)
def test_one_step_writes_figures_and_weights(script, tmp_path, name, model, tables):
    tiny = ["--width", "8", "--size", "16", "--batch", "2", "--items", "1", "--workers", "0"]
    script(name).main(["--only", model, "--steps", "1", *tiny, "--out", str(tmp_path)])
    document = json.loads((tmp_path / f"{name}-{model}.json").read_text())
    assert {"machine", "date", "figures"} == set(document)
    figures = document["figures"][model]
    assert figures["training"]["steps"] == 1
    assert tables < set(figures)
    weights = tmp_path / "weights" / model
    small, trained = load_model(weights), load_model(tmp_path / "runs" / model)
    pairs = zip(small.network.parameters(), trained.network.parameters(), strict=True)
    for one, other in pairs:  # half precision: 11 bits, and 2^-24 between its smallest numbers
        torch.testing.assert_close(one, other, rtol=2**-11, atol=2**-25)


@pytest.mark.slow
def test_a_prior_of_images_and_mean_iou_of_a_few_labels(script, tmp_path):
    draw, (y, x) = np.random.default_rng(0), np.mgrid[:48, :48]
    for side in ("train", "test"):
        (tmp_path / side).mkdir()
        for number in range(3):
            cy, cx = draw.integers(12, 36, 2)
            disc = (y - cy) ** 2 + (x - cx) ** 2 < 144
            grey = (20 + 30 * disc + draw.normal(0, 2, disc.shape)).astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / side / f"{number}.png")
            instances = disc.astype(np.uint8)
            Image.fromarray(instances).save(tmp_path / side / f"{number}_instances.png")
    tiny = ["--width", "8", "--size", "32", "--batch", "2", "--workers", "0", "--steps", "2"]
    few = ["--labels", "2", "--draws", "1", "--seconds", "0.5"]
    few += ["--only", "ensemble, filters", "U-Net from nothing"]
    images = ["--images", str(tmp_path / "train"), str(tmp_path / "test")]
    script("segmentation").main([*tiny, *few, *images, "--out", str(tmp_path / "out")])
    document = json.loads((tmp_path / "out" / "segmentation-nuclei.json").read_text())
    figures = document["figures"]["nuclei"]
    assert figures["training"]["steps"] == 2
    assert figures["images_per_second"] > 0
    for name, row in figures["miou"].items():
        mean, low, high = row["2"]
        assert low == mean == high  # of one draw
        # Discs that are twice as bright as their ground: a threshold finds them.
        assert mean > (0.9 if "filters" in name else 0)
    assert len(figures["miou"]) == 2
    load_model(tmp_path / "out" / "weights" / "nuclei")


@pytest.mark.slow
def test_one_model_of_clips_predicts_and_interpolates(script, tmp_path):
    """Figures that need no model are those of every training: a copy does not move."""
    tiny = ["--width", "8", "--size", "16", "--batch", "2", "--items", "2", "--workers", "0"]
    script("video").main([*tiny, "--steps", "1", "--grid", "2", "--out", str(tmp_path)])
    document = json.loads((tmp_path / "video-digits.json").read_text())
    figures = document["figures"]["digits"]
    assert figures["training"]["steps"] == 1
    assert set(figures["scores"]) == {"predict 8 from 4", "interpolate 5 of 16"}
    for row in figures["scores"].values():
        assert row["nearest given frame"]["direction"] == 0
        assert row["best of 8"]["known"] == 0
        assert np.isclose(10 ** (3 - row["mean of 8"]["pooled_psnr"] / 10), row["mean of 8"]["mse"])
    load_model(tmp_path / "weights" / "digits")


def test_weights_that_are_too_large_are_refused(script, tmp_path, monkeypatch):
    record = script("record")
    monkeypatch.setattr(record, "LARGEST", 10_000)
    weights = {"w": torch.zeros(70, 72)}
    run = checkpoint.save(tmp_path / "run", 1, {"ema": weights}, {})
    with pytest.raises(InputError, match="train a narrower network"):
        record.write_weights(tmp_path, "large", run)
    assert not (tmp_path / "weights").exists()
