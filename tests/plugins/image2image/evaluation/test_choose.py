"""The choice of defaults: on a model whose best choice is known, and what readers make of it."""

import json

import pytest
import torch

from core.data import open_dataset
from core.errors import InputError
from core.model import load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.request import Machine, TrainRequest
from core.runs import train
from core.storage import checkpoint
from plugins.image2image.evaluation.choose import NEAR, Choice, best, choose, cost
from plugins.image2image.inference.draws import default_drawing
from plugins.image2image.request import ChooseRequest, Drawing, DrawOptions

UNET = {"width": 8, "multipliers": [1], "blocks": 1, "attention": [], "middle_attention": False}
CROPS = Spec("image2image/photos", {"size": 32, "patches": 16, "per_photo": 2})


def trained(folder, network, objective="core/denoising"):
    request = TrainRequest(
        task=Spec("image2image/sr3", {"scale": 2}), dataset=CROPS, network=network,
        objective=Spec(objective), steps=2, batch=2, warmup=0,
    )  # fmt: skip
    train(request, folder, machine=Machine(threads=1))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain") / "run", Spec("core/unet", UNET))


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    network = Spec(
        "core/predict_refine",
        {"width": 8, "blocks": 1, "patch": 2, "refiner": {"name": "core/unet", **UNET}},
    )
    return trained(tmp_path_factory.mktemp("refined") / "run", network, "core/predict_refine")


def request(folder, **changes):
    return ChooseRequest(checkpoint=folder, count=2, steps=(2, 3), draws=(1, 2), **changes)


def test_the_choice_is_kept_and_read_by_whoever_loads(plain, tmp_path):
    found = choose(request(plain, dataset=CROPS), {}, tmp_path, machine=Machine(threads=1))
    model = load_model(found.checkpoint)
    kept = default_drawing(model)
    assert kept == Drawing(steps=found.steps, mean_of=found.mean_of, detail=found.detail)
    assert model.sampling == {"steps": kept.steps, "mean_of": kept.mean_of, "detail": kept.detail}
    predict = configure("predictor", Spec("image2image/upscale"))(Machine(threads=1), tmp_path)
    assert predict.mean_of == kept.mean_of
    assert predict.about["detail"] == kept.detail
    before, after = checkpoint.load(plain), checkpoint.load(tmp_path)
    for group, tensors in before.tensors.items():
        for name, value in tensors.items():
            assert torch.equal(value, after.tensors[group][name])
    assert default_drawing(load_model(plain)) == Drawing(mean_of=8)  # where nothing was chosen


@pytest.mark.slow
def test_the_table_holds_every_combination_and_the_highest_is_chosen(plain, tmp_path):
    found = choose(request(plain), {}, tmp_path, machine=Machine(threads=1))
    table = json.loads(found.metrics.read_text())
    drawn = [tuple(choice["drawing"].values()) for choice in table["choices"]]
    wanted = {(s, k, d) for s in (2, 3) for k in (1, 2) for d in (0.25, 0.5, 1.0)}
    assert set(drawn) == {*wanted, (2, 1, 0.0)}
    assert len(drawn) == len(set(drawn))
    figures = [choice["psnr"] for choice in table["choices"]]
    assert figures == sorted(figures, reverse=True)
    assert found.psnr >= figures[0] - NEAR


@pytest.mark.slow
def test_figures_are_those_of_the_predictors_draws(refined, tmp_path):
    """PSNR of one combination, from the same draws made by hand."""
    from core.data import collate
    from core.results.metrics import psnr
    from plugins.image2image.inference.draws import Sampling, draw_restorations

    few = request(refined, details=(0.5,))
    found = choose(few, {}, tmp_path, machine=Machine(threads=1))
    model = load_model(refined)
    data = open_dataset(CROPS, "test", model.task)
    table = json.loads(found.metrics.read_text())["choices"]
    (row,) = (c["psnr"] for c in table if c["drawing"]["steps"] == 3 and c["calls"] == 1 + 2 * 3)
    grid = configure("grid", Spec("core/uniform_time", {"steps": 3}))(model.process)
    how = Sampling(
        solver=configure("sampler", few.sampler)(), grid=grid, draws=2, detail=0.5, seed=few.seed
    )
    quality = []
    for index in (0, len(data) - 1):
        batch = collate(data, [index])
        mean = torch.cat(list(draw_restorations(model, batch, how))).mean(0, keepdim=True)
        quality.append(float(psnr(model.task.written(mean, batch), batch["image"])))
    assert sum(quality) / 2 == pytest.approx(row, abs=1e-3)


