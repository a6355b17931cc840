"""Magnetic resonance as a task."""

import math
import sys
from pathlib import Path

import pytest

from core.errors import InputError
from core.inverse.measurement import misfit
from plugins.medical.tasks.mri import Mri

sys.path.insert(0, str(Path(__file__).parents[1]))
from made_phantoms import phantom


def test_mri_measures_the_slice_to_its_noise():
    task = Mri(noise=0.01)
    item = task.degrade({"image": phantom()["image"][0]}, 3)
    batch = {name: value[None] for name, value in item.items()}
    measurement = task.measured(batch)
    seen = measurement.y != 0
    count = int(seen.sum())
    assert count == 64 * 16
    found = misfit(measurement, batch["image"])
    assert float(found) == pytest.approx(1, abs=4 / math.sqrt(4 * count))
    assert (task.picture(batch["image"]) - phantom()["image"]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("build", "options", "reason"),
    [
        (Mri, {"noise": 0.0}, "noise"),
        (Mri, {"acceleration": 0.5}, "acceleration"),
    ],
)
def test_options_out_of_range_are_refused(build, options, reason):
    with pytest.raises(InputError, match=reason):
        build(**options)
