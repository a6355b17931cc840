"""The weights that come with the plug-in, on photographs that they were not trained on."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from core.model import for_task, load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.results.metrics import psnr
from plugins import image2image
from plugins.image2image.inference.draws import Sampling, default_drawing, draw_restorations
from plugins.image2image.tasks.super_resolution import SR3

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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
@torch.no_grad()
def test_a_blurred_noisy_jpeg_is_enlarged_nearer_to_the_truth_than_by_bicubic(name):
    """All of the degradation by Pillow and numpy; the default of the checkpoint."""
    data = pytest.importorskip("skimage.data")
    truth = getattr(data, name)()[100:292, 120:312]
    blurred = Image.fromarray(truth).filter(ImageFilter.GaussianBlur(1.5))
    small = np.asarray(blurred.resize((48, 48), Image.Resampling.BICUBIC)).astype(float)
    noisy = small + np.random.default_rng(0).normal(0, 5, small.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(file, "JPEG", quality=50)
    given = Image.open(file)

    model = load_model(WEIGHTS / "degraded")
    assert isinstance(model.task, SR3)
    low = torch.from_numpy(np.array(given)).permute(2, 0, 1)[None].float() / 127.5 - 1
    grid = configure("grid", Spec("core/uniform_time", {"steps": 4}))(model.process)
    solver = configure("sampler", Spec("core/ancestral"))()
    how = Sampling(solver=solver, grid=grid, detail=default_drawing(model).detail)
    (found,) = draw_restorations(model, model.task.given(low, 0.0, low), how)

    def quality(image):
        return 10 * np.log10(255**2 / np.square(image - truth.astype(float)).mean())

    ours = quality(((found[0] + 1) * 127.5).permute(1, 2, 0).numpy())
    assert ours > quality(np.asarray(given.resize((192, 192), Image.Resampling.BICUBIC))) + 0.2


JPEG = Spec("image2image/jpeg", {"quality": 10})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "gain"),
    [
        ("jpeg", JPEG, 0.7),
        ("restoration", JPEG, 0.3),
        ("restoration", Spec("image2image/colourise"), 0.5),
    ],
)
@torch.no_grad()
def test_the_default_restores_nearer_than_the_first_estimate(name, task, gain):
    """In dB, the mean of three photographs."""
    data = pytest.importorskip("skimage.data")
    model = for_task(load_model(WEIGHTS / name), task)
    solver = configure("sampler", Spec("core/ancestral"))()
    grid = configure("grid", Spec("core/uniform_time", {"steps": 4}))(model.process)
    how = Sampling(solver=solver, grid=grid, detail=default_drawing(model).detail)
    gained = []
    for index, photograph in enumerate(("astronaut", "coffee", "chelsea")):
        photo = torch.from_numpy(getattr(data, photograph)()[36:292, 100:356].copy())
        item = model.task.degrade({"image": photo.permute(2, 0, 1).float() / 127.5 - 1}, index)
        batch = {key: value[None] for key, value in item.items()}
        (found,) = draw_restorations(model, batch, how)
        results = (model.task.written(x, batch) for x in (found, model.task.base(batch)))
        ours, first = (float(psnr(x, batch["image"])) for x in results)
        gained.append(ours - first)
    assert sum(gained) / 3 > gain
