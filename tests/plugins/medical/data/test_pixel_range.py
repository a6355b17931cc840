"""Training slices of many pixel spacings, and their augmentation."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf
from scipy.stats import kstest

from core.errors import InputError
from core.scans.scan import Scan
from plugins.medical.data.augmentation import Pose, attenuated, displacement, recoloured
from plugins.medical.data.folders import NiftiFolder
from plugins.medical.data.phantoms import Phantoms
from plugins.medical.data.slices import Slices

STILL = Pose(turn=0.0, tilt=0.0, zoom=1.0, shift=0.0, mirror=False)
SIDE, SIZE = 96, 16  # of a volume of 1 mm voxels; of a slice, in pixels
RANGE = (1.5, 6.0)


def slices(plane_values, **changes):
    """Training slices of a CT whose slices are all alike."""
    whole = np.broadcast_to(plane_values.astype(np.float32), (4, SIDE, SIDE))
    scan = Scan(np.ascontiguousarray(whole), np.eye(4), "CT")
    options = {
        "split": "train", "size": SIZE, "pixel": None, "pixel_range": RANGE,
        "planes": ["acquired"], "window": lambda scan: (0.0, 1.0), "percentile": 100.0,
        "count": 300, "pose": STILL, "seed": 1, "cache": 1 << 26,
    }  # fmt: skip
    return Slices([("a", lambda: scan)], **options | changes)


LINE = np.arange(SIDE) - (SIDE - 1) / 2  # millimetres from the middle


def test_pixels_are_means_of_a_smooth_disc():
    """Of a Gaussian of 5 mm a pixel's mean is known: a difference of error functions."""
    std = 5.0
    data = slices(np.exp(-(LINE[:, None] ** 2 + LINE**2) / (2 * std**2)))
    for number in range(12):
        item = data[number]
        pixel = float(item["pixel"])
        edges = (np.arange(SIZE + 1) - SIZE / 2) * pixel
        means = std * math.sqrt(math.pi / 2) * np.diff(erf(edges / (std * math.sqrt(2)))) / pixel
        exact = means[:, None] * means
        found = (item["image"][0].double().numpy() + 1) / 2
        # Linear interpolation between voxels of h = 1 mm smooths it: by h^2 / 12 of its Laplacian.
        assert np.abs(found - exact).max() < 2 / std**2 / 12


def test_detail_finer_than_a_pixel_does_not_alias():
    """Waves of a fifth of a large pixel: sampled at points they would be waves of any length."""
    waves = 0.5 + 0.5 * np.cos(2 * np.pi * LINE / 2.4)[:, None] + 0 * LINE
    data = slices(waves, count=60, pixel_range=(1.5, 12.0))
    coarse = [x["image"] for x in (data[i] for i in range(60)) if float(x["pixel"]) > 8]
    assert len(coarse) > 5
    inside = torch.stack(coarse)[..., 5:-5, 5:-5]  # the largest slices end in air
    assert inside.abs().max() < 0.2


def test_spacings_are_even_by_logarithm_and_depend_on_the_number_alone():
    data = slices(np.ones((SIDE, SIDE)))
    drawn = np.array([float(data[i]["pixel"]) for i in range(300)])
    assert kstest(np.log(drawn), "uniform", (np.log(RANGE[0]), np.log(4))).pvalue > 1e-3
    again = slices(np.ones((SIDE, SIDE)), count=500)
    assert float(again[7]["pixel"]) == pytest.approx(drawn[7], rel=1e-6)
    assert float(slices(np.ones((SIDE, SIDE)), seed=2)[7]["pixel"]) != drawn[7]


def test_every_item_states_its_pixel_spacing(tmp_path):
    fixed = slices(np.ones((SIDE, SIDE)), pixel=2.5, pixel_range=None)
    assert float(fixed[0]["pixel"]) == 2.5
    whole = slices(np.ones((SIDE, SIDE)), split="test")  # a range is of training slices
    assert float(whole[0]["pixel"]) == SIDE / SIZE
    assert float(Phantoms("test", size=16, side=256.0, count=1)[0]["pixel"]) == 16.0


def test_a_range_that_is_none_is_refused(tmp_path):
    for ends in ((3.0, 2.0), (0.0, 2.0)):
        with pytest.raises(InputError, match="pixel_range: expected two numbers above 0"):
            NiftiFolder("train", root=tmp_path, pixel_range=ends)
    with pytest.raises(InputError, match=r"gamma, bias: .*\n.*elastic: .*\n.*water: .*\n.*gain:"):
        NiftiFolder("train", root=tmp_path, pose=Pose(gamma=0.5, elastic=0.5, water=1.0, gain=0.0))


