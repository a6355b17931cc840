"""Models one after another: what each is given, and that the end agrees with the beginning."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.model import Model
from core.parts.config import configure
from core.parts.registry import Spec
from core.request import EvaluateRequest, TrainRequest
from core.results import samples
from core.results.sheet import to_bytes
from core.runs import evaluate, train
from plugins.image2image.inference.cascade import sample
from plugins.image2image.inference.draws import Sampling, draw_cascade, draw_restorations
from plugins.image2image.operators.bicubic import Bicubic
from plugins.image2image.request import CascadeRequest
from plugins.image2image.tasks.restoration import to_levels
from plugins.image2image.tasks.super_resolution import SR3


def picture(size=32):
    pixels = photographs.coffee()[100 : 100 + size, 200 : 200 + size]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def trained(task):
    """A model that estimates what it is told to, and a list of what it was given."""
    seen = []

    @partial(FunctionDenoiser, how()[0])
    def denoise(x, t, condition=None):
        seen.append(condition["image"])
        return Prediction(0.3 * x.tanh())

    request = TrainRequest(task=Spec("image2image/sr3"), dataset=Spec("x"))
    cpu = torch.device("cpu")
    model = Model(denoise, torch.nn.Identity(), task, request, cpu, (), 0, Path("x"), 0)
    return model, seen


def how(**changes):
    process = configure("process", Spec("core/vp_cosine"))()
    grid = configure("grid", Spec("core/uniform_time", {"steps": 3}))(process)
    solver = configure("sampler", Spec("core/ancestral"))()
    return process, Sampling(solver=solver, grid=grid, **changes)


def two(back_projections=2, augment=0.3):
    first = SR3(scale=2, back_projections=back_projections)
    second = SR3(scale=2, back_projections=back_projections, augment=augment)
    return trained(first)[0], trained(second)


def test_a_cascade_agrees_with_what_it_began_with():
    """Its result, reduced by both factors, is the image; without back-projection it is not."""
    low = picture(24)[None]

    def apart(back_projections):
        first, (second, _) = two(back_projections)
        _, drawn = how(draws=1)
        (image,) = draw_cascade([(first, 0.0), (second, 0.2)], low, drawn)
        assert image.shape == (1, 3, 96, 96)
        return float((Bicubic(factor=2).forward(Bicubic(factor=2).forward(image)) - low).std())

    assert apart(8) < 0.02 < apart(0)


def test_each_stage_is_given_the_one_before_with_its_noise():
    first, (second, seen) = two()
    _, drawn = how(draws=2, seed=4)
    pictures = list(draw_cascade([(first, 0.0), (second, 0.3)], picture(24)[None], drawn))
    _, one = how(draws=2, seed=4)
    middle = list(draw_restorations(first, {"low": picture(24)[None]}, one))
    (second_alone,) = draw_restorations(
        first, {"low": picture(24)[None]}, replace(one, draws=1, first=1)
    )
    assert torch.equal(second_alone, middle[1])  # a draw depends on its number alone
    assert not torch.equal(middle[0], middle[1])
    for k in range(2):
        given = seen[3 * k][:, :3]  # three estimates a draw
        noise = given - Bicubic(factor=2).up(middle[k])
        assert 0.1 < float(noise.std()) < 0.3  # of 0.3, less what enlarging smooths
    assert not torch.equal(pictures[0], pictures[1])
    again = list(draw_cascade([(first, 0.0), (second, 0.3)], picture(24)[None], drawn))
    assert torch.equal(again[1], pictures[1])


def test_tiles_do_not_change_a_model_that_looks_at_one_pixel():
    first, _ = two(back_projections=0)
    _, whole = how(tile=512, overlap=0)
    _, parts = how(tile=40, overlap=16)
    one, other = (
        next(draw_restorations(first, {"low": picture(60)[None]}, h)) for h in (whole, parts)
    )
    assert torch.allclose(one, other, atol=1e-5)
    assert parts.tiles(120, 120) == 25
    assert whole.tiles(120, 120) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SR3(augment=0.1, level=0.2), "level: expected 0 to augment, which is 0.1"),
        (lambda: SR3(augment=-1.0), "augment: expected at least 0, got -1"),
        (
            lambda: SR3().given(picture()[None], 0.1, picture()[None]),
            "level: expected 0 to 0, .* got 0.1",
        ),
    ],
)
def test_levels_out_of_range_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


@pytest.mark.slow
def test_samples_of_a_cascade_are_its_draws_and_are_scored_as_one_enlargement(tmp_path):
    """As by hand from the 8-bit reduction; the whole agrees with it through both models."""
    data = Spec("image2image/photos", {"size": 32, "per_photo": 1})
    first, second = (enlarger(tmp_path / name, augment) for name, augment in NOISE.items())
    request = CascadeRequest(
        checkpoint=first, then=second, level=0.2, dataset=data, count=2, samples=2, seed=3
    )
    found = sample(request, tmp_path / "samples")
    assert (found.items, found.draws) == (2, 2)
    drawn = samples.read(tmp_path / "samples")
    assert drawn.results.shape == (2, 2, 3, 32, 32)
    assert not torch.equal(drawn.results[1, 0], drawn.results[1, 1])
    low = to_levels(Bicubic(factor=4).forward(drawn.dataset[1]["image"][None]))
    assert float((Bicubic(factor=4).forward(drawn.results[1]) - low).square().mean()) < 1e-3
    assert float((Bicubic(factor=4).forward(drawn.results[0]) - low).square().mean()) > 1e-2
    methods = evaluate(EvaluateRequest(samples=found.samples), tmp_path / "scores").scores
    assert set(methods) == {"bicubic", "bicubic + back-projection", "one sample", "mean of 2"}
    refused = ((9, 0.2, "at most 3, .* got 9"), (1, 0.4, r"level: expected 0 to 0\.3, .* got 0\.4"))
    for count, level, said in refused:
        wrong = replace(request, count=count, level=level)
        with pytest.raises(InputError, match=said):
            sample(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "samples.json").exists()


NOISE = {"first": 0.0, "second": 0.3}


def enlarger(folder, augment):
    network = {"width": 8, "multipliers": [1], "blocks": 1, "attention": [], "groups": 4}
    request = TrainRequest(
        task=Spec("image2image/sr3", {"scale": 2, "augment": augment, "back_projections": 2}),
        dataset=Spec("image2image/photos", {"size": 16, "patches": 4}),
        network=Spec("core/unet", network),
        steps=1,
        batch=1,
    )
    return train(request, folder).checkpoint


def test_the_first_of_a_cascade_learns_from_reduced_pictures():
    """By Pillow's bicubic reduction, which rounds between its two passes, and in whole levels."""
    image = picture(32)
    item = SR3(scale=2, reduce=2).degrade({"image": image}, 0)
    small = Image.fromarray(to_bytes(image)).resize((16, 16), Image.Resampling.BICUBIC)
    levels = (item["image"] + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-4
    assert np.abs(levels.permute(1, 2, 0).numpy() - np.asarray(small)).max() < 1.01
    with pytest.raises(InputError, match="reduce: expected at least 1"):
        SR3(reduce=0)
