"""Slices of scans: where their points lie, and on which side of a split a patient falls."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from core.errors import InputError
from core.scans import nifti
from core.scans.scan import Scan
from plugins.medical.data.augmentation import Pose, recoloured
from plugins.medical.data.folders import NiftiFolder, side
from plugins.medical.data.slices import Slices, Volume, cut, halved, prepared
from plugins.medical.data.survey import Entry, Selection, Survey, survey

SHAPE, SPACING = (20, 40, 50), (3.0, 1.5, 2.0)
SLOPE = (0.01, -0.007, 0.004)  # of a value a millimetre, along slices, rows and columns


def ramp():
    """A volume that rises evenly, whatever way one goes: linear interpolation is exact in it."""
    grids = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"
    )
    values = sum(g * a for g, a in zip(grids, SLOPE, strict=True))
    return Volume(torch.from_numpy(values).float()[None, None], SPACING, windowed=True)


def middle(at):
    """The ramp's value in the middle of slice `at`."""
    place = (
        at * SPACING[0],
        *((n - 1) / 2 * s for n, s in zip(SHAPE[1:], SPACING[1:], strict=True)),
    )
    return sum(p * a for p, a in zip(place, SLOPE, strict=True))


@pytest.mark.parametrize(
    ("pose", "down", "right"),
    [
        ({}, (0, 1, 0), (0, 0, 1)),
        ({"mirror": True}, (0, 1, 0), (0, 0, -1)),
        ({"turn": 90.0}, (0, 0, -1), (0, 1, 0)),
        ({"turn": 30.0}, (0, math.cos(math.pi / 6), -0.5), (0, 0.5, math.cos(math.pi / 6))),
        ({"tilt": (30.0, 0.0)}, (0.5, math.cos(math.pi / 6), 0), (0, 0, 1)),
        ({"tilt": (0.0, 30.0)}, (0, 1, 0), (0.5, 0, math.cos(math.pi / 6))),
    ],
)
def test_points_lie_along_the_directions_of_the_pose(pose, down, right):
    """On the ramp a pixel is the middle's value and the slope along each direction."""
    size, pixel, at = 8, 1.0, 9.5
    found = cut(ramp(), at, size, pixel, shift=(2.0, -3.0), **pose).double()
    line = (torch.arange(2 * size) - (2 * size - 1) / 2) * pixel / 2
    rise = [sum(d * a for d, a in zip(way, SLOPE, strict=True)) for way in (down, right)]
    exact = middle(at) + 2 * SLOPE[1] - 3 * SLOPE[2] + line[:, None] * rise[0] + line * rise[1]
    assert (found - exact).abs().max() < 1e-5


def turned(turn, first, second):
    """The slice's normal, down and right by SciPy: turned in its plane, then tilted about each.

    About the normal from rows to columns is against the turn, and the first tilt lowers the slice's
    lower edge, so that two of the three angles count backwards.
    """
    angles = (-turn, -first, second)
    return Rotation.from_euler("XZY", angles, degrees=True).as_matrix().T


@pytest.mark.parametrize("seed", range(6))
def test_any_pose_is_the_rotation_of_the_slices_plane(seed):
    random = np.random.default_rng(seed)
    turn, first, second = random.uniform(-40, 40, 3)
    shift, mirror, at = random.uniform(-3, 3, 2), bool(seed % 2), random.uniform(8, 11)
    found = cut(
        ramp(), at, 8, 1.5, turn=turn, tilt=(first, second), shift=tuple(shift), mirror=mirror
    ).double()
    _, down, right = turned(turn, first, second)
    line = (np.arange(16) - 7.5) * 1.5 / 2
    across = -line if mirror else line
    rise = line[:, None] * (down @ SLOPE) + across * (right @ SLOPE)
    exact = middle(at) + shift @ SLOPE[1:] + rise
    assert np.abs(found.numpy() - exact).max() < 1e-5


def test_a_slice_where_slices_lie_is_its_voxels():
    voxels = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    scan = Scan(voxels, np.diag([1.0, 1.0, 4.0, 1.0]), "CT")
    volume = prepared(scan, "acquired", 2.0, window=(-10.0, 10.0), percentile=99.0)
    found = cut(volume, 1.0, 8, 2.0)
    assert np.abs(found.numpy() - (voxels[1] + 10) / 20).max() < 1e-6
    assert halved(found).shape == (1, 8, 8)


def test_finer_voxels_are_averaged_first():
    voxels = np.random.default_rng(0).normal(size=(4, 16, 16)).astype(np.float32)
    scan = Scan(voxels, np.diag([0.5, 0.5, 0.5, 1.0]), "MR")
    volume = prepared(scan, "acquired", 2.0, window=None, percentile=100.0)
    assert volume.spacing == (1.0, 1.0, 1.0)
    exact = voxels.reshape(2, 2, 8, 2, 8, 2).mean((1, 3, 5)) / voxels.max()
    assert np.abs(volume.values[0, 0].numpy() - exact).max() < 1e-6


