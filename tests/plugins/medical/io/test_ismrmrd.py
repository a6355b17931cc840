"""ISMRMRD's files: lines put where they belong, and what is no Cartesian image is refused."""

import os
import resource

import h5py
import numpy as np
import pytest
from mutated import mutated

from core.errors import InputError
from plugins.medical.io import raw

COUNT = 2000 if os.environ.get("POLYMODE_TORTURE") else 60
INDEX = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase",
         "repetition", "set", "segment")  # fmt: skip
HEAD = np.dtype([
    ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"),
    ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,)),
    ("number_of_samples", "<u2"), ("available_channels", "<u2"), ("active_channels", "<u2"),
    ("channel_mask", "<u8", (16,)), ("discard_pre", "<u2"), ("discard_post", "<u2"),
    ("center_sample", "<u2"), ("encoding_space_ref", "<u2"), ("trajectory_dimensions", "<u2"),
    ("sample_time_us", "<f4"), ("position", "<f4", (3,)), ("read_dir", "<f4", (3,)),
    ("phase_dir", "<f4", (3,)), ("slice_dir", "<f4", (3,)),
    ("patient_table_position", "<f4", (3,)),
    ("idx", [*((name, "<u2") for name in INDEX), ("user", "<u2", (8,))]),
    ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,)),
])  # fmt: skip
LINE = np.dtype([
    ("head", HEAD), ("traj", h5py.vlen_dtype(np.float32)), ("data", h5py.vlen_dtype(np.float32)),
])  # fmt: skip
XML = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>{fx}</x><y>{fy}</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{y}</x><y>{y}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>{rx}</x><y>{fy}</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum>
<center>{centre}</center></kspace_encoding_step_1></encodingLimits>
<trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"""


def transformed(x, *axes):
    moved = np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho")
    return np.fft.fftshift(moved, axes).astype(np.complex64)


def written(path, lines, *, x, y, z=1, fx=40.0, fy=20.0, rx=None, trajectory="cartesian",
            centre=None, change=""):  # fmt: skip
    """A file of lines: (values of coils and samples, entries of the head)."""
    table = np.zeros(len(lines), LINE)
    for row, (values, said) in zip(table, lines, strict=True):
        head = row["head"]
        head["number_of_samples"], head["active_channels"] = values.shape[1], len(values)
        head["center_sample"], head["sample_time_us"] = values.shape[1] // 2, 5.0
        for name, value in said.items():
            if name in INDEX:
                head["idx"][name] = value
            else:
                head[name] = value
        row["data"] = np.ascontiguousarray(values.astype(np.complex64)).view(np.float32).ravel()
        row["traj"] = np.zeros(0, np.float32)
    text = XML.format(x=x, y=y, z=z, fx=fx, fy=fy, rx=fx if rx is None else rx, last=y - 1,
                      centre=y // 2 if centre is None else centre,
                      trajectory=trajectory)  # fmt: skip
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        group["xml"] = np.array([change + text], dtype=object).astype(h5py.string_dtype())
        group.create_dataset("data", data=table, dtype=LINE)
    return path


def whole(slices=2, coils=3, x=16, y=10):
    """Images within the middle half of the readout, and their k-space."""
    draw = np.random.default_rng(0)
    image = draw.normal(size=(slices, coils, x, y)) + 1j * draw.normal(size=(slices, coils, x, y))
    image[:, :, : x // 4], image[:, :, x // 4 + x // 2 :] = 0, 0
    return image, transformed(image, 2, 3)


def lines_of(k, **more):
    return [
        (k[s, :, :, y], {"kspace_encode_step_1": y, "slice": s, **more})
        for s in range(len(k))
        for y in range(k.shape[-1])
    ]


def test_lines_in_any_order_make_the_slices(tmp_path):
    _, k = whole()
    lines = lines_of(k)
    order = np.random.default_rng(1).permutation(len(lines))
    found = raw.read(written(tmp_path / "a.h5", [lines[i] for i in order], x=16, y=10))
    assert np.array_equal(found.values, k)
    assert found.mask.all()
    assert found.pixel_mm == (2.5, 2.0)
    assert raw.kspace_slices(tmp_path / "a.h5") == 2


def test_the_patient_of_the_header_is_known_and_split_by(tmp_path):
    _, k = whole()
    path = written(tmp_path / "a.h5", lines_of(k), x=16, y=10)
    assert raw.hdf5_patient(path) == ""
    with h5py.File(path, "r+") as file:
        text = file["dataset"]["xml"][0].decode()
        where = "<subjectInformation><patientID> 17 </patientID></subjectInformation><encoding>"
        file["dataset"]["xml"][0] = text.replace("<encoding>", where)
    assert raw.hdf5_patient(path) == "17"


def test_an_oversampled_readout_is_cropped_to_the_field_of_view(tmp_path):
    image, k = whole()
    found = raw.read_kspace(written(tmp_path / "a.h5", lines_of(k), x=16, y=10, rx=20.0))
    assert np.allclose(found.values, transformed(image[:, :, 4:12], 2, 3), atol=1e-5)


def test_lines_that_were_not_measured_are_zero_and_averages_averaged(tmp_path):
    _, k = whole()
    lines = [line for line in lines_of(k) if line[1]["kspace_encode_step_1"] not in (0, 3)]
    again = [(values + 2, {**said, "average": 1}) for values, said in lines]
    found = raw.read_kspace(written(tmp_path / "a.h5", [*lines, *again], x=16, y=10))
    expected = k + 1
    expected[..., [0, 3]] = 0
    assert np.allclose(found.values, expected, atol=1e-5)
    assert found.mask.any(0).tolist() == [y not in (0, 3) for y in range(10)]


def test_partial_fourier_and_echo_are_placed_by_their_centres(tmp_path):
    """Seven of ten lines, whose zero frequency is number 2, and twelve of sixteen samples."""
    _, k = whole()
    lines = [
        (k[s, :, 4:, y], {"kspace_encode_step_1": y - 3, "slice": s, "center_sample": 4})
        for s in range(2)
        for y in range(3, 10)
    ]
    found = raw.read_kspace(written(tmp_path / "a.h5", lines, x=16, y=10, centre=2))
    expected = k.copy()
    expected[..., :4, :], expected[..., :3] = 0, 0
    assert np.array_equal(found.values, expected)


def test_partitions_become_slices(tmp_path):
    _, k = whole(slices=4)
    volume = transformed(k, 0)
    lines = [
        (volume[z, :, :, y], {"kspace_encode_step_1": y, "kspace_encode_step_2": z})
        for z in range(4)
        for y in range(10)
    ]
    found = raw.read_kspace(written(tmp_path / "a.h5", lines, x=16, y=10, z=4))
    assert np.allclose(found.values, k, atol=1e-5)
    with pytest.raises(InputError, match="partitions are sampled differently"):
        raw.read_kspace(written(tmp_path / "b.h5", lines[1:], x=16, y=10, z=4))


def test_noise_comes_from_noise_acquisitions_and_others_are_noted(tmp_path):
    """Of a standard deviation of 0.5 in twice the time of a sample: 0.5 sqrt 2."""
    _, k = whole()
    draw = np.random.default_rng(2)
    noise = 0.5 * (draw.normal(size=(3, 4096)) + 1j * draw.normal(size=(3, 4096)))
    lines = [(noise, {"flags": 1 << 18, "sample_time_us": 10.0}), *lines_of(k)]
    lines += [(k[0, :, :, 0], {"flags": 1 << 19}), (k[0, :, :, 0], {"flags": 1 << 26})]
    found = raw.read_kspace(written(tmp_path / "a.h5", lines, x=16, y=10))
    assert found.noise == pytest.approx(0.5 * 2**0.5, rel=0.02)  # of 24,576 numbers
    assert np.array_equal(found.values, k)
    assert found.notes == (
        "1 acquisitions of calibration alone were not used",
        "1 acquisitions of no image were not used",
    )


def refused(tmp_path):
    """A change of a good file, and what is said."""
    _, k = whole()
    lines = lines_of(k)
    return {
        "radial": (lines, {"trajectory": "radial"}, "its trajectory is 'radial'"),
        "epi": (lines_of(k, flags=1 << 21), {}, "lines read backwards"),
        "repetitions": ([*lines, *lines_of(k, repetition=1)], {}, "holds 2 repetitions"),
        "sizes": ([*lines, (k[0, :, :8, 0], {})], {}, "its lines have 2 sizes"),
        "outside": ([*lines, (k[0, :, :, 0], {"kspace_encode_step_1": 99})], {}, "outside of the"),
        "slices": (lines[1:], {}, "slices are sampled differently"),
        "entity": (lines, {"change": '<!DOCTYPE a [<!ENTITY b "c">]>'}, "declares a document type"),
        "no xml": (lines, {"change": "<"}, "not valid"),
    }


@pytest.mark.parametrize("kind", sorted(refused(None)))
def test_what_is_no_cartesian_image_is_refused(tmp_path, kind):
    lines, options, reason = refused(tmp_path)[kind]
    with pytest.raises(InputError, match=reason):
        raw.read_kspace(written(tmp_path / "a.h5", lines, x=16, y=10, **options))


def test_a_table_that_lies_elsewhere_is_refused(tmp_path):
    _, k = whole()
    written(tmp_path / "a.h5", lines_of(k), x=16, y=10)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["dataset"]["data"]
        file["dataset"]["data"] = h5py.ExternalLink("b.h5", "data")
    with pytest.raises(InputError, match="data is a link"):
        raw.read_kspace(tmp_path / "a.h5")


def test_mutated_files_give_data_or_a_clear_error(tmp_path):
    _, k = whole(slices=1, coils=1)
    path = written(tmp_path / "a.h5", lines_of(k), x=16, y=10)
    sound, fine, said = path.read_bytes(), 0, []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(COUNT):
        path.write_bytes(mutated(sound, seed))
        try:
            fine += bool(np.isfinite(raw.read_kspace(path).values).all())
        except InputError as error:
            said.append(str(error))
    assert 0 < fine < COUNT
    assert all("\n" not in one and str(tmp_path) not in one for one in said)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_files_of_its_own_library_are_read(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    _, k = whole()
    dataset = ismrmrd.Dataset(str(tmp_path / "a.h5"))
    dataset.write_xml_header(
        XML.format(x=16, y=10, z=1, fx=40, fy=20, rx=40, last=9, centre=5, trajectory="cartesian")
    )
    for values, said in lines_of(k):
        one = ismrmrd.Acquisition.from_array(values)
        one.center_sample = 8
        one.idx.kspace_encode_step_1 = said["kspace_encode_step_1"]
        one.idx.slice = said["slice"]
        dataset.append_acquisition(one)
    dataset.close()
    assert np.array_equal(raw.read_kspace(tmp_path / "a.h5").values, k)
