"""Projectors and filtered back-projection against closed forms, the adjoint identity and a peer."""

import math

import numpy as np
import pytest
import torch
from skimage.transform import radon

from core.errors import InputError
from plugins.medical.data.phantoms import Phantoms
from plugins.medical.operators.ellipses import line_integrals, random_head, rasterised, shepp_logan
from plugins.medical.operators.projector import Gathered, Stored
from plugins.medical.operators.radon import FanBeam, Radon

FAN = {"source": 400.0, "detector": 300.0}
BOTH = pytest.mark.parametrize(("beam", "options"), [(Radon, {}), (FanBeam, FAN)])


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@BOTH
@pytest.mark.parametrize("way", ["stored", "gathered"])
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_adjoint_is_one(beam, options, way, dtype, least):
    operator = beam(height=24, width=33, views=11, start=7.0, way=way, **options)
    x = draw(2, 2, 24, 33, dtype=dtype)
    y = operator.forward(x)
    w = draw(*y.shape, dtype=dtype, seed=1)
    left, right = (float((a.double() * b.double()).sum())
                   for a, b in ((y, w), (x, operator.adjoint(w))))  # fmt: skip
    assert abs(left - right) <= least * abs(left)


@BOTH
def test_both_ways_are_one_operator(beam, options):
    x = draw(1, 1, 24, 33)
    stored, gathered = (
        beam(height=24, width=33, views=11, way=way, **options) for way in ("stored", "gathered")
    )
    y = stored.forward(x)
    assert (y - gathered.forward(x)).abs().max() < 1e-10
    assert (stored.adjoint(y) - gathered.adjoint(y)).abs().max() < 1e-9


@BOTH
def test_sinograms_are_the_closed_forms_and_nearer_with_finer_pixels(beam, options):
    """Of ellipses, at most 2 % away at 256 pixels, and about half as far with each doubling."""
    phantom = shepp_logan(256.0)
    apart = []
    for size in (64, 128, 256):
        pixel = 256 / size
        operator = beam(height=size, width=size, pixel=pixel, views=12, **options)
        found = operator.forward(rasterised(phantom, size, size, pixel)[None, None])[0, 0]
        exact = line_integrals(phantom, operator.lines.origin, operator.lines.way)
        apart.append(float((found - exact).norm() / exact.norm()))
    assert apart[2] <= 0.02
    assert apart[0] > 1.5 * apart[1] > 2.25 * apart[2]


def test_a_disc_off_the_middle_is_seen_where_it_is():
    """Its shadow is 2 sqrt(r^2 - s^2), s the distance from where its middle falls."""
    phantom = torch.tensor([[1.0, 30.0, -10.0, 8.0, 8.0, 0.0]])
    operator = Radon(height=100, width=100, views=4, detectors=150, spacing=1.0)
    exact = line_integrals(phantom, operator.lines.origin, operator.lines.way)
    # At 0 degrees detectors lie along x, at 90 along y, at 45 on the diagonal.
    for view, middle in ((0, 30.0), (1, 20 / math.sqrt(2)), (2, -10.0), (3, -40 / math.sqrt(2))):
        shadow = 2 * (64 - (operator.positions - middle) ** 2).clamp(min=0).sqrt()
        assert torch.allclose(exact[view], shadow, atol=1e-5)
        found = operator.forward(rasterised(phantom, 100, 100, 1.0)[None, None])[0, 0, view]
        assert (found - shadow).abs().max() < 2.0
        assert float(found @ operator.positions / found.sum()) == pytest.approx(middle, abs=0.05)


def test_sinograms_are_scikit_images():
    """Whose lines at angle 0 run down the columns too, and whose angles turn the same way."""
    image = rasterised(random_head(np.random.default_rng(3), 80.0), 80, 80, 1.0, finer=8)
    image[(torch.arange(80)[:, None] - 39.5) ** 2 + (torch.arange(80) - 39.5) ** 2 > 38**2] = 0
    operator = Radon(height=80, width=80, views=6, detectors=80)
    found = operator.forward(image[None, None])[0, 0]
    theirs = torch.from_numpy(radon(image.numpy(), theta=operator.angles.numpy(), circle=True)).T
    turn, middle = torch.deg2rad(operator.angles), operator.positions
    shift = (found @ middle) / found.sum(1) - (theirs @ middle) / theirs.sum(1)
    # They turn about the middle of pixel 40, we about 39.5, and their detectors are counted so too.
    assert (shift - (turn.cos() - turn.sin() - 1) / 2).abs().max() < 0.02
    assert float((found.sum(1) / theirs.sum(1) - 1).abs().max()) < 0.01


