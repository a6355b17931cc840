"""Purification and the attacks on it against closed forms, autograd and finite differences."""

import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from core.denoiser.parameterization import FunctionDenoiser
from core.errors import InputError
from core.parts.registry import Spec
from core.process.noise import Noise
from core.process.schedules import vp_linear
from core.request import Machine, TrainRequest
from core.sampler.ancestral import Ancestral, EulerMaruyama
from core.testing.distributions import Gaussian
from plugins.image2image.data.digits import Digits
from plugins.image2image.evaluation import classifier, robustness
from plugins.image2image.evaluation.attacks import Ball, expected_loss, pgd
from plugins.image2image.inference.predictors import Purify
from plugins.image2image.inference.purify import Purified, purify
from plugins.image2image.io.pictures import Picture
from plugins.image2image.request import ClassifierRequest, RobustnessRequest

PATH = vp_linear()
BALLS = [Ball("linf", 0.3), Ball("l2", 1.5)]


def uniform(*shape, seed=0, reach=1.0):
    draw = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(shape, generator=draw, dtype=torch.float64) - 1) * reach


# --- the purifier ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [EulerMaruyama(), Ancestral(variance="large")], ids=str)
def test_purified_points_have_the_law_of_the_posterior(solver):
    """The exact reverse SDE from x_t draws x0 | x_t: for Gaussian data all of it is a formula.

    Given x, E = m + k alpha (x - m) and variance = V + k^2 sigma^2, k = alpha s^2 / (alpha^2 s^2 +
    sigma^2), V the variance of x0 | x_t.  40,000 draws; the steps' own error is of order 1/steps.
    """
    world, level, steps = Gaussian(0.3, 0.5), 0.3, 300
    alpha, sigma = (float(v) for v in PATH.alpha_sigma(torch.tensor(level, dtype=torch.float64)))
    k = alpha * world.std**2 / (alpha**2 * world.std**2 + sigma**2)
    x = torch.full((8, 5000), 1.1, dtype=torch.float64)
    found = purify(
        world.denoiser(PATH), x, Noise(range(8)), level=level, steps=steps, solver=solver
    )
    mean = world.mean + k * alpha * (1.1 - world.mean)
    std = math.sqrt(world.x0_variance(PATH, level) + k**2 * sigma**2)
    assert abs(float(found.mean()) - mean) < 4 * std / 200 + 1 / steps
    assert abs(float(found.std()) - std) < 4 * std / (200 * math.sqrt(2)) + 1 / steps
    assert mean - world.mean < 0.9 * (1.1 - world.mean)  # far more than those tolerances


def test_a_low_level_leaves_the_picture_as_it_is():
    """What changes is of the order of sigma(t*)."""
    x = uniform(2, 1, 4, 4)
    _, sigma = PATH.alpha_sigma(torch.tensor(0.002, dtype=torch.float64))
    found = purify(Gaussian().denoiser(PATH), x, Noise([0, 1]), level=0.002, steps=3)
    assert 0 < (found - x).abs().max() < 8 * float(sigma)


@pytest.mark.parametrize("level", [0.0, -1.0, 1.01, math.nan])
def test_a_level_that_is_no_time_of_the_process_is_refused(level):
    with pytest.raises(InputError, match="level: expected a time"):
        purify(Gaussian().denoiser(PATH), uniform(1, 1, 2, 2), Noise([0]), level=level)


def tiny():
    """A denoiser and a classifier of 3x3 pictures in float64."""
    draw = torch.Generator().manual_seed(1)
    networks = [nn.Conv2d(1, 1, 3, padding=1), nn.Linear(9, 3)]
    for p in (p for network in networks for p in network.double().parameters()):
        p.data.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64))
        p.requires_grad_(False)
    known = Gaussian(0.1, 0.4).denoiser(PATH)

    @partial(FunctionDenoiser, PATH)
    def denoise(x, t, condition=None):
        said = known(x, t)
        return type(said)(said.x0 + 0.3 * networks[0](x).tanh())

    return denoise, nn.Sequential(nn.Flatten(), networks[1])


def test_gradients_through_the_purifier_are_those_of_the_whole_graph_and_of_finite_differences():
    denoise, judge = tiny()
    defended = Purified(denoise, judge, level=0.2, steps=5)
    x = uniform(2, 1, 3, 3).requires_grad_()

    def through(x):
        return defended(x, Noise([3, 4]))

    def whole(x):
        how = {"level": 0.2, "steps": 5, "gradients": True}
        return judge(purify(denoise, x, Noise([3, 4]), **how))

    assert torch.equal(through(x), whole(x))
    assert torch.autograd.gradcheck(through, (x,), eps=1e-6, atol=1e-6)
    (found,) = torch.autograd.grad(through(x)[:, 0].sum(), x)
    (known,) = torch.autograd.grad(whole(x)[:, 0].sum(), x)
    assert torch.equal(found, known)
    assert known.abs().min() > 0


