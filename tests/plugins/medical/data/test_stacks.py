"""Training items of several adjacent slices."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from core.errors import InputError
from core.scans.scan import Scan
from plugins.medical.data.augmentation import Pose, recoloured
from plugins.medical.data.folders import FastMri, NiftiFolder
from plugins.medical.data.slices import Slices, Volume, cut
from plugins.medical.tasks.ct import Ct
from plugins.medical.tasks.mri import Mri

SHAPE, SPACING = (40, 40, 50), (1.0, 1.5, 2.0)
SLOPE = np.array([0.01, -0.007, 0.004])  # of a value a millimetre, along slices, rows and columns


@pytest.mark.parametrize("seed", range(4))
def test_slices_lie_along_the_normal_of_the_middle_one(seed):
    """On a ramp the difference of two slices is the slope along the normal, by SciPy's rotation."""
    grids = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"
    )
    values = sum(g * a for g, a in zip(grids, SLOPE, strict=True))
    volume = Volume(torch.from_numpy(values).float()[None, None], SPACING, windowed=True)
    turn, first, second = np.random.default_rng(seed).uniform(-40, 40, 3)
    found = cut(volume, 20.0, 8, 1.0, turn=turn, tilt=(first, second), along=(-2.0, 0.0, 2.0))
    frame = Rotation.from_euler("XZY", (-turn, -first, second), degrees=True).as_matrix().T
    rise = 2.0 * float(frame[0] @ SLOPE)
    apart = found.diff(dim=0).double()
    assert (apart - rise).abs().max() < 1e-5
    alone = cut(volume, 20.0, 8, 1.0, turn=turn, tilt=(first, second))
    assert torch.equal(found[1:2], alone)


def stacks(split, **changes):
    """Slices of a CT whose value is the slice's position over 100 mm, 3 mm apart."""
    values = np.broadcast_to((np.arange(20) * 0.03 + 0.2)[:, None, None], (20, 32, 32))
    scan = Scan(np.ascontiguousarray(values, np.float32), np.diag([1.0, 1.0, 3.0, 1.0]), "CT")
    options = {
        "split": split, "size": 16, "pixel": 2.0, "slices": 3, "planes": ["acquired"],
        "window": lambda scan: (0.0, 1.0), "percentile": 100.0, "count": 200, "seed": 1,
        "pose": Pose(turn=0.0, tilt=0.0, zoom=1.0, shift=0.0, mirror=False), "cache": 1 << 26,
    }  # fmt: skip
    return Slices([("a", lambda: scan)], **options | changes)


def test_a_test_item_is_a_slice_between_its_neighbours():
    item = stacks("test", count=4)[1]
    assert item["image"].shape == (3, 16, 16)
    assert item["fine"].shape == (3, 32, 32)
    assert float(item["gap"]) == 3.0
    steps = item["image"].diff(dim=0) / 2  # values are twice as far apart in [-1, 1]
    assert (steps - 0.03).abs().max() < 1e-5


def test_gaps_are_even_by_logarithm_and_either_way_up():
    data = stacks("train", gap_range=(1.0, 4.0))
    gaps, ups = [], []
    for number in range(200):
        item = data[number]
        first, second = (item["image"][:, 8, 8].diff() / 2 * 100).tolist()
        gaps.append(float(item["gap"]))
        if abs(first - second) < 1e-3:  # within the volume
            ups.append(first > 0)
            assert abs(first) == pytest.approx(gaps[-1], rel=1e-3)
    assert kstest(np.log(gaps), "uniform", (0, math.log(4))).pvalue > 1e-3
    assert len(ups) > 120
    assert abs(np.mean(ups) - 0.5) < 4 * 0.5 / math.sqrt(len(ups))
    assert {float(stacks("train")[i]["gap"]) for i in range(5)} == {3.0}  # the scan's own


def test_slices_of_an_item_share_their_contrast():
    fine = torch.stack([torch.full((32, 32), value) for value in (0.4, 0.5, 0.4)])
    found = recoloured(fine, np.random.default_rng(0), 2.0)
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1], atol=0.01)
    alone = recoloured(fine[0], np.random.default_rng(0), 2.0)
    assert alone.shape == (32, 32)


def test_options_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match="gap_range: is the distance of several slices"):
        NiftiFolder("train", root=tmp_path, gap_range=(1.0, 2.0))
    with pytest.raises(InputError, match="gap_range: expected two numbers above 0"):
        NiftiFolder("train", root=tmp_path, slices=3, gap_range=(2.0, 1.0))
    with pytest.raises(InputError, match="slices, gap_range: require files that state distances"):
        FastMri("train", root=tmp_path, slices=3)


@pytest.mark.parametrize(("build", "channels"), [(Ct, 1), (Mri, 2)])
def test_a_task_of_stacks_measures_and_scores_the_middle_slice(build, channels):
    """The same as the task of single slices does of that slice."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 16, 16, generator=generator) * 1.8 - 0.9
    task, alone = build(slices=3, condition_on_pixel=True), build()
    numbers = {"pixel": torch.tensor(2.0), "gap": torch.tensor(4.0)}
    item = task.degrade({"image": image, **numbers}, 5)
    batch = {name: value[None] for name, value in item.items()}
    example = task.prepare(batch)
    assert (task.channels, example.x0.shape) == (3 * channels, (1, 3 * channels, 16, 16))
    assert example.condition["vector"].tolist() == [[1.0, 2.0]]
    if build is Mri:  # the noise by which the phase is estimated has the shape of the slices
        middle = task.middle(example.x0)
        magnitude = (middle[0, 0] ** 2 + middle[0, 1] ** 2).sqrt()
        assert torch.allclose(magnitude, (image[1] + 1) / 2, atol=1e-5)
    else:
        single = {n: v[None] for n, v in alone.degrade({"image": image[1:2]}, 5).items()}
        assert torch.equal(task.finish(example.x0, batch), alone.prepare(single).x0)
        assert torch.equal(task.measured(batch).y, alone.measured(single).y)
    perfect = task.finish(example.x0, batch)
    scores = task.score(perfect[:, None], batch)
    assert float(next(m for m in scores.values() if m.kind == "draw").figures["psnr"]) > 60
