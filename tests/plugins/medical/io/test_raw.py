"""Raw measurements: NumPy with JSON and fastMRI's HDF5, and what in them is refused."""

import json
import os

import h5py
import numpy as np
import pytest
from mutated import mutated

from core.errors import InputError
from core.scans import dicom
from plugins.medical.io import raw

COUNT = 2000 if os.environ.get("POLYMODE_TORTURE") else 60
GEOMETRY = {
    "kind": "parallel", "views": 6, "height": 8, "width": 8, "pixel_mm": 1.5,
    "detector_spacing_mm": 1.5,
}  # fmt: skip


def sinogram(folder, values=None, **said):
    path = folder / "scan.npy"
    np.save(path, np.full((2, 6, 12), 0.1, np.float32) if values is None else values)
    told = {k: v for k, v in (GEOMETRY | said).items() if v is not None}
    path.with_suffix(".json").write_text(json.dumps(told))
    return path


def kspace(folder, values=None, mask=None, **said):
    path = folder / "k.npy"
    draw = np.random.default_rng(0)
    whole = draw.normal(size=(2, 3, 8, 6)) + 1j * draw.normal(size=(2, 3, 8, 6))
    np.save(path, whole.astype(np.complex64) if values is None else values)
    if mask is not None:
        np.save(folder / "mask.npy", mask)
        said["mask"] = "mask.npy"
    path.with_suffix(".json").write_text(json.dumps({"kind": "k-space"} | said))
    return path


def fastmri(folder, **parts):
    path = folder / "brain.h5"
    with h5py.File(path, "w") as file:
        for name, values in ({"kspace": np.ones((2, 3, 8, 6), np.complex64)} | parts).items():
            file[name] = values
    return path


def test_what_is_written_is_read_again(tmp_path):
    counts = np.full((2, 6, 12), 9e4, np.float32)
    found = raw.read_sinogram(
        sinogram(tmp_path, counts, photons=1e5, units="counts", detector_offset_mm=-0.75)
    )
    raw.write_sinogram(tmp_path / "again.npy", found)
    again = raw.read_sinogram(tmp_path / "again.npy")
    assert np.array_equal(again.values, found.values)
    assert again.geometry == found.geometry
    measured = raw.read_kspace(kspace(tmp_path, noise=0.5))
    raw.write_kspace(tmp_path / "k2.npy", measured)
    again = raw.read_kspace(tmp_path / "k2.npy")
    assert np.array_equal(again.values, measured.values)
    assert again.noise == 0.5
    assert not list(tmp_path.glob(".*"))


def test_a_mask_of_columns_and_of_points_leaves_the_measured(tmp_path):
    line = np.array([0, 1, 1, 0, 1, 0])
    found = raw.read_kspace(kspace(tmp_path, mask=line))
    assert found.mask.shape == (8, 6)
    assert (found.values[..., line == 0] == 0).all()
    assert (found.values[..., line == 1] != 0).all()
    points = np.eye(8, 6)
    assert raw.read_kspace(kspace(tmp_path, mask=points)).mask.sum() == 6


def test_fastmri_with_and_without_coils(tmp_path):
    assert raw.read_kspace(fastmri(tmp_path)).values.shape == (2, 3, 8, 6)
    alone = raw.read_kspace(fastmri(tmp_path, kspace=np.ones((2, 8, 6), np.complex64)))
    assert alone.values.shape == (2, 1, 8, 6)
    mask = np.array([1, 0, 1, 1, 0, 0], np.float32)
    assert raw.read_kspace(fastmri(tmp_path, mask=mask)).mask.sum() == 24


def test_lodopab_is_in_hounsfield_units_again(tmp_path):
    """Water attenuates 20 / m and air 0.02 / m there, over 81.35858 / m."""
    path = tmp_path / "ground_truth_train_000.hdf5"
    with h5py.File(path, "w") as file:
        file["data"] = np.array([[[20 / 81.35858, 0.02 / 81.35858]]], np.float32)
    count, found = raw.lodopab(path, 0)
    assert count == 1
    assert found[0] == pytest.approx([0, -1000], abs=1e-3)


