"""Draws tile by tile: seams, evaluations, memory; their mean and standard deviation."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, NetworkDenoiser, Prediction
from core.denoiser.tiles import seam_ratio
from core.model import Model
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.gaussian import over
from core.request import TrainRequest
from plugins.image2image.inference.draws import Sampling, draw_restorations, estimate_cost
from plugins.image2image.tasks.restoration import Restoration


def stub(predict):
    """A model of a task that agrees with nothing, as the image itself is what is diffused."""
    process = configure("process", Spec("core/vp_cosine"))()
    grid = configure("grid", Spec("core/uniform_time", {"steps": 12}))(process)
    solver = configure("sampler", Spec("core/ancestral"))()
    request = TrainRequest(task=Spec("x"), dataset=Spec("x"))
    task, cpu = Restoration("nothing", "image"), torch.device("cpu")
    denoise = FunctionDenoiser(process, predict)
    model = Model(denoise, torch.nn.Identity(), task, request, cpu, (), 0, Path("x"), 0)
    return model, Sampling(solver=solver, grid=grid)


def local(process):
    """E[x0 | x_t] of a Gaussian field with the spectrum of a blur, in squares that mirror.

    Wiener's filter; each tile is a world of its own, so that tiles disagree at their edges.
    """

    def denoise(x, t, condition=None):
        alpha, sigma = (over(v, x) for v in process.alpha_sigma(t))
        high, wide = x.shape[-2:]
        twice = torch.cat([x, x.flip(-2)], -2)
        twice = torch.cat([twice, twice.flip(-1)], -1)
        rows = torch.fft.fftfreq(2 * high)[:, None]
        power = 12 * torch.exp(-(rows**2 + torch.fft.fftfreq(2 * wide) ** 2) * 60)
        gain = (alpha * power / (alpha**2 * power + sigma**2)).float()
        return Prediction(torch.fft.ifft2(torch.fft.fft2(twice) * gain).real[..., :high, :wide])

    return denoise


@pytest.mark.slow
def test_tiles_leave_no_seam():
    """At most 1.05; the same without an overlap is far above: the measure sees seams."""

    side, process = 232, configure("process", Spec("core/vp_cosine"))()
    model, how = stub(local(process))
    given = {"base": torch.zeros(1, 3, side, side), "residual_std": torch.ones(1, 1, side, side)}
    found = torch.cat(
        list(draw_restorations(model, given, replace(how, tile=64, overlap=16, draws=3)))
    )
    assert seam_ratio(found, 64, 16) <= 1.05
    apart = next(draw_restorations(model, given, replace(how, tile=58, overlap=0)))
    assert seam_ratio(apart, 58, 0) > 1.5


def test_a_draw_depends_on_its_number_however_many_are_drawn():
    """Three draws from the first, and two from the second: the last two are the same."""
    model, how = stub(lambda x, t, condition=None: Prediction(0.3 * x.tanh()))
    given = {"base": torch.zeros(1, 3, 32, 32), "residual_std": torch.ones(1, 1, 32, 32)}
    three = list(draw_restorations(model, given, replace(how, draws=3)))
    two = list(draw_restorations(model, given, replace(how, draws=2, first=1)))
    assert [torch.equal(a, b) for a, b in zip(three[1:], two, strict=True)] == [True, True]
    assert (three[0] - three[1]).abs().max() > 0.1


def test_evaluations_are_steps_times_tiles_as_was_said():

    asked = []

    def denoise(x, t, condition=None):
        asked.append(x.shape[-2:])
        return Prediction(x)

    model, how = stub(denoise)
    how, counts = replace(how, tile=64, overlap=16, draws=2), []
    for width in (208, 400):  # 4 and 8 tiles
        given = {"base": torch.zeros(1, 3, 64, width), "residual_std": torch.ones(1, 1, 64, width)}
        said = estimate_cost(model, (64, width), how)
        asked.clear()
        list(draw_restorations(model, given, how))
        assert set(asked) == {(64, 64)}
        assert len(asked) == said.calls * said.tiles * 2
        counts.append(len(asked))
    assert counts[1] <= 2.1 * counts[0]


def gaussian(process, mean, std):
    """E[x0 | x_t] of x0 ~ N(mean, std^2), a normal posterior's mean."""

    def denoise(x, t, condition=None):
        alpha, sigma = (over(v, x) for v in process.alpha_sigma(t))
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return Prediction(mean + (gain * (x - alpha * mean)).float())

    return denoise