# --- augmentation --------------------------------------------------------------------------------


def test_water_changes_and_air_stays():
    """HU' = k (HU + 1000) - 1000: attenuation by one factor, in any window."""
    low, high = -200.0, 600.0
    hounsfield = torch.tensor([[-1000.0, 0.0, 500.0]])
    found = attenuated(
        (hounsfield - low) / (high - low), np.random.default_rng(0), 0.02, (-1000 - low) / 800
    )
    changed = found * (high - low) + low
    factor = float(changed[0, 1] + 1000) / 1000
    assert 1e-4 < abs(factor - 1) < 0.02
    assert torch.allclose(changed, factor * (hounsfield + 1000) - 1000, atol=1e-2)
    data = slices(
        np.full((SIDE, SIDE), 200.0), pose=Pose(**{**vars(STILL), "water": 0.02}),
        window=lambda scan: (-1000.0, 1000.0),
    )  # fmt: skip
    middle = [float(data[i]["image"][0, 8, 8]) for i in range(9)]
    assert len(set(middle)) == 9
    assert max(abs(value - 0.2) for value in middle) < 1.2 * 0.02


def test_an_elastic_slice_has_the_same_values_in_displaced_places():
    """On a ramp a displacement shows as itself; it is smooth, and no larger than stated."""
    ramp = np.clip(0.5 + LINE / 200, 0, 1)[:, None] + 0 * LINE
    pose = Pose(**{**vars(STILL), "elastic": 0.03})
    straight, bent = (slices(ramp, pose=p, pixel_range=(3.0, 3.0)) for p in (STILL, pose))
    largest = 0.03 * SIZE * 3.0
    moved = torch.stack([(bent[i]["image"] - straight[i]["image"]) / 2 * 200 for i in range(20)])
    assert 0.7 * largest < moved.abs().max() < 1.3 * largest  # cubic interpolation overshoots
    steps = moved.diff(dim=-1).abs().max()
    assert steps < 2 * 1.5 * largest / (SIZE / 4)  # at most 1.5 times the slope between knots
    field = displacement(np.random.default_rng(0), 33, 1.0)
    knots = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 5, 5)))
    assert torch.allclose(field[:, ::8, ::8], knots)


def test_sagittal_slices_keep_front_and_back_where_asked():
    """Columns of a sagittal slice run from front to back; of the others left to right."""
    values = np.broadcast_to(np.arange(32, dtype=np.float32) / 64 + 0.25, (32, 32, 32))
    sagittal = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])

    def flips(affine, **options):
        scan = Scan(np.ascontiguousarray(values), affine, "CT")
        data = Slices(
            [("a", lambda: scan)], split="train", size=8, pixel=2.0, planes=["acquired"],
            window=lambda scan: (0.0, 1.0), percentile=100.0, count=20, seed=0, cache=1 << 26,
            pose=Pose(**{**vars(STILL), "mirror": True, **options}),
        )  # fmt: skip
        return {float(data[i]["image"].diff(dim=-1).mean()) < 0 for i in range(20)}

    assert flips(np.eye(4)) == flips(sagittal) == {True, False}
    assert flips(np.eye(4), mirror_sagittal=False) == {True, False}
    assert flips(sagittal, mirror_sagittal=False) == {False}


def test_gamma_bias_and_gain_are_in_their_ranges():
    fine = torch.linspace(0, 1, 64 * 64).view(64, 64)
    plain = [recoloured(fine, np.random.default_rng(i), 1.0, bias=1.0, gain=1.0) for i in range(9)]
    for found in plain:  # nothing is left to change
        assert (found - fine).abs().max() < 3e-3
    darker = [float(recoloured(fine, np.random.default_rng(i), 1.0, bias=1.0).max()) for i in
              range(200)]  # fmt: skip
    assert kstest(darker, "uniform", (0.6, 0.4)).pvalue > 1e-3
    bent = [recoloured(fine, np.random.default_rng(i), 1.0, bias=1.0, gain=1.0, gamma=1.5)
            for i in range(200)]  # fmt: skip
    exponents = [math.log(float(x[32, 0]) + 1e-9) / math.log(float(fine[32, 0])) for x in bent]
    assert kstest(np.log(exponents), "uniform", (-math.log(1.5), 2 * math.log(1.5))).pvalue > 1e-3
