"""What a request for samples can ask of a trained model's denoiser."""

import pytest
import torch
from safetensors.torch import load_file

from core.errors import InputError
from core.model import guided, load_model
from core.parts.config import ConfigError
from core.parts.registry import Spec
from core.request import SampleRequest, TrainRequest, silent
from core.runs import sample, train

NETWORK = Spec(
    "core/unet", {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "patch": 2}
)
DATA = Spec("image2image/photos", {"size": 32, "patches": 64, "per_photo": 2})
GRID = Spec("core/uniform_log_snr", {"steps": 3})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    request = TrainRequest(
        task=Spec("image2image/sr3"), dataset=DATA, network=NETWORK, steps=4, batch=2,
        warmup=1, unconditional=0.2, objective=Spec("core/hybrid"),
    )  # fmt: skip
    train(request, folder)
    return folder


def drawn(checkpoint, out, **options):
    request = SampleRequest(checkpoint=checkpoint, count=2, grid=GRID, **options)
    sample(request, out)
    return load_file(out / "samples.safetensors")["samples"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        Spec("core/ancestral", {"variance": "learned"}),
        Spec("core/ancestral", {"variance": "analytic"}),
        Spec("core/predictor_corrector", {"predictor": {"name": "core/ddim", "eta": 1.0}}),
        Spec("core/stochastic_then_ode", {"then": "core/unipc"}),
        Spec("core/dopri5", {"rtol": 1e-2, "atol": 1e-2}),
    ],
    ids=str,
)
def test_samplers_that_want_more_than_an_estimate_run_from_a_request(checkpoint, tmp_path, sampler):
    first = drawn(checkpoint, tmp_path / "a", sampler=sampler)
    again = drawn(checkpoint, tmp_path / "b", sampler=sampler)
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)


@pytest.mark.slow
def test_the_analytic_variance_lies_between_none_and_the_datas(checkpoint):
    model = load_model(checkpoint)
    request = SampleRequest(
        checkpoint=checkpoint, sampler=Spec("core/ancestral", {"variance": "analytic"})
    )
    notes = []
    denoise = guided(model, request, notes.append)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    condition = {name: torch.zeros(2, c, 32, 32) for name, c in model.task.conditions.items()}
    variances = []
    for t in (model.process.t_first, 0.3, model.process.t_max):
        times = torch.full((2,), t, dtype=torch.float64)
        variances.append(float(denoise(x, times, condition).x0_variance[0]))
    assert 0 <= variances[0] < variances[1] < variances[2] < 10
    assert "measuring the variance" in notes[0].text


def test_guidance_without_a_classifier_at_scale_one_is_the_model(checkpoint, tmp_path):
    plain = drawn(checkpoint, tmp_path / "plain")
    one = Spec("core/classifier_free", {"scale": 1.0})
    strong = Spec("core/classifier_free", {"scale": 5.0})
    assert torch.equal(drawn(checkpoint, tmp_path / "one", guidance=one), plain)
    assert not torch.equal(drawn(checkpoint, tmp_path / "strong", guidance=strong), plain)


def test_a_clipped_model_says_nothing_out_of_range(checkpoint):
    model = load_model(checkpoint)
    guidance = Spec("core/clip", {"low": -0.01, "high": 0.01})
    request = SampleRequest(checkpoint=checkpoint, guidance=guidance)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    condition = {name: torch.zeros(1, c, 32, 32) for name, c in model.task.conditions.items()}
    t = torch.full((1,), 0.5, dtype=torch.float64)
    assert guided(model, request, silent)(x, t, condition).x0.abs().max() <= 0.01


def test_a_brownian_sample_is_its_own_and_repeats(checkpoint, tmp_path):
    options = {"sampler": Spec("core/ancestral"), "noise": "brownian"}
    first = drawn(checkpoint, tmp_path / "a", **options)
    assert torch.equal(first, drawn(checkpoint, tmp_path / "b", **options))
    assert not torch.equal(first, drawn(checkpoint, tmp_path / "c", sampler=Spec("core/ancestral")))


def test_guidance_that_only_a_program_can_supply_is_refused(checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"guidance: .* requires log_prob, which only a program"):
        drawn(checkpoint, tmp_path, guidance=Spec("core/classifier"))
    with pytest.raises((ConfigError, InputError), match="core/clip"):
        drawn(checkpoint, tmp_path, guidance=Spec("core/clipp"))
