"""DICOM: every voxel where the file says it is, and one clear sentence for what makes no volume."""

import os
import resource
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import psutil
import pydicom
import pydicom.data
import pytest
from made_scans import NAME, NUMBER, WAYS, every, volume, write_series
from mutated import mutated
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    ParametricMapStorage,
    RLELossless,
    SegmentationStorage,
)

from core.errors import InputError
from core.scans import dicom, dicom_decoding, dicom_pixels, dicom_write, nifti, reading

COUNT = 2000 if os.environ.get("POLYMODE_TORTURE") else 100

UNCERTAIN = dicom_write.Segment("Uncertain", "UNCERTAIN", "Uncertain reconstruction")


def only(number, **fields):
    """A change of one file alone."""

    def change(at, data):
        if at == number:
            for name, value in fields.items():
                setattr(data, name, value)

    return change


def where(header, row, column):
    """PS3.3 C.7.6.2.1.1: the position of a pixel, by the standard's own formula."""
    across, down = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    spacing = [float(x) for x in header.PixelSpacing]
    return np.array(header.ImagePositionPatient, float) + (
        across * spacing[1] * column + down * spacing[0] * row
    )


@pytest.mark.parametrize("ways", WAYS)
def test_every_voxel_lies_where_its_file_says(tmp_path, ways):
    found = dicom.read(write_series(tmp_path / "in", ways=WAYS[ways], spacing=(2.5, 0.9, 0.7)))
    seen = set()
    for path in (tmp_path / "in").iterdir():
        header = pydicom.dcmread(path)
        stored = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        (k,) = [k for k in range(5) if (found.voxels[k] == stored).all()]
        seen.add(k)
        for row, column in ((0, 0), (6, 8), (2, 5)):
            said = found.affine @ [column, row, k, 1]
            assert said[:3] == pytest.approx(where(header, row, column), abs=1e-9)
    assert seen == set(range(5))


@pytest.mark.parametrize("ways", WAYS)
def test_a_round_trip_through_nifti_moves_no_voxel(tmp_path, ways):
    source = dicom.read(write_series(tmp_path / "in", ways=WAYS[ways]))
    nifti.write(tmp_path / "out.nii.gz", source.voxels, source, description="the same")
    image = nibabel.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), source.voxels)
    ras = np.diag([-1, -1, 1, 1]) @ source.affine
    assert image.affine == pytest.approx(ras, abs=1e-5)  # NIfTI keeps affines as float32


def test_a_scan_of_pydicom_is_read_as_pydicom_and_its_header_say():
    path = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    header = pydicom.dcmread(path)
    found = reading.read(Path(path))
    stored = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    inside = stored > dicom.PADDING
    assert np.array_equal(found.voxels[0][inside], stored[inside])
    assert found.modality == "CT"
    assert found.spacing == pytest.approx((5.0, *map(float, header.PixelSpacing)))
    assert found.patient.startswith("patient-")


def enhanced(number, data):
    """The first file becomes an object of all slices: a position for each, one orientation."""
    if number == 0:
        voxels = volume()
        data.NumberOfFrames = len(voxels)
        data.PixelData = (voxels + 1024).astype("<u2").tobytes()
        shared, own = pydicom.Dataset(), []
        shared.PlaneOrientationSequence = [pydicom.Dataset()]
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        shared.PixelMeasuresSequence = [pydicom.Dataset()]
        shared.PixelMeasuresSequence[0].PixelSpacing = [0.9, 0.7]
        for k in (3, 1, 0, 2, 4):
            group = pydicom.Dataset()
            group.PlanePositionSequence = [pydicom.Dataset()]
            group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 3 * k]
            own.append(group)
        data.SharedFunctionalGroupsSequence = [shared]
        data.PerFrameFunctionalGroupsSequence = own
        del data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing


def test_frames_of_one_file_are_slices(tmp_path):
    write_series(tmp_path / "in", change=enhanced)
    found = dicom.read(tmp_path / "in" / "03.dcm")
    assert np.array_equal(found.voxels, volume()[[2, 1, 3, 0, 4]])
    assert found.spacing == pytest.approx((3.0, 0.9, 0.7))


def test_white_and_black_are_exchanged_and_padding_is_air(tmp_path):
    def inverse(number, data):
        data.Modality, data.PhotometricInterpretation = "MR", "MONOCHROME1"

    found = dicom.read(write_series(tmp_path / "mr", change=inverse))
    assert np.array_equal(found.voxels, volume().max() + volume().min() - volume())

    def padded(number, data):
        values = np.full((7, 9), 1000, "<i2")
        values[0] = -2000
        data.PixelRepresentation, data.RescaleIntercept = 1, 0
        data.PixelData = values.tobytes()

    found = dicom.read(write_series(tmp_path / "ct", change=padded))
    assert (found.voxels[:, 0] == -1000).all()
    assert (found.voxels[:, 1:] == 1000).all()
    assert "45 padding voxels" in found.notes[0]


