"""Volumes of known draws: their mean and standard deviation, in the units of the scan."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.inverse.measurement import Measurement
from core.inverse.operators import Mask
from core.inverse.posterior import diffpir
from core.model import Model
from core.parts.registry import Spec
from core.process.schedules import edm
from core.request import TrainRequest
from core.sampler.ancestral import DDIM
from plugins.medical.inference import volume
from plugins.medical.inference.draws import How
from plugins.medical.inference.volume import Found, Scale, drawn, in_units
from plugins.medical.tasks.ct import Ct

SHAPE = (2, 1, 8, 8)


def summary(monkeypatch, *values):
    """The summary of draws that are these values, in images of [-1, 1], everywhere."""
    left = [torch.full(SHAPE, value) for value in values]
    monkeypatch.setattr(volume, "reconstructed", lambda *_, **__: left.pop(0))
    first = torch.zeros(SHAPE)
    monkeypatch.setattr(volume, "beginning", lambda *_: (first, {"FBP": first}))
    request = TrainRequest(task=Spec("medical/ct"), dataset=Spec("x"))
    denoise = FunctionDenoiser(edm(), lambda x, t, condition=None: Prediction(x))
    cpu, nothing = torch.device("cpu"), torch.nn.Identity()
    model = Model(denoise, nothing, Ct(), request, cpu, (), 0, Path("x"), 0)
    how = How(method=partial(diffpir), solver=DDIM(), grid=torch.ones(3).double())
    measurement = Measurement(Mask(torch.ones(SHAPE)), torch.zeros(SHAPE), 1.0)
    return drawn(model, measurement, first, how, start="FBP", draws=len(values), seed=0)


def test_two_known_draws_have_their_standard_deviation_in_hounsfield_units(monkeypatch):
    """Of -200 and 400 HU: a mean of 100 and, by n - 1, a deviation of 600 / sqrt 2."""
    found = summary(monkeypatch, -0.2, 0.4)
    mean, std = in_units(found, Scale(-1000.0, 1000.0))
    assert mean.shape == std.shape == (2, 8, 8)
    assert mean == pytest.approx(np.full_like(mean, 100), abs=1e-2)
    assert std == pytest.approx(np.full_like(std, 600 / math.sqrt(2)), abs=1e-2)


def test_what_lies_beyond_the_window_is_not_clipped_and_its_deviation_covers_it(monkeypatch):
    """Metal: draws of 1500 and 1700 HU by a prior of up to 1000, which is 600 off their mean."""
    found = summary(monkeypatch, 1.5, 1.7)
    mean, std = in_units(found, Scale(-1000.0, 1000.0))
    assert mean == pytest.approx(np.full_like(mean, 1600), abs=1e-2)
    assert std == pytest.approx(np.full_like(std, math.hypot(600, 200 / math.sqrt(2))), abs=1e-2)
    air, _ = in_units(summary(monkeypatch, -1.3, -1.2), Scale(-1000.0, 1000.0))
    assert (air == -1000).all()  # nothing attenuates less than nothing


def test_one_draw_has_no_deviation(monkeypatch):
    _, std = in_units(summary(monkeypatch, 0.3), Scale(-1000.0, 1000.0))
    assert (std == 0).all()


def test_units_are_those_of_the_window():
    """An MR magnitude of 0 to 8: a mean of 0 is 4, a deviation of 0.25 is 1."""
    image = torch.zeros(SHAPE)
    mean, std = in_units(Found(image, image + 0.25, {}, torch.ones(2)), Scale(0.0, 8.0))
    assert (mean == 4).all()
    assert (std == 1).all()