SIDE, SIZE = 96, 16  # of a volume of 1 mm voxels, and of a slice of 1 mm pixels
POSE = Pose(turn=15.0, tilt=10.0, zoom=1.2, shift=0.1)
POSES = 200


def rising(axis):
    """Training slices of a CT that rises along one axis from 0 to 1 over 128 mm."""
    values = np.moveaxis(np.broadcast_to(np.arange(SIDE) / 128 + 0.125, (SIDE,) * 3), -1, axis)
    scan = Scan(np.ascontiguousarray(values, np.float32), np.eye(4), "CT")
    return Slices(
        [("a", lambda: scan)], split="train", size=SIZE, pixel=1.0, planes=["acquired"],
        window=lambda scan: (0.0, 1.0), percentile=100.0, count=POSES, pose=POSE, seed=5,
        cache=1 << 30,
    )  # fmt: skip


@pytest.fixture(scope="module")
def poses():
    """Zoom, turn, two tilts, shift down and right, and mirroring of training slices.

    Each is found again from the slices of three ramps, which have the same poses: their planes'
    slopes are the slice's directions and their middles its place.
    """
    line = np.arange(SIZE) - (SIZE - 1) / 2
    plane = np.stack([np.ones((SIZE, SIZE)), line[:, None] + 0 * line, 0 * line[:, None] + line])
    plane, found = plane.reshape(3, -1).T, []
    ramps = [rising(axis) for axis in range(3)]
    for number in range(POSES):
        values = np.stack([x[number]["image"].double().numpy().ravel() for x in ramps], 1)
        fitted, apart, *_ = np.linalg.lstsq(plane, (values + 1) / 2 * 128 - 16, rcond=None)
        if apart.max() > 1e-2:  # it leaves the volume
            continue
        place, down, right = fitted
        zoom = 1 / np.linalg.norm(down)
        assert np.linalg.norm(right) == pytest.approx(1 / zoom, rel=1e-4)
        down, right = down * zoom, right * zoom
        mirrored = np.cross(down, right)[0] < 0
        right = -right if mirrored else right
        frame = np.stack([np.cross(down, right), down, right], 1)
        turn, first, second = Rotation.from_matrix(frame).as_euler("XZY", degrees=True)
        shift = place[1:] - (SIDE - 1) / 2
        found.append([np.log(zoom), -turn, -first, second, *shift, mirrored])
    assert len(found) > 0.7 * POSES
    return np.array(found).T


@pytest.mark.parametrize(
    ("row", "most"),
    [(0, math.log(1.2)), (1, 15.0), (2, 10.0), (3, 10.0), (4, 0.1 * SIZE), (5, 0.1 * SIZE)],
    ids=["zoom", "turn", "first tilt", "second tilt", "down", "right"],
)
def test_training_slices_have_poses_evenly_over_the_stated_range(poses, row, most):
    """By Kolmogorov and Smirnov, at one in a thousand; the logarithm of a zoom is even."""
    assert np.abs(poses[row]).max() < most * 1.001
    assert kstest(poses[row], "uniform", (-most, 2 * most)).pvalue > 1e-3


def test_training_slices_are_mirrored_in_half(poses):
    count = poses.shape[1]
    assert abs(poses[6].mean() - 0.5) < 4 * 0.5 / count**0.5


def test_test_slices_lie_where_their_names_say():
    """Also where slices were averaged first: in a scan whose value is the slice's index."""
    voxels = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None], (12, 32, 32))
    scan = Scan(np.ascontiguousarray(voxels), np.eye(4), "CT")
    slices, _ = made("test", count=3, pixel=4.0, window=lambda scan: (0.0, 20.0), scan=scan)
    for number in range(3):
        index = float(slices.name(number).rpartition(" ")[2]) - 1
        values = (slices[number]["image"] + 1) * 10
        assert (values - index).abs().max() < 1e-5


def made(split, **changes):
    voxels = np.random.default_rng(1).random((6, 16, 16)).astype(np.float32)
    scan = changes.pop("scan", Scan(voxels, np.diag([1.0, 1.0, 2.0, 1.0]), "MR"))
    options = {
        "split": split, "size": 8, "pixel": None, "planes": ["acquired"],
        "window": lambda scan: None, "percentile": 100.0, "count": 4, "pose": Pose(), "seed": 0,
        "cache": 1 << 20,
    }  # fmt: skip
    return Slices([("a", lambda: scan), ("b", lambda: scan)], **options | changes), voxels


