"""Derived series: the source's geometry, and nothing of whose it is."""

import warnings

import numpy as np
import pydicom
import pydicom.data
import pytest
from made_scans import NAME, NUMBER, WAYS, every, write_series

from core.errors import InputError, StorageError
from core.scans import dicom, dicom_write
from core.scans.identity import VARIABLE
from plugins.medical.data.survey import Selection, survey

SHARED = {
    *("SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "Rows", "Columns"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "RescaleSlope"),
}


@pytest.mark.parametrize("ways", WAYS)
def test_a_round_trip_through_dicom_moves_no_voxel(tmp_path, ways):
    source = dicom.read(write_series(tmp_path / "in", ways=WAYS[ways]))
    dicom_write.write(tmp_path / "out", source.voxels, source, description="the same")
    again = dicom.read(tmp_path / "out")
    assert np.array_equal(again.voxels, source.voxels)
    assert again.affine == pytest.approx(source.affine, abs=1e-9)
    first = pydicom.dcmread(next((tmp_path / "in").iterdir()))
    for path in (tmp_path / "out").iterdir():
        header = pydicom.dcmread(path)
        assert header.FrameOfReferenceUID == first.FrameOfReferenceUID
        assert header.StudyInstanceUID == first.StudyInstanceUID
        assert header.SeriesInstanceUID != first.SeriesInstanceUID
        assert header.ImageType[0] == "DERIVED"
        assert "Not for diagnosis" in header.DerivationDescription


def told(number, data):
    """What a hospital writes into its headers."""
    for name in ("ReferringPhysicianName", "OperatorsName", "PatientAddress", "StudyDescription"):
        setattr(data, name, NAME)
    data.PatientBirthDate, data.StudyDate, data.AcquisitionTime = "19010203", "19990909", "101112"
    data.AccessionNumber, data.StationName = NUMBER, "CT99"
    block = data.private_block(0x0019, "A scanner's own", create=True)
    block.add_new(1, "LO", NAME)


def test_only_fields_on_the_list_are_the_sources(tmp_path):
    source = dicom.read(write_series(tmp_path / "in", change=told))
    dicom_write.write(tmp_path / "out", source.voxels, source, description="again")
    given = {
        tuple(data.ImagePositionPatient): data
        for data in map(pydicom.dcmread, (tmp_path / "in").iterdir())
    }
    written = list((tmp_path / "out").iterdir())
    assert len(written) == len(given) == 5
    for path in written:
        raw, data = path.read_bytes(), pydicom.dcmread(path)
        for word in (NAME, NUMBER, "19010203", "19990909", "101112", "CT99", "scanner"):
            assert word.encode() not in raw
        assert str(data.PatientID) == str(data.PatientName) == source.patient
        assert data.PatientIdentityRemoved == "YES"
        like = given[tuple(data.ImagePositionPatient)]
        same = {e.keyword for e in data if e.value not in ("", None) and e == like.get(e.tag)}
        assert same <= SHARED
        (of,) = data.SourceImageSequence
        assert of.ReferencedSOPInstanceUID == like.SOPInstanceUID


def test_fields_that_are_asked_for_are_kept_and_the_patient_no_longer_hidden(tmp_path):
    def japanese(number, data):
        data.SpecificCharacterSet, data.PatientName = ["", "ISO 2022 IR 87"], "Yamada^T=山田^太郎"

    source = dicom.read(write_series(tmp_path / "in", change=japanese))
    keep = ("PatientName", "StationName")
    assert list(dicom_write.kept(source, keep)) == ["PatientName"]
    dicom_write.write(tmp_path / "out", source.voxels, source, description="über", keep=keep)
    written = list(map(pydicom.dcmread, (tmp_path / "out").iterdir()))
    assert len(written) == 5
    for data in written:
        assert str(data.PatientName) == "Yamada^T=山田^太郎"
        assert data.SeriesDescription == "über. Not for diagnosis"
        assert data.PatientIdentityRemoved == "NO"
        assert "DeidentificationMethod" not in data
    for name, said in (
        ("PatientNme", "is not a DICOM keyword"),
        ("PixelSpacing", "is set by the result itself"),
    ):
        with pytest.raises(InputError, match=said):
            dicom_write.write(tmp_path / "x", source.voxels, source, description="", keep=(name,))


def uids_of(folder):
    """Study, frame of reference and the source's slices, by the place of a slice."""
    return {
        float(data.ImagePositionPatient[2]): (
            data.StudyInstanceUID, data.FrameOfReferenceUID,
            data.SourceImageSequence[0].ReferencedSOPInstanceUID,
        )
        for data in map(pydicom.dcmread, folder.iterdir())
    }  # fmt: skip


def test_uids_of_the_source_are_stated_or_replaced_by_keyed_hashes(tmp_path, monkeypatch):
    source = dicom.read(write_series(tmp_path / "in"))
    assert source.origin is not None

    def write(name, **options):
        dicom_write.write(tmp_path / name, source.voxels, source, description="", **options)
        (method,) = {
            tuple(pydicom.dcmread(path).DeidentificationMethod)
            for path in (tmp_path / name).iterdir()
        }
        assert all(len(text) <= 64 for text in method)  # LO
        return method[1]

    assert write("same") == "UIDs of the source retained"
    assert write("new", new_uids=True) == "UIDs replaced by keyed hashes"
    write("again", new_uids=True)
    monkeypatch.setenv(VARIABLE, "another key")
    write("other", new_uids=True)
    same, new, again, other = (uids_of(tmp_path / n) for n in ("same", "new", "again", "other"))
    origin = source.origin
    given = {origin.study, origin.frame_of_reference, *(one for _, one in origin.sources)}
    assert {uid for uids in same.values() for uid in uids} == given
    assert len({uid for uids in new.values() for uid in uids}) == len(given)
    assert new == again
    for uids in new.values(), other.values():
        written = {uid for group in uids for uid in group}
        assert not written & given
        assert all(uid.is_valid and uid.startswith("2.25.") for uid in written)
    assert not {uid for u in new.values() for uid in u} & {uid for u in other.values() for uid in u}
    held = b"".join(path.read_bytes() for path in (tmp_path / "new").iterdir())
    assert not [uid for uid in (*given, origin.series) if uid.encode() in held]


@pytest.mark.filterwarnings("ignore")  # pydicom warns of the value that is none
@pytest.mark.parametrize(("stated", "written"), [("FFP", "FFP"), (NAME, ""), (None, "")])
def test_the_patients_position_is_a_known_term_or_empty(tmp_path, stated, written):
    change = every(PatientPosition=stated) if stated else lambda number, data: None
    source = dicom.read(write_series(tmp_path / "in", change=change))
    dicom_write.write(tmp_path / "out", source.voxels, source, description="")
    found = {pydicom.dcmread(path).PatientPosition for path in (tmp_path / "out").iterdir()}
    assert found == {written}


@pytest.mark.filterwarnings("ignore")
def test_words_where_a_uid_should_be_are_not_copied_and_not_said(tmp_path):
    """pydicom warns of such a field, with its words."""
    names = ("StudyInstanceUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyDate")
    uid = every(FrameOfReferenceUID="1." + "9" * 80, **dict.fromkeys(names, NAME))
    write_series(tmp_path / "in", change=uid)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        source = dicom.read(tmp_path / "in")
        assert survey(tmp_path, Selection(modality="CT")).entries
        for folder, keep in (("out", ()), ("kept", ("StudyDate",))):
            dicom_write.write(tmp_path / folder, source.voxels, source, description="", keep=keep)
    assert not [str(one.message) for one in said]
    data = [pydicom.dcmread(path) for path in (tmp_path / "out").iterdir()]
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID"):
        (found,) = {one[name].value for one in data}
        assert found.is_valid
    assert len({one.SOPInstanceUID for one in data}) == 5


def test_a_series_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    source = dicom.read(write_series(tmp_path / "in"))

    def write(name, voxels=source.voxels):
        dicom_write.write(tmp_path / name, voxels, source, description="")

    with pytest.raises(InputError, match="is not an empty folder"):
        write("in")
    with pytest.raises(InputError, match="not finite"):
        write("out", np.where(source.voxels == 0, np.nan, source.voxels))
    with pytest.raises(InputError, match="expected voxels of shape"):
        write("out", source.voxels[1:])
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="nothing of it was written"):
        write("file/out")
    done = []

    def full(path):
        done.append(path)
        if len(done) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(dicom_write.files, "sync", full)
    with pytest.raises(StorageError, match=r"No space left.*make room"):
        write("out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in"]
    (tmp_path / "out").mkdir()  # an empty folder is as good as none
    write("out")
    assert len(list((tmp_path / "out").iterdir())) == 5


@pytest.mark.parametrize(("modality", "scale"), [("MR", 1e-3), ("MR", 1e6), ("CT", 1e4)])
def test_sixteen_bits_cover_the_range_to_half_a_step(tmp_path, modality, scale):
    like = dicom.read(write_series(tmp_path / "in", change=every(Modality=modality)))
    voxels = (np.random.default_rng(0).normal(size=like.voxels.shape) * scale).astype(np.float32)
    dicom_write.write(tmp_path / "out", voxels, like, description="")
    step = (float(voxels.max()) - float(voxels.min())) / 65534
    for k, path in enumerate(sorted((tmp_path / "out").iterdir())):
        data = pydicom.dcmread(path)
        found = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
        # Hounsfield units that fit are rounded to whole ones.
        assert np.abs(found - voxels[k]).max() <= 0.502 * max(step, modality == "CT")
