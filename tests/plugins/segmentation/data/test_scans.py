"""Scans as images, and their masks as other programs read them: nibabel, SimpleITK, highdicom."""

import nibabel
import numpy as np
import pytest
from made_scans import WAYS, every, turned, volume, write_series
from typer.testing import CliRunner

from core.errors import InputError
from core.scans import dicom, nifti, packages, reading
from core.scans.scan import Scan
from plugins.segmentation.__main__ import app
from plugins.segmentation.data.labelled import pairs_of, read_labelled
from plugins.segmentation.data.scans import Slice, label_volume, scans_in, slice_pixels
from plugins.segmentation.inference.predictor import Segment
from plugins.segmentation.request import Scans

FEATURES = "{name: segmentation/filters, scales: [1.0]}"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # of NIfTI's RAS


def run(*words):
    done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def body(shape=(6, 40, 34)):
    """A bright box in a dark volume with noise, no two axes alike, and where it is."""
    inside = np.zeros(shape, np.uint8)
    inside[1:4, 8:20, 5:25] = 1
    noise = np.random.default_rng(0).normal(0, 20, shape)
    return np.rint(np.where(inside, 200, -150) + noise).astype(np.float32), inside


def affine(spacing=(0.9, 0.7, 2.5), origin=(-12.0, 30.0, 7.0)):
    """Oblique, with left and right exchanged."""
    across, down = turned()
    made = np.eye(4)
    made[:3, 0], made[:3, 1] = across * spacing[0], -down * spacing[1]
    made[:3, 2], made[:3, 3] = np.cross(across, down) * spacing[2], origin
    return made


def saved(path, voxels, matrix, dtype):
    """Of voxels d h w, by nibabel alone."""
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0).astype(dtype), matrix), path)


def fitted(folder, *more):
    out = folder.parent / "classifier"
    run("fit", folder, "--features", FEATURES, "--kind", "linear", "-o", out, "--threads", 1,
        "--low", -160, "--high", 240, *more)  # fmt: skip
    return out


def test_a_nifti_mask_has_the_affine_and_the_classes_of_the_scan(tmp_path):
    voxels, inside = body()
    (tmp_path / "in").mkdir()
    saved(tmp_path / "in" / "a.nii.gz", voxels, affine(), np.int16)
    saved(tmp_path / "in" / "a_mask.nii.gz", np.where(inside, 7, 2), affine(), np.uint8)
    out = fitted(tmp_path / "in", "--modality", "ct")
    # Another scan: the box elsewhere, its axes stored in another order.
    other, truth = (np.flip(x, 2) for x in body())
    (tmp_path / "new").mkdir()
    saved(
        tmp_path / "new" / "b.nii",
        other.transpose(1, 2, 0)[:, ::-1][:, :, ::-1],
        affine(),
        np.int16,
    )
    run("predict", tmp_path / "new" / "b.nii", "--classifier", out, "-o", tmp_path / "masks")
    found = nibabel.load(tmp_path / "masks" / "b.nii.gz")
    assert np.allclose(found.affine, affine(), atol=1e-5)
    assert found.get_data_dtype() == np.uint8
    assert found.header.get_intent()[0] == "label"
    stored = truth.transpose(1, 2, 0)[:, ::-1][:, :, ::-1].transpose(2, 1, 0)
    labels = np.asarray(found.dataobj)
    assert set(np.unique(labels)) == {2, 7}
    assert ((labels == 7) == stored).mean() > 0.98
    itk = pytest.importorskip("SimpleITK")
    image = itk.ReadImage(str(tmp_path / "masks" / "b.nii.gz"))
    at = image.TransformIndexToPhysicalPoint((3, 5, 2))
    assert np.allclose(at, (LPS @ affine() @ (3, 5, 2, 1))[:3], atol=1e-4)
    rows = (tmp_path / "masks" / "b-areas.csv").read_text().splitlines()
    count = int((labels == 7).sum())
    assert rows[2].split(",")[2] == str(count)
    assert float(rows[2].split(",")[4]) == pytest.approx(count * 0.9 * 0.7 * 2.5 / 1000, rel=1e-4)
    done = run("evaluate", tmp_path / "in", "--classifier", out)
    assert float(done.output.split("mean IoU")[1].split()[0]) > 0.9
    suggested = run("suggest", tmp_path / "new", "--classifier", out)
    assert sum("slice" in line for line in suggested.output.splitlines()) == 40


def test_a_dicom_series_gets_a_segmentation_that_highdicom_puts_over_it(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    voxels, inside = body()
    folder = tmp_path / "in" / "patient"
    write_series(folder, voxels, ways=WAYS["oblique"], change=every(PatientPosition="HFS"))
    scan = dicom.read(folder)
    # Its labels as dcm2niix would store them: rows upwards.
    stored = inside[:, ::-1]
    matrix = (
        LPS @ scan.affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 39], [0, 0, 1, 0], [0, 0, 0, 1]])
    )
    saved(tmp_path / "in" / "patient_mask.nii.gz", stored, matrix, np.uint8)
    out = fitted(tmp_path / "in", "--classes", "rest", "--classes", "box")
    run("predict", folder, "--classifier", out, "-o", tmp_path / "masks", "--nifti")
    found = highdicom.seg.segread(tmp_path / "masks" / "patient.dcm")
    assert [found.get_segment_description(1).SegmentLabel] == ["box"]
    assert found.number_of_segments == 1
    seen = found.get_volume(combine_segments=True)
    places = np.argwhere(inside)
    own = np.linalg.inv(seen.affine) @ scan.affine  # highdicom: (slice, row, column); LPS
    swap = np.eye(4)[[2, 1, 0, 3]]
    at = np.rint((own @ swap.T @ np.c_[places, np.ones(len(places))].T)[:3]).astype(int)
    assert seen.array[tuple(at)].mean() > 0.97
    assert seen.array.sum() == pytest.approx(inside.sum(), rel=0.05)
    beside = nifti.read(tmp_path / "masks" / "patient-mask.nii.gz")
    assert beside.voxels.sum() == seen.array.sum()