def test_a_network_that_estimates_gives_its_estimate_where_nothing_was_chosen(refined):
    assert default_drawing(load_model(refined)).detail == 0


def test_of_equally_good_ones_the_cheapest_is_taken():
    dear = Choice(Drawing(steps=10, mean_of=8, detail=0.25), 30.0, 81)
    cheap = Choice(Drawing(detail=0.0), 30.0 - NEAR / 2, 1)
    worse = Choice(Drawing(steps=4), 30.0 - 2 * NEAR, 4)
    assert best([dear, cheap, worse]) is cheap
    assert best([dear, worse]) is dear
    assert [cost(choice.drawing) for choice in (dear, cheap, worse)] == [81, 1, 4]


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ({}, (7, 3, 0.25)),
        ({"detail": 0.5}, (7, 1, 0.5)),
        ({"mean_of": 8}, (7, 8, 1.0)),
        ({"steps": 20}, (20, 1, 1.0)),
        ({"steps": 2, "mean_of": 4, "detail": 0.75}, (2, 4, 0.75)),
    ],
)
def test_an_option_that_is_given_is_not_the_checkpoints(given, drawn):
    found = DrawOptions(**given).drawing(Drawing(steps=7, mean_of=3, detail=0.25))
    assert (found.steps, found.mean_of, found.detail) == drawn


def test_other_models_and_damaged_defaults_are_refused(plain, tmp_path):
    from core.parts.config import ConfigError

    broken = checkpoint.copy(plain, tmp_path / "broken", {"sampling": {"steps": 1}})
    with pytest.raises(ConfigError, match=r"checkpoint\.sampling\.steps"):
        default_drawing(load_model(broken))
    generate = tmp_path / "generate"
    task = Spec("core/generate", {"channels": 3})
    few = TrainRequest(
        task=task, dataset=CROPS, network=Spec("core/unet", UNET), steps=1, batch=2, warmup=0
    )
    train(few, generate, machine=Machine(threads=1))
    with pytest.raises(InputError, match="expected a model of a restoration task"):
        choose(ChooseRequest(checkpoint=generate), {}, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("multitask", [f"image2image/{n}" for n in ("colourise", "inpaint", "uncrop", "jpeg")]),
        ("multiscale", ["1.5-fold", "2-fold", "4-fold"]),
    ],
)
def test_a_model_of_several_tasks_is_chosen_for_by_the_mean_over_them(tmp_path, task, parts):
    request = TrainRequest(
        task=Spec(f"image2image/{task}"), dataset=CROPS, network=Spec("core/unet", UNET),
        steps=1, batch=2, warmup=0,
    )  # fmt: skip
    train(request, tmp_path / "run", machine=Machine(threads=1))
    few = ChooseRequest(
        checkpoint=tmp_path / "run", count=1, steps=(2,), draws=(1,), details=(0.0, 1.0)
    )
    found = choose(few, {}, tmp_path / "out", machine=Machine(threads=1))
    table = json.loads(found.metrics.read_text())
    for row in [table["reference"], *table["choices"]]:
        assert set(row["tasks"]) == set(parts)
        assert row["psnr"] == pytest.approx(sum(row["tasks"].values()) / len(parts))
    assert table["images"] == len(parts)


@pytest.mark.parametrize("name", ["steps", "draws", "details"])
def test_nothing_to_try_is_refused_before_the_model_is_read(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: expected at least one value to try"):
        choose(ChooseRequest(checkpoint=tmp_path / "none", **{name: ()}), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
