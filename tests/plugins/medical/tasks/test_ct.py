"""Computed tomography as a task: its measurement to the noise, and its units."""

import math
import sys
from pathlib import Path

import pytest
import torch

from core.errors import InputError
from core.inverse.measurement import dot, misfit
from plugins.medical.request import WATER
from plugins.medical.tasks import classical
from plugins.medical.tasks.ct import Ct

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_phantoms import phantom


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_ct_measures_the_slice_to_its_noise(geometry):
    task, batch = Ct(geometry=geometry, side=200.0, photons=1e6), phantom()
    measurement = task.measured(batch)
    x = normal(1, 1, 64, 64, dtype=torch.float32)
    y = normal(*measurement.y.shape, seed=1, dtype=torch.float32)
    operator = measurement.operator
    left, right = dot(operator.forward(x), y), dot(x, operator.adjoint(y))
    assert float(left - right) == pytest.approx(0, abs=1e-3 * float(left.abs()))
    assert float(classical.operator_norm(operator, x)) <= 1.001
    assert 0.3 < float(misfit(measurement, batch["image"])) < 1.5


def test_without_finer_structure_the_misfit_is_that_of_photons_alone():
    """Of counts N: -log(N / I) has variance 1 / N; the model's own share is made small."""
    task, batch = Ct(side=100.0, photons=3e4, model=1e-4), phantom()
    batch.pop("fine")
    assert float(misfit(task.measured(batch), batch["image"])) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("low", "high"), [(-1000.0, 1000.0), (-500.0, 1500.0)])
def test_a_picture_of_water_attenuates_as_water_whatever_the_window(low, high):
    """A square of 120 mm of 0 HU, seen along its columns at angle 0."""
    task = Ct(low=low, high=high, side=120.0, views=4, photons=0.0)
    water = torch.full((1, 1, 32, 32), 2 * (0 - low) / (high - low) - 1)
    measurement = task.measured({"image": water, "index": torch.tensor([0])})
    assert float(misfit(measurement, water)) < 1e-3
    p = task._integrals({"image": water}, task.scanner(32, 32))
    assert float(p[0, 0, 0, p.shape[-1] // 2]) == pytest.approx(WATER * 120, rel=1e-5)


def test_errors_and_deviations_are_shown_from_zero_in_their_unit():
    """Two draws of 200 HU above and of 40 below the slice: 80 off in the mean, 240 apart."""
    task, batch = Ct(side=200.0, views=6), phantom()
    draws = torch.stack([batch["image"] * 0.5 + 0.2, batch["image"] * 0.5 - 0.04], 1)
    batch["image"] = batch["image"] * 0.5
    panels = task.show(draws, batch, ["a"])
    shown = panels[1].volumes
    for name, expected in (
        ("error of the mean", 80),
        ("standard deviation of the draws", 240 / math.sqrt(2)),
    ):
        view = shown[name]
        values = view.low + view.voxels / 65535 * (view.high - view.low)
        assert values == pytest.approx(expected, abs=0.1)
        assert (view.unit, view.window) == ("HU", (250.0, 500.0))
        assert f"{name}, white is 500 HU" in panels[2].images
        grey = panels[2].images[f"{name}, white is 500 HU"]
        assert grey == pytest.approx(expected / 500 * 255, abs=1)
    assert "draws" in panels[1].note
    assert "error of the mean" not in panels[0].volumes  # whose window is the scan's


def test_scanners_are_told_apart_by_both_sides():
    task = Ct(side=64.0, views=3)
    for size in ((16, 32), (16, 24), (24, 32)):
        assert task.scanner(*size).shape == size
    assert task.scanner(16, 32).pixel == 2.0


@pytest.mark.parametrize(
    ("build", "options", "reason"),
    [
        (Ct, {"views": 0}, "views"),
        (Ct, {"side": 0.0}, "side"),
        (Ct, {"photons": 0.5}, "photons"),
        (Ct, {"model": 0.0}, "model"),
        (Ct, {"low": 3.0, "high": 1.0}, "low, high"),
    ],
)
def test_options_out_of_range_are_refused(build, options, reason):
    with pytest.raises(InputError, match=reason):
        build(**options)
