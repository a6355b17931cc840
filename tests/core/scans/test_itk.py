"""MetaImage and NRRD: as SimpleITK writes them, where it is installed."""

import numpy as np
import pytest
from made_scans import turned, volume

from core.errors import InputError
from core.scans import itk, nifti, reading
from plugins.medical.data.survey import Selection, survey

needs_itk = pytest.mark.skipif(not itk.is_installed(), reason="needs polymode[medical-formats]")


def image(voxels, spacing=(0.7, 0.9, 2.5)):
    """An image of ITK with its columns along `turned`'s axes."""
    import SimpleITK

    across, down = turned()
    found = SimpleITK.GetImageFromArray(voxels)
    found.SetSpacing(spacing)
    found.SetOrigin((-10, 20, 30))
    found.SetDirection(np.stack([across, down, np.cross(across, down)], 1).ravel().tolist())
    return found


@needs_itk
@pytest.mark.parametrize("end", itk.SUFFIXES)
def test_voxels_lie_where_itk_says(tmp_path, end):
    import SimpleITK

    path, made = tmp_path / f"a{end}", image(volume())
    SimpleITK.WriteImage(made, str(path), useCompression=True)
    found = reading.read(path)
    assert np.array_equal(found.voxels, volume())
    for i, j, k in ((0, 0, 0), (8, 2, 4), (3, 6, 1)):
        place = made.TransformIndexToPhysicalPoint((i, j, k))
        assert (found.affine @ [i, j, k, 1])[:3] == pytest.approx(place, abs=1e-6)
    nifti.write(tmp_path / "b.nii", found.voxels, found, description="")
    again = SimpleITK.ReadImage(str(tmp_path / "b.nii"))
    assert again.GetOrigin() == pytest.approx(made.GetOrigin(), abs=1e-4)
    assert again.GetDirection() == pytest.approx(made.GetDirection(), abs=1e-5)


@needs_itk
def test_a_file_of_two_axes_is_one_slice_and_one_of_colours_is_refused(tmp_path):
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()[0]), str(tmp_path / "a.mha"))
    assert np.array_equal(itk.read(tmp_path / "a.mha").voxels, volume()[:1])
    colours = SimpleITK.GetImageFromArray(np.zeros((4, 5, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colours, str(tmp_path / "b.mha"))
    with pytest.raises(InputError, match="3 numbers per voxel"):
        itk.read(tmp_path / "b.mha")


@needs_itk
@pytest.mark.parametrize("line", ["ElementDataFile = /etc/passwd", "ElementDataFile = other.raw"])
def test_a_file_whose_voxels_are_elsewhere_is_refused(tmp_path, line):
    head = "ObjectType = Image\nNDims = 2\nDimSize = 3 3\nElementType = MET_UCHAR\n"
    (tmp_path / "a.mha").write_text(f"{head}{line}\n")
    with pytest.raises(InputError, match="voxels are in another file"):
        itk.read(tmp_path / "a.mha")
    head = "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 3 3\nencoding: raw\ndata file: a.raw\n\n"
    (tmp_path / "a.nrrd").write_text(head)
    with pytest.raises(InputError, match="voxels are in another file"):
        itk.read(tmp_path / "a.nrrd")


@needs_itk
def test_sizes_are_checked_before_memory_and_damage_is_one_sentence(tmp_path):
    head = "ObjectType = Image\nNDims = 3\nDimSize = 30000 30000 30000\nElementType = MET_SHORT\n"
    (tmp_path / "a.mha").write_text(f"{head}ElementDataFile = LOCAL\n")
    with pytest.raises(InputError, match="claims 30000 x 30000 x 30000 voxels"):
        itk.read(tmp_path / "a.mha")
    import SimpleITK

    for end in itk.SUFFIXES:
        SimpleITK.WriteImage(image(volume()), str(tmp_path / f"c{end}"))
        held = (tmp_path / f"c{end}").read_bytes()
        (tmp_path / f"c{end}").write_bytes(held[:-100])
        with pytest.raises(InputError, match="damaged or truncated, copy it again"):
            itk.read(tmp_path / f"c{end}")
    (tmp_path / "b.nrrd").write_bytes(b"NRRD0004\nnonsense\n")
    with pytest.raises(InputError, match="cannot be read") as refused:
        itk.read(tmp_path / "b.nrrd")
    assert len(str(refused.value).splitlines()) == 1


@needs_itk
def test_of_slicers_folders_the_image_is_learned_from_and_its_segmentation_is_not(tmp_path):
    import SimpleITK

    voxels = np.random.default_rng(0).integers(-900, 900, (5, 20, 24)).astype(np.int16)
    SimpleITK.WriteImage(image(voxels), str(tmp_path / "ct.nrrd"))
    SimpleITK.WriteImage(image((voxels > 0).astype(np.uint8)), str(tmp_path / "ct.seg.nrrd"))
    found = survey(tmp_path, Selection(modality="CT"))
    assert [entry.files for entry in found.entries] == [(tmp_path / "ct.nrrd",)]
    assert found.entries[0].shape == (5, 20, 24)
    assert "a label map, by its name" in found.refused[0].reason


def test_without_simpleitk_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(itk, "is_installed", lambda: False)
    (tmp_path / "a.mha").write_text("")
    with pytest.raises(InputError, match=r"pip install 'polymode\[medical-formats\]'"):
        reading.read(tmp_path / "a.mha")
    (left,) = survey(tmp_path, Selection()).refused
    assert "needs SimpleITK" in left.reason
    assert not left.bad
