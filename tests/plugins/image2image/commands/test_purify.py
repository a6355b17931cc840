"""`purify` on files, and the predictor that it runs."""

import math
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from core.denoiser.parameterization import FunctionDenoiser
from core.errors import InputError
from core.images.pictures import Picture
from core.parts.registry import Spec
from core.request import Machine, TrainRequest
from plugins.image2image.inference.purify_files import Purify


def command(monkeypatch, *arguments):
    from core.commands import run_app
    from plugins.image2image.__main__ import app

    monkeypatch.setattr(sys, "argv", ["image2image", "purify", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_app(app)
    return ended.value.code


def test_a_picture_of_any_size_is_purified_into_a_file(prior, tmp_path, monkeypatch, capsys):
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (13, 21), dtype=np.uint8)
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(np.dstack([pixels, pixels // 2])).save(source)
    assert command(monkeypatch, source, "--checkpoint", prior, "--steps", 2, "-o", out) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as found:
        assert (found.mode, found.size) == ("LA", (21, 13))
        values = np.asarray(found).copy()
    assert np.array_equal(values[..., 1], pixels // 2)  # transparency is kept
    assert not np.array_equal(values[..., 0], pixels)
    predictor = Purify(Machine(threads=1), prior, steps=2)
    facts = predictor(source, tmp_path / "again.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), values)
    apart = (values[..., 0].astype(float) - pixels) / 127.5
    assert facts["changed"] == pytest.approx(math.sqrt((apart**2).mean()), abs=1 / 255)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (4, 4), (3, 50)])
def test_a_picture_smaller_than_two_coarsest_cells_is_purified(tmp_path, size):
    """Where norms of single channels see one value, whose variance torch refuses."""
    from core.model import load_model
    from core.runs import train

    request = TrainRequest(
        task=Spec("core/generate", {"channels": 3}),
        dataset=Spec("image2image/photos", {"size": 16, "patches": 4}),
        network=Spec("core/unet", {"width": 8, "multipliers": [1, 1], "blocks": 1, "patch": 2,
                                   "group_channels": None, "attention": [],
                                   "middle_attention": False}),
        steps=1,
        batch=1,
    )  # fmt: skip
    train(request, tmp_path / "prior", machine=Machine(threads=1))
    model = load_model(tmp_path / "prior", machine=Machine(threads=1))
    one, t = torch.zeros(1, 3, 1, 1), torch.full((1,), 0.1, dtype=torch.float64)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model.denoise(one, t)
    picture = Picture(torch.zeros(3, *size))
    found = Purify(Machine(threads=1), tmp_path / "prior", steps=2).purify(picture)
    assert found.pixels.shape == picture.pixels.shape
    assert found.pixels.isfinite().all()


def test_large_pictures_are_purified_tile_by_tile(prior, monkeypatch):
    """The model is shown no more than a tile, and all of the image."""
    predictor = Purify(Machine(threads=1), prior, steps=1)
    whole, shown = predictor._model.denoise, []

    @partial(FunctionDenoiser, predictor._model.process)
    def denoise(x, t, condition=None):
        shown.append(tuple(x.shape[-2:]))
        return whole(x, t, condition)

    predictor._model = replace(predictor._model, denoise=denoise)
    found = predictor.purify(Picture(torch.zeros(1, 600, 8)))
    assert found.pixels.shape == (1, 600, 8)
    assert set(shown) == {(512, 8)}
    assert len(shown) % 2 == 0
    huge = Picture(torch.zeros(1, 1, 1).expand(1, 200_000, 200_000))
    with pytest.raises(InputError, match="a result of 200000x200000 pixels needs about"):
        predictor.purify(huge)


def test_bad_pictures_and_models_are_one_sentence(prior, judge, tmp_path, monkeypatch, capsys):
    grey, colour, out = tmp_path / "grey.png", tmp_path / "colour.png", tmp_path / "out.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(grey)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(colour)
    cases = [
        ((tmp_path / "none.png", "--checkpoint", prior, "-o", out), "none.png"),
        ((colour, "--checkpoint", prior, "-o", out), "the image has 3 channels, the model 1"),
        ((grey, "--checkpoint", prior, "-o", grey), f"would overwrite the input {grey}"),
        ((grey, "--checkpoint", prior, "-o", out, "--level", 3), "level: expected a time"),
        ((grey, "--checkpoint", tmp_path, "-o", out), "no checkpoint"),
        ((grey, "--checkpoint", prior, "-o", out, "--sampler", "core/euler"), "did you mean"),
    ]
    for arguments, words in cases:
        assert command(monkeypatch, *arguments) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.startswith("error: ")
        assert not out.exists()
