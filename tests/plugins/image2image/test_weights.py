"""The weights that come with the plug-in, on photographs that they did not learn."""

from pathlib import Path

import pytest
import torch

import plugins.image2image
from core.model import for_task, load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.request import Machine
from core.results.metrics import psnr
from core.sampler.draws import summary
from plugins.image2image.inference.draws import Sampling, default_drawing, draw_restorations

WEIGHTS = Path(plugins.image2image.__file__).parent / "weights"
JPEG = Spec("image2image/jpeg", {"quality": 10})


def photograph(name):
    """The central square of 256x256 pixels of one of scikit-image's, (3, 256, 256) in [-1, 1]."""
    import skimage.data

    pixels = getattr(skimage.data, name)()
    top, left = (pixels.shape[0] - 256) // 2, (pixels.shape[1] - 256) // 2
    square = pixels[top : top + 256, left : left + 256].copy()
    return torch.from_numpy(square).permute(2, 0, 1).float() / 127.5 - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "gain"),
    [
        ("x4", Spec("image2image/sr3"), 0.8),
        ("jpeg", JPEG, 0.7),
        ("restoration", JPEG, 0.3),
        ("restoration", Spec("image2image/colourise"), 0.5),
    ],
)
def test_the_default_is_nearer_than_the_first_estimate(name, task, gain):
    """In dB, the mean of three photographs."""
    machine = Machine(threads=1)
    model = for_task(load_model(WEIGHTS / name, machine=machine), task)
    drawn = default_drawing(model)
    assert drawn.detail == 0
    gained = []
    for index, one in enumerate(("astronaut", "coffee", "chelsea")):
        item = model.task.degrade({"image": photograph(one)}, index)
        batch = {key: value[None] for key, value in item.items()}
        sampling = Sampling(
            solver=configure("sampler", Spec("core/ancestral"))(),
            grid=configure("grid", Spec("core/uniform_time", {"steps": drawn.steps}))(
                model.process
            ),
            seed=0,
            draws=1,
            detail=0.0,
        )
        ours = model.task.written(summary(draw_restorations(model, batch, sampling)).mean, batch)
        first = model.task.written(model.task.base(batch), batch)
        truth = batch["image"]
        gained.append(float(psnr(ours, truth) - psnr(first, truth)))
    print(name, task.name, [round(x, 2) for x in gained])
    assert sum(gained) / 3 > gain
