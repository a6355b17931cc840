"""Commands on measured data: what is stated is used or refused, and no file is lost."""

import json
from functools import partial

import nibabel
import numpy as np
import pydicom
import pytest
from commands import call
from made_scans import write_series

from core.commands import run_app
from core.request import Machine
from core.scans import nifti
from plugins.medical.__main__ import app
from plugins.medical.inference.predictors import ReconstructMri
from plugins.medical.io import raw
from plugins.medical.io.acquisition import KSpace
from plugins.medical.operators.ellipses import rasterised, shepp_logan
from plugins.medical.operators.sampling import sampling_mask
from plugins.medical.request import MriOptions

main = partial(run_app, app)
FAST = ("--draws", 1, "--steps", 2, "--threads", 1)


def head(height=21, width=17):
    return rasterised(shepp_logan(float(width)), height, width, 1.0).float().numpy()


def kspace(folder, noise=0.01):
    """Of an image with odd sides."""
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(head()), norm="ortho"))
    path = folder / "k.npy"
    raw.write_kspace(
        path, KSpace(k.astype(np.complex64)[None, None], np.ones((21, 17), bool), noise)
    )
    return path


def nifti_file(path, voxels):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32).T, affine), path)
    return path


def sinogram(tmp_path):
    scan = nifti_file(tmp_path / "scan.nii", head(16, 16)[None] * 1000 - 1000)
    said = call(main, "simulate", scan, "--kind", "ct", "--views", 9, "-o", tmp_path / "s.npy")
    assert said.returncode == 0, said.stderr
    return tmp_path / "s.npy"


def test_raw_kspace_is_undersampled_as_a_scan_is(tmp_path):
    """The values are those of the file where the pattern samples, and 0 elsewhere."""
    place = kspace(tmp_path)
    words = ("simulate", place, "--kind", "mri", "--acceleration", 2, "--centre", 0.2)
    said = call(main, *words, "--seed", 3, "-o", tmp_path / "half.npy")
    assert said.returncode == 0, said.stderr
    whole, half = raw.read_kspace(place), raw.read_kspace(tmp_path / "half.npy")
    mask = sampling_mask("random", 21, 17, acceleration=2.0, centre=0.2, seed=3).numpy()
    assert np.array_equal(half.mask, mask)
    assert np.array_equal(half.values, whole.values * mask)
    assert half.noise == whole.noise
    said = call(main, *words, "-o", tmp_path / "a.npy", "--plane", "axial")
    assert (said.returncode, "plane: for scans" in said.stderr) == (2, True)
    said = call(main, "simulate", place, "--kind", "ct", "-o", tmp_path / "a.npy")
    assert (said.returncode, "CT is simulated of scans" in said.stderr) == (2, True)
    again = tmp_path / "half.npy"
    said = call(main, "simulate", again, "--kind", "mri", "--acceleration", 2, "--centre", 0.2,
                "-o", tmp_path / "a.npy")  # fmt: skip
    assert "47% of k-space were measured" in said.stderr  # 8 of 17 columns


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("ct", ("--views", 40), "views: for scans"),
        ("ct", ("--views", 23), "views: for scans"),  # the default, stated
        ("ct", ("--photons", 1e4, "--plane", "axial"), "photons, plane: for scans"),
        ("mri", ("--acceleration", 8), "acceleration: for scans"),
        ("mri", ("--reduce", 2, "--volume", 0), "reduce, volume: for scans"),
    ],
)
def test_options_that_raw_data_do_not_read_are_refused_by_name(tmp_path, kind, options, named):
    """Before the prior is loaded: there is none."""
    place = sinogram(tmp_path) if kind == "ct" else kspace(tmp_path)
    said = call(main, f"reconstruct-{kind}", place, "--checkpoint", tmp_path, *FAST, *options, "-o",
                tmp_path / "o.nii")  # fmt: skip
    assert said.returncode == 2
    assert said.stderr.startswith(f"error: {named}")


def test_in_a_folder_with_scans_too_they_are_noted(tmp_path, priors):
    place, default = kspace(tmp_path), ReconstructMri(Machine(), priors / "mri")
    before = default.read(place).notes
    predict = ReconstructMri(Machine(), priors / "mri", mri=MriOptions(acceleration=8.0))
    (note,) = set(predict.read(place).notes) - set(before)
    assert note.startswith("not used: acceleration; raw data")