def test_the_identity_way_passes_the_gradient_at_the_purified_picture():
    """For a linear classifier that is its weights, whatever the purifier does."""
    denoise, judge = tiny()
    defended = Purified(denoise, judge, level=0.2, steps=5)
    x = uniform(2, 1, 3, 3).requires_grad_()
    said = defended(x, Noise([3, 4]), way="identity")
    # x + (purified - x): equal up to rounding
    assert (said - defended(x, Noise([3, 4]))).abs().max() < 1e-12
    (found,) = torch.autograd.grad(said[:, 1].sum(), x)
    assert torch.allclose(found, judge[1].weight[1].reshape(1, 1, 3, 3).expand_as(found))


def test_a_purified_classifier_draws_anew_and_again_with_its_seed():
    denoise, judge = tiny()
    x = uniform(2, 1, 3, 3)
    first, other = (Purified(denoise, judge, level=0.2, steps=2, seed=s) for s in (7, 8))
    again = Purified(denoise, judge, level=0.2, steps=2, seed=7)
    calls = [first(x), first(x)]
    assert not torch.equal(*calls)
    assert torch.equal(calls[0], again(x))
    assert torch.equal(calls[1], again(x))
    assert not torch.equal(calls[0], other(x))


# --- attacks -----------------------------------------------------------------------------------


def linear(weight):
    """Two classes by the sign of <w, x>: the loss of class 0 rises along w, everywhere."""
    return lambda x: torch.stack([-(x * weight).flatten(1).sum(1), 0 * x.flatten(1).sum(1)], dim=1)


def test_pgd_on_a_linear_classifier_reaches_the_best_point_of_a_linf_ball():
    """Closed form: x + eps sign(w), cut at [-1, 1]."""
    x, weight = uniform(6, 1, 5, 5), uniform(1, 5, 5, seed=1)
    target = torch.zeros(6, dtype=torch.int64)
    found = pgd(linear(weight), x, target, Noise(range(6)), ball=BALLS[0], steps=7)
    assert (found - (x + 0.3 * weight.sign()).clamp(-1, 1)).abs().max() < 1e-12


def test_pgd_on_a_linear_classifier_nears_the_best_point_of_an_l2_ball_as_it_must():
    """The best is x + eps w / |w|; steps of arc ds turn the angle a to it by -sin(a) ds / eps.

    So tan(a / 2) falls by e for every eps of the way, by e^2.5 in all; 100 steps, an error of 1 %.
    """
    x, weight, ball = uniform(6, 1, 20, 20, reach=0.2), uniform(1, 20, 20, seed=9), Ball("l2", 0.5)

    def angle(point):
        along = ((point - x) * weight).flatten(1).sum(1) / weight.norm()
        return (along / (point - x).flatten(1).norm(dim=1)).acos()

    target, noise = torch.zeros(6, dtype=torch.int64), Noise(range(6))
    found = pgd(linear(weight), x, target, noise, ball=ball, steps=100)
    expected = (angle(ball.start(x, Noise(range(6)))) / 2).tan() * math.exp(-2.5)
    assert ((angle(found) / 2).tan() / expected - 1).abs().max() < 0.05
    assert ((found - x).flatten(1).norm(dim=1) - 0.5).abs().max() < 1e-12


