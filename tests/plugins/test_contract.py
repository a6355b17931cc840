"""Every registered part keeps its kind's contract."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.process.schedules import edm, vp_cosine
from core.registry import installed
from core.testing.contract import check_part

PARTS = [(part.kind, name) for name, part in installed().names()]
PROCESSES = (edm(), vp_cosine())
SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_channels": 8}
NETWORKS = {
    "core/unet": SMALL,
    "core/transformer": {"width": 16, "depth": 2, "head_channels": 8, "patch": 2},
}

BEAMS = {"options": {"height": 16, "width": 24, "views": 5}, "shape": (2, 3, 16, 24)}
OPERATORS = {
    "medical/radon": BEAMS,
    "medical/fan_beam": BEAMS,
    "medical/fourier": {"shape": (2, 2, 16, 24)},
}


def noise_pictures(folder):
    """Six pictures of plain noise: nothing of them can be learned, everything can be checked."""
    draw = np.random.Generator(np.random.PCG64(0))
    for number in range(6):
        pixels = draw.integers(0, 256, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def cifar_files(folder):
    """Each file of CIFAR-10 with two pictures of noise."""
    draw = np.random.Generator(np.random.PCG64(0))
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = draw.integers(0, 10, (2, 3073), dtype=np.uint8)
        records.tofile(folder / f"{name}.bin")
    return folder


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_part_keeps_its_contract(kind, name, tmp_path):
    inputs = {}
    if kind == "network":
        inputs = {"options": NETWORKS[name]}
    if kind == "dataset":
        options = {"patches": 40, "size": 32}
        if name == "image2image/folder":
            options |= {"root": noise_pictures(tmp_path), "test_fraction": 0.4}
        if name == "image2image/digits":
            options = {}
        if name == "image2image/cifar10":
            options = {"root": cifar_files(tmp_path)}
        if name == "medical/phantoms":
            options = {"size": 16, "count": 5}
        if name == "core/blank":
            options = {"shape": (1, 5), "count": 3}
        inputs = {"options": options}
    if kind == "operator":
        inputs = OPERATORS.get(name, {})
    if kind == "task":
        image = torch.rand(2, 3, 32, 32, generator=torch.Generator()) * 1.6 - 0.8
        inputs = {"batch": {"image": image}}
    processes = {"sampler": PROCESSES[:1], "grid": PROCESSES}
    for process in processes.get(kind, (None,)):
        check_part(installed(), kind, name, **({"process": process} if process else inputs))


def test_the_contract_catches_a_network_that_mixes_its_batch():
    from core.network.unet import UNet
    from core.testing.contract import _network

    class Mixing(UNet):
        def forward(self, x, level, condition=None):
            return super().forward(x, level, condition) + x.mean()

    with pytest.raises(AssertionError, match="neighbours"):
        _network(Mixing, options=SMALL)