def test_a_phantom_is_the_picture_of_its_ellipses():
    """Its sinogram in closed form is that of its picture, back in units of the value."""
    data = Phantoms("test", size=96, count=3)
    operator = Radon(height=96, width=96, pixel=256 / 96, views=4)
    for index in range(3):
        found = operator.forward(data[index]["image"][None].double() / 2 + 0.5)[0, 0]
        exact = line_integrals(data.phantom(index), operator.lines.origin, operator.lines.way)
        assert float((found - exact).norm() / exact.norm()) < 0.05


@pytest.mark.slow
@BOTH
def test_720_views_without_noise_give_the_head_back(beam, options):
    phantom = shepp_logan(256.0)
    operator = beam(views=720, **options)
    exact = line_integrals(phantom, operator.lines.origin, operator.lines.way)[None, None]
    truth = rasterised(phantom, 256, 256, 1.0)
    errors = {}
    for window in ("ramp", "hann"):
        found = operator.filtered_back_projection(exact.float(), window=window)[0, 0]
        errors[window] = float((found - truth).square().mean())
        for rows in (slice(20, 40), slice(118, 138)):  # far from the middle, and there
            ratio = found[rows, 118:138].mean() / truth[rows, 118:138].mean()
            assert float(ratio) == pytest.approx(1, abs=0.01)
    assert -10 * math.log10(errors["ramp"]) >= 30
    assert errors["ramp"] < errors["hann"]


def blob(size=40):
    """A smooth disc off the middle."""
    down, right = torch.arange(size)[:, None] - 0.43 * size, torch.arange(size) - 0.6 * size
    return (-(down**2 + right**2) / 2 / 3**2).exp()[None, None]


@pytest.mark.parametrize("arc", [226.0, 270.0, 330.0])
def test_a_short_scan_of_a_fan_gives_the_picture_back(arc):
    """180 degrees and a fan of 46, or more: lines that are measured twice count once."""
    x = blob()
    scan = FanBeam(height=40, width=40, views=240, arc=arc, source=72.0, detector=40.0)
    found = scan.filtered_back_projection(scan.forward(x))
    assert (found - x).abs().max() < 0.04  # as of a whole turn
    weights = scan._redundancy()
    plain = FanBeam(height=40, width=40, views=240, source=72.0, detector=40.0)
    assert (plain.filtered_back_projection(plain.forward(x)) - x).abs().max() < 0.04
    # By the conjugate ray: detectors are mirrored, the source is half a turn and twice the fan on.
    fan = torch.rad2deg(torch.atan(scan.positions / 112.0))
    step, middle = arc / 240, 30
    for number in range(0, scan.detectors, 7):
        after = (30 * step + 180 - 2 * fan[number]) / step
        if abs(float(fan[number])) < 20 and after < 239:
            low, high = weights[int(after), -1 - number], weights[int(after) + 1, -1 - number]
            other = low + (high - low) * (after % 1)
            assert float(weights[middle, number] + other) == pytest.approx(1, abs=0.02)


