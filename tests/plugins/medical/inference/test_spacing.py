"""Draws on another grid than the scan's, and what is done about pixels that a prior never saw."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from core import runs
from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.inverse.measurement import Measurement
from core.inverse.operators import Mask
from core.inverse.posterior import pigdm
from core.parts.config import bind, configure
from core.parts.registry import Spec
from core.process.noise import Noise
from core.process.schedules import edm
from core.request import Machine, TrainRequest
from core.sampler.runge_kutta import Heun
from core.scans import nifti
from core.scans.scan import Scan
from core.testing.tasks import check_operator
from plugins.medical.inference.draws import How, reconstructed
from plugins.medical.inference.predictors import ReconstructCt
from plugins.medical.inference.reconstruct import prior_of
from plugins.medical.inference.reconstruct import sample as reconstruct
from plugins.medical.inference.spacing import (
    FEWEST,
    Learned,
    Resampled,
    beside_detail,
    consistent,
    fit,
    learned,
    resampling,
)
from plugins.medical.request import CtOptions, PosteriorOptions, ReconstructRequest
from plugins.medical.tasks.ct import Ct
from plugins.medical.tasks.mri import Mri
from plugins.medical.tasks.reconstruction import spacing_condition


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


# --- grids ---------------------------------------------------------------------------------------


def disc(size, side=40.0, std=5.0):
    """Pixel means of a Gaussian in a field of `side` mm: a disc whose band is limited."""
    edges = (torch.arange(size + 1, dtype=torch.float64) / size - 0.5) * side
    rise = torch.erf(edges / (std * math.sqrt(2))).diff() * std * math.sqrt(math.pi / 2)
    means = rise / (side / size)
    return (means[:, None] * means)[None, None]


@pytest.mark.parametrize(("scan", "draws"), [(40, 20), (40, 27), (30, 25)])
def test_a_smooth_disc_on_the_other_grid_is_its_closed_form(scan, draws):
    """Means of pixels to fewer; to more by cubics, off by h^2 / 24 of its second derivatives."""
    down, up = resampling((scan, scan), (draws, draws)), resampling((draws, draws), (scan, scan))
    second = 2 / 5.0**2  # of the Gaussian at its middle, along both axes
    coarse, fine = 40.0 / draws, 40.0 / scan
    whole = scan % draws == 0  # else pixels are parts of pixels: each counts as even inside
    found = (down.on_draws(disc(scan)) - disc(draws)).abs().max()
    assert found < (1e-6 if whole else second * fine**2 / 4)
    for found in (down.on_scan(disc(draws)), up.on_draws(disc(draws))):
        assert (found - disc(scan)).abs().max() < second * coarse**2 / 12


def test_rows_and_columns_have_grids_of_their_own():
    x = normal(2, 1, 30, 20)
    fewer_rows = resampling((30, 20), (15, 20)).on_draws(x)
    assert torch.allclose(fewer_rows, x.unflatten(2, (15, 2)).mean(3), atol=1e-6)
    grids = resampling((30, 20), (15, 40))
    assert grids.on_scan(grids.on_draws(x)).shape == x.shape
    ones = torch.ones(1, 1, 30, 20, dtype=torch.float64)
    assert torch.allclose(grids.on_draws(ones), torch.ones(1, 1, 15, 40).double(), atol=1e-6)
    assert torch.allclose(grids.on_scan(grids.on_draws(ones)), ones, atol=1e-6)


@pytest.mark.parametrize("draws", [(10, 12), (24, 12), (30, 40)])
def test_the_operator_of_draws_keeps_its_contract(draws):
    grids = resampling((16, 24), draws)
    check_operator(lambda: Resampled(Mask(torch.ones(1).double()), grids), shape=(2, 2, *draws))


@pytest.mark.parametrize("draws", [(10, 12), (40, 48)])
def test_detail_is_what_no_draw_can_have(draws):
    """It is orthogonal to all T x, and nothing on a scan that is coarser than draws."""
    grids = resampling((20, 24), draws)
    x = normal(2, 1, 20, 24)
    detail = grids.detail(x)
    assert grids.back(detail).abs().max() < 1e-5
    assert (grids.detail(grids.on_scan(normal(2, 1, *draws))).abs().max()) < 1e-5
    if draws[0] > 20:
        assert detail.abs().max() < 1e-5
    else:
        assert float(detail.std()) > 0.5


# --- a prior whose best denoiser depends on the pixel ---------------------------------------------

WHITE = 2.0  # standard deviation of a pixel of 1 mm; of one of p mm it is WHITE / p


def white(process):
    """The exact denoiser of white noise: means over larger pixels vary less."""

    def denoise(x, t, condition=None):
        alpha, sigma = process.alpha_sigma(t)
        pixel = 2 ** condition["vector"][:, 0].double()
        variance, alpha, sigma = (v.view(-1, 1, 1, 1) for v in ((WHITE / pixel) ** 2, alpha, sigma))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        more = variance * sigma**2 / (alpha**2 * variance + sigma**2)
        return Prediction(gain * x, x0_variance=more.flatten())

    return FunctionDenoiser(process, denoise)


def how(process, **more):
    grid = configure("grid", Spec("core/karras", {"steps": 40, "sigma_max": 80.0}))(process)
    if (pixel := more.pop("pixel", None)) is not None:
        more["condition"] = spacing_condition(pixel)
    return How(method=pigdm, solver=Heun(), grid=grid, **more)


def test_each_slice_is_drawn_at_its_own_pixel_spacing():
    """Without a measurement: slices of 0.5, 1 and 4 mm vary by 4, 2 and 0.5."""
    process, pixels = edm(), torch.tensor([0.5, 1.0, 4.0]).repeat(4)
    like = torch.zeros(12, 1, 32, 32, dtype=torch.float64)
    measurement = Measurement(Mask(torch.zeros(1)), like, 0.1)
    drawn = how(process, pixel=pixels, at_once=7)
    found = reconstructed(white(process), measurement, drawn, like, Noise(range(12)))
    std = found.unflatten(0, (4, 3)).transpose(0, 1).flatten(1).std(1)
    for measured, pixel in zip(std.tolist(), (0.5, 1.0, 4.0), strict=True):
        assert measured == pytest.approx(WHITE / pixel, rel=4 / math.sqrt(2 * 4096) + 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("draws", [5, 15])
def test_draws_of_another_grid_have_the_posterior_of_theirs(draws):
    """y = T x + n with x white: mean and covariance by dense algebra, on the scan's grid."""
    process, side, noise, count = edm(), 10, 0.5, 600
    grids, pixel = resampling((side, side), (draws, draws)), float(side) / draws
    truth = normal(1, 1, side, side, seed=3)
    like = torch.zeros(count, 1, side, side, dtype=torch.float64)
    measurement = Measurement(
        Mask(torch.ones(1).double()), truth.expand(count, -1, -1, -1).clone(), noise
    )
    drawn = how(process, pixel=torch.full((count,), pixel), grids=grids, at_once=count)
    found = reconstructed(white(process), measurement, drawn, like, Noise(range(count)))
    t = torch.kron(*(m.double() for m in grids.to_scan))
    variance = (WHITE / pixel) ** 2
    inner = torch.linalg.inv(t.T @ t / noise**2 + torch.eye(draws**2).double() / variance)
    mean = t @ inner @ t.T @ truth.flatten() / noise**2
    std = (t @ inner @ t.T).diagonal().sqrt()
    error = (found.flatten(1).mean(0) - mean) / (std / math.sqrt(count))
    assert error.abs().max() < 5
    assert torch.allclose(found.flatten(1).std(0) / std, torch.ones(()).double(), atol=0.15)