# --- fields of a sinogram ------------------------------------------------------------------------


def test_the_axis_may_be_stated_as_a_detector(tmp_path):
    """Of 12 detectors the middle is 5.5: an axis on detector 6 is half a detector further."""
    found = raw.read_sinogram(sinogram(tmp_path, axis_detector=6))
    assert found.geometry.detector_offset_mm == pytest.approx(-0.75)
    assert found.geometry.axis_detector is None


def test_angles_are_listed_in_place_of_an_arc(tmp_path):
    angles = [0, 30.5, 12, 90, 100, 170]
    found = raw.read_sinogram(sinogram(tmp_path, angles_degrees=angles))
    assert found.geometry.angles.tolist() == angles
    raw.write_sinogram(tmp_path / "again.npy", found)
    assert raw.read_sinogram(tmp_path / "again.npy").geometry == found.geometry
    even = raw.read_sinogram(sinogram(tmp_path, arc_degrees=90, start_degrees=10))
    assert even.geometry.angles.tolist() == [10, 25, 40, 55, 70, 85]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"angles_degrees": [0, 1]}, "angles_degrees: expected 6, as views states, got 2"),
        ({"angles_degrees": [0] * 6, "arc_degrees": 180}, "in place of arc_degrees; state one"),
        ({"axis_detector": 5, "detector_offset_mm": 0}, "in place of detector_offset_mm"),
        ({"units": "counts", "photons": 10, "scale": 2}, "scale: for line_integrals"),
        ({"water_per_mm": 2}, "water_per_mm"),
    ],
)
def test_fields_that_disagree_are_refused(tmp_path, said, reason):
    with pytest.raises(InputError, match=reason):
        raw.read_sinogram(sinogram(tmp_path, **said))


# --- trajectories ---------------------------------------------------------------------------------


def along(folder, values=None, where=None, **said):
    """Eight samples of two slices and three coils."""
    path = folder / "k.npy"
    draw = np.random.default_rng(0)
    whole = draw.normal(size=(2, 3, 8)) + 1j * draw.normal(size=(2, 3, 8))
    np.save(path, whole.astype(np.complex64) if values is None else values)
    where = draw.uniform(-0.5, 0.5, (2, 4, 2)) if where is None else where
    np.save(folder / "where.npy", where)
    told = {"kind": "k-space", "trajectory": "where.npy", "height": 6, "width": 5} | said
    path.with_suffix(".json").write_text(json.dumps({k: v for k, v in told.items() if v}))
    return path


def test_samples_along_a_trajectory_have_a_frequency_each(tmp_path):
    path = along(tmp_path, noise=0.5)
    found = raw.read(path)
    assert found.values.shape == (2, 3, 1, 8)
    assert found.trajectory.shape == (8, 2)
    assert np.allclose(found.trajectory, np.load(tmp_path / "where.npy").reshape(8, 2))
    assert (found.size, found.noise) == ((6, 5), 0.5)
    assert raw.files_of(path) == (path, path.with_suffix(".json"), tmp_path / "where.npy")
    turned = np.load(path)[0].T
    again = raw.read(along(tmp_path, turned, axes=["samples", "coils"]))
    assert np.array_equal(again.values, found.values[:1])
    with pytest.raises(InputError, match="is k-space along a trajectory"):
        raw.kspace_slices(path)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"width": None}, "trajectory, height and width together"),
        ({"mask": "where.npy"}, "and no mask"),
        ({"trajectory": "none.npy"}, "no file none.npy"),
        ({"trajectory": None}, "trajectory, height and width together"),
        ({"axes": ["coils", "slices", "rows"]}, "expected the 8 samples"),
    ],
)
def test_trajectories_that_do_not_fit_are_refused(tmp_path, said, reason):
    with pytest.raises(InputError, match=reason):
        raw.read_kspace(along(tmp_path, **said))


