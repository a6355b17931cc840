"""NIfTI: read as nibabel reads it, checked before memory is taken, and written where it lay."""

import gzip
import os
import struct
from pathlib import Path

import nibabel
import nibabel.testing
import numpy as np
import pytest
from made_scans import volume
from mutated import mutated
from scipy.spatial.transform import Rotation

from core.errors import InputError
from core.scans import nifti, scan

COUNT = 2000 if os.environ.get("POLYMODE_TORTURE") else 80
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (6, -3, 8), degrees=True).as_matrix() * (2, 1.9, 2.8)
OBLIQUE[:3, 3] = (-3, 5, 7)


def saved(path, voxels=None, affine=OBLIQUE, kind=nibabel.Nifti1Image, **header):
    image = kind(volume().transpose(2, 1, 0) if voxels is None else voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_voxels_lie_where_nibabel_says(tmp_path, kind, end):
    found = nifti.read(saved(tmp_path / f"a{end}", kind=kind))
    assert np.array_equal(found.voxels, volume())
    image = nibabel.load(tmp_path / f"a{end}")
    for i, j, k in ((0, 0, 0), (8, 2, 4), (3, 6, 1)):
        left, back, head = (found.affine @ [i, j, k, 1])[:3]
        assert (-left, -back, head) == pytest.approx(tuple(image.affine @ [i, j, k, 1])[:3])


def test_files_of_nibabel_are_read_as_nibabel_reads_them():
    folder = Path(nibabel.testing.data_path)
    for name, which in (("example4d.nii.gz", 1), ("anatomical.nii", None), ("standard.nii.gz", 0)):
        image = nibabel.load(folder / name)
        if len(image.shape) == 3:
            which = None
        values = np.asarray(image.dataobj, np.float32)
        values = values if which is None else values[..., which]
        found = nifti.read(folder / name, volume=which)
        assert np.array_equal(found.voxels, np.nan_to_num(values.transpose(2, 1, 0)))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_round_trip_keeps_affine_codes_and_voxels_and_drops_extensions(tmp_path, kind):
    image = kind(volume().transpose(2, 1, 0), OBLIQUE)
    image.set_sform(OBLIQUE, code=4)
    image.set_qform(OBLIQUE, code=0)
    secret = b"Zwicknagl^Apollonia"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", secret))
    image.header["descrip"] = secret
    nibabel.save(image, tmp_path / "in.nii")
    source = nifti.read(tmp_path / "in.nii")
    nifti.write(tmp_path / "out.nii", source.voxels + 0.25, source, description="moved")
    again = nibabel.load(tmp_path / "out.nii")
    assert type(again) is kind
    assert np.array_equal(again.affine, nibabel.load(tmp_path / "in.nii").affine)
    assert (int(again.header["qform_code"]), int(again.header["sform_code"])) == (0, 4)
    assert np.array_equal(np.asarray(again.dataobj), volume().transpose(2, 1, 0) + 0.25)
    assert secret not in (tmp_path / "out.nii").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.nii", "out.nii"]


def of_two_spaces(path):
    """A qform in the scanner's space, and an sform elsewhere, as after a registration."""
    image = nibabel.Nifti1Image(volume().transpose(2, 1, 0), OBLIQUE)
    aligned = np.diag([-2.0, 1.9, 2.8, 1.0])
    aligned[:3, 3] = (90, -126, -72)
    image.set_qform(OBLIQUE, code=1)
    image.set_sform(aligned, code=4)
    nibabel.save(image, path)
    return aligned


@pytest.mark.parametrize("factor", [1, 2])
def test_qform_and_sform_keep_their_own_matrices(tmp_path, factor):
    aligned = of_two_spaces(tmp_path / "in.nii")
    source = scan.reduced(nifti.read(tmp_path / "in.nii"), factor)
    nifti.write(tmp_path / "out.nii", source.voxels, source, description="")
    again = nibabel.load(tmp_path / "out.nii")
    # A voxel of the result is the mean of a block: its centre lies between the block's corners.
    block = np.array([[0, 0, 1, 1], [factor - 1, factor - 1, 1, 1]]).mean(0)
    for matrix, code, known in ((*again.get_qform(coded=True), OBLIQUE),
                                (*again.get_sform(coded=True), aligned)):  # fmt: skip
        assert matrix @ [0, 0, 1, 1] == pytest.approx(known @ block, abs=1e-4)
        assert code == (1 if known is OBLIQUE else 4)
    assert again.header.get_zooms() == pytest.approx((2 * factor, 1.9 * factor, 2.8))


@pytest.mark.parametrize("factor", [1, 2])
def test_a_file_without_a_space_gets_none(tmp_path, factor):
    """Both codes stay 0, and nibabel gives both files the same affine: that of their sizes."""
    saved(tmp_path / "in.nii", np.arange(8 * 6 * 4, dtype=np.float32).reshape(8, 6, 4))
    patched(tmp_path / "in.nii", 252, struct.pack("<hh", 0, 0))
    source = scan.reduced(nifti.read(tmp_path / "in.nii"), factor)
    nifti.write(tmp_path / "out.nii", source.voxels, source, description="")
    again = nibabel.load(tmp_path / "out.nii")
    assert (int(again.header["qform_code"]), int(again.header["sform_code"])) == (0, 0)
    assert again.header.get_zooms() == pytest.approx((2 * factor, 1.9 * factor, 2.8))
    assert again.affine == pytest.approx(np.diag([-1, -1, 1, 1]) @ source.affine, abs=1e-5)


def test_of_a_file_without_a_space_that_was_turned_the_axes_are_stated(tmp_path):
    saved(tmp_path / "in.nii")
    patched(tmp_path / "in.nii", 252, struct.pack("<hh", 0, 0))
    turned = scan.canonical(nifti.read(tmp_path / "in.nii"), "sagittal")
    nifti.write(tmp_path / "out.nii", turned.voxels, turned, description="")
    again = nibabel.load(tmp_path / "out.nii")
    assert (int(again.header["qform_code"]), int(again.header["sform_code"])) == (0, 2)
    assert again.affine == pytest.approx(np.diag([-1, -1, 1, 1]) @ turned.affine, abs=1e-5)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair_is_read_by_either_name_and_written_as_one_file(tmp_path, kind):
    saved(tmp_path / "a.hdr", kind=kind)
    for name in ("a.hdr", "a.img"):
        found = nifti.read(tmp_path / name)
        assert np.array_equal(found.voxels, volume())
        assert found.affine == pytest.approx(np.diag([-1, -1, 1, 1]) @ OBLIQUE, abs=1e-6)
    assert [path.name for path in found.files] == ["a.hdr", "a.img"]
    nifti.write(tmp_path / "b.nii", found.voxels, found, description="")
    again = nibabel.load(tmp_path / "b.nii")
    assert again.affine == pytest.approx(OBLIQUE, abs=1e-6)
    assert np.array_equal(np.asarray(again.dataobj), volume().transpose(2, 1, 0))
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-8])
    with pytest.raises(InputError, match="is truncated"):
        nifti.read(tmp_path / "a.hdr")


