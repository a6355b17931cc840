"""Folders as people have them: what is learned from, what is left out and why, what is bad."""

import gzip
from pathlib import Path

import nibabel
import nibabel.testing
import numpy as np
import pydicom
import pytest
from made_scans import NAME, every, volume, write_series
from pydicom.data import get_testdata_file

from core.errors import InputError
from core.scans import dicom_file
from plugins.medical.data.folders import DicomFolder, FastMri, NiftiFolder, ScanFolder
from plugins.medical.data.label_maps import Content
from plugins.medical.data.survey import Selection, survey

CT, MR = Selection(modality="CT"), Selection(modality="MR")


def noisy(low=-900, high=1200, shape=(20, 24, 12), seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int16)


def organ(shape=(20, 24, 12), value=1, kind=np.uint8):
    """A ball of one value, as a segmentation has it."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return ((sum(g**2 for g in grids) < 0.8) * value).astype(kind)


def save(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def places(found):
    return sorted(str(entry.place.relative_to(found.root)) for entry in found.entries)


def reasons(found):
    return {str(one.place.relative_to(found.root)): one.reason for one in found.refused}


# --- label maps ----------------------------------------------------------------------------------


def test_of_totalsegmentators_layout_the_scans_alone_are_learned_from(tmp_path):
    for number in range(2):
        folder = tmp_path / f"s000{number}"
        save(folder / "ct.nii.gz", noisy(seed=number))
        for name in ("liver", "spleen", "rib_left_1"):
            save(folder / "segmentations" / f"{name}.nii.gz", organ())
    found = survey(tmp_path, CT)
    assert places(found) == ["s0000/ct.nii.gz", "s0001/ct.nii.gz"]
    assert {entry.patient for entry in found.entries} == {"s0000", "s0001"}
    assert len(found.refused) == 6
    assert all("a label map" in one.reason and not one.bad for one in found.refused)


def test_of_decathlons_layout_each_image_is_a_patient_and_labels_are_left_out(tmp_path):
    """Labels as float64, as nibabel writes NumPy's default: no type tells them from images."""
    for number in range(4):
        for folder in ("imagesTr", "imagesTs"):
            place = tmp_path / "Task09_Spleen" / folder / f"spleen_{folder[-1]}{number}.nii.gz"
            save(place, noisy(seed=number))
        labels = organ(value=number + 1, kind=np.float64)
        save(tmp_path / "Task09_Spleen" / "labelsTr" / f"spleen_r{number}.nii.gz", labels)
        (tmp_path / "Task09_Spleen" / "labelsTr" / f"._spleen_{number}.nii.gz").write_bytes(b"x")
    found = survey(tmp_path, CT)
    patients = {f"spleen_{end}{number}" for number in range(4) for end in "rs"}
    assert {entry.patient for entry in found.entries} == patients
    assert len(found.entries) == 8
    assert set(reasons(found).values()) == {"a label map of 2 values"}
    for split in ("train", "test"):
        assert len(NiftiFolder(split, root=tmp_path, size=16, count=3, test_share=0.5)) > 0