@BOTH
def test_views_at_any_angles_in_any_order_give_the_picture_back(beam, options):
    """Golden angles, and even ones that are shuffled, which are the operator of even ones."""
    x = blob()
    size = {"height": 40, "width": 40, "detectors": 90, **options}
    even = beam(**size, views=180)
    order = torch.randperm(180, generator=torch.Generator().manual_seed(0))
    moved = even.at(even.angles[order])
    assert torch.allclose(moved.forward(x), even.forward(x)[..., order, :])
    back = moved.filtered_back_projection(moved.forward(x))
    assert torch.allclose(back, even.filtered_back_projection(even.forward(x)), atol=1e-5)
    golden = even.at(torch.arange(200) * 111.24611797498)
    assert (golden.filtered_back_projection(golden.forward(x)) - x).abs().max() < 0.04
    period = 180.0 if beam is Radon else 360.0
    part = torch.arange(0, period / 2, 0.5)
    uneven = even.at(torch.cat([part, period / 2 + part[::3]]))  # half of it three times as dense
    assert (uneven.filtered_back_projection(uneven.forward(x)) - x).abs().max() < 0.06
    some = golden.of_views(torch.arange(200) % 8 != 3)
    assert (some.filtered_back_projection(some.forward(x)) - x).abs().max() < 0.06


def test_a_gap_between_angles_is_not_filled():
    """Views of 60 degrees stand for 60 degrees, as those of a limited arc do."""
    x = blob()
    part = Radon(height=40, width=40, views=60, arc=60.0, detectors=90)
    given = part.at(part.angles)
    assert given.arc == pytest.approx(60)
    assert torch.allclose(
        given.filtered_back_projection(given.forward(x)),
        part.filtered_back_projection(part.forward(x)),
    )


@BOTH
def test_a_detector_moved_by_one_sees_the_neighbours_lines(beam, options):
    x, size = draw(1, 1, 24, 33), {"height": 24, "width": 33, "views": 11, "detectors": 40}
    still = beam(**size, spacing=1.5, **options)
    moved = beam(**size, spacing=1.5, offset=1.5, **options)
    assert (moved.forward(x)[..., :-1] - still.forward(x)[..., 1:]).abs().max() < 1e-10


@BOTH
def test_filtered_back_projection_knows_the_offset(beam, options):
    """A smooth disc is put back where it is, by a detector half and one and a half aside."""
    down, right = torch.arange(40)[:, None] - 17.0, torch.arange(40) - 24.0
    x = (-(down**2 + right**2) / 2 / 3**2).exp()[None, None]
    for offset in (0.0, 0.5, -1.5):
        scan = beam(height=40, width=40, views=120, detectors=90, offset=offset, **options)
        found = scan.filtered_back_projection(scan.forward(x))
        assert (found - x).abs().max() < 0.04, offset


def test_gradients_are_the_adjoint_and_can_be_differentiated_again():
    operator = Radon(height=4, width=5, views=2)
    x = draw(1, 1, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(operator.forward, x)
    assert torch.autograd.gradgradcheck(lambda v: operator.forward(v) ** 2, x)


def test_a_limited_angle_is_part_of_the_whole():
    x = draw(1, 1, 20, 20)
    whole, part = (
        Radon(height=20, width=20, views=18),
        Radon(height=20, width=20, views=6, arc=60.0),
    )
    assert torch.allclose(part.forward(x), whole.forward(x)[..., :6, :])


def test_what_does_not_fit_is_refused():
    operator = Radon(height=20, width=30, views=5)
    with pytest.raises(InputError, match="an image of 30x20 pixels, as the geometry, got 20x20"):
        operator.forward(torch.zeros(1, 1, 20, 20))
    with pytest.raises(InputError, match="5 views and 37 detectors, as the geometry, got 4 and 37"):
        operator.adjoint(torch.zeros(1, 1, 4, 37))
    with pytest.raises(InputError, match="views: expected more than 0, got 0"):
        Radon(views=0)
    with pytest.raises(InputError, match="pixel: expected more than 0, got nan"):
        Radon(pixel=math.nan)
    with pytest.raises(InputError, match="beyond the image's corner, 181"):
        FanBeam(source=100.0)


def test_a_matrix_that_would_be_large_is_not_made_unasked():
    x = torch.zeros(1)
    assert isinstance(Radon(height=256, width=256, views=180)._system(x), Stored)
    large = Radon(height=512, width=512, views=720)
    assert isinstance(large._system(x), Gathered)
    few = Radon(height=64, width=64, views=9)
    entries = sum(len(m.values()) for m in few._stored._matrices(x))
    assert 0.3 * few.lines.stored_bytes < 8 * entries <= few.lines.stored_bytes