def test_a_file_of_two_dimensions_is_one_slice(tmp_path):
    saved(tmp_path / "a.nii", volume()[0].T)
    found = nifti.read(tmp_path / "a.nii")
    assert np.array_equal(found.voxels, volume()[:1])
    across, down = found.affine[:3, 0], found.affine[:3, 1]
    assert np.abs([found.affine[:3, 2] @ across, found.affine[:3, 2] @ down]).max() < 1e-5
    assert found.spacing[1:] == pytest.approx((1.9, 2))
    nifti.write(tmp_path / "b.nii", found.voxels, found, description="")
    assert nibabel.load(tmp_path / "b.nii").affine[:3, :2] == pytest.approx(OBLIQUE[:3, :2])


def test_of_complex_voxels_the_magnitude_is_read(tmp_path):
    phase = np.exp(1j * np.linspace(0, 6, 9))[:, None, None]
    saved(tmp_path / "a.nii", (np.abs(volume()).transpose(2, 1, 0) * phase).astype(np.complex64))
    found = nifti.read(tmp_path / "a.nii")
    assert found.voxels == pytest.approx(np.abs(volume()), rel=1e-5)
    assert found.notes == ("complex voxels: their magnitude is read",)


def test_slope_and_intercept_are_applied(tmp_path):
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    nibabel.save(image, path)
    held = bytearray(path.read_bytes())
    held[112:120] = struct.pack("<ff", 2.0, -1000.0)  # scl_slope, scl_inter
    path.write_bytes(held)
    found = nifti.read(path)
    assert found.voxels[3, 2, 1] == 23 * 2 - 1000
    assert found.modality == "CT"


@pytest.mark.parametrize("plane", scan.PLANES)
def test_what_is_done_on_a_plane_is_written_as_it_was_stored(tmp_path, plane):
    source = nifti.read(saved(tmp_path / "in.nii"))
    turned = scan.canonical(source, plane)
    nifti.write(
        tmp_path / "out.nii", scan.as_stored(turned.voxels, source, plane), source, description=""
    )
    for name in ("in", "out"):
        image = nibabel.load(tmp_path / f"{name}.nii")
        assert np.array_equal(np.asarray(image.dataobj), volume().transpose(2, 1, 0))
        assert image.affine == pytest.approx(OBLIQUE, abs=1e-6)