@pytest.mark.parametrize("ball", [*BALLS, Ball("linf", 3.0), Ball("l2", 0.01)], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
def test_attacks_stay_in_the_ball_and_in_range(ball, kind):
    """Pictures at the ends of the range too, where half of the ball lies outside."""
    x = (1.7 * uniform(9, 1, 6, 6)).clamp(-1, 1).to(kind)
    judge = classifier.Classifier(1, 3, width=4).to(kind)
    target = torch.arange(9) % 3
    starts = ball.start(x, Noise(range(9)))
    found = pgd(judge, x, target, Noise(range(9)), ball=ball, steps=5)
    for point in (starts, found):
        apart = point.double() - x.double()
        length = apart.abs().max() if ball.norm == "linf" else apart.flatten(1).norm(dim=1).max()
        assert length <= ball.eps * (1 + 1e-6) + 1e-7  # float32 near 1
        assert point.abs().max() <= 1
    assert not torch.equal(found, x)


def test_starts_are_uniform_over_the_ball():
    """Mean and variance of what is uniform: a linf change over eps, and an l2 radius to the d."""
    x = torch.zeros(3000, 1, 3, 3, dtype=torch.float64)
    flat = Ball("linf", 0.3).start(x, Noise(range(3000))) / 0.3
    round_ = (Ball("l2", 0.9).start(x, Noise(range(3000))).flatten(1).norm(dim=1) / 0.9) ** 9
    for values, mean, variance in ((flat.flatten(), 0.0, 1 / 3), (round_, 0.5, 1 / 12)):
        assert abs(float(values.mean()) - mean) < 5 * math.sqrt(variance / len(values))
        assert abs(float(values.var()) / variance - 1) < 0.1


def test_loss_and_gradient_are_averaged_over_the_draws():
    """Logits (a x, 0) with a scripted: the mean of log(1 + e^(-a x)) and of its slope, by hand."""
    script = iter([0.5, -2.0, 3.0])
    x = uniform(4, 1, 1, 1)

    def victim(x):
        a = next(script)
        return torch.cat([a * x.flatten(1), 0 * x.flatten(1)], dim=1)

    loss, gradient = expected_loss(victim, x, torch.zeros(4, dtype=torch.int64), 3)
    by_hand = [[math.log1p(math.exp(-a * v)) for a in (0.5, -2.0, 3.0)] for v in x.flatten()]
    slopes = [[-a / (1 + math.exp(a * v)) for a in (0.5, -2.0, 3.0)] for v in x.flatten()]
    assert np.allclose(loss, np.mean(by_hand, axis=1))
    assert np.allclose(gradient.flatten(), np.mean(slopes, axis=1))


def test_the_worst_point_that_was_passed_is_kept():
    """A victim whose loss falls after the first look: the start is what is kept."""
    looks = iter(range(100))

    def victim(x):
        return torch.stack([x.flatten(1).sum(1) + 10 * next(looks), 0 * x.flatten(1).sum(1)], 1)

    x, target = uniform(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    found = pgd(victim, x, target, Noise(range(3)), ball=BALLS[0], steps=4)
    assert torch.equal(found, BALLS[0].start(x, Noise(range(3))))


# --- data and classifier -----------------------------------------------------------------------


def test_digits_are_scikit_learns_each_in_one_split():
    from sklearn.datasets import load_digits

    known = load_digits()
    train, test = Digits("train"), Digits("test")
    items = [side[i] for side in (train, test) for i in range(len(side))]
    pixels = torch.stack([item["image"] for item in items]).squeeze(1).numpy()
    assert np.array_equal(pixels, known.images.astype(np.float32) / 8 - 1)
    assert [int(item["class"]) for item in items] == known.target.tolist()
    assert test.name(0) == f"digit 1297, a {known.target[1297]}"


SMALL = ClassifierRequest(width=4, steps=40)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return classifier.train(SMALL, tmp_path_factory.mktemp("judge"), machine=Machine(threads=1))


def test_a_classifier_is_the_same_again_and_learns(judge, tmp_path):
    """Bit for bit; ten classes by chance give 0.1, and this one's accuracy is counted here."""
    again = classifier.train(SMALL, tmp_path, machine=Machine(threads=1))
    assert again.classifier.read_bytes() == judge.classifier.read_bytes()
    network, test = classifier.load_classifier(judge.classifier, ""), Digits("test")
    right = [int(network(test[i]["image"][None]).argmax()) == int(test[i]["class"])
             for i in range(len(test))]  # fmt: skip
    assert judge.accuracy == sum(right) / len(right) > 0.3
    other = classifier.train(ClassifierRequest(width=4, steps=40, seed=1), tmp_path / "other")
    assert other.classifier.read_bytes() != judge.classifier.read_bytes()


def own_classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))


def test_an_imported_classifier_is_fixed_and_in_evaluation(monkeypatch):
    monkeypatch.setitem(sys.modules, "someones", sys.modules[__name__])
    found = classifier.load_classifier(None, "someones:own_classifier")
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("", "neither was given"),
        ("no_colon", "expected package.module:attribute"),
        ("no_such_package:model", "cannot be had: No module named"),
        ("math:nothing", "cannot be had"),
        ("math:pi", "is float, expected a torch.nn.Module"),
    ],
)
def test_what_is_no_classifier_is_refused(module, said):
    with pytest.raises(InputError, match=said):
        classifier.load_classifier(None, module)


def test_a_file_of_something_else_is_refused(tmp_path):
    from core.storage import tensor_file

    tensor_file.save(tmp_path / "other.safetensors", {"weight": torch.zeros(2)})
    with pytest.raises(InputError, match="not a classifier that image2image/classifier wrote"):
        classifier.load_classifier(tmp_path / "other.safetensors", "")
    with pytest.raises(InputError, match="cannot be read"):
        classifier.load_classifier(tmp_path / "none.safetensors", "")