def test_axes_of_a_mask_may_be_stored_in_any_order_but_not_elsewhere(tmp_path):
    voxels = volume()
    saved(tmp_path / "a.nii", voxels, affine(), np.int16)
    labels = np.arange(voxels.size).reshape(voxels.shape)
    matrix = affine() @ np.array([[0, -1, 0, 8], [0, 0, 1, 0], [-1, 0, 0, 4], [0, 0, 0, 1.0]])
    # Index (a, b, c) of the mask is column 8 - b, row c, slice 4 - a of the scan.
    a, b, c = np.mgrid[:5, :9, :7]
    turned_labels = labels[4 - a, c, 8 - b]
    nibabel.save(nibabel.Nifti1Image(turned_labels.astype(np.int32), matrix), tmp_path / "m.nii")
    subject = label_volume(tmp_path / "m.nii", tmp_path / "a.nii", Scans())
    saved(tmp_path / "own.nii", labels, affine(), np.int32)
    again = label_volume(tmp_path / "own.nii", tmp_path / "a.nii", Scans())
    assert np.array_equal(subject, again)
    moved = affine(origin=(-12.0, 30.5, 7.0))
    saved(tmp_path / "moved.nii", labels, moved, np.int32)
    saved(tmp_path / "half.nii", labels + 0.5, affine(), np.float32)
    saved(tmp_path / "less.nii", labels[1:], affine(), np.int32)
    for name, words in (("moved", "elsewhere"), ("half", "whole numbers"), ("less", "4 x 7 x 9")):
        with pytest.raises(InputError, match=words):
            label_volume(tmp_path / f"{name}.nii", tmp_path / "a.nii", Scans())


def test_windows_are_in_hounsfield_units_or_percentiles(tmp_path):
    voxels = np.linspace(-1000, 1000, 4 * 5 * 5).reshape(4, 5, 5)
    saved(tmp_path / "ct.nii", voxels, np.eye(4), np.float32)
    saved(tmp_path / "mr.nii", np.abs(voxels), np.eye(4), np.float32)
    window = Scans(low=-160.0, high=240.0)
    every_ct = np.stack([slice_pixels(Slice(tmp_path / "ct.nii", k, window))[0] for k in range(4)])
    # Display turns rows and columns; values are compared sorted.
    expected = ((np.sort(voxels.ravel()) + 160) / 400).clip(0, 1) * 2 - 1
    assert np.allclose(np.sort(every_ct.ravel()), expected, atol=1e-5)
    half = Scans(percentile=50.0)
    every_mr = np.stack([slice_pixels(Slice(tmp_path / "mr.nii", k, half))[0] for k in range(4)])
    assert (every_mr >= 1 - 1e-6).mean() == pytest.approx(0.5, abs=0.02)
    with pytest.raises(InputError, match="its lower end first"):
        Scans(low=240.0, high=-160.0)


def test_slices_without_a_label_are_not_learned_from(tmp_path):
    labels = np.full((4, 6, 5), 255)
    labels[2, 1, 1], labels[2, 4, 3] = 0, 1
    saved(tmp_path / "a.nii", volume(4, 6, 5), np.eye(4), np.int16)
    saved(tmp_path / "a_mask.nii", labels, np.eye(4), np.uint8)
    found = read_labelled(pairs_of(tmp_path, scans=True))
    assert [one.number for one in found.files] == [2]
    assert sorted(found.masks[0].unique().tolist()) == [0, 1, 255]


def test_names_of_results_and_of_what_is_read(tmp_path):
    names = {"a.nii": "a.nii.gz", "a.nii.gz": "a.nii.gz", "b.HDR": "b.nii.gz", "c.dcm": "c.dcm",
             "series": "series.dcm", "d.jpg": "d.jpg.png", "e.png": "e.png"}  # fmt: skip
    assert {name: Segment.result_name(name) for name in names} == names
    write_series(tmp_path / "p" / "series")
    saved(tmp_path / "x.nii.gz", volume(), np.eye(4), np.int16)
    assert scans_in(tmp_path) == {"p/series": tmp_path / "p" / "series", "x": tmp_path / "x.nii.gz"}
    assert len(Segment.reads(tmp_path / "p" / "series")) == 5


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs nibabel.*pip install 'polymode\[scans\]'"):
        reading.read(tmp_path / "a.nii")
    with pytest.raises(InputError, match="needs pydicom"):
        reading.read(tmp_path)
    like = Scan(volume(), np.eye(4))
    from core.scans import dicom_write

    with pytest.raises(InputError, match="needs highdicom"):
        dicom_write.write_mask(
            tmp_path / "a.dcm", np.zeros(like.voxels.shape, np.uint8), like,
            description="", content="A", segments=[],
        )  # fmt: skip