def test_frequencies_that_are_whole_numbers_are_refused(tmp_path):
    with pytest.raises(InputError, match="values up to 7; expected two frequencies"):
        raw.read_kspace(along(tmp_path, where=np.arange(16).reshape(8, 2) % 8))
    with pytest.raises(InputError, match="expected the 5 samples"):
        raw.read_kspace(along(tmp_path, where=np.zeros((5, 2))))


# --- axes and padding ----------------------------------------------------------------------------


def test_three_axes_are_what_the_json_states_and_refused_without(tmp_path):
    draw = np.random.default_rng(0).normal(size=(4, 8, 6)).astype(np.complex64)
    with pytest.raises(InputError, match=r'may be slices or coils; state in k.json "axes"'):
        raw.read_kspace(kspace(tmp_path, draw))
    slices = raw.read_kspace(kspace(tmp_path, draw, axes=["slices", "rows", "columns"]))
    assert np.array_equal(slices.values, draw[:, None])
    coils = raw.read_kspace(kspace(tmp_path, draw, axes=["coils", "rows", "columns"]))
    assert np.array_equal(coils.values, draw[None])


def test_partitions_of_a_3d_acquisition_become_slices(tmp_path):
    """A volume's transform along all three axes is its slices' one along two."""
    volume = np.random.default_rng(0).normal(size=(5, 8, 6)) + 2

    def transformed(values, axes):
        moved = np.fft.fftn(np.fft.ifftshift(values, axes), axes=axes, norm="ortho")
        return np.fft.fftshift(moved, axes).astype(np.complex64)

    k = transformed(volume, (0, 1, 2))
    stated = {"axes": ["partitions", "rows", "columns"]}
    found = raw.read_kspace(kspace(tmp_path, k, **stated))
    assert np.allclose(found.values[:, 0], transformed(volume, (1, 2)), atol=1e-5)
    shifted = np.fft.ifftshift(k, 0)
    with pytest.raises(InputError, match="partitions is at the edges"):
        raw.read_kspace(kspace(tmp_path, shifted, **stated))
    k[0, :, 2] = 0
    with pytest.raises(InputError, match="its partitions are sampled differently"):
        raw.read_kspace(kspace(tmp_path, k, **stated))


def test_axes_in_any_order_are_put_into_ours(tmp_path):
    whole = np.random.default_rng(0).normal(size=(2, 3, 8, 6)).astype(np.complex64)
    turned = whole.transpose(2, 3, 1, 0)
    stated = ["rows", "columns", "coils", "slices"]
    assert np.array_equal(raw.read_kspace(kspace(tmp_path, turned, axes=stated)).values, whole)
    assert np.array_equal(raw.read_kspace(kspace(tmp_path, whole[0, 0])).values, whole[:1, :1])


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        (["slices", "rows"], "axes slices, rows; expected rows, columns"),
        (["slices", "slices", "columns"], "each once"),
        (["slices", "rows", "lines"], r"axes\[2\]: expected one of"),
    ],
)
def test_axes_that_do_not_fit_are_refused(tmp_path, axes, reason):
    values = np.ones((4, 8, 6), np.complex64)
    with pytest.raises(InputError, match=reason):
        raw.read_kspace(kspace(tmp_path, values, axes=axes))