def test_test_slices_are_spread_evenly_and_are_the_means_of_finer_ones():
    slices, voxels = made("test", count=3)
    assert [slices.name(i) for i in range(len(slices))] == [
        f"{who}, slice {n}" for who in "ab" for n in (1, 3, 5)
    ]
    item = slices[1]
    assert torch.equal(item["image"], halved(item["fine"]))
    assert np.abs(item["fine"][0].numpy() - (2 * voxels[2] / voxels.max() - 1)).max() < 1e-6


def test_an_item_to_train_depends_on_its_number_alone_and_little_is_air():
    slices, _ = made("train", count=50, cache=1)
    first = slices[7]["image"]
    for number in (3, 11):
        assert not torch.equal(slices[number]["image"], first)
    assert torch.equal(slices[7]["image"], first)
    assert {slices.source(i) for i in range(50)} == {"a", "b"}


def test_air_stays_air_and_brightness_keeps_its_range():
    fine = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    fine[:8] = 0
    found = recoloured(fine, np.random.default_rng(0), 2.0)
    assert bool((found[:8] == 0).all())
    assert 0.5 < float(found.max()) <= 1
    assert not torch.allclose(found[8:], fine[8:], atol=0.05)


def tissues(contrast, number):
    """A chessboard of two tissues with a random contrast: their ratio, and the bias field."""
    fine = torch.tensor([[0.4, 0.8], [0.8, 0.4]]).tile(16, 16)
    found = recoloured(fine, np.random.default_rng(number), contrast).double().numpy()
    low, high = found[::2, ::2], found[::2, 1::2]
    return float(np.median(high / low)), low / low.mean()


def test_the_contrast_of_two_tissues_is_in_the_stated_range():
    """Each has its own factor, whose logarithm is even: their ratio's has a known deviation."""
    ratios = np.log([tissues(2.0, number)[0] / 2 for number in range(400)])
    assert np.abs(ratios).max() < 2 * math.log(2) + 0.02  # the field differs a little between them
    exact = math.log(2) * math.sqrt(2 / 3)
    assert ratios.std() == pytest.approx(exact, rel=4 / math.sqrt(2 * 400))
    for number in range(20):
        ratio, field = tissues(1.0, number)
        assert ratio == pytest.approx(2, rel=0.03)
        assert field.max() / field.min() < 1.5**2


def test_contrast_is_changed_in_mr_and_kept_in_ct():
    def image(contrast, window):
        slices, _ = made("train", pose=Pose(contrast=contrast), window=lambda scan: window)
        return slices[0]["image"]

    assert not torch.allclose(image(1.0, None), image(3.0, None), atol=0.05)
    assert torch.equal(image(1.0, (0.0, 1.0)), image(3.0, (0.0, 1.0)))


def entries(count):
    return [Entry(f"patient {i // 2}", (), lambda: None) for i in range(count)]


def test_a_patient_is_on_one_side_whoever_else_is_there():
    test = {e.patient for e in side(Path("x"), entries(400), "test", 0.25)}
    train = {e.patient for e in side(Path("x"), entries(400), "train", 0.25)}
    assert not test & train
    assert len(test) == pytest.approx(50, abs=4 * math.sqrt(200 * 0.25 * 0.75))
    few = {e.patient for e in side(Path("x"), entries(40), "test", 0.25)}
    assert few == test & {f"patient {i}" for i in range(20)}
    with pytest.raises(InputError, match="none of 2 patients falls into split test"):
        side(Path("x"), entries(4), "test", 0.0)
    with pytest.raises(InputError, match="contains no readable scan"):
        Survey(Path("x")).usable("refuse")


def test_the_digest_is_of_the_files_and_of_how_they_are_cut(tmp_path):
    draw = np.random.default_rng(0)

    def saved():
        voxels = draw.normal(0, 300, (3, 20, 24)).astype(np.float32)
        nifti.write(tmp_path / "a.nii", voxels, Scan(voxels, np.eye(4)), description="")

    def digest(**options):
        return NiftiFolder("test", root=tmp_path, size=16, test_share=1.0, **options).digest()

    saved()
    first = digest()
    assert digest() == first
    assert digest(low=-500.0) != first
    assert digest(seed=3) == first  # of the poses, which a test has none of
    saved()
    assert digest() != first


def test_patients_are_told_by_bids_names_and_by_folders(tmp_path):
    voxels = np.random.default_rng(0).normal(0, 300, (2, 8, 8)).astype(np.float32)
    for place in ("sub-01/a", "sub-01/b", "x/c", "x/d", "e"):
        path = tmp_path / f"{place}.nii"
        path.parent.mkdir(exist_ok=True)
        nifti.write(path, voxels, Scan(voxels, np.eye(4)), description="")
    found = [e.patient for e in survey(tmp_path, Selection()).entries]
    assert sorted(found) == ["e.nii", "sub-01", "sub-01", "x", "x"]