# --- what makes no volume ------------------------------------------------------------------------


def fractions(at, data):
    data.FloatPixelData, data.BitsAllocated = bytes(7 * 9 * 4), 32
    del data.PixelData


def half_inverted(at, data):
    data.Modality, data.PhotometricInterpretation = "MR", f"MONOCHROME{1 + at % 2}"


def tilted(at, data):
    data.ImagePositionPatient = [0, 0.7 * at, 2.5 * at]


BAD = {
    "missing slice": (
        only(2, ImagePositionPatient=[-10, 20, 36.0]),
        "missing, or belong to another series",
    ),
    "duplicate": (
        only(2, ImagePositionPatient=[-10, 20, 32.5]),
        "have the same ImagePositionPatient",
    ),
    "two orientations": (
        only(1, ImageOrientationPatient=[0, 1, 0, 0, 0, 1]),
        "ImageOrientationPatient differs",
    ),
    "sizes": (only(1, Rows=9, Columns=7), "of the same series has 9x7"),
    "spacings": (only(1, PixelSpacing=[0.8, 0.8]), "of the same series has 0.7 mm"),
    "tilted": (tilted, "a gantry tilt of 15.6 degrees"),
    "zero spacing": (every(PixelSpacing=[0, 0.7]), "PixelSpacing is 0 x 0.7 mm"),
    "no orientation": (
        every(ImageOrientationPatient=None),
        "ImageOrientationPatient is missing or not 6",
    ),
    "askew": (
        every(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]),
        "not two orthogonal unit vectors",
    ),
    "no slope": (every(RescaleSlope=0), "RescaleSlope is 0"),
    "colours": (every(SamplesPerPixel=3), "is a colour image"),
    "cut off": (every(PixelData=b"\0" * 60), "is truncated"),
    "shifted": (only(2, ImagePositionPatient=[-12, 20, 35]), "is 2 mm off the line"),
    "some inverted": (half_inverted, "separate the two"),
    "no frames": (every(NumberOfFrames=-1), "NumberOfFrames is not a positive integer"),
    "no size": (every(Rows=None), "Rows is not a positive integer"),
    "two sizes": (every(Rows=[7, 7]), "Rows is not a positive integer"),
    "palette": (every(PhotometricInterpretation="PALETTE COLOR"), "is a colour image"),
    "table": (
        every(ModalityLUTSequence=[pydicom.Dataset()]),
        "ModalityLUTSequence is not supported",
    ),
    "fractions": (fractions, "has FloatPixelData"),
    "endless": (every(RescaleSlope="1e38"), "give values that are not finite"),
    "far": (every(ImagePositionPatient=[0, 0, 1e300]), "ImagePositionPatient is missing or not 3"),
    "claims much": (
        every(Rows=30000, Columns=30000, NumberOfFrames=30000),
        "without PerFrameFunctionalGroupsSequence",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_makes_no_volume_is_one_sentence(tmp_path, kind):
    change, reason = BAD[kind]
    with pytest.raises(InputError, match=reason) as refused:
        dicom.read(write_series(tmp_path / "in", change=change))
    assert len(str(refused.value).splitlines()) == 1
    assert NAME not in str(refused.value)


@pytest.mark.parametrize(
    ("free", "frames", "reason"),
    [
        (8 << 30, 1, "claims 5 x 30000 x 30000 voxels, 34 GiB in memory"),
        (1 << 40, 1, "PixelData alone needs 1,800,000,000"),
        (1 << 40, 30000, "30000 frames without PerFrameFunctionalGroupsSequence"),
    ],
)
def test_a_header_that_claims_30000_cubed_takes_no_memory(
    tmp_path, monkeypatch, free, frames, reason
):
    """However much is free: too large, or more than the file holds."""
    size = every(Rows=30000, Columns=30000, NumberOfFrames=frames)
    write_series(tmp_path / "in", change=size)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    tracemalloc.start()
    with pytest.raises(InputError, match=reason):
        dicom.read(tmp_path / "in")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_not_a_number_is_refused(tmp_path):
    write_series(tmp_path / "in")
    path = next((tmp_path / "in").iterdir())
    held = path.read_bytes()
    position = f"{-10.0}\\20.0\\".encode()
    assert position in held
    path.write_bytes(held.replace(position, b"-10.0\\nan \\"))
    with pytest.raises(InputError, match=r"not 3 finite numbers|cannot be read"):
        dicom.read(tmp_path / "in")


@pytest.mark.slow
def test_a_deflated_file_is_not_unpacked(tmp_path):
    """A file of a few hundred kilobytes that would unpack to 300 MB of zeros."""
    write_series(tmp_path / "in", volume(1))
    (path,) = (tmp_path / "in").iterdir()
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.add_new(0x7FE10009, "OB", bytes(300 << 20))
    data.save_as(path)
    del data
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(InputError, match="decompressed size is unbounded"):
        dicom.read(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_short_file_is_refused_before_memory_is_taken_for_it(tmp_path):
    write_series(tmp_path / "in", change=every(Rows=2000, Columns=2000))
    tracemalloc.start()
    with pytest.raises(InputError, match="PixelData alone needs 8,000,000"):
        dicom.read(tmp_path / "in")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_pictures_of_another_kind_in_the_folder_are_another_series(tmp_path):
    """As exports have them: a report, and a screenshot is a colour image."""
    write_series(tmp_path / "in", series="1.2.3.1")
    write_series(tmp_path / "in" / "a", volume(1), series="1.2.3.2", change=every(
        SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
        Modality="ZWICKNAGL"))  # fmt: skip
    (report,) = write_series(tmp_path / "in" / "b", volume(1), series="1.2.3.3").iterdir()
    data = pydicom.dcmread(report)
    del data.Rows, data.Columns, data.PixelData
    data.save_as(report)
    with pytest.raises(InputError, match=r"2 series \(1: CT, 5 files of 9x7; 2: \?, 1 files"):
        dicom.read(tmp_path / "in")
    assert np.array_equal(dicom.read(tmp_path / "in", series=1).voxels, volume())
    with pytest.raises(InputError, match="is a colour image"):
        dicom.read(tmp_path / "in", series=2)
    with pytest.raises(InputError, match="contains no DICOM image"):
        dicom.read(report)


def test_what_stands_where_a_number_should_is_not_repeated(tmp_path):
    (path,) = write_series(tmp_path / "in", volume(1)).iterdir()
    whole = path.read_bytes()
    for right in (b"0.7\\0.7 ", b"2.5 "):
        assert whole.count(right) == 1
        path.write_bytes(whole.replace(right, NAME.encode()[: len(right)]))
        with pytest.raises(InputError) as refused:
            dicom.read(path)
        assert NAME[:3] not in str(refused.value)


def test_series_that_are_mixed_are_listed_and_chosen(tmp_path):
    write_series(tmp_path / "in" / "a", series="1.2.3.1")
    write_series(tmp_path / "in" / "b", volume(3, 4, 4), series="1.2.3.2")
    with pytest.raises(
        InputError, match=r"2 series \(1: CT, 5 files of 9x7; 2: CT, 3 files of 4x4"
    ):
        dicom.read(tmp_path / "in")
    assert dicom.read(tmp_path / "in", series=2).voxels.shape == (3, 4, 4)
    with pytest.raises(InputError, match="expected 1 to 2, got 3"):
        dicom.read(tmp_path / "in", series=3)


def test_what_nothing_decodes_says_what_to_install(tmp_path):
    def compressed(number, data):
        data.file_meta.TransferSyntaxUID = HTJ2KLossless
        data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7" + b"\0" * 60])
        data["PixelData"].is_undefined_length = True

    with pytest.raises(InputError, match=r"JPEG 2000.*install pylibjpeg and pylibjpeg-openjpeg"):
        dicom.read(write_series(tmp_path / "in", change=compressed))


def test_compressed_files_have_the_values_of_their_uncompressed_originals():
    """pydicom's own test files: one MR slice, stored plainly and by three lossless codecs."""
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    for name in ("jpeg_ls_lossless", "jp2klossless", "RLE"):
        path = Path(get_testdata_file(f"MR_small_{name}.dcm"))
        assert np.array_equal(dicom_pixels.read(path, plain.shape).stored[0], plain)
        if name != "RLE":
            assert np.array_equal(dicom_decoding.decode(path, plain.nbytes), plain)


def test_a_frame_of_many_scans_is_refused_before_it_is_decoded(tmp_path):
    """Labelled as Baseline, which has one scan; decoders look at the stream alone."""
    stream = b"\xff\xd8" + b"\xff\xda\x00\x02" * 101 + b"\xff\xd9"

    def compressed(number, data):
        data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        data.PixelData = pydicom.encaps.encapsulate([stream])
        data["PixelData"].is_undefined_length = True

    with pytest.raises(InputError, match=r"a frame has 101 scans, expected at most 100"):
        dicom.read(write_series(tmp_path / "in", change=compressed))


def test_a_file_that_ends_gdcms_process_is_refused(tmp_path):
    """JPEG 2000 whose sizes are overwritten."""
    whole = Path(get_testdata_file("MR_small_jp2klossless.dcm")).read_bytes()
    at, path = whole.index(b"\xff\x4f\xff\x51"), tmp_path / "a.dcm"
    path.write_bytes(whole[: at + 8] + b"\xff" * 40 + whole[at + 48 :])
    with pytest.raises(InputError, match="cannot decode PixelData: GDCM does not decode it"):
        dicom_pixels.read(path, (64, 64))


def test_a_folder_without_pictures_is_said(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(InputError, match="contains no DICOM image"):
        dicom.read(tmp_path / "in")
    with pytest.raises(InputError, match="no such file or folder"):
        dicom.read(tmp_path / "elsewhere")


# --- what is a volume although it looks like none -------------------------------------------------


@pytest.mark.parametrize("ways", WAYS)
def test_positions_that_the_scanner_rounded_are_a_volume(tmp_path, ways):
    """0.625 mm apart, written with one decimal: gaps of 0.6 and 0.7 mm."""
    normal = np.cross(*map(np.asarray, WAYS[ways]))

    def rounded(number, data):
        at = np.array([-10, 20, 30]) + number * 0.625 * normal
        data.ImagePositionPatient = [f"{x:.1f}" for x in at]

    source = write_series(tmp_path / "in", volume(11), ways=WAYS[ways], change=rounded)
    found = dicom.read(source)
    assert np.array_equal(found.voxels, volume(11))
    # Both ends are rounded, by half a unit in each of three coordinates at most.
    assert found.spacing[0] == pytest.approx(0.625, abs=0.1 * np.sqrt(3) / 10)


@pytest.mark.parametrize("lost", [1, 4, 9])
@pytest.mark.parametrize("decimals", [0, 1])
def test_a_slice_is_missed_however_positions_are_rounded(tmp_path, lost, decimals):
    def rounded(number, data):
        place = number + (number >= lost)
        data.ImagePositionPatient = ["0", "0", f"{place * 1.25:.{decimals}f}"]

    with pytest.raises(InputError, match="slices are missing"):
        dicom.read(write_series(tmp_path / "in", volume(10), change=rounded))


def test_positions_decide_of_a_tilt_and_not_the_header(tmp_path):
    """Exporters keep GantryDetectorTilt in volumes that they resampled."""
    found = dicom.read(write_series(tmp_path / "in", change=every(GantryDetectorTilt=12)))
    assert np.array_equal(found.voxels, volume())
    assert found.notes == ("GantryDetectorTilt is 12 degrees, but the slices are not sheared",)


def bare(path, first):
    """The file without its preamble, from its meta information or its data set on."""
    held = path.read_bytes()
    assert held[128:132] == b"DICM"
    start = 132 if first == "meta" else 132 + 12 + int.from_bytes(held[140:144], "little")
    path.write_bytes(held[start:])


@pytest.mark.parametrize("first", ["meta", "data"])
def test_files_without_a_preamble_are_read(tmp_path, first):
    """Two of five; as archives dump them, with their meta information or without."""
    write_series(tmp_path / "in")
    for path in sorted((tmp_path / "in").iterdir())[1:3]:
        bare(path, first)
        assert dicom.read(path).voxels.shape == (1, 7, 9)
    assert np.array_equal(dicom.read(tmp_path / "in").voxels, volume())


def test_a_bare_data_set_of_implicit_types_is_read_and_a_compressed_one_refused(tmp_path):
    (path,) = write_series(tmp_path / "in", volume(1)).iterdir()
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.save_as(path, implicit_vr=True, little_endian=True)
    bare(path, "data")
    assert np.array_equal(dicom.read(path).voxels, volume(1))
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.compress(RLELossless)
    data.save_as(path)
    bare(path, "data")
    with pytest.raises(InputError, match="its transfer syntax is missing"):
        dicom.read(path)


def test_files_that_are_named_as_dicom_and_are_none_are_counted(tmp_path):
    write_series(tmp_path / "in")
    (tmp_path / "in" / "99.dcm").write_bytes(b"\0" * 300)
    (tmp_path / "in" / "notes.txt").write_text("of the export")
    assert dicom.read(tmp_path / "in").notes == (
        "1 file whose name ends as DICOM's is not DICOM: not read",
    )


def test_mutated_files_give_a_scan_or_one_clear_error(tmp_path):
    """A slice, an object of many, and one compressed by runs; no file takes memory to speak of."""
    (plain,) = write_series(tmp_path / "a", volume(1)).iterdir()
    many = write_series(tmp_path / "b", change=enhanced) / "03.dcm"
    packed = pydicom.dcmread(plain)
    packed.compress(RLELossless)
    packed.save_as(tmp_path / "c.dcm")
    wholes = [path.read_bytes() for path in (plain, many, tmp_path / "c.dcm")]
    path, read, said = tmp_path / "d.dcm", 0, []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(COUNT):
        path.write_bytes(mutated(wholes[seed % 3], seed))
        try:
            read += bool(np.isfinite(dicom.read(path).voxels).all())
        except InputError as error:
            said.append(str(error))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert read + len(said) == COUNT
    assert min(read, len(said)) > COUNT // 20
    assert not [one for one in said if NAME[:6] in one or NUMBER in one or "\n" in one]


@pytest.mark.slow
def test_a_parametric_map_has_values_unit_and_geometry(tmp_path):
    """Read by pydicom: each frame by its position; PS3.3 A.75, C.7.6.16.2.11."""
    write_series(tmp_path / "in")
    scan = dicom.read(tmp_path / "in")
    values = np.random.default_rng(0).random(scan.voxels.shape, np.float32) * 40
    dicom_write.write_map(tmp_path / "a.dcm", values, scan, description="standard deviation")
    found = pydicom.dcmread(tmp_path / "a.dcm")
    assert found.SOPClassUID == ParametricMapStorage
    assert scan.origin is not None
    assert found.FrameOfReferenceUID == scan.origin.frame_of_reference
    assert found.StudyInstanceUID == scan.origin.study
    shared = found.SharedFunctionalGroupsSequence[0]
    slices, rows, columns = scan.spacing
    measures = shared.PixelMeasuresSequence[0]
    assert measures.PixelSpacing == pytest.approx([rows, columns])
    assert measures.SpacingBetweenSlices == pytest.approx(slices)
    mapping = shared.RealWorldValueMappingSequence[0]
    unit = mapping.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("[hnsf'U]", "UCUM")  # HU
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    places = [
        frame.PlanePositionSequence[0].ImagePositionPatient
        for frame in found.PerFrameFunctionalGroupsSequence
    ]
    assert len(places) == len(values)
    for frame, place in zip(found.pixel_array, places, strict=True):
        k = np.linalg.solve(scan.affine, [*map(float, place), 1])[2]  # its slice
        assert abs(k - round(k)) < 1e-6
        assert np.array_equal(frame, values[round(k)])
    assert NAME[:6] not in str(found)
    assert NUMBER not in str(found)


@pytest.mark.slow
def test_a_segmentation_has_the_mask_and_the_geometry_of_its_source(tmp_path):
    """Read by pydicom: each frame by its position; PS3.3 A.51, C.8.20."""
    write_series(tmp_path / "in")
    scan = dicom.read(tmp_path / "in")
    inside = np.random.default_rng(0).random(scan.voxels.shape) > 0.7
    inside[1] = False  # an empty frame is a frame
    inside = inside.astype(np.uint8)
    dicom_write.write_mask(
        tmp_path / "a.dcm",
        inside,
        scan,
        description="std",
        content="UNCERTAIN",
        segments=[UNCERTAIN],
    )
    found = pydicom.dcmread(tmp_path / "a.dcm")
    assert found.SOPClassUID == SegmentationStorage
    assert scan.origin is not None
    assert found.FrameOfReferenceUID == scan.origin.frame_of_reference
    assert found.StudyInstanceUID == scan.origin.study
    (segment,) = found.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Uncertain", "AUTOMATIC")
    assert found.SegmentationType == "BINARY"
    frames = found.PerFrameFunctionalGroupsSequence
    assert len(frames) == len(inside)
    for frame, group in zip(found.pixel_array, frames, strict=True):
        place = group.PlanePositionSequence[0].ImagePositionPatient
        k = np.linalg.solve(scan.affine, [*map(float, place), 1])[2]  # its slice
        assert abs(k - round(k)) < 1e-6
        assert np.array_equal(frame, inside[round(k)])
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPInstanceUID == scan.origin.sources[round(k)][1]
    assert NAME[:6] not in str(found)
    assert NUMBER not in str(found)
    with pytest.raises(InputError, match="expected a mask of shape"):
        dicom_write.write_mask(
            tmp_path / "b.dcm", inside[1:], scan, description="", content="A", segments=[UNCERTAIN]
        )
