"""Weights and draws that are NaN or infinite: refused by name, and nothing is written of them."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from small_model import sampled, train_request, trained

from core import runs
from core.errors import InputError
from core.model import load_model
from core.request import EvaluateRequest, JoinRequest, SampleRequest
from core.results import samples
from core.results.summary import finite_figures
from core.storage import checkpoint, tensor_file
from core.storage.checkpoint import NotFiniteCheckpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("model") / "run")


def poisoned(run, out, value):
    """A whole checkpoint of the run's, one weight of which has another value."""
    saved = checkpoint.load(run)
    weight = saved.tensors["ema"]["conv_in.weight"]
    weight.view(-1)[3] = value
    state = {name: one for name, one in saved.state.items() if name not in ("format", "step")}
    return checkpoint.save(out / "checkpoints", saved.step, saved.tensors, state)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_checkpoint_is_refused_with_its_path_and_the_tensors_name(model, tmp_path, value):
    place = poisoned(model, tmp_path, value)
    said = f"{re.escape(str(place))}: ema: 'conv_in.weight' has 1 of 72 values NaN or infinite"
    for use in (load_model, checkpoint.load):
        with pytest.raises(NotFiniteCheckpoint, match=said):
            use(tmp_path)
    with pytest.raises(InputError, match=said):
        runs.sample(SampleRequest(checkpoint=tmp_path), tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


def test_training_does_not_begin_again_over_such_a_checkpoint(model, tmp_path):
    place = poisoned(model, tmp_path, math.nan)
    with pytest.raises(InputError, match=r"ema: 'conv_in.weight'"):
        runs.train(train_request(), tmp_path)
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_a_draw_that_is_not_finite_is_not_written(model, tmp_path, monkeypatch):
    def diverged(*given, **options):
        x = given[3].clone()
        x[1, 0, 2, 3] = math.inf
        return x

    monkeypatch.setattr(runs, "integrate", diverged)
    with pytest.raises(InputError, match=r"^blank 1, draw 1: 1 of 64 values are NaN or infinite"):
        sampled(model, tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize("parts", [1, 2])
def test_samples_that_others_wrote_are_refused_by_their_file(model, tmp_path, parts):
    out, stem = tmp_path / "samples", "samples" if parts == 1 else "part"
    options = {"parts": parts, "part": 1, "batch": 1} if parts > 1 else {}
    place = sampled(model, out, **options) / f"{stem}.safetensors"
    (group, drawn), *_ = tensor_file.load(place).items()
    drawn.view(-1)[5] = math.nan
    tensor_file.save(place, {group: drawn})
    said = f"{stem}.safetensors: '{group}' has 1 of .* values NaN or infinite; .*draw again"
    scores, joined = tmp_path / "scores", tmp_path / "joined"
    with pytest.raises(InputError, match=said):
        runs.evaluate(EvaluateRequest(samples=out), scores) if parts == 1 else samples.join(
            JoinRequest(), {"one": out}, joined
        )
    assert {path.name for path in tmp_path.iterdir()} == {"samples"}


def test_a_figure_without_a_mean_is_left_out_with_a_note():
    heard = []
    values = {"a": {"psnr": [1.0, math.inf], "ssim": [1.0, 0.5]}, "b": {"psnr": [1.0, 2.0]}}
    about = {"items": [{"name": "one"}, {"name": "two"}]}
    kept = finite_figures(values, about, heard.append)
    assert kept == {"a": {"ssim": [1.0, 0.5]}, "b": {"psnr": [1.0, 2.0]}}
    assert [note.text for note in heard] == ["psnr of a is inf for two; left out"]


def test_integers_and_empty_tensors_are_finite():
    whole = {"n": torch.arange(3), "none": torch.zeros(0), "low": torch.full((2,), 1e38)}
    assert tensor_file.not_finite(whole) == ""
    assert "'b' has 2 of 3" in tensor_file.not_finite(
        {"a": torch.ones(1), "b": torch.tensor([1.0, math.nan, -math.inf])}
    )