@pytest.mark.slow
def test_the_noise_level_of_kspace_can_be_stated(tmp_path, priors):
    """The result depends on it, and the record has it."""
    place, results = kspace(tmp_path), []
    for noise in (0.01, 0.1):
        out = tmp_path / f"{noise}.nii"
        said = call(main, "reconstruct-mri", place, "--checkpoint", priors / "mri", *FAST,
                    "--noise", noise, "-o", out)  # fmt: skip
        assert said.returncode == 0, said.stderr
        record = json.loads((tmp_path / f"{noise}-record.json").read_text())
        assert record["measurement"] == {"noise": noise}
        results.append(np.asarray(nibabel.load(out).dataobj))
        assert results[-1].shape == (17, 21, 1)
    assert not np.array_equal(*results)


def test_an_option_of_the_other_modality_is_refused(tmp_path):
    scan = nifti_file(tmp_path / "scan.nii", head()[None])
    said = call(main, "simulate", scan, "--kind", "mri", "--views", 9, "-o", tmp_path / "k.npy")
    assert (said.returncode, "views: not for --kind mri" in said.stderr) == (2, True)


def test_info_on_raw_data_refuses_options_of_scans_and_prints_notes(tmp_path):
    place = kspace(tmp_path)
    said = call(main, "info", place, "--volume", 2)
    assert (said.returncode, said.stderr) == (2, "error: volume: for scans; k.npy is raw data\n")
    about = json.loads(place.with_suffix(".json").read_text())
    np.save(tmp_path / "mask.npy", np.ones(17))
    values = np.load(place)
    values[..., :3] = 0
    np.save(place, values)
    place.with_suffix(".json").write_text(json.dumps(about | {"mask": "mask.npy"}))
    said = call(main, "info", place)
    assert said.stdout.startswith("k-space: 1 x 1 x 21 x 17; 82% sampled")
    assert "63 of the 357 frequencies of the mask" in said.stdout


def test_attributes_of_a_source_that_has_none_are_refused(tmp_path, priors):
    said = call(main, "reconstruct-mri", kspace(tmp_path), "--checkpoint", priors / "mri", *FAST,
                "--keep", "PatientName", "-o", tmp_path / "o")  # fmt: skip
    assert (said.returncode, "the source is not DICOM" in said.stderr) == (2, True)
    assert not (tmp_path / "o").exists()
    assert "step" not in said.stderr  # before any draw


def test_attributes_that_a_source_lacks_are_named_before_any_draw(tmp_path, priors):
    source = write_series(tmp_path / "scan", head(16, 16)[None] * 100)
    said = call(main, "reconstruct-ct", source, "--checkpoint", priors / "ct", *FAST, "--views", 9,
                "--spacing", "ignore", "--keep", "PatientAge", "-o", tmp_path / "o")  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert said.stderr.count("the source has no PatientAge; left out") == 1
    assert said.stderr.index("PatientAge") < said.stderr.index("step")


def test_a_standard_deviation_of_one_draw_is_refused_before_it(tmp_path, priors):
    said = call(main, "reconstruct-mri", kspace(tmp_path), "--checkpoint", priors / "mri", *FAST,
                "--deviation", tmp_path / "s.nii", "-o", tmp_path / "o.nii")  # fmt: skip
    assert (said.returncode, "requires at least 2 draws, got 1" in said.stderr) == (2, True)
    assert "step" not in said.stderr


