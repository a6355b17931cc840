"""Every registered part keeps its kind's contract."""

import sys
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from core.network.vision_transformer import Sizes, VisionTransformer
from core.parts.config import configure
from core.parts.registry import Part, Plugin, Registry, Spec, installed
from core.process.schedules import edm, vp_cosine
from core.scans import dicom_write, nifti
from core.scans.scan import Scan
from core.testing.contract import check_part
from plugins.video.io.writing import Written, writer

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
from small_model import trained

# Autoguidance loads a checkpoint; `test_autoguidance_keeps_its_contract` has what it builds.
PARTS = [(part.kind, name) for name, part in installed().names() if name != "core/autoguidance"]
PROCESSES = (edm(), vp_cosine())
SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_channels": 8}
NETWORKS = {
    "core/unet": SMALL,
    "core/predict_refine": {
        "width": 8, "blocks": 1, "patch": 2, "refiner": Spec("core/unet", SMALL),
    },
    "core/mlp": {"width": 16, "depth": 2},
    "core/transformer": {"width": 16, "depth": 2, "head_channels": 8, "patch": 2},
    "video/unet3d": SMALL,
}  # fmt: skip

BEAMS = {"options": {"height": 16, "width": 24, "views": 5}, "shape": (2, 3, 16, 24)}
OPERATORS = {
    "medical/radon": BEAMS,
    "medical/fan_beam": BEAMS,
    "medical/fourier": {"shape": (2, 2, 16, 24)},
}


def vision_transformer(path):
    """The file of a small DINO of random weights."""
    draw = torch.Generator().manual_seed(0)
    network = VisionTransformer(Sizes(patch=8, width=64, depth=2, heads=1, hidden=16, grid=4))
    save_file(
        {k: 0.1 * torch.randn(v.shape, generator=draw) for k, v in network.state_dict().items()},
        path,
    )
    return path


