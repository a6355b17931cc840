"""Stripes of an enlargement: the whole image's rows, in less memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import InputError
from core.model import load_model
from core.parts.config import configure
from core.parts.registry import Spec
from core.process.noise import Noise
from plugins import image2image
from plugins.image2image.inference.draws import Sampling, draw_restorations
from plugins.image2image.inference.row_noise import RowNoise
from plugins.image2image.inference.stripes import (
    draw_stripes,
    parse_size,
    plan,
    planned,
    striped_cost,
)
from plugins.image2image.operators.bicubic import Bicubic

WEIGHTS = Path(image2image.__file__).parent / "weights" / "x4"


def sampling(process, **options):
    grid = configure("grid", Spec("core/uniform_time", {"steps": 2}))(process)
    solver = configure("sampler", Spec("core/ancestral"))()
    return Sampling(solver=solver, grid=grid, tile=64, overlap=16, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("detail", "most"), [(0.0, 2e-5), (1.0, 0.1)])
def test_stripes_are_rows_of_the_whole_image(detail, most):
    """Up to rounding for the expected image; consistent, and without a seam, for both."""
    data = pytest.importorskip("skimage.data")
    model = load_model(WEIGHTS)
    photo = torch.from_numpy(data.coffee()[100:350, 100:124].copy())
    low = photo.permute(2, 0, 1)[None].float() / 127.5 - 1
    how = sampling(model.process, detail=detail)
    (whole,) = draw_restorations(model, {"low": low}, how)
    stripes = planned(model, low.shape[-2:], how, 12 * 3 * 4 * 96 * 700)
    assert len(stripes) >= 3
    found = [rows for _, rows in draw_stripes(model, low, how, stripes)]
    joined = torch.cat(found, dim=-2)[None]
    assert joined.shape == whole.shape
    assert (joined - whole).abs().max() < most
    back = Bicubic(factor=4).forward(joined) - low
    assert (back / 2).square().mean() < 1e-5
    change = joined.diff(dim=-2).abs().mean((0, 1, 3))
    lines = [stripe.end - 1 for stripe in stripes[:-1]]
    others = [i for i in range(3, len(change), 4) if i not in lines]
    whole_change = whole.diff(dim=-2).abs().mean((0, 1, 3))
    before = whole_change[lines].mean() / whole_change[others].mean()
    assert change[lines].mean() / change[others].mean() <= 1.02 * before


def test_the_noise_of_rows_is_that_of_the_whole_and_of_one_stream_in_small_images():
    whole = RowNoise(3, "x", draw=1, height=2500).like(torch.zeros(1, 2, 2500, 5))
    part = RowNoise(3, "x", draw=1, height=2500, top=900).like(torch.zeros(1, 2, 1300, 5))
    assert torch.equal(part, whole[..., 900:2200, :])
    assert abs(float(whole.std()) - 1) < 4 / (2 * 25000) ** 0.5
    assert not torch.equal(whole[..., :1024, :], whole[..., 1024:2048, :])
    small = torch.zeros(1, 2, 1024, 5)
    one = Noise.of(3, "x", each=[1]).like(small)
    assert torch.equal(RowNoise(3, "x", draw=1, height=1024).like(small), one)


@pytest.mark.parametrize("height", [64, 100, 640, 1000, 2049 * 4])
def test_a_plan_keeps_every_row_once_and_fits(height):
    process = configure("process", Spec("core/vp_cosine"))()
    how = sampling(process)
    stripes = plan(height, scale=4, sampling=how, halo=48, most=500)
    assert [s.begin for s in stripes] == [0, *(s.end for s in stripes[:-1])]
    assert stripes[-1].end == height
    for stripe in stripes:
        assert 4 * (stripe.low[1] - stripe.low[0]) <= 500
        top = stripe.rows.top
        assert top <= stripe.begin
        assert all((start + top) % 48 == 0 for start in stripe.rows.tiles[:-1])
    with pytest.raises(InputError, match="memory: a stripe needs"):
        plan(3000, scale=4, sampling=replace(how, tile=512), halo=48, most=500)


@pytest.mark.slow
def test_the_cost_of_stripes_is_of_their_tiles_and_of_the_largest_one(monkeypatch):
    model = load_model(WEIGHTS)
    how, calls, memory = sampling(model.process, detail=0.0), [], 12 * 3 * 4 * 96 * 400
    stripes = planned(model, (250, 24), how, memory)
    cost = striped_cost(model, (1000, 96), how, stripes)
    estimate = model.network.estimate
    monkeypatch.setattr(model.network, "estimate", lambda given: calls.append(1) or estimate(given))
    for _ in draw_stripes(model, torch.zeros(1, 3, 250, 24), how, stripes):
        pass
    assert cost.tiles * cost.calls == len(calls)
    assert len(stripes) >= 3
    assert memory // 2 < cost.memory <= memory


def test_sizes_of_memory():
    assert parse_size("1.5GiB") == 3 << 29
    assert parse_size(" 500 MiB ") == 500 << 20
    with pytest.raises(InputError, match="such as 2GiB"):
        parse_size("2000")
