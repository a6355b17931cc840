"""Choices by held-out measurements, of priors that know the truth, or nothing, or too much."""

from functools import partial
from pathlib import Path

import pytest
import torch

from core.data import collate, open_dataset
from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.inverse.posterior import diffpir
from core.model import Model
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.schedules import edm
from core.request import TrainRequest
from core.results.metrics import psnr
from core.sampler.ancestral import DDIM
from plugins.medical.inference.choice import POSTERIOR, Setting, _lowest, chosen
from plugins.medical.inference.curve import misfit_curve
from plugins.medical.inference.draws import How
from plugins.medical.inference.volume import drawn
from plugins.medical.request import LEVELS
from plugins.medical.tasks.ct import Ct

TASK = Spec("medical/ct", {"views": 24, "side": 200.0})
COUNT = 2


def model_of(x0):
    """A prior whose estimate is x0(x, sigma), whatever was trained."""

    def predict(x, t, condition=None):
        return Prediction(x0(x, t))

    request = TrainRequest(task=Spec("medical/ct"), dataset=Spec("x"))
    task = configure("task", TASK)()
    denoise = FunctionDenoiser(edm(), predict)
    cpu = torch.device("cpu")
    return Model(denoise, torch.nn.Identity(), task, request, cpu, (), 0, Path("x"), 0)


def settings(model, *levels):
    made = []
    for level in levels:
        grid = Spec(LEVELS.name, {**LEVELS.options, "steps": 4, "sigma_max": level})
        method = partial(diffpir, iterations=20, tolerance=1e-3)
        how = How(method=method, solver=DDIM(eta=1.0), grid=configure("grid", grid)(model.process))
        made.append(Setting(level, grid, how))
    return made


@pytest.fixture(scope="module")
def scanned():
    """Phantoms, and their measurement by 24 views."""
    task = configure("task", TASK)()
    assert isinstance(task, Ct)
    dataset = open_dataset(Spec("medical/phantoms", {"size": 48, "count": 4}), "test", task)
    batch = collate(dataset, list(range(COUNT)))
    return batch["image"], task.measured(batch)


def reconstruct(model, measurement, truth, *levels):
    choice = chosen(
        model, measurement, truth, settings(model, *levels), start=None, draws=4, seed=0
    )
    assert choice is not None
    found = drawn(model, measurement, truth, choice.setting.how, start=choice.start, draws=4,
                  seed=0, choice=choice)  # fmt: skip
    return choice, found


def figures(found, truth):
    classical = {name: float(psnr(x, truth).mean()) for name, x in found.classical.items()}
    return float(psnr(found.mean.clamp(-1, 1), truth).mean()), max(classical.values())


def test_of_levels_that_chance_alone_tells_apart_the_lowest_is_taken():
    """Squares of 100 units: 0.25 and 0.5 apart by less than a standard error, 1 by far more."""
    chance = torch.randn(100, generator=torch.Generator().manual_seed(0)).double()
    squares = [1 + 0 * chance, 1.01 + chance, 2 + chance]
    assert _lowest(squares, [0.5, 0.25, 1.0]) == 1
    assert _lowest(squares, [0.25, 1.0, 0.5]) == 0
    assert _lowest([squares[2], squares[0]], [0.25, 0.5]) == 1


@pytest.mark.slow
def test_a_prior_that_knows_the_truth_is_trusted(scanned):
    truth, measurement = scanned
    model = model_of(lambda x, t: truth[: len(x)])
    choice, found = reconstruct(model, measurement, truth, 0.5, 0.1)
    assert choice.weights[POSTERIOR] > 0.95
    ours, best = figures(found, truth)
    assert ours > best + 3
    assert float(choice.result.mean) < min(m.mean for m in choice.classical.values())


@pytest.mark.slow
def test_a_prior_of_nonsense_leaves_the_classical_result(scanned):
    """It draws checks over everything; what is written is no worse than the best method's."""
    truth, measurement = scanned
    at = torch.arange(48)
    checks = 0.8 * ((at // 6 + at[:, None] // 6) % 2).float()[None, None]
    model = model_of(lambda x, t: checks.expand_as(x) - 0.4)
    choice, found = reconstruct(model, measurement, truth, 0.5, 0.1)
    assert choice.weights.get(POSTERIOR, 0.0) < 0.1
    ours, best = figures(found, truth)
    assert ours > best - 0.1
    assert sum(choice.weights.values()) == pytest.approx(1)
    record = choice.record
    assert record["level"] == choice.setting.level
    assert set(record["misfit"]) >= {"FBP", "CGLS", "TV", f"{POSTERIOR} from 0.5", "result"}
    chart = misfit_curve(record)
    assert chart.shape == (320, 320, 3)
    assert len({tuple(row) for row in chart.reshape(-1, 3)}) > 4  # axes, lines, points


@pytest.mark.slow
def test_a_prior_that_is_worse_alone_gets_no_weight(scanned):
    """The truth blurred and with an error of its own, which a mixture would average out."""
    truth, measurement = scanned
    chance = torch.Generator().manual_seed(0)
    error = 0.3 * torch.randn(truth.shape, generator=chance)
    model = model_of(lambda x, t: (truth + error)[: len(x)])
    choice, found = reconstruct(model, measurement, truth, 0.1)
    alone, best = choice.levels[0.1], min(choice.classical.values(), key=lambda m: m.mean)
    assert alone.mean > 1.5 * best.mean
    assert POSTERIOR not in choice.weights
    ours, classical = figures(found, truth)
    assert ours > classical - 0.1


@pytest.mark.slow
def test_draws_that_are_too_sure_are_widened(scanned):
    """A prior of one wrong image with too little chance around it: the standard deviation predicts
    the error of the result in the mean over the pixels, within a half."""
    truth, measurement = scanned
    blurred = torch.nn.functional.avg_pool2d(truth, 5, 1, 2, count_include_pad=False)

    def unsure(x, t):
        draw = torch.Generator().manual_seed(int(1e4 * x.abs().sum()))
        return blurred[: len(x)] + 0.03 * torch.randn(x.shape, generator=draw)

    model = model_of(unsure)
    choice, found = reconstruct(model, measurement, truth, 0.5)
    assert choice.scale > 1.5
    error = float((found.mean - truth).square().mean().sqrt())
    predicted = float(found.std.square().mean().sqrt())
    assert predicted == pytest.approx(error, rel=0.5)