def noise_pictures(folder):
    """Six pictures of plain noise: nothing of them can be learned, everything can be checked."""
    draw = np.random.Generator(np.random.PCG64(0))
    for number in range(6):
        pixels = draw.integers(0, 256, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def labelled_pictures(folder):
    """Noise with masks of two classes."""
    noise_pictures(folder)
    draw = np.random.Generator(np.random.PCG64(1))
    for number in range(6):
        numbers = draw.integers(0, 2, (80, 90), dtype=np.uint8)
        Image.fromarray(numbers).save(folder / f"{number}_mask.png")
    return folder


def cifar_files(folder):
    """Each file of CIFAR-10 with two pictures of noise."""
    draw = np.random.Generator(np.random.PCG64(0))
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = draw.integers(0, 10, (2, 3073), dtype=np.uint8)
        records.tofile(folder / f"{name}.bin")
    return folder


def dicom_series(folder):
    """Two patients of three slices."""
    draw = np.random.Generator(np.random.PCG64(0))
    for patient in ("a", "b"):
        voxels = draw.normal(0, 300, (3, 20, 24)).astype(np.float32)
        dicom_write.write(
            folder / patient, voxels, Scan(voxels, np.eye(4), "CT", patient), description="noise"
        )
    return folder


def nifti_volumes(folder):
    draw = np.random.Generator(np.random.PCG64(0))
    for patient in "abcd":
        voxels = draw.normal(0, 300, (3, 20, 24)).astype(np.float32)
        nifti.write(folder / f"{patient}.nii.gz", voxels, Scan(voxels, np.eye(4)), description="")
    return folder


def scans_of_mr(folder):
    draw = np.random.Generator(np.random.PCG64(0))
    for patient in "abcd":
        voxels = draw.random((3, 20, 24)).astype(np.float32)
        nifti.write(folder / f"{patient}.nii.gz", voxels, Scan(voxels, np.eye(4)), description="")
    return folder


def scans_of_both_kinds(folder):
    nifti_volumes(folder)
    return dicom_series(folder)


def lidc_folders(folder):
    for number, path in enumerate(sorted(dicom_series(folder).iterdir()), start=1):
        study = folder / f"LIDC-IDRI-000{number}" / "1"
        study.mkdir(parents=True)
        path.rename(study / "2")
    return folder


def fastmri_files(folder):
    draw = np.random.Generator(np.random.PCG64(0))
    for patient in "abcd":
        k = draw.normal(0, 1, (2, 3, 40, 20, 2)).astype(np.float32)
        with h5py.File(folder / f"{patient}.h5", "w") as file:
            file["kspace"] = k[..., 0] + 1j * k[..., 1]
            file.attrs["patient_id"] = patient
    return folder


def lodopab_files(folder):
    draw = np.random.Generator(np.random.PCG64(0))
    for split in ("train", "test"):
        with h5py.File(folder / f"ground_truth_{split}_000.hdf5", "w") as file:
            file["data"] = draw.random((3, 362, 362), dtype=np.float32)
    return folder


def videos(folder):
    """Four videos of noise, lossless."""
    draw = np.random.Generator(np.random.PCG64(0))
    for number in range(4):
        form = Written(36, 40, Fraction(10), lossless=True)
        with writer(folder / f"{number}.mkv", form) as write:
            for t in range(20):
                write(draw.integers(0, 256, (36, 40, 3), dtype=np.uint8), Fraction(t, 10))
    return folder


FOLDERS = {  # what makes the files of a dataset, and the options that split them
    "image2image/folder": (noise_pictures, {"patches": 40, "size": 32, "test_fraction": 0.4}),
    "image2image/cifar10": (cifar_files, {}),
    "segmentation/folder": (labelled_pictures, {"patches": 40, "size": 32, "test_fraction": 0.4}),
    "medical/dicom_folder": (dicom_series, {"size": 16, "count": 5, "test_share": 0.5}),
    "medical/nifti_folder": (nifti_volumes, {"size": 16, "count": 5, "test_share": 0.5}),
    "medical/scan_folder": (scans_of_both_kinds, {"size": 16, "count": 5, "test_share": 0.5}),
    "medical/lidc": (lidc_folders, {"size": 16, "count": 5, "test_share": 0.5}),
    "medical/kspace_folder": (fastmri_files, {"size": 16, "coils": 2, "test_share": 0.5}),
    "medical/undersampled_scans": (
        scans_of_mr,
        {"size": 16, "centre": 0.2, "acceleration": 2.0, "test_share": 0.5},
    ),
    "medical/fastmri": (fastmri_files, {"size": 16, "count": 5, "test_share": 0.5}),
    "medical/lodopab": (lodopab_files, {"size": 181}),
    "video/folder": (videos, {"size": 32, "count": 5, "test_fraction": 0.5}),
}
OPTIONS = {
    "image2image/digits": {},
    "segmentation/digits_scene": {"count": 5},
    "medical/phantoms": {"size": 16, "count": 5},
    "medical/samples": {"count": 5},
    "core/blank": {"shape": (1, 5), "count": 3},
    "core/points": {"count": 5},
    "video/bouncing_balls": {"count": 5},
    "video/moving_digits": {"count": 5, "bounces": "random"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_part_keeps_its_contract(kind, name, tmp_path):
    inputs = {}
    if kind == "network":
        inputs = {"options": NETWORKS[name]}
    if kind == "dataset":
        options = OPTIONS.get(name, {"patches": 40, "size": 32})
        if name in FOLDERS:
            make, options = FOLDERS[name]
            options = {**options, "root": make(tmp_path)}
        inputs = {"options": options}
    if name == "segmentation/diffusion":
        inputs = {"options": {"checkpoint": trained(tmp_path / "run")}}
    if name == "segmentation/vit":
        inputs = {"options": {"weights": vision_transformer(tmp_path / "vit.safetensors")}}
    if kind == "operator":
        inputs = OPERATORS.get(name, {})
    processes = {"sampler": PROCESSES[:1], "grid": PROCESSES}
    for process in processes.get(kind, (None,)):
        check_part(installed(), kind, name, **({"process": process} if process else inputs))


FINER = {  # datasets whose test items hold an image at twice the resolution
    "medical/dicom_folder", "medical/fastmri", "medical/lidc", "medical/nifti_folder",
    "medical/phantoms", "medical/samples", "medical/scan_folder",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for kind, name in PARTS if kind == "dataset" and name.startswith("medical/")]
)
def test_finer_images_are_averaged_to_the_image(name, tmp_path):
    make, options = FOLDERS.get(name, (None, OPTIONS.get(name)))
    options = {**options, "root": make(tmp_path)} if make else options
    data = configure("dataset", Spec(name, options))("test")
    items = [data[i] for i in range(min(3, len(data)))]
    assert {"fine" in item for item in items} == {name in FINER}
    for item in items:
        if "fine" in item:
            c, h, w = item["image"].shape
            means = item["fine"].double().reshape(c, h, 2, w, 2).mean((2, 4))
            assert (means - item["image"]).abs().max() < 1e-6  # of float32 values up to 1


def test_autoguidance_keeps_its_contract():
    """With the weaker model as a denoiser, as programs give it."""
    part = Part("guidance", "auto", "core.denoiser.guidance:autoguidance", "x", inputs=("weaker",))
    check_part(Registry([Plugin("test", "x", (part,))]), "guidance", "test/auto")


def test_the_contract_catches_a_network_that_mixes_its_batch():
    from core.network.unet import UNet
    from core.testing.networks import check_network

    class Mixing(UNet):
        def forward(self, x, level, condition=None):
            return super().forward(x, level, condition) + x.mean()

    with pytest.raises(AssertionError, match="neighbours"):
        check_network(Mixing, options=SMALL)


def layers(axes, *, deaf=(), names=("image", "vector")):
    """A network of one layer over `axes` axes of space, which ignores the conditions in `deaf`."""
    from torch import nn

    from core.network.conditioning import check

    class Layers(nn.Module):
        def __init__(self, channels, outputs, conditions):
            super().__init__()
            check(conditions, (), names=names)
            self.conditions = [name for name in conditions if name not in deaf]
            inputs = channels + 1 + sum(conditions[name] for name in self.conditions)
            kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
            self.layer = kinds[axes](inputs, outputs, *([1] if axes else []))

        def forward(self, x, level, condition=None):
            given = [condition[name] for name in self.conditions]
            whole = [v.view(*v.shape[:2], *[1] * axes) for v in given if v.ndim == 2 and axes]
            spread = [v.expand(*v.shape[:2], *x.shape[2:]) for v in whole]
            spread += [v for v in given if v.ndim == x.ndim]
            level = level.view(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])
            return self.layer(torch.cat([x, level, *spread], 1))

    return Layers


@pytest.mark.parametrize("axes", range(4))
@pytest.mark.parametrize("names", [(), ("image",), ("image", "vector")])
def test_networks_of_any_rank_and_conditions_keep_the_contract_without_options(axes, names):
    from core.testing.networks import check_network

    check_network(layers(axes, names=names))
    with pytest.raises(AssertionError, match="a sample depends on its neighbours"):
        check_network(mixing(layers(axes, names=names)))


def mixing(kind):
    class Mixing(kind):
        def forward(self, x, level, condition=None):
            return super().forward(x, level, condition) + x.mean()

    return Mixing


def test_a_condition_that_is_neither_used_nor_refused_breaks_the_contract():
    from core.testing.networks import check_network

    with pytest.raises(AssertionError, match="ignores the condition 'vector': use it, or refuse"):
        check_network(layers(2, deaf=("vector",)))


def test_a_network_that_takes_no_batch_is_said_with_every_reason():
    from core.testing.networks import check_network

    class Broken(torch.nn.Module):
        def __init__(self, channels, outputs, conditions):
            super().__init__()

        def forward(self, x, level, condition=None):
            return x.flatten()

    with pytest.raises(AssertionError, match=r"(?s)pass `shape`.*\(2, 3, 24\) gives \(144,\)"):
        check_network(Broken)