@pytest.mark.slow
def test_uncertain_voxels_are_those_above_the_limit(tmp_path, priors):
    """As a Segmentation and as NIfTI, of the standard deviation that is written beside them."""
    values = head(16, 16)[None] * 1000 - 500
    source = write_series(tmp_path / "scan", values, spacing=(3.0, 2.0, 2.0))
    options = ("--checkpoint", priors / "ct", "--draws", 2, "--steps", 2, "--views", 9,
               "--threads", 1, "--uncertain-above", 30)  # fmt: skip
    for end in ("dcm", "nii"):
        said = call(main, "reconstruct-ct", source, *options, "-o", tmp_path / f"{end}.nii.gz",
                    "--deviation", tmp_path / f"{end}-std.nii",
                    "--uncertain", tmp_path / f"mask.{end}")  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert str(tmp_path / f"mask.{end}") in said.stdout.splitlines()
    std = nifti.read(tmp_path / "nii-std.nii").voxels
    assert 0 < (std > 30).mean() < 1
    assert np.array_equal(nifti.read(tmp_path / "mask.nii").voxels, std > 30)
    segments = pydicom.dcmread(tmp_path / "mask.dcm")
    assert segments.pixel_array.sum() == (std > 30).sum()
    assert segments.SegmentSequence[0].SegmentLabel == "Uncertain: std of draws above 30 HU"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--uncertain", "folder"), "expected a .dcm (Segmentation), .nii or .nii.gz"),
        (("--uncertain-above", 3), "and --uncertain with a file to write"),
        (("--uncertain", "o.nii", "--draws", 2), "expected different paths"),
        (("--uncertain", "u.dcm", "--draws", 1), "uncertain: the standard deviation requires"),
    ],
)
def test_masks_that_cannot_be_written_are_refused(tmp_path, priors, words, reason, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call(main, "reconstruct-mri", kspace(tmp_path), "--checkpoint", priors / "mri", *FAST,
                "-o", "o.nii", *words)  # fmt: skip
    assert (said.returncode, reason in said.stderr) == (2, True), said.stderr
    assert "step" not in said.stderr


def test_ct_without_air_is_declared(tmp_path, priors):
    soft = nifti_file(tmp_path / "soft.nii", head(16, 16)[None] * 200 - 100)
    words = ("reconstruct-ct", soft, "--checkpoint", priors / "ct", *FAST, "--views", 9, "-o",
             tmp_path / "o.nii")  # fmt: skip
    said = call(main, *words)
    assert (said.returncode, "--modality ct" in said.stderr) == (2, True)
    said = call(main, *words, "--modality", "ct")
    assert said.returncode == 0, said.stderr
    folder = write_series(tmp_path / "dicom", head(16, 16)[None] * 100)
    said = call(main, "info", folder, "--modality", "mri")
    assert (said.returncode, "applies to NIfTI, .mha and .nrrd" in said.stderr) == (2, True)


# --- files that are there ------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["o.nii", "o-sheet.png", "o-record.json", "std.nii"])
def test_a_reconstruction_replaces_nothing_unasked(tmp_path, there):
    place = kspace(tmp_path)
    (tmp_path / there).write_text("mine")
    said = call(main, "reconstruct-mri", place, "--checkpoint", tmp_path, *FAST, "-o",
                tmp_path / "o.nii", "--deviation", tmp_path / "std.nii")  # fmt: skip
    assert said.returncode == 2
    assert f"{there}: already there" in said.stderr
    assert "--overwrite" in said.stderr
    assert (tmp_path / there).read_text() == "mine"


def test_a_reconstruction_replaces_what_it_is_asked_to(tmp_path, priors):
    (tmp_path / "o.nii").write_text("mine")
    said = call(main, "reconstruct-mri", kspace(tmp_path), "--checkpoint", priors / "mri", *FAST,
                "-o", tmp_path / "o.nii", "--overwrite")  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert nibabel.load(tmp_path / "o.nii").shape == (17, 21, 1)


@pytest.mark.parametrize("there", ["s.npy", "s.json"])
def test_a_simulation_replaces_nothing_unasked(tmp_path, there):
    scan = nifti_file(tmp_path / "scan.nii", head()[None])
    words = ("simulate", scan, "--kind", "mri", "-o", tmp_path / "s.npy")
    (tmp_path / there).write_text("mine")
    said = call(main, *words)
    assert (said.returncode, f"{there}: already there" in said.stderr) == (2, True)
    assert (tmp_path / there).read_text() == "mine"
    assert call(main, *words, "--overwrite").returncode == 0
    assert raw.read_kspace(tmp_path / "s.npy").values.shape == (1, 1, 21, 17)


def test_an_evaluation_replaces_nothing_unasked(tmp_path):
    (tmp_path / "metrics.json").write_text("mine")
    said = call(main, "evaluate", tmp_path, "-o", tmp_path)
    assert (said.returncode, "metrics.json: already there" in said.stderr) == (2, True)
