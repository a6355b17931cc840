"""Raw data that cannot be what they are said to be, made by other libraries' conventions."""

import numpy as np
import pytest
from skimage.transform import radon

from core.errors import InputError
from plugins.medical.io import plausible
from plugins.medical.io.acquisition import Geometry
from plugins.medical.operators.ellipses import rasterised, shepp_logan

WATER = 0.0193
SIDE, VIEWS = 64, 23


def image():
    """Two overlapping discs of water, off the middle."""
    down, right = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    return WATER * (np.hypot(down - 4, right + 6) < 18) + WATER * (np.hypot(down, right - 9) < 6)


def geometry(**said):
    about = {"kind": "parallel", "views": VIEWS, "height": SIDE, "width": SIDE, "pixel_mm": 2.0,
             "detector_spacing_mm": 2.0}  # fmt: skip
    return Geometry(**(about | said))


def sinogram():
    """By scikit-image, which turns about pixel n / 2: half a detector from the middle of 64."""
    angles = np.arange(VIEWS) * 180 / VIEWS
    return (2 * radon(image(), theta=angles, circle=True).T[None]).astype(np.float32)


def notes(values, **said):
    return plausible.sinogram_notes("s.npy", values, geometry(**said))


def test_half_a_detector_is_found_and_its_offset_is_what_removes_it():
    (note,) = notes(sinogram())
    assert "axis of rotation lies 0.5" in note
    offset = float(note.rsplit(":", 1)[1])
    assert offset == pytest.approx(-1.0, abs=0.1)  # half of 2 mm
    assert notes(sinogram(), detector_offset_mm=-1.0) == ()
    odd = np.pad(sinogram(), ((0, 0), (0, 0), (0, 1)))  # 65 detectors, the axis in the middle
    assert notes(odd) == ()
    counts = np.random.default_rng(0).poisson(1e5 * np.exp(-sinogram())).astype(np.float32)
    assert "lies 0.5" in notes(counts, units="counts", photons=1e5)[0]


@pytest.mark.parametrize(
    ("change", "said", "reason"),
    [
        (lambda p: p.transpose(0, 2, 1), {"views": SIDE}, "views and detectors are exchanged"),
        (lambda p: -p, {}, "would attenuate -0.0"),
        (lambda p: p, {"pixel_mm": 0.2}, "pixel_mm"),  # centimetres
        (lambda p: 10 * p, {}, "would attenuate"),  # decibels
    ],
)
def test_what_no_scanner_measures_is_refused(change, said, reason):
    with pytest.raises(InputError, match=reason):
        notes(change(sinogram()), **said)


def test_what_is_unusual_is_noted():
    assert "attenuates only" in notes(sinogram() / 1000, detector_offset_mm=-1.0)[0]
    assert "vary by" in notes(sinogram()[..., 20:40], detector_offset_mm=-1.0)[0]  # truncated


@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_our_own_sinograms_have_no_notes(beam):
    import torch

    from plugins.medical.tasks.geometry import geometry_of, scanner

    about = geometry_of(beam, VIEWS, None, (SIDE, SIDE), 2.0)
    p = scanner(about).forward(torch.from_numpy(image()).float()[None, None])[0].numpy()
    assert plausible.sinogram_notes("s.npy", p, about) == ()


# --- k-space -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(64, 64), (61, 80)])
def test_a_zero_frequency_at_the_edges_is_refused_by_its_axes(sides):
    corner = np.fft.fft2(rasterised(shepp_logan(60.0), *sides, 1.0).numpy())
    corner = corner.astype(np.complex64)[None, None]
    middle = np.fft.fftshift(corner, (-2, -1))
    plausible.check_centred("k.npy", middle)
    plausible.check_centred("k.npy", middle * (np.arange(sides[1]) % 3 == 0))
    plausible.check_centred("k.npy", np.roll(middle, 3, -1))  # an echo a little early
    for shifted, axes in (((), "rows and columns"), ((-2,), "columns"), ((-1,), "rows")):
        moved = np.fft.fftshift(corner, shifted) if shifted else corner
        with pytest.raises(InputError, match=f"zero frequency of its {axes} is at the edges"):
            plausible.check_centred("k.npy", moved)


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_has_no_centre_to_miss(seed):
    draw = np.random.default_rng(seed).normal(size=(2, 1, 1, 24, 30))
    plausible.check_centred("k.npy", (draw[0] + 1j * draw[1]).astype(np.complex64))