def test_the_measurement_of_draws_is_what_the_detail_leaves():
    grids = resampling((20, 20), (10, 10))
    x, s = normal(2, 1, 10, 10), normal(2, 1, 20, 20, seed=1)
    detail = grids.detail(s)
    mask = Mask((torch.arange(20) % 2).double())
    given = Measurement(mask, mask.forward(grids.on_scan(x) + detail), 0.1)
    inner = beside_detail(given, grids, detail)
    assert torch.allclose(inner.operator.forward(x), inner.y, atol=1e-6)
    # With as much variance as noise, a pixel moves half of the way to what was measured.
    off = grids.on_scan(x) + detail + 1
    found = consistent(given, off, torch.full((2,), 0.01).double())
    assert torch.allclose(off - found, mask.forward(torch.full_like(off, 0.5)), atol=1e-3)
    assert torch.equal(consistent(given, off, torch.zeros(2).double()), off)


# --- what is done about it -----------------------------------------------------------------------

KNOWN = Learned(2.0, 4.0)


def test_pixels_that_a_prior_learned_are_given_and_kept():
    for spacing, given in ((2.0, 2.0), (3.3, 3.3), (4.2, 4.0), (1.9, 2.0)):
        found = fit(KNOWN, (64, 64), (spacing, spacing), "refuse", conditioned=True)
        assert (found.pixel, found.grids, found.notes) == (pytest.approx(given), None, ())
        assert fit(KNOWN, (64, 64), (spacing, spacing), "refuse", conditioned=False).pixel is None


