"""Predictors draw as their checkpoint states: with its default guidance."""

import pytest
import torch

from core.model import load_model
from core.parts.registry import Spec
from core.request import Machine, TrainRequest
from core.runs import train
from plugins.image2image.inference.predictors import Restore, Upscale
from plugins.image2image.inference.purify_files import Purify

MACHINE = Machine(threads=1)
CLIP = Spec("core/clip")
SMALL = {"width": 8, "multipliers": [1], "blocks": 1, "attention": [], "middle_attention": False}
PHOTOS = Spec("image2image/photos", {"size": 16, "patches": 8})


def trained(folder, task, dataset, guidance):
    request = TrainRequest(
        task=task, dataset=dataset, network=Spec("core/unet", SMALL), process=Spec("core/edm"),
        parameterization=Spec("core/eps"), guidance=guidance, steps=1, batch=2,
    )  # fmt: skip
    train(request, folder, machine=MACHINE)
    return folder


def largest(model):
    """The largest estimate of x0 from noise, without a condition's help."""
    size = (1, model.task.channels, 16, 16)
    x = 50 * torch.randn(size, generator=torch.Generator().manual_seed(0))
    condition = {name: torch.zeros(1, n, 16, 16) for name, n in model.task.conditions.items()}
    with torch.no_grad():
        return float(model.denoise(x, torch.full((1,), 50.0), condition).x0.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "dataset", "build", "model_of"),
    [
        (Spec("image2image/sr3", {"scale": 2}), PHOTOS, Upscale, lambda p: p.stages[0][0]),
        (Spec("image2image/colourise"), PHOTOS, Restore, lambda p: p._model),
        (
            Spec("core/generate", {"channels": 1}),
            Spec("image2image/digits"),
            Purify,
            lambda p: p._model,
        ),
    ],
    ids=["upscale", "restore", "purify and edit"],
)
def test_estimates_have_the_default_guidance_of_the_checkpoint(
    tmp_path, capsys, task, dataset, build, model_of
):
    """Of eps on a level of 50 an untrained network's estimate is far outside [-1, 1]."""
    folder = trained(tmp_path / "clipped", task, dataset, CLIP)
    assert largest(load_model(folder)) > 10
    assert largest(model_of(build(MACHINE, folder))) <= 1
    assert "guidance: core/clip, the checkpoint's default" in capsys.readouterr().err