def test_channels_of_nnunet_are_one_patient(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        save(tmp_path / "Dataset001_x" / "imagesTr" / f"{name}.nii.gz", noisy())
        save(tmp_path / "volumes" / f"scan_{name[-1]}0{ord(name[0])}.nii.gz", noisy())
    found = {entry.patient for entry in survey(tmp_path, CT).entries}
    assert found == {"a", "b", "scan_0097", "scan_1097", "scan_0098", "scan_1098"}


def test_images_are_told_from_label_maps_by_their_values():
    def seen(values):
        content = Content()
        for part in np.array_split(np.asarray(values, np.float64).ravel(), 3):
            content.see(part)
        return content

    draw = np.random.default_rng(0)
    regions = draw.integers(0, 118, (12, 12, 12)).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    head = nibabel.load(Path(nibabel.testing.data_path) / "example4d.nii.gz").dataobj[..., 0]
    images = {
        "CT": noisy(),
        "CT above 0": noisy(0, 2000),
        "8 bits": noisy(0, 255),
        "head": head,
        "DICOM": pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array,
        "smooth, 8 bits": np.rint(np.add.outer(np.arange(200), np.arange(200)) / 4),
        "fractions": draw.random((20, 20)),
    }
    for name, values in images.items():
        assert not seen(values).reason, name
    labels = {
        "organ": organ(),
        "118 regions": regions,
        "few": draw.integers(0, 5, (40, 40)),
        "above 1000": regions * (regions > 60) * 10 + organ(regions.shape),
    }
    for name, values in labels.items():
        assert "a label map" in seen(values).reason, name
        assert not seen(values).is_image
    assert seen(np.zeros((9, 9))).reason == "all voxels have one value"


def test_files_named_as_probabilities_and_values_that_are_no_hounsfield_units(tmp_path):
    save(tmp_path / "sub-1_label-GM_probseg.nii.gz", np.random.default_rng(0).random((9, 9, 9)))
    save(tmp_path / "sub-1_T1w.nii.gz", noisy(0, 900))
    save(tmp_path / "sub-1_ct.nii.gz", noisy())
    found = survey(tmp_path, CT)
    assert places(found) == ["sub-1_ct.nii.gz"]
    assert "no value below 0" in reasons(found)["sub-1_T1w.nii.gz"]
    assert "probabilities" in reasons(found)["sub-1_label-GM_probseg.nii.gz"]
    found = survey(tmp_path, MR)
    assert places(found) == ["sub-1_T1w.nii.gz"]
    assert "as of CT" in reasons(found)["sub-1_ct.nii.gz"]


# --- modalities and formats ----------------------------------------------------------------------


def other_objects(folder):
    """A series of CT, and beside it what a hospital's export has."""
    write_series(folder / "ct")
    write_series(folder / "pt", change=every(Modality="PT"))
    write_series(folder / "mr", change=every(Modality="MR"))
    write_series(
        folder / "scout", volume(1), change=every(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    )
    write_series(
        folder / "screen", volume(1), change=every(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    )
    (report,) = write_series(folder / "report", volume(1)).iterdir()
    data = pydicom.dcmread(report)
    del data.Rows, data.Columns, data.PixelData
    data.save_as(report)
    return folder


def test_of_dicom_the_modality_that_is_wanted_alone_is_learned_from(tmp_path):
    found = survey(other_objects(tmp_path), CT)
    assert places(found) == ["ct"]
    said = reasons(found)
    assert said["pt"] == "modality PT; CT is expected"
    assert said["mr"] == "modality MR; CT is expected"
    assert {said[f"{name}/03.dcm"] for name in ("scout", "report")} == {"a localizer", "no image"}
    assert "secondary capture" in said["screen/03.dcm"]
    assert places(survey(tmp_path, MR)) == ["mr"]
    assert places(survey(tmp_path, Selection())) == ["ct", "mr"]


def test_an_empty_split_says_what_was_found(tmp_path):
    with pytest.raises(InputError, match="none of 1 patients falls into split test") as refused:
        ScanFolder("test", root=other_objects(tmp_path), test_share=0.0, modality="CT")
    said = str(refused.value).splitlines()
    assert "train: 1 scan of 1 patient, 5 slices; test: 0 scans" in said[1]
    assert "  left out, modality PT; CT is expected: 1 (pt)" in said


def test_one_nifti_file_hides_no_dicom(tmp_path):
    write_series(tmp_path / "a")
    save(tmp_path / "b" / "scan.nii.gz", noisy())
    dataset = ScanFolder("train", root=tmp_path, size=16, test_share=0.0)
    first = dataset.notes()[0]
    assert first.startswith(f"{tmp_path}: 2 scans of 2 patients, 17 slices; train: 2 scans")
    assert any("5 slices of 9x7" in line for line in dataset.notes())
    assert not [line for line in dataset.notes() if NAME in line]


def test_files_of_several_volumes_are_left_out_until_one_is_chosen(tmp_path):
    save(tmp_path / "a.nii.gz", noisy(0, 900, (20, 24, 12, 3)))
    save(tmp_path / "b.nii.gz", noisy(0, 900))
    found = survey(tmp_path, MR)
    assert places(found) == ["b.nii.gz"]
    assert reasons(found) == {"a.nii.gz": "3 volumes; choose one with volume, from 0"}
    chosen = survey(tmp_path, Selection(modality="MR", volume=2))
    assert places(chosen) == ["a.nii.gz", "b.nii.gz"]
    whole = np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj)
    assert np.array_equal(chosen.entries[0].scan().voxels, whole[..., 2].transpose(2, 1, 0))
    write_series(tmp_path / "c")
    with pytest.raises(InputError, match="volume: applies to NIfTI only"):
        DicomFolder("train", root=tmp_path, volume=0)


def test_a_series_in_several_folders_is_one_scan_and_copies_of_one_uid_are_several(tmp_path):
    """Exports split series over folders; anonymisers may give all series one UID."""
    write_series(tmp_path / "whole")
    for number, path in enumerate(sorted((tmp_path / "whole").iterdir())):
        folder = tmp_path / "split" / "PAT0" / f"DIR{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"IM{number:04d}")
    found = survey(tmp_path / "split", CT)
    assert [(len(entry.files), entry.shape) for entry in found.entries] == [(5, (5, 7, 9))]
    assert np.array_equal(found.entries[0].scan().voxels, volume())
    for name in "ab":
        write_series(tmp_path / "same" / name, series="1.2.3")
    assert places(survey(tmp_path / "same", CT)) == ["a", "b"]


def test_pairs_are_scans_and_headers_of_other_formats_are_not(tmp_path):
    pair = nibabel.Nifti1Pair(noisy(), np.eye(4))
    nibabel.save(pair, tmp_path / "a.hdr")
    (tmp_path / "b.hdr").write_text("ENVI\nsamples = 3\n")
    (tmp_path / "b.img").write_bytes(b"\0" * 9)
    found = survey(tmp_path, CT)
    assert [[path.name for path in entry.files] for entry in found.entries] == [["a.hdr", "a.img"]]
    assert not found.refused
    assert np.array_equal(found.entries[0].scan().voxels, noisy().transpose(2, 1, 0))


# --- bad scans -----------------------------------------------------------------------------------


def bad_scans(folder):
    """One good scan, and one of each kind of bad ones; the good one comes last."""
    save(folder / "p1" / "cut.nii.gz", noisy())
    whole = (folder / "p1" / "cut.nii.gz").read_bytes()
    (folder / "p1" / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "p2").mkdir()
    (folder / "p2" / "none.nii.gz").write_bytes(b"")
    sheared = np.eye(4)
    sheared[1, 2] = 0.3
    save(folder / "p3" / "tilted.nii", noisy(), sheared)

    def gap(number, data):
        data.ImagePositionPatient = [0, 0, 2.5 * number + 2.5 * (number > 2)]

    write_series(folder / "p4", change=gap)
    (folder / "p5").mkdir()
    (folder / "p5" / "03.dcm").write_bytes(b"\0" * 200)
    save(folder / "p6" / "good.nii", noisy())
    return folder


BAD = {
    "p1/cut.nii.gz": "is truncated",
    "p2/none.nii.gz": "header cannot be read",
    "p3/tilted.nii": "sheared by 16.7 degrees",
    "p4": "slices are missing",
    "p5/03.dcm": "not a DICOM file",
}


def test_all_bad_scans_are_named_with_their_paths_before_training(tmp_path):
    with pytest.raises(InputError, match="5 scans cannot be used") as refused:
        ScanFolder("train", root=bad_scans(tmp_path), test_share=0.0)
    lines = str(refused.value).splitlines()
    for line, (place, reason) in zip(sorted(lines[1:]), BAD.items(), strict=True):
        assert line.startswith(f"  {tmp_path / place}: ")
        assert reason in line
    assert "corrupt: skip" in lines[0]


def test_bad_scans_are_left_out_and_listed_where_that_is_stated(tmp_path):
    dataset = ScanFolder("train", root=bad_scans(tmp_path), size=16, test_share=0.0, corrupt="skip")
    assert "1 scan of 1 patient, 12 slices" in dataset.notes()[0]
    assert dataset[0]["image"].shape == (1, 16, 16)
    left = "\n".join(dataset.notes()[2:])
    assert all(place in left and reason in left for place, reason in BAD.items())


def test_what_is_excluded_by_name_or_path_is_not_read(tmp_path):
    bad_scans(tmp_path)
    exclude = ("cut.nii.gz", "p2/*", "*.dcm", "tilted*", "p4")
    found = survey(tmp_path, Selection(modality="CT", exclude=exclude))
    assert places(found) == ["p6/good.nii"]
    assert not [one for one in found.refused if one.bad]
    with pytest.raises(InputError, match=r"nothing below .* is named 'p7'"):
        survey(tmp_path, Selection(exclude=("p7", *exclude)))


def test_a_scan_that_breaks_when_it_is_drawn_is_named_with_its_path(tmp_path):
    """Damage in what is compressed: neither header nor length shows it."""
    place = save(tmp_path / "p1" / "scan.nii.gz", noisy(shape=(80, 80, 40)))
    held = bytearray(place.read_bytes())
    middle = len(held) // 2
    held[middle : middle + 2000] = b"\xff" * 2000
    place.write_bytes(held)
    dataset = NiftiFolder("train", root=tmp_path, size=16, test_share=0.0, modality="CT")
    with pytest.raises(InputError, match=r"leave it out by its name: --exclude") as refused:
        dataset[0]
    assert str(refused.value).startswith(f"{place}: ")


def test_the_length_of_a_compressed_file_is_read_from_its_end(tmp_path, monkeypatch):
    from core.scans import nifti

    place = save(tmp_path / "a.nii.gz", noisy(shape=(60, 60, 60)))
    taken = []
    whole = nifti._unpacked
    monkeypatch.setattr(nifti, "_unpacked", lambda path, n: taken.append(n) or whole(path, n))
    nifti.header_of(place)
    assert taken == [nifti.HEAD]
    held = gzip.decompress(place.read_bytes())
    place.write_bytes(gzip.compress(held[:500]) + gzip.compress(held[500:]))
    assert nifti.header_of(place).shape == (60, 60, 60)
    assert len(taken) == 3  # of members that are joined the bytes are counted


def test_undersampled_and_damaged_files_of_fastmri_are_found_before_training(tmp_path):
    import h5py

    for name, mask in (("a", [1] * 20), ("b", [1, 0] * 10)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["kspace"] = np.ones((2, 3, 40, 20), np.complex64)
            file["mask"] = np.array(mask, bool)
    (tmp_path / "c.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"c\.h5: cannot be read as HDF5"):
        FastMri("train", root=tmp_path, test_share=0.0)
    found = FastMri("train", root=tmp_path, test_share=0.0, corrupt="skip").notes()
    assert found[0] == f"{tmp_path}: 1 scan of 1 patient; train: 1 scan of 1 patient; " \
        "test: 0 scans of 0 patients, 0 slices"  # fmt: skip
    assert (
        "left out, k-space is undersampled; medical/kspace_folder learns from it: 1 (b.h5)" in found
    )


def test_each_header_of_dicom_is_read_once(tmp_path, monkeypatch):
    write_series(tmp_path / "a")
    read, load = [], dicom_file.load
    monkeypatch.setattr(
        dicom_file, "load", lambda path, **more: read.append(path) or load(path, **more)
    )
    (entry,) = survey(tmp_path, Selection()).entries
    assert sorted(read) == sorted(entry.files)
