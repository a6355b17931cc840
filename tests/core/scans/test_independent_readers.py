"""Written files as others read them: dciodvfy, dcm2niix and SimpleITK, where they are installed."""

import importlib.util
import shutil
import subprocess

import nibabel
import numpy as np
import pytest
from made_scans import WAYS, every, volume, write_series

from core.scans import dicom, dicom_write, nifti
from core.scans.scan import Scan

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # of NIfTI's RAS
needs_dciodvfy = pytest.mark.skipif(
    not shutil.which("dciodvfy"), reason="needs Debian's dicom3tools"
)
needs_dcm2niix = pytest.mark.skipif(not shutil.which("dcm2niix"), reason="needs dcm2niix")
needs_itk = pytest.mark.skipif(not importlib.util.find_spec("SimpleITK"), reason="needs SimpleITK")


def written(tmp_path, ways="oblique", modality="CT"):
    """A source, and a result in its geometry."""
    change = every(Modality=modality, PatientPosition="HFS")
    source = dicom.read(
        write_series(tmp_path / "in", spacing=(2.5, 0.9, 0.7), ways=WAYS[ways], change=change)
    )
    dicom_write.write(tmp_path / "out", source.voxels, source, description="mean of draws")
    return source


def values_at(affine, voxels, source):
    """The values of a source at the voxels (k, i, j) of another image, by their places in LPS."""
    d, h, w = voxels.shape
    k, i, j = np.mgrid[:d, :h, :w].reshape(3, -1)
    there = affine @ np.stack([j, i, k, np.ones_like(k)])
    found = np.linalg.solve(source.affine, there)[:3]
    assert np.abs(found - np.rint(found)).max() < 1e-3  # of a voxel
    at = np.rint(found).astype(int)
    return source.voxels[at[2], at[1], at[0]].reshape(voxels.shape)


# --- dciodvfy ------------------------------------------------------------------------------------


def errors_of(path):
    """The errors that dciodvfy finds; it writes them, and warnings, to standard error."""
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines
    return [line for line in lines if line.startswith("Error")]


@needs_dciodvfy
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_dciodvfy_finds_no_error_in_a_series_and_in_a_map(tmp_path, modality):
    source = written(tmp_path, modality=modality)
    dicom_write.write_map(tmp_path / "map.dcm", np.abs(source.voxels), source, description="std")
    dicom_write.write_mask(
        tmp_path / "mask.dcm", 1 + (source.voxels > 0).astype(np.uint8), source,
        description="std", content="CLASSES",
        segments=[dicom_write.Segment(f"class {k}", f"CLASS-{k}", f"class {k}") for k in (1, 2)],
    )  # fmt: skip
    dicom_write.write(tmp_path / "new", source.voxels, source, description="", new_uids=True)
    folders = (tmp_path / "out", tmp_path / "new")
    objects = (tmp_path / "map.dcm", tmp_path / "mask.dcm")
    for path in (*objects, *(path for one in folders for path in one.iterdir())):
        assert not errors_of(path), path


@needs_dciodvfy
def test_dciodvfy_finds_no_error_in_a_series_of_a_nifti_source(tmp_path):
    scan = Scan(volume(), np.diag([0.7, 0.9, 2.5, 1.0]), "CT")
    dicom_write.write(tmp_path / "out", scan.voxels, scan, description="")
    for path in (tmp_path / "out").iterdir():
        assert not errors_of(path)


# --- geometry ------------------------------------------------------------------------------------


@needs_dcm2niix
@pytest.mark.parametrize("ways", WAYS)
def test_dcm2niix_finds_every_voxel_where_it_is(tmp_path, ways):
    source = written(tmp_path, ways)
    (tmp_path / "nii").mkdir()
    subprocess.run(
        ["dcm2niix", "-z", "n", "-f", "a", "-o", tmp_path / "nii", tmp_path / "out"],
        check=True, capture_output=True,
    )  # fmt: skip
    image = nibabel.load(tmp_path / "nii" / "a.nii")
    voxels = np.asarray(image.dataobj).transpose(2, 1, 0)
    assert voxels.shape == source.voxels.shape
    assert np.array_equal(values_at(LPS @ image.affine, voxels, source), voxels)


def of_itk(image):
    """Affine in LPS and voxels of an image of ITK."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    import SimpleITK

    return affine, SimpleITK.GetArrayFromImage(image)


@needs_itk
@pytest.mark.parametrize("ways", WAYS)
def test_simpleitk_finds_every_voxel_where_it_is(tmp_path, ways):
    import SimpleITK

    source = written(tmp_path, ways)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "out")))
    nifti.write(tmp_path / "a.nii.gz", source.voxels, source, description="")
    for image in (reader.Execute(), SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))):
        affine, voxels = of_itk(image)
        assert np.array_equal(values_at(affine, voxels, source), voxels)


@needs_itk
def test_simpleitk_agrees_on_a_nifti_whose_qform_and_sform_differ(tmp_path):
    """ITK takes the sform where it is a rotation; ours has the source's."""
    import SimpleITK

    image = nibabel.Nifti1Image(volume().transpose(2, 1, 0), np.diag([-2.0, 1.9, 2.8, 1.0]))
    turned = np.array([[0, -1.9, 0, 3], [2.0, 0, 0, 5], [0, 0, 2.8, 7], [0, 0, 0, 1]])
    image.set_qform(turned, code=1)
    image.set_sform(np.diag([-2.0, 1.9, 2.8, 1.0]), code=2)
    nibabel.save(image, tmp_path / "in.nii")
    source = nifti.read(tmp_path / "in.nii")
    nifti.write(tmp_path / "out.nii", source.voxels, source, description="")
    found = [of_itk(SimpleITK.ReadImage(str(tmp_path / f"{name}.nii"))) for name in ("in", "out")]
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert np.array_equal(found[0][1], found[1][1])
