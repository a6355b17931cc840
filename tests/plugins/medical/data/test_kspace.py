"""Undersampled k-space as items: what was measured, and nothing else."""

import json

import h5py
import numpy as np
import pytest
import torch

from core.errors import InputError
from core.scans import nifti
from core.scans.scan import Scan
from plugins.medical.data.kspace import KSpaceFolder, UndersampledScans, mirrored
from plugins.medical.operators.coils import compressed
from plugins.medical.operators.fourier import fourier, inverse_fourier, root_sum_of_squares


def image_of(height, width):
    """A block off the middle, a complex image of smooth phase."""
    y, x = np.mgrid[:height, :width]
    block = (abs(y - 0.4 * height) < 0.2 * height) & (abs(x - 0.55 * width) < 0.2 * width)
    return torch.from_numpy(block * np.exp(1j * (0.3 + 0.02 * x))).to(torch.complex64)


def fastmri(path, k, mask=None, patient="a"):
    with h5py.File(path, "w") as file:
        file["kspace"] = k.numpy()
        if mask is not None:
            file["mask"] = mask
        file.attrs["patient_id"] = patient


def test_kspace_is_cropped_to_the_field_of_view_and_the_middle(tmp_path):
    """Twice oversampled rows of air around the image; every second column measured."""
    truth = image_of(48, 40)
    wide = torch.zeros(96, 40, dtype=torch.complex64)
    wide[24:72] = truth
    mask = np.zeros(40, bool)
    mask[::2] = mask[14:26] = True
    fastmri(
        tmp_path / "a.h5", (fourier(wide) * torch.from_numpy(mask))[None].expand(3, -1, -1), mask
    )
    data = KSpaceFolder("train", root=tmp_path, size=32, coils=1, test_share=0.0)
    assert len(data) == 6  # three slices and their mirror images
    item = data[1]
    assert torch.equal(item["frequencies"], torch.from_numpy(mask[4:36]).expand(32, -1))
    expected = (fourier(truth) * torch.from_numpy(mask))[8:40, 4:36]
    found = item["kspace"][0]
    scale = float(found.abs().max() / expected.abs().max())
    assert torch.allclose(found / scale, expected, atol=1e-5)  # float32 of values up to 10
    assert not found[:, ~mask[4:36]].any()


def test_no_frequency_of_a_scan_is_seen_twice_differently(tmp_path):
    draw = np.random.Generator(np.random.PCG64(0))
    voxels = draw.random((6, 32, 32)).astype(np.float32) * 100
    nifti.write(tmp_path / "a.nii.gz", voxels, Scan(voxels, np.eye(4)), description="")
    options = {"root": tmp_path, "size": 32, "pixel": 1.0, "test_share": 0.0}
    data, again = UndersampledScans("train", **options), UndersampledScans("train", **options)
    items = [data[i] for i in range(6)]
    for i, item in enumerate(items):
        assert torch.equal(item["kspace"], again[i]["kspace"])
        assert not item["kspace"][0][~item["frequencies"]].any()
        assert item["frequencies"].float().mean() == 0.25  # 8 of 32 columns
        assert torch.allclose(item["sensitivities"].abs(), torch.ones(1, 32, 32))
    masks = torch.stack([item["frequencies"] for item in items])
    assert masks.any(0).float().mean() > 0.5  # six masks of a quarter, of which 8 % are the same
    others = UndersampledScans("train", **options, seed=1)
    assert not torch.equal(others[0]["frequencies"], items[0]["frequencies"])


def test_virtual_coils_keep_the_energy_of_coils_that_depend_on_each_other():
    """Six coils that are mixtures of two: two virtual ones hold all."""
    draw = torch.Generator().manual_seed(0)
    pair = torch.randn(3, 2, 8, 8, generator=draw, dtype=torch.complex64)
    mixed = torch.einsum("vc,dchw->dvhw", torch.randn(6, 2, generator=draw).to(pair), pair)
    found = compressed(mixed, 2)
    assert found.shape == (3, 2, 8, 8)
    before, after = (root_sum_of_squares(inverse_fourier(k)) for k in (mixed, found))
    assert torch.allclose(before, after, rtol=1e-4)
    assert torch.equal(compressed(pair, 4), pair)


def test_files_that_are_no_kspace_are_listed_with_the_reason(tmp_path):
    fastmri(tmp_path / "a.h5", fourier(image_of(32, 32))[None])
    (tmp_path / "b.h5").write_bytes(b"nothing")
    np.save(tmp_path / "mask.npy", np.ones(32))  # has no JSON: part of another file
    with pytest.raises(InputError, match=r"b\.h5: b\.h5: cannot be read"):
        KSpaceFolder("train", root=tmp_path, size=16)
    data = KSpaceFolder("train", root=tmp_path, size=16, corrupt="skip", test_share=0.0)
    assert data.notes()[0] == "train: 1 files, 1 patients, 1 slices"
    assert "b.h5" in data.notes()[2]
    with pytest.raises(InputError, match=r"size: expected at most 32, .* \(32x32\), got 64"):
        KSpaceFolder("train", root=tmp_path, size=64, corrupt="skip", test_share=0.0)[0]


def test_numpy_files_with_a_json_are_read(tmp_path):
    k = fourier(image_of(20, 20)).numpy()[None]
    np.save(tmp_path / "k.npy", k)
    about = {"kind": "k-space", "axes": ["slices", "rows", "columns"]}
    (tmp_path / "k.json").write_text(json.dumps(about))
    item = KSpaceFolder("train", root=tmp_path, size=20, coils=2, test_share=0.0)[0]
    assert item["kspace"].shape == (2, 20, 20)
    assert not item["kspace"][1].any()  # filled


@pytest.mark.parametrize("width", [12, 13])
def test_a_mirror_image_is_measured_at_mirrored_frequencies(width):
    image = image_of(10, width)[None]
    coils = torch.polar(torch.ones(1, 10, width), 0.1 * torch.arange(width).expand(1, 10, width))
    mask = torch.zeros(10, width, dtype=torch.bool)
    mask[:, [0, 3, width // 2, width - 1]] = True
    k = fourier(image * coils) * mask
    found = mirrored({"kspace": k, "sensitivities": coils, "frequencies": mask})
    expected = fourier((image * coils).flip(-1)) * found["frequencies"]
    assert torch.allclose(found["kspace"], expected, atol=1e-5)
    assert found["frequencies"].sum() == mask.sum()
    assert found["frequencies"][0, width // 2]
    # What was not sampled is nowhere needed: the flipped zero-filled image has the same energy.
    assert found["kspace"].abs().square().sum() == pytest.approx(float(k.abs().square().sum()))
    again = mirrored(found)
    assert torch.equal(again["frequencies"], mask)
    assert torch.allclose(again["kspace"], k, atol=1e-5)


def test_mirror_images_are_learned_from_and_not_tested_on(tmp_path):
    fastmri(tmp_path / "a.h5", fourier(image_of(32, 32))[None])
    options = {"root": tmp_path, "size": 32, "coils": 1}
    data = KSpaceFolder("train", **options, test_share=0.0)
    assert len(data) == 2
    assert data.name(1) == f"{data.name(0)}, mirrored"
    assert data.source(1) == data.source(0)
    assert torch.equal(data[1]["kspace"], mirrored(data[0])["kspace"])
    assert len(KSpaceFolder("test", **options, test_share=1.0)) == 1
    assert len(KSpaceFolder("train", **options, test_share=0.0, mirror=False)) == 1
    with pytest.raises(IndexError, match="item 2 of 2"):
        data[2]
