"""Views, lines and points left out, and how their residuals stand for those of an image."""

import pytest
import torch

from core.inverse.measurement import Measurement
from core.inverse.operators import Weighted
from plugins.medical.inference.splits import split
from plugins.medical.operators import nonuniform
from plugins.medical.operators.fourier import Fourier, fourier, to_complex
from plugins.medical.operators.radon import FanBeam, Radon
from plugins.medical.operators.sampling import sampling_mask

SIDE = 32


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blob(width, *, across=0.0, size=SIDE):
    at = torch.arange(size) - (size - 1) / 2
    return torch.exp(-((at - across) ** 2 + at[:, None] ** 2) / (2 * width**2))[None, None]


def ct(x, *, views=24, trust=1.0, noise=0.1, kind=Radon):
    scan = kind(height=SIDE, width=SIDE, views=views)
    weights = torch.as_tensor(trust).expand(len(x), 1, views, scan.detectors)
    operator = Weighted(scan, weights)
    return Measurement(operator, operator.forward(x), noise)


def mri(x, mask, noise=0.0):
    operator = Fourier().given(frequencies=mask)
    return Measurement(operator, operator.forward(x), noise)


# --- views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Radon, FanBeam])
def test_views_are_those_of_the_whole_operator_and_none_is_lost(kind):
    x = normal(2, 1, SIDE, SIDE, seed=0)
    whole = ct(x, kind=kind)
    held = split(whole, x, 0)
    assert held is not None
    assert held.about == "3 of 24 views"
    assert (held.kept.operator.forward(x) - held.kept.y).abs().max() < 1e-4
    assert (held.left.operator.forward(x) - held.left.y).abs().max() < 1e-4
    rows = torch.cat([held.kept.y, held.left.y], 2).flatten(1)
    assert torch.equal(rows.sort(1).values, whole.y.flatten(1).sort(1).values)
    assert held.residuals(x).abs().max() < 1e-4


def test_squares_of_many_views_are_those_of_the_image():
    """Fourier's slice theorem: for images far from the pixel's frequency, whatever their shape."""
    images = torch.cat([blob(3.0), blob(5.0), blob(3.0, across=4) - blob(3.0, across=-4)])
    held = split(ct(0 * images, views=90), images, 0)
    assert held is not None
    squares = held.residuals(images).square().sum(1).reshape(3, -1).mean(1)
    ratio = squares / images.square().sum((1, 2, 3))
    assert ratio == pytest.approx(ratio[0].item(), rel=0.1)


def test_the_noise_of_views_is_what_is_expected_of_it():
    """Of rays of unequal weight; 400 slices of noise alone."""
    trust = torch.linspace(0.3, 2.0, 46)
    x = torch.zeros(400, 1, SIDE, SIDE)
    whole = ct(x, trust=trust, noise=0.1)
    noisy = Measurement(whole.operator, 0.1 * normal(*whole.y.shape, seed=1), 0.1)
    held = split(noisy, x, 0)
    assert held is not None
    squares = held.residuals(x).square().sum(1)
    error = float(squares.std()) / len(squares) ** 0.5
    assert abs(float(squares.mean() - held.noise.mean())) < 4 * error
    assert error < 0.03
    assert (held.noise == 1).all()


def test_filtered_back_projection_divides_the_arc_among_the_views_that_are_left():
    """Each view left out counts for its neighbours; with all of them it is as before."""
    scan = Radon(height=SIDE, width=SIDE, views=60)
    y = scan.forward(blob(4.0))
    every = torch.ones(60, dtype=torch.bool)
    whole = scan.filtered_back_projection(y)
    assert (scan.of_views(every).filtered_back_projection(y) - whole).abs().max() < 1e-6
    some = every.clone()
    some[[3, 20, 21, 59]] = False
    found = scan.of_views(some).filtered_back_projection(y[:, :, some])
    assert (found - whole).abs().max() < 0.02 * whole.max()
    assert float(found.sum() / whole.sum()) == pytest.approx(1, rel=1e-3)