# --- the count ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A network of a few steps: what it draws is poor, what is counted with it is not."""
    from core.runs import train

    request = TrainRequest(
        task=Spec("core/generate", {"channels": 1}),
        dataset=Spec("image2image/digits"),
        network=Spec("core/unet", {"width": 8, "multipliers": [1], "blocks": 1, "attention": [],
                                   "middle_attention": False}),
        process=Spec("core/vp_linear"),
        steps=4,
        batch=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("prior")
    train(request, folder, machine=Machine(threads=1))
    return folder


def asked(prior, judge, **changes):
    options = {
        "checkpoint": prior, "classifier": judge.classifier, "count": 10, "eps": 0.5, "steps": 3,
        "eot": 2, "level": 0.1, "solver_steps": 2, "batch": 10, "pictures": 2,
    }  # fmt: skip
    return RobustnessRequest(**{**options, **changes})


METHODS = {
    "bare, no attack",
    "bare, PGD",
    "purified, no attack",
    "purified, PGD on the bare classifier",
    "purified, BPDA + EOT",
    "purified, exact gradients + EOT",
}


def test_every_attack_is_counted_and_the_worst_is_named(prior, judge, tmp_path):
    """What is written is counted again here; items do not depend on their batch."""
    news = []
    result = robustness.evaluate(
        asked(prior, judge), tmp_path / "a", machine=Machine(threads=1), emit=news.append
    )
    assert [one.done for one in news] == list(range(1, 17))  # 3 + 1 looks, 2 draws, 2 attacks
    assert {one.total for one in news} == {16}
    said = json.loads(result.metrics.read_text())
    assert set(said["methods"]) == METHODS
    items = said["items"]
    for method, row in said["methods"].items():
        assert row["accuracy"]["mean"] == sum(item[method] for item in items) / 10
        assert row["accuracy"]["low"] < row["accuracy"]["high"]
        assert row["accuracy"]["n"] == 10
    purified = {m: row["accuracy"]["mean"] for m, row in said["methods"].items() if "pur" in m}
    assert said["robust"]["mean"] == result.robust == min(purified.values())
    assert purified[said["robust"]["attack"]] == result.robust
    assert said["attacks"] == {"norm": "linf", "eps": 0.5, "steps": 3, "eot": 2, "level": 0.1,
                               "solver_steps": 2, "seed": 0}  # fmt: skip
    network, test = classifier.load_classifier(judge.classifier, ""), Digits("test")
    assert [item["name"] for item in items] == [test.name(50 * i) for i in range(10)]
    for i, item in enumerate(items):
        x, target = test[50 * i]["image"][None], int(test[50 * i]["class"])
        assert item["bare, no attack"] == (int(network(x).argmax()) == target)
    assert [len(panel["images"]) for panel in said["panels"]] == [4, 4]
    again = robustness.evaluate(
        asked(prior, judge, batch=4, pictures=0), tmp_path / "b", machine=Machine(threads=1)
    )
    assert json.loads(again.metrics.read_text())["items"] == items


def test_counts_are_made_with_draws_that_no_attack_has_seen(prior, judge, tmp_path, monkeypatch):
    """And the attacks on the defence call it 3 + 1 times for each of 2 draws, others never."""
    seen, calls = {True: set(), False: set()}, Counter()
    forward = Purified.forward

    def spied(self, x, noise=None, *, way="exact"):
        seen[torch.is_grad_enabled()] |= set(noise.seeds)
        calls[torch.is_grad_enabled(), way] += 1
        return forward(self, x, noise, way=way)

    monkeypatch.setattr(Purified, "forward", spied)
    robustness.evaluate(asked(prior, judge, count=4), tmp_path, machine=Machine(threads=1))
    assert len(seen[True]) == 8  # two attacks
    assert len(seen[False]) == 16  # four counts
    assert not seen[True] & seen[False]
    assert calls == {(True, "identity"): 8, (True, "exact"): 8, (False, "exact"): 4}


def two_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def test_what_does_not_fit_is_refused(prior, judge, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "someones", sys.modules[__name__])
    machine = Machine(threads=1)
    photos = Spec("image2image/photos", {"size": 32})
    for changes, said in (
        ({"dataset": photos}, "wanted items with a class and an image of 1 channels"),
        ({"level": 2.0}, "level: expected a time"),
        ({"module": "math:pi"}, "both was given"),
        ({"classifier": None, "module": "someones:two_classes"}, "classes go up to 6; wanted"),
        ({"checkpoint": tmp_path}, "no checkpoint"),
    ):
        with pytest.raises(InputError, match=said):
            robustness.evaluate(asked(prior, judge, **changes), tmp_path / "x", machine=machine)


def test_a_request_is_read_without_torch():
    code = "import plugins.image2image.request, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- pictures ----------------------------------------------------------------------------------


def command(monkeypatch, *arguments):
    from core.cli import run_app
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
    """The model is shown no more than a tile, and all of the picture."""
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
        ((colour, "--checkpoint", prior, "-o", out), "the picture has 3 channels, the model 1"),
        ((grey, "--checkpoint", prior, "-o", grey), f"would replace {grey} itself"),
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
