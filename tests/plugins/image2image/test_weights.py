"""The weights that come with the plug-in, on photographs that they were not trained on."""

from pathlib import Path

import pytest
import torch

from core.model import load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.results.metrics import psnr
from plugins import image2image
from plugins.image2image.inference.draws import Sampling, draw_restorations

WEIGHTS = Path(image2image.__file__).parent / "weights"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@torch.no_grad()
def test_an_enlarged_photograph_is_nearer_to_the_truth_than_classical_ones(name):
    data = pytest.importorskip("skimage.data")
    model = load_model(WEIGHTS / "x4")
    photo = torch.from_numpy(getattr(data, name)()[100:292, 120:312].copy())
    batch = {"image": photo.permute(2, 0, 1)[None].float() / 127.5 - 1}
    task = model.task
    grid = configure("grid", Spec("core/uniform_time", {"steps": 4}))(model.process)
    solver = configure("sampler", Spec("core/ancestral"))()
    how = Sampling(solver=solver, grid=grid, detail=0.0)
    (found,) = draw_restorations(model, batch, how)
    classical = task.baselines(batch).values()
    best = max(float(psnr(task.written(x, batch), batch["image"])) for x in classical)
    assert task.figures_of(found, batch)["psnr"] > best + 0.2
    assert task.figures_of(found, batch)["consistency"] < 1  # 1e-5