def test_padding_within_a_mask_is_not_sampled(tmp_path):
    """Columns of zeros, and corners outside of an ellipse: in fastMRI's files and in NumPy's."""
    draw = np.random.default_rng(0)
    whole = (draw.normal(size=(2, 3, 8, 6)) + 1j * draw.normal(size=(2, 3, 8, 6))) + 5
    whole = whole.astype(np.complex64)
    whole[..., :2] = 0
    whole[..., 0, :] = whole[..., 7, 5] = 0
    stated = np.array([1, 1, 0, 1, 1, 1], np.float32)
    there = (whole != 0).any((0, 1)) & (stated > 0)
    for path in (fastmri(tmp_path, kspace=whole, mask=stated), kspace(tmp_path, whole, stated)):
        found = raw.read_kspace(path)
        assert np.array_equal(found.mask, there)
        assert np.array_equal(found.values, whole * there)  # and nothing that the mask leaves out
        (note,) = found.notes
        assert note.startswith(f"{40 - there.sum()} of the 40 frequencies of the mask are exactly")
    assert raw.read_kspace(fastmri(tmp_path, kspace=whole)).notes == ()


def test_kspace_of_zeros_is_refused(tmp_path):
    with pytest.raises(InputError, match="every sampled frequency is 0"):
        raw.read_kspace(fastmri(tmp_path, kspace=np.zeros((2, 8, 6), np.complex64)))
    with pytest.raises(InputError, match="every sampled frequency is 0"):
        raw.read_kspace(kspace(tmp_path, mask=np.zeros(6)))


def test_one_kind_of_raw_data_is_not_taken_for_the_other(tmp_path):
    with pytest.raises(InputError, match="is k-space, expected a sinogram; use reconstruct-mri"):
        raw.read_sinogram(kspace(tmp_path))
    with pytest.raises(InputError, match="is a sinogram, expected k-space; use reconstruct-ct"):
        raw.read_kspace(sinogram(tmp_path))


# --- refusals ------------------------------------------------------------------------------------

BAD_SINOGRAMS = {
    "no views": ({"views": None}, None, "views"),
    "unknown": ({"angels": 3}, None, "angels: unknown option"),
    "zero": ({"pixel_mm": 0}, None, "pixel_mm"),
    "not a number": ({"start_degrees": float("nan")}, None, "start_degrees"),
    "kind": ({"kind": "cone"}, None, "kind"),
    "views": ({"views": 7}, None, "its geometry 7 views"),
    "counts": ({}, np.full((6, 12), 90000.0), "if these are photon counts"),
    "counts without": ({"units": "counts"}, None, "unattenuated beam"),
    "below": ({"units": "counts", "photons": 9}, np.full((6, 12), -1.0), "has negative counts"),
    "bone": ({}, np.full((6, 12), 2.0), "would attenuate 0.25 per mm on average"),
    "infinite": ({}, np.full((6, 12), np.inf), "72 values are not finite"),
    "words": ({}, np.array(["a"] * 6), "expected numbers"),
}


@pytest.mark.parametrize("kind", BAD_SINOGRAMS)
def test_a_sinogram_that_does_not_fit_is_refused(tmp_path, kind):
    said, values, reason = BAD_SINOGRAMS[kind]
    with pytest.raises(InputError, match=reason):
        raw.read_sinogram(sinogram(tmp_path, values, **said))


def test_nothing_is_unpickled(tmp_path):
    path = sinogram(tmp_path)
    np.save(path, np.array([print], object), allow_pickle=True)
    with pytest.raises(InputError, match="expected numbers"):
        raw.read_sinogram(path)


def test_a_header_that_claims_much_takes_no_memory(tmp_path):
    path = sinogram(tmp_path)
    held = path.read_bytes()
    assert b"(2, 6, 12)" in held
    path.write_bytes(held.replace(b"(2, 6, 12), }", b"(99999, 6, 99999), }")[: len(held)])
    with pytest.raises(InputError, match=r"GiB in memory|cut off|no NumPy file"):
        raw.read_sinogram(path)
    path.write_bytes(held[:-40])
    with pytest.raises(InputError, match="is truncated after"):
        raw.read_sinogram(path)