@pytest.mark.parametrize(
    ("spacing", "size", "sides", "pixel"),
    [
        ((1.0, 1.0), (100, 80), (50, 40), 2.0),
        ((8.0, 8.0), (20, 30), (40, 60), 4.0),
        ((1.0, 4.0), (120, 30), (60, 60), 2.0),  # rows are denser than columns
    ],
)
def test_others_are_drawn_at_the_nearest_spacing(spacing, size, sides, pixel):
    found = fit(KNOWN, size, spacing, "resample", conditioned=True)
    assert found.pixel == pytest.approx(pixel)
    assert found.grids.on_draws(torch.zeros(1, 1, *size)).shape[2:] == sides
    assert f"learned pixels of 2 to 4 mm, those of this scan are {spacing[0]:g}" in found.notes[0]
    ignored = fit(KNOWN, size, spacing, "ignore", conditioned=True)
    assert (ignored.pixel, ignored.grids) == (pytest.approx(pixel), None)


def test_they_are_refused_in_a_sentence_where_asked_or_too_few_pixels_would_remain():
    both = r"learned pixels of 2 to 4 mm, those of this scan are 0.5 mm; .*--spacing"
    with pytest.raises(InputError, match=both):
        fit(KNOWN, (200, 200), (0.5, 0.5), "refuse", conditioned=False)
    small = 4 * FEWEST - 4
    with pytest.raises(InputError, match=f"{both} ignore"):
        fit(KNOWN, (small, small), (0.5, 0.5), "resample", conditioned=False)


def test_an_unknown_spacing_is_a_note_or_an_error_for_a_network_that_requires_one():
    found = fit(KNOWN, (64, 64), None, "refuse", conditioned=False)
    assert (found.pixel, found.grids, found.notes) == (None, None, ())
    found = fit(KNOWN, (64, 64), None, "refuse", conditioned=True)
    assert found.pixel == pytest.approx(math.sqrt(8))
    assert "add pixel_mm" in found.notes[0]
    with pytest.raises(InputError, match="add pixel_mm"):
        fit(None, (64, 64), None, "refuse", conditioned=True)
    assert fit(None, (64, 64), (1.0, 4.0), "refuse", conditioned=True).pixel == 2.0


@pytest.mark.parametrize(
    ("dataset", "known"),
    [
        ({"name": "medical/scan_folder", "pixel": 4.0, "zoom": 1.25}, Learned(3.2, 5.0)),
        ({"name": "medical/scan_folder", "pixel": 4.0, "pixel_range": [1, 8]}, Learned(1.0, 8.0)),
        ({"name": "medical/scan_folder", "pixel": None}, None),
        ({"name": "medical/phantoms", "size": 64, "side": 256.0}, Learned(4.0, 4.0)),
        ({"name": "medical/lodopab", "size": 260}, Learned(1.0, 1.0)),
        ({"name": "core/blank"}, None),
    ],
)
def test_a_request_states_what_its_prior_learned(dataset, known):
    rooted = {} if dataset["name"] in ("core/blank", "medical/phantoms") else {"root": "scans"}
    request = bind(TrainRequest, {"task": "medical/ct", "dataset": dataset | rooted})
    assert learned(request) == known


# --- from training to a reconstruction -----------------------------------------------------------


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """A prior that is given pixel spacings, of scans of 1 mm, trained for a few steps."""
    root = tmp_path_factory.mktemp("conditioned")
    voxels = np.random.default_rng(0).uniform(-1000, 400, (8, 64, 64)).astype(np.float32)
    (root / "scans").mkdir()
    nifti.write(root / "scans" / "a.nii", voxels, Scan(voxels, np.eye(4)), description="")
    request = {
        "task": {"name": "medical/ct", "condition_on_pixel": True},
        "dataset": {"name": "medical/scan_folder", "root": str(root / "scans"), "size": 16,
                    "pixel_range": [1.5, 3.0], "test_share": 0.0},
        "network": {"name": "core/unet", "width": 8, "multipliers": [1, 2], "blocks": 1,
                    "attention": [], "middle_attention": False},
        "process": "core/edm", "parameterization": "core/edm", "weighting": "core/edm",
        "times": "core/log_normal", "steps": 4, "batch": 2, "warmup": 1,
    }  # fmt: skip
    runs.train(bind(TrainRequest, request), root / "run")
    return root


def test_the_network_learns_from_the_spacing(conditioned):
    """Its layers of the condition start at random and have moved; the output depends on it."""
    model = prior_of(conditioned / "run", Spec("medical/ct"), Machine(threads=1))
    x, t = torch.zeros(1, 1, 16, 16), torch.ones(1)
    found = [model.denoise(x, t, {"vector": torch.tensor([[code]])}).x0 for code in (0.0, 3.0)]
    assert not torch.equal(*found)