def test_detail_is_the_way_from_the_mean_to_a_draw():
    """Of N(mean, 0.1^2): none is the mean, a quarter of it a 16th of a draw's squared error."""
    process = configure("process", Spec("core/vp_cosine"))()
    mean = torch.linspace(-0.4, 0.4, 64).view(1, 1, 1, 64).expand(1, 3, 64, 64)
    model, how = stub(gaussian(process, mean, 0.1))
    given = {"base": torch.zeros(1, 3, 64, 64), "residual_std": torch.ones(1, 1, 64, 64)}
    none, quarter, whole = (
        next(draw_restorations(model, given, replace(how, detail=d))) for d in (0.0, 0.25, 1.0)
    )
    torch.testing.assert_close(none, mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(quarter, 0.75 * none + 0.25 * whole)
    assert (whole - mean).abs().max() > 0.1
    costs = [estimate_cost(model, (64, 64), replace(how, detail=d)).calls for d in (0.0, 0.5, 1.0)]
    assert costs == [1, costs[2] + 1, costs[2]]


class Refining(torch.nn.Module):
    """x0 of N(3 image, 0.1^2): the estimate, and the mean of what it lacks given x_t."""

    def __init__(self, process, row):
        super().__init__()
        self.process, self.row, self.estimates = process, row, []

    def estimate(self, condition):
        self.estimates.append(condition["image"].shape[-2:])
        return 3 * condition["image"]

    def forward(self, x, level, condition=None):
        # level is 1000 t, and the input's scale of this row is 1
        alpha, sigma = (over(v, x) for v in self.process.alpha_sigma(level.double() / 1000))
        lacking = alpha * 0.01 / (alpha**2 * 0.01 + sigma**2) * x
        return self.row.from_x0(lacking, x, alpha, sigma).float()


def test_a_networks_estimate_is_made_once_for_all_draws_and_steps():
    process = configure("process", Spec("core/vp_cosine"))()
    row = configure("parameterization", Spec("core/v", {"level": "time"}))()
    network = Refining(process, row)
    model, how = stub(NetworkDenoiser(network, process, row))
    model = replace(model, network=network)
    image = torch.linspace(-0.15, 0.15, 96).view(1, 1, 1, 96).expand(1, 3, 64, 96)
    given = {"base": image, "residual_std": torch.ones(1, 1, 64, 96)}
    drawn = list(draw_restorations(model, given, replace(how, draws=3, tile=64, overlap=16)))
    assert network.estimates == [(64, 64)] * 2  # its tiles, once
    network.forward = None  # the expected image takes no call of the refining network
    alone = replace(how, detail=0.0, tile=96)
    torch.testing.assert_close(next(draw_restorations(model, given, alone)), 3 * image)
    assert estimate_cost(model, (64, 96), alone).calls == 1
    plain, how = stub(gaussian(process, 3 * image, 0.1))
    (same,) = draw_restorations(plain, given, replace(how, tile=96))
    torch.testing.assert_close(drawn[0], same, rtol=0, atol=1e-4)


MEASURED = """
import resource, sys
import torch
sys.path.insert(0, sys.argv[1])
from test_draws import Sampling, Spec, configure, draw_restorations, stub
from dataclasses import replace
from core.denoiser.parameterization import Prediction

network = torch.nn.Sequential(*[torch.nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 96), (96, 3))])

def denoise(x, t, condition=None):
    return Prediction(network(x))

model, how = stub(denoise)
for side in (128, 512):
    given = {"base": torch.zeros(1, 3, side, side), "spread": torch.ones(1, 1, side, side)}
    next(draw_restorations(model, given, replace(how, tile=128, overlap=0)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_grows_by_the_pictures_fields_alone():
    """One tile and sixteen: the network's 96 channels are those of one tile."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(Path(__file__).parent)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    one, sixteen = (1024 * int(line) for line in done.stdout.split())
    fields = 12 * 3 * 4 * (512**2 - 128**2)
    assert sixteen - one < fields + 8 * 2**20
    assert fields + 8 * 2**20 < 96 * 4 * (512**2 - 128**2)  # what a whole image would add