def test_missing_and_broken_descriptions_are_said(tmp_path):
    path = sinogram(tmp_path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        raw.read_sinogram(path)
    path.with_suffix(".json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not valid JSON"):
        raw.read_sinogram(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="needs a JSON file beside it"):
        raw.read_sinogram(path)


def test_masks_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match="the mask is 6 x 6, k-space 8 x 6"):
        raw.read_kspace(kspace(tmp_path, mask=np.ones((6, 6))))
    with pytest.raises(InputError, match="expected a mask of ones"):
        raw.read_kspace(kspace(tmp_path, mask=np.full((8, 6), 0.5)))
    with pytest.raises(InputError, match="the mask is 5, k-space"):
        raw.read_kspace(fastmri(tmp_path, mask=np.ones(5)))
    outside = tmp_path / "in"
    outside.mkdir()
    np.save(tmp_path / "mask.npy", np.ones((8, 6)))
    with pytest.raises(InputError, match=r"\.\."):
        raw.read_kspace(_leading_out(outside))


def _leading_out(folder):
    path = kspace(folder)
    said = {"kind": "k-space", "mask": "../mask.npy"}
    path.with_suffix(".json").write_text(json.dumps(said))
    return path


def test_nothing_outside_an_hdf5_file_is_followed(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["kspace"] = np.ones((2, 8, 6), np.complex64)
    np.ones((2, 8, 6), np.complex64).tofile(tmp_path / "secret.bin")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = h5py.ExternalLink("secret.h5", "kspace")
    with pytest.raises(InputError, match="kspace is a link"):
        raw.read_kspace(path)
    with h5py.File(path, "w") as file:
        file["other"] = np.ones((2, 8, 6), np.complex64)
        file["kspace"] = h5py.SoftLink("/other")
    with pytest.raises(InputError, match="kspace is a link"):
        raw.read_kspace(path)
    with h5py.File(path, "w") as file:
        place = [(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("kspace", (2, 8, 6), np.complex64, external=place)
    with pytest.raises(InputError, match="stored in other files"):
        raw.read_kspace(path)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((2, 8, 6), np.complex64)
        layout[:] = h5py.VirtualSource(str(secret), "kspace", shape=(2, 8, 6))
        file.create_virtual_dataset("kspace", layout)
    with pytest.raises(InputError, match="stored in other files"):
        raw.read_kspace(path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.ones((2, 8, 6), np.float32), "expected complex numbers"),
        (np.ones((6,), np.complex64), "expected complex numbers"),
        (np.full((2, 8, 6), np.nan, np.complex64), "96 values are not finite"),
    ],
)
def test_other_layouts_are_refused(tmp_path, values, reason):
    with pytest.raises(InputError, match=reason):
        raw.read_kspace(fastmri(tmp_path, kspace=values))


@pytest.mark.parametrize("kind", ["sinogram", "kspace", "fastmri"])
def test_mutated_files_give_data_or_a_clear_error(tmp_path, kind):
    make = {"sinogram": sinogram, "kspace": kspace, "fastmri": fastmri}[kind]
    read = raw.read_sinogram if kind == "sinogram" else raw.read_kspace
    path = make(tmp_path)
    whole, fine, said = path.read_bytes(), 0, []
    for seed in range(COUNT):
        path.write_bytes(mutated(whole, seed))
        try:
            fine += bool(np.isfinite(read(path).values).all())
        except InputError as error:
            said.append(str(error))
    assert 0 < fine < COUNT
    assert all(len(one.splitlines()) == 1 for one in said)


def test_pipes_in_the_place_of_files_are_not_waited_for(tmp_path):
    for name in ("a.hdf5", "a.npy"):
        os.mkfifo(tmp_path / name)
    assert raw.hdf5_patient(tmp_path / "a.hdf5") == ""
    with pytest.raises(InputError, match="not a regular file"):
        raw.lodopab(tmp_path / "a.hdf5")
    assert not dicom.is_dicom(tmp_path / "a.hdf5")