@pytest.mark.parametrize(("pixel", "given", "side"), [(2.0, 2.0, 24), (0.75, 1.5, 48)])
def test_a_reconstruction_has_the_scans_grid_and_records_what_was_given(
    tmp_path, conditioned, pixel, given, side
):
    voxels = np.full((1, side, side), -1000, np.float32)
    voxels[:, side // 4 : -side // 4, side // 4 : -side // 4] = 40
    affine = np.diag([pixel, pixel, 2.0, 1.0])
    nifti.write(tmp_path / "a.nii", voxels, Scan(voxels, affine), description="")
    predict = ReconstructCt(
        Machine(threads=1), conditioned / "run", ct=CtOptions(views=12),
        posterior=PosteriorOptions(draws=2, steps=2, choose="none"),
    )  # fmt: skip
    facts = predict(tmp_path / "a.nii", tmp_path / "b.nii.gz")
    record = json.loads((tmp_path / "b-record.json").read_text())
    assert record["pixel_given"] == given
    assert record["spacing_learned"] == {"least": 1.5, "most": 3.0, "gaps": None}
    assert ("draws are of 24x24 pixels" in " ".join(facts["notes"])) == (pixel == 0.75)
    found = nifti.read(tmp_path / "b.nii.gz")
    assert found.voxels.shape == (1, side, side)
    assert np.allclose(found.affine, affine)
    with pytest.raises(InputError, match="--spacing resample"):
        ReconstructCt(
            Machine(threads=1), conditioned / "run", ct=CtOptions(views=12),
            posterior=PosteriorOptions(spacing="refuse"),
        ).read(write_fine(tmp_path))  # fmt: skip


def write_fine(folder: Path) -> Path:
    voxels = np.full((1, 64, 64), -1000, np.float32)
    nifti.write(
        folder / "fine.nii", voxels, Scan(voxels, np.diag([0.5, 0.5, 2.0, 1.0])), description=""
    )
    return folder / "fine.nii"


def test_the_verb_gives_each_slice_its_spacing_and_notes_what_was_never_learned(
    tmp_path, conditioned
):
    notes = []
    request = ReconstructRequest(
        checkpoint=conditioned / "run", task=Spec("medical/ct", {"views": 9, "side": 128.0}),
        dataset=Spec("medical/phantoms", {"size": 16, "side": 128.0}), count=2, samples=1,
        grid=Spec("core/karras", {"steps": 2, "sigma_max": 0.5}),
    )  # fmt: skip
    found = reconstruct(request, tmp_path / "o", emit=lambda event: notes.append(event))
    assert found.items == 2
    texts = [event.text for event in notes if hasattr(event, "text")]
    assert any(
        "learned pixels of 1.5 to 3 mm, those of test phantom 0 are 8 mm" in t for t in texts
    )


def test_a_prior_of_another_scale_of_intensities_is_a_note(tmp_path, conditioned):
    """Of CT the window is compared, and refused."""
    with pytest.raises(InputError, match="the prior was trained on -1000 to 1000 HU"):
        prior_of(conditioned / "run", Spec("medical/ct", {"low": -500.0}))
    request = {
        "task": "medical/mri", "dataset": {
            "name": "medical/scan_folder", "root": str(conditioned / "scans"), "size": 16,
            "percentile": 95.0, "test_share": 0.0,
        },
        "network": {"name": "core/unet", "width": 8, "multipliers": [1], "blocks": 1,
                    "attention": [], "middle_attention": False},
        "process": "core/edm", "parameterization": "core/edm", "weighting": "core/edm",
        "times": "core/log_normal", "steps": 1, "batch": 1, "warmup": 1,
    }  # fmt: skip
    runs.train(bind(TrainRequest, request), tmp_path / "run")
    notes = []
    prior_of(tmp_path / "run", Spec("medical/mri"), emit=notes.append)
    assert any("whose 95th percentile is 1" in note.text for note in notes)


@pytest.mark.parametrize("build", [Ct, Mri])
def test_a_training_example_has_the_logarithm_of_its_spacing(build):
    task = build(condition_on_pixel=True)
    channels = task.channels
    batch = {"image": torch.zeros(3, channels, 8, 8), "pixel": torch.tensor([0.5, 1.0, 8.0])}
    assert task.prepare(batch).condition["vector"].tolist() == [[-1.0], [0.0], [3.0]]
    assert task.conditions == {"vector": 1}
    assert dict(build().conditions) == {}
    assert build().prepare(batch).condition == {}
