"""Encode, interpolate and likelihood as runs: on Gaussian data with an exact denoiser."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core import trajectories
from core.data import collate
from core.errors import InputError
from core.model import Model
from core.parts.registry import Spec
from core.points import Plane, Points
from core.process.noise import Noise
from core.process.schedules import vp_cosine
from core.request import (
    EncodeRequest,
    InterpolateRequest,
    LikelihoodRequest,
    Progress,
    TrainRequest,
)
from core.sampler.grids import uniform_log_snr
from core.sampler.runge_kutta import Heun
from core.sampler.sample import sample
from core.testing.distributions import Gaussian
from pipelines.job.verbs import VERBS

WORLD, PROCESS, COUNT = Gaussian(0.2, 0.6), vp_cosine(), 24
HERE = {"checkpoint": Path("exact"), "count": COUNT}
STEPS = Spec("core/uniform_log_snr", {"steps": 60})


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """Whatever checkpoint is asked for holds a denoiser that is exact on N(0.2, 0.6^2)."""
    request = TrainRequest(task=Spec("core/points"), dataset=Spec("core/points"))
    model = Model(
        WORLD.denoiser(PROCESS), torch.nn.Identity(), Plane(), request, torch.device("cpu"),
        (), 0, Path("exact"), 0, (2,),
    )  # fmt: skip
    monkeypatch.setattr(trajectories, "load_model", lambda *_, **__: model)


@pytest.fixture(scope="module")
def points():
    return collate(Points("test"), list(range(COUNT)))["point"]


def flow(x0):
    """The end of the trajectory through x0, solved by hand: standard scores are kept."""
    alpha, sigma = (float(v) for v in PROCESS.alpha_sigma(torch.tensor(PROCESS.t_max).double()))
    std = math.hypot(alpha * 0.6, sigma)
    return alpha * 0.2 + std * (x0 - 0.2) / 0.6


@pytest.mark.slow
def test_latents_approach_those_of_the_exact_flow_at_second_order(tmp_path, points):
    far, error = [], []
    for n in (60, 120):
        grid = Spec("core/uniform_log_snr", {"steps": n})
        result = trajectories.encode(EncodeRequest(**HERE, grid=grid), tmp_path / str(n))
        latents = load_file(tmp_path / str(n) / "latents.safetensors")["latents"]
        far.append(float((latents - flow(points)).abs().max()))
        times = uniform_log_snr(PROCESS, steps=n)
        again = sample(WORLD.denoiser(PROCESS), times, Heun(), latents, Noise(range(COUNT)))
        assert result.error == pytest.approx(float((again - points).square().mean().sqrt()))
        error.append(result.error)
        about = json.loads((tmp_path / str(n) / "latents.json").read_text())
        assert result.items == len(about["items"]) == COUNT
        assert about["error"] == result.error
    assert far[1] < 5e-3
    assert far[0] / far[1] > 3  # Heun: four
    assert error[0] / error[1] > 3


@pytest.mark.parametrize("path", ["spherical", "linear"])
def test_interpolations_begin_and_end_at_the_items_and_follow_the_path(tmp_path, points, path):
    request = InterpolateRequest(**{**HERE, "count": 3}, frames=5, path=path, grid=STEPS)
    result = trajectories.interpolate(request, tmp_path / "out")
    frames = load_file(tmp_path / "out" / "samples.safetensors")["samples"]
    assert frames.shape == (2, 5, 2)
    assert (result.items, result.draws) == (2, 5)
    assert (frames[:, 0] - points[:2]).abs().max() < 1e-2
    assert (frames[:, -1] - points[1:3]).abs().max() < 1e-2
    a, b = flow(points[0]), flow(points[1])
    middle = (a + b) / 2
    if path == "spherical":  # halfway along the arc: the sum, scaled to 1 / (2 cos(angle / 2))
        angle = torch.acos((a * b).sum() / (a.norm() * b.norm()))
        middle = middle / torch.cos(angle / 2)
    assert (flow(frames[0, 2]) - middle).abs().max() < 2e-2
    assert (tmp_path / "out" / "sheet.png").exists()


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_likelihood_is_the_gaussians_own(tmp_path, points, trace):
    request = LikelihoodRequest(**HERE, trace=trace)
    seen = []
    result = trajectories.likelihood(request, tmp_path / "out", emit=seen.append)
    # The estimate of the trace is exact too: the Jacobian is a multiple of the identity.
    nats = -WORLD.log_density(points.double())
    found = json.loads((tmp_path / "out" / "likelihood.json").read_text())
    assert (torch.tensor(found["nats"]) - nats).abs().max() < 2e-3
    bits = float((nats / (2 * math.log(2))).mean())
    assert abs(result.bits_per_dim - bits) < 2e-3
    assert result.low < bits < result.high
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["methods"]["uniform"]["bits"]["mean"] == pytest.approx(1)  # density 1/4
    assert metrics["differences"]["model"]["bits"]["mean"] == pytest.approx(result.bits_per_dim - 1)
    assert isinstance(seen[-1], Progress)
    assert seen[-1].done == COUNT


def test_refusals_leave_nothing_behind(tmp_path):
    noisy = EncodeRequest(**HERE, sampler=Spec("core/ddim", {"eta": 1.0}))
    with pytest.raises(InputError, match="draws noise"):
        trajectories.encode(noisy, tmp_path / "a")
    one = Spec("core/points", {"count": 1})
    alone = InterpolateRequest(checkpoint=Path("exact"), dataset=one)
    with pytest.raises(InputError, match="count: expected at most 1"):
        trajectories.interpolate(alone, tmp_path / "b")
    with pytest.raises(InputError, match="levels"):
        trajectories.likelihood(LikelihoodRequest(**HERE, levels=256), tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_steps_of_jobs_can_run_them():
    for name in ("encode", "interpolate", "likelihood"):
        assert VERBS[name].target == f"core.trajectories:{name}"
    assert VERBS["likelihood"].paths == ("metrics",)