# --- k-space -------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
def test_lines_are_left_out_of_the_rest_and_none_of_the_centre(turned):
    mask = sampling_mask("random", 64, 64, acceleration=2.0)
    mask = mask.T.contiguous() if turned else mask
    x = normal(2, 2, 64, 64, seed=2)
    held = split(mri(0 * x, mask), x, 0)
    assert held is not None
    kept, left = (m.operator.measured(64, 64) for m in (held.kept, held.left))
    assert torch.equal(kept | left, mask)
    assert not (kept & left).any()
    centre = left[30:34] if turned else left[:, 30:34]
    assert not centre.any()
    # by Parseval: squares are those of the image's transform on the lines
    exact = (fourier(to_complex(x)).abs().square() * left).sum((1, 2))
    assert held.residuals(x).square().sum(1).reshape(2, -1).sum(1) == pytest.approx(
        exact.numpy(), rel=1e-5
    )
    number = int(left.any(1).sum() if turned else left.any(0).sum())
    assert held.about == f"{number} of 32 lines of k-space"


def test_points_stand_for_the_frequencies_around_them():
    """White error has the same square everywhere: the sum is the number of frequencies there are
    outside of the centre, of which one in eight of the points is left out."""
    mask = sampling_mask("density", 128, 128, acceleration=4.0, seed=1)
    x = normal(4, 2, 128, 128, seed=3)
    held = split(mri(0 * x, mask), x, 0)
    assert held is not None
    per_slice = held.residuals(x).square().sum() / 4
    assert float(per_slice) == pytest.approx(2 * 128 * 128 / 8, rel=0.2)


@pytest.mark.parametrize("kind", ["random", "density"])
def test_the_noise_of_frequencies_is_what_is_expected_of_it(kind):
    mask = sampling_mask(kind, 64, 64, acceleration=2.0)
    x = torch.zeros(60, 2, 64, 64)
    parts = 0.1 * normal(2, 60, 1, 64, 64, seed=4)
    noise = torch.complex(parts[0], parts[1]) * mask
    operator = Fourier().given(frequencies=mask)
    held = split(Measurement(operator, noise, 0.1), x, 0)
    assert held is not None
    squares = held.residuals(x).square().sum(1)
    error = float(squares.std()) / len(squares) ** 0.5
    assert abs(float(squares.mean() - held.noise.mean())) < 4 * error


def test_too_few_measurements_leave_none_out():
    x = torch.zeros(1, 1, SIDE, SIDE)
    assert split(ct(x, views=9), x, 0) is None
    lines = sampling_mask("random", 16, 16, acceleration=2.0)
    assert split(mri(torch.zeros(1, 2, 16, 16), lines), torch.zeros(1, 2, 16, 16), 0) is None
    everything = torch.ones(64, 64, dtype=torch.bool)
    assert split(mri(torch.zeros(1, 2, 64, 64), everything), torch.zeros(1, 2, 64, 64), 0) is None


# --- readouts of a trajectory --------------------------------------------------------------------


def test_readouts_are_those_of_the_whole_and_stand_for_the_image():
    pytest.importorskip(nonuniform.LIBRARY)
    x = torch.cat([blob(3.0), blob(5.0)]).repeat(1, 2, 1, 1)
    operator = nonuniform.NonUniform(nonuniform.radial(64, 64).float(), SIDE, SIDE, readouts=64)
    whole = Measurement(operator, operator.forward(x), 0.1)
    held = split(whole, x, 0)
    assert held is not None
    assert held.about == "8 of 64 readouts"
    assert (held.kept.operator.forward(x) - held.kept.y).abs().max() < 1e-4
    assert (held.left.operator.forward(x) - held.left.y).abs().max() < 1e-4
    assert held.kept.y.shape[-1] + held.left.y.shape[-1] == whole.y.shape[-1]
    # The squares of all readouts would add up to those of the image: eight are an eighth.
    squares = held.residuals(0 * x).square().sum(1).reshape(2, -1).sum(1)
    ratio = 8 * squares / x.square().sum((1, 2, 3))
    assert ratio.tolist() == pytest.approx([1, 1], abs=0.2)
    noise = torch.complex(normal(2, 1, 4096, seed=1), normal(2, 1, 4096, seed=2))
    seen = split(Measurement(operator, 0.1 * noise, 0.1), x, 0)
    assert seen is not None
    expected = seen.residuals(0 * x).square().sum(1)
    assert float(expected.mean() / seen.noise.mean()) == pytest.approx(1, abs=0.1)  # 2048 numbers
    one = nonuniform.NonUniform(operator.trajectory, SIDE, SIDE)
    assert split(Measurement(one, whole.y, 0.1), x, 0) is None
