"""Features of ddpm-segmentation: the same activations, of tensors of the same sizes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.features import Features
from core.network.taps import tapped
from core.network.unet import UNet
from core.request import Machine
from core.weights.importing import import_weights
from plugins.segmentation.features.diffusion import PUBLISHED, Diffusion

HERE = Path(__file__).parents[3] / "core" / "weights" / "reference"
sys.path.insert(0, str(HERE))
from recipe import numbers, weights  # noqa: E402


@pytest.mark.slow
def test_maps_are_the_activations_of_the_originals_extractor(tmp_path, monkeypatch):
    """Blocks 5 and 12 at step 50 of random weights, which its own loader read."""
    arrays = np.load(HERE / "segmentation.npz")
    about = json.loads(str(arrays["about"]))
    state = {key: torch.from_numpy(value) for key, value in weights(about["shapes"]).items()}
    torch.save(state, tmp_path / "weights.pt")
    import_weights(
        tmp_path / "weights.pt", tmp_path / "run", flags=about["flags"], kind="ddpm-segmentation"
    )
    features: Features = Diffusion(
        Machine(device="cpu", threads=1),
        checkpoint=tmp_path / "run", blocks=("up.5", "up.12"), steps=(50,),
    )  # fmt: skip
    x0, noise = (torch.from_numpy(numbers(key, tuple(about["x"]))) for key in ("x0", "noise"))
    monkeypatch.setattr(features, "noise", lambda *_: noise)
    five, twelve = features(x0).values
    for ours, theirs in ((five, "block_5"), (twelve[:, :, ::4, ::4], "block_12")):
        expected = torch.from_numpy(arrays[theirs])
        assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.slow
def test_the_preset_has_the_published_sizes():
    """8448 channels of ADM at 256x256 pixels, from five blocks at three steps."""
    with torch.device("meta"):
        network = UNet(3, 6, {}, width=256, multipliers=(1, 1, 2, 2, 4, 4), blocks=2,
                       attention=(8, 16, 32), head_channels=64)  # fmt: skip
        blocks, steps = PUBLISHED
        with torch.no_grad(), tapped(network, blocks, stop=True) as found:
            network(torch.zeros(1, 3, 256, 256), torch.zeros(1))
    shapes = [tuple(found[name].shape[1:]) for name in blocks]
    assert shapes == [
        (1024, 32, 32), (512, 32, 32), (512, 32, 32), (512, 64, 64), (256, 128, 128),
    ]  # fmt: skip
    assert len(steps) * sum(shape[0] for shape in shapes) == 8448
    assert steps == (50, 150, 250)