# --- what is refused -----------------------------------------------------------------------------


def patched(path, at, data):
    held = bytearray(path.read_bytes())
    held[at : at + len(data)] = data
    path.write_bytes(held)
    return path


def claiming(tmp_path):
    """64 bytes of .nii.gz that claim 108 TB."""
    path = patched(saved(tmp_path / "a.nii"), 40, struct.pack("<8h", 3, *[30000] * 3, 1, 1, 1, 1))
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def cut_off(tmp_path):
    path = saved(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:-100])
    return path


def cut_off_packed(tmp_path):
    path = saved(tmp_path / "a.nii.gz", np.random.default_rng(0).random((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-4000])
    return path


def of_two(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(volume(), np.eye(4)), tmp_path / "a.hdr")
    (tmp_path / "a.hdr").unlink()
    return tmp_path / "a.img"


def without_magic(tmp_path):
    """Analyze 7.5, which says nothing of orientation."""
    nibabel.save(nibabel.AnalyzeImage(volume(), np.eye(4)), tmp_path / "a.hdr")
    return tmp_path / "a.hdr"


BAD = {
    "claims": (claiming, "claims 30000 x 30000 x 30000 voxels"),
    "cut off": (cut_off, "is truncated"),
    "cut off, packed": (cut_off_packed, "is truncated|cannot be decompressed"),
    "half of a pair": (of_two, "a.hdr is missing beside it"),
    "Analyze": (without_magic, "is no NIfTI header"),
    "colours": (
        lambda t: saved(t / "a.nii", np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "one number per voxel",
    ),
    "four": (lambda t: saved(t / "a.nii", np.zeros((2, 3, 4, 5), "f4")), "from 0 to 4"),
    "line": (lambda t: saved(t / "a.nii", np.zeros(6, "f4")), "expected two or three dimensions"),
    "zero": (
        lambda t: patched(saved(t / "a.nii"), 280, b"\0" * 12), "three positive sizes",
    ),
    "singular": (
        lambda t: saved(t / "a.nii", affine=np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])),  # noqa: E501
        "affine is singular",
    ),
    "sheared": (
        lambda t: saved(t / "a.nii", affine=np.array([[1, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])),  # noqa: E501
        "sheared by 11.3 degrees",
    ),
    "not a number": (
        lambda t: patched(saved(t / "a.nii"), 280, struct.pack("<f", float("nan"))),
        "its affine is not finite",
    ),
    "no header": (lambda t: patched(saved(t / "a.nii"), 0, b"\0" * 348), "header cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_used_is_one_sentence(tmp_path, kind):
    make, reason = BAD[kind]
    with pytest.raises(InputError, match=reason) as refused:
        nifti.read(make(tmp_path))
    assert len(str(refused.value).splitlines()) == 1


def test_voxels_that_are_no_numbers_are_counted(tmp_path):
    voxels = volume().transpose(2, 1, 0).copy()
    voxels[1, 2, 3], voxels[0, 0, 0] = np.nan, np.inf
    found = nifti.read(saved(tmp_path / "a.nii", voxels))
    assert found.voxels[3, 2, 1] == found.voxels[0, 0, 0] == 0
    assert found.notes == ("2 non-finite voxels were set to 0",)


@pytest.mark.parametrize("lost", [np.nan, -np.inf, np.inf])
def test_outside_the_field_of_view_of_ct_is_air(tmp_path, lost):
    """Where values below -500 show that it is CT, and where CT is declared."""
    voxels = volume().transpose(2, 1, 0).copy()
    voxels[1, 2, 3], voxels[0, 0, 0] = lost, -900
    found = nifti.read(saved(tmp_path / "a.nii", voxels))
    assert (found.modality, found.voxels[3, 2, 1]) == ("CT", -1000)
    assert found.notes == ("1 non-finite voxels were set to air",)
    voxels[0, 0, 0] = 0
    found = nifti.read(saved(tmp_path / "b.nii", voxels), modality="CT")
    assert (found.modality, found.voxels[3, 2, 1]) == ("CT", -1000)


def test_ct_that_may_be_stored_with_an_offset_is_refused(tmp_path):
    """As the survey of a training's scans refuses it."""
    path = saved(tmp_path / "a.nii", volume().transpose(2, 1, 0) + 1024)
    with pytest.raises(InputError, match="no value of this CT is below 0"):
        nifti.read(path, modality="CT")
    assert (
        nifti.read(saved(tmp_path / "b.nii", volume().transpose(2, 1, 0)), modality="CT").notes
        == ()
    )


def test_a_declared_modality_counts_more_than_the_values(tmp_path):
    voxels = volume().transpose(2, 1, 0).copy()
    voxels[0, 0, 0] = -900  # the real part of an inversion recovery
    assert nifti.read(saved(tmp_path / "a.nii", voxels), modality="MR").modality == "MR"


def test_a_file_that_says_not_where_it_lies_is_noted(tmp_path):
    found = nifti.read(patched(saved(tmp_path / "a.nii"), 252, struct.pack("<hh", 0, 0)))
    assert "only the voxel sizes are known" in found.notes[0]
    assert found.spacing == pytest.approx(tuple(np.linalg.norm(OBLIQUE[:3, :3], axis=0)[::-1]))


@pytest.mark.slow
def test_a_packed_file_is_never_unpacked_beyond_what_it_claims(tmp_path, monkeypatch):
    """A bomb: a whole volume, then a gigabyte of zeros packed into a megabyte."""
    import zlib

    path = saved(tmp_path / "a.nii")
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(path.read_bytes())]
    parts += [packer.compress(b"\0" * (1 << 20)) for _ in range(1 << 10)]
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(b"".join([*parts, packer.flush()]))
    import tracemalloc

    tracemalloc.start()
    assert np.array_equal(nifti.read(packed).voxels, volume())
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("size", [8000, 65536])
def test_a_bit_that_was_lost_in_a_packed_file_is_noticed(tmp_path, size):
    """The sum that gzip writes at the end, also where it is read after the voxels have ended.

    Stored as they are, any bit is a voxel's: values would be others, and none impossible.
    """
    overhead = len(gzip.compress(bytes(size - 500), 0)) - (size - 500) - 8
    voxels = np.ones((size - overhead - 352, 1, 1), np.uint8)
    held = bytearray(gzip.compress(saved(tmp_path / "a.nii", voxels).read_bytes(), 0))
    assert len(held) == size + 8
    held[len(held) // 2] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(held)
    with pytest.raises(InputError, match="cannot be read or decompressed"):
        nifti.read(tmp_path / "a.nii.gz")


def test_joined_gzip_members_are_one_file(tmp_path):
    held = saved(tmp_path / "a.nii").read_bytes()
    joined = tmp_path / "b.nii.gz"
    joined.write_bytes(gzip.compress(held[:400]) + gzip.compress(held[400:]) + b"\0" * 9)
    assert np.array_equal(nifti.read(joined).voxels, volume())
    joined.write_bytes(gzip.compress(held[:400]) + gzip.compress(held[400:-8]))
    with pytest.raises(InputError, match="is truncated"):
        nifti.read(joined)


@pytest.mark.parametrize(("code", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001)])
def test_lengths_are_millimetres_here_and_in_the_file_what_they_were(tmp_path, code, factor):
    path = saved(tmp_path / "a.nii", xyzt_units=code)
    found = nifti.read(path)
    sizes = np.linalg.norm(OBLIQUE[:3, :3], axis=0)[::-1]
    assert found.spacing == pytest.approx(tuple(sizes * factor))
    nifti.write(tmp_path / "b.nii", found.voxels, found, description="")
    again = nibabel.load(tmp_path / "b.nii")
    assert int(again.header["xyzt_units"]) & 7 == code
    assert again.affine == pytest.approx(OBLIQUE, rel=1e-5)


def test_a_header_of_two_files_and_voxels_of_no_number_are_refused(tmp_path):
    with pytest.raises(InputError, match="has the header of a pair"):
        nifti.read(patched(saved(tmp_path / "a.nii"), 344, b"ni1\0"))
    with pytest.raises(InputError, match="none of its voxels"):
        nifti.read(saved(tmp_path / "b.nii", np.full((2, 3, 4), np.nan, np.float32)))
    source = nifti.read(saved(tmp_path / "c.nii"))
    with pytest.raises(InputError, match="some voxels are not finite"):
        nifti.write(tmp_path / "d.nii", source.voxels * np.nan, source, description="")
    assert not (tmp_path / "d.nii").exists()


def test_mutated_files_give_a_scan_or_one_clear_error(tmp_path):
    wholes = {
        ".nii": saved(tmp_path / "a.nii").read_bytes(),
        ".nii.gz": saved(tmp_path / "a.nii.gz").read_bytes(),
    }
    read, said = 0, []
    for seed in range(COUNT):
        end = (".nii", ".nii.gz")[seed % 2]
        path = tmp_path / f"b{end}"
        path.write_bytes(mutated(wholes[end], seed))
        try:
            read += bool(np.isfinite(nifti.read(path).voxels).all())
        except InputError as error:
            said.append(str(error))
    assert 0 < read < COUNT
    assert all(len(one.splitlines()) == 1 for one in said)
