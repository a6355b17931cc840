"""Guidance as a request states it: lists in order, defaults, weaker checkpoints, refusals."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from small_model import sample_request, sampled, train_request, trained

from core.denoiser import parameterization
from core.denoiser.parameterization import NetworkDenoiser
from core.denoiser.parameterization import x0 as x0_row
from core.errors import InputError
from core.generate import Generate
from core.model import Model, guidance_of, guided, load_model
from core.network.conditioning import NullCondition
from core.parts.config import ConfigError, bind, override, plain
from core.parts.registry import Spec, installed
from core.parts.signature import options_of
from core.process import schedules
from core.request import SampleRequest, TrainRequest, silent
from core.results import samples
from core.runs import train
from core.testing.distributions import Gaussian
from pipelines.job.identity import what_decides

PROCESS = schedules.edm()
GIVEN = Gaussian(1.0, 0.5)  # with the condition
WHOLE = Gaussian(0.0, 2.0)  # without


class Exact(nn.Module):
    """A network that says the exact x0 of `GIVEN` and, without condition, of `WHOLE`."""

    def __init__(self):
        super().__init__()
        self.null_condition = NullCondition({"class": 2}, "zero")

    def forward(self, x, level, condition=None):
        t = (-level / 25 / 2).exp()  # level is 25 log-SNR, and log-SNR -2 log t
        null = (self.null_condition(condition)["class"] == 2).view(-1, *[1] * (x.ndim - 1))
        given, whole = (world.denoiser(PROCESS)(x, t).x0 for world in (GIVEN, WHOLE))
        return torch.where(null, whole, given)


def exact_model(*, unconditional=0.1, classes=2, network=None, **options):
    network = network or Exact()
    request = TrainRequest(
        task=Spec("core/generate", {"channels": 1, "classes": classes}),
        dataset=Spec("core/blank"),
        process=Spec("core/edm"),
        parameterization=Spec("core/x0"),
        unconditional=unconditional,
        **options,
    )
    denoise = NetworkDenoiser(network, PROCESS, x0_row())
    task = Generate(channels=1, classes=classes)
    return Model(denoise, network, task, request, torch.device("cpu"), (), 0, Path("run"), 0)


def asked(guidance, **options):
    return bind(SampleRequest, {"checkpoint": "run", "guidance": guidance, **options})


def points(n=5):
    x = 3 * torch.randn(n, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.05, 0.3, 1.0, 3.0, 20.0], dtype=torch.float64)[:n]
    return x, t, {"class": torch.zeros(n).long()}


def estimate(model, guidance):
    return guided(model, asked(guidance), silent)(*points()).x0


def test_guidance_is_applied_in_the_order_of_the_list():
    """Imagen's pair by hand: clip(u + 4 (c - u)) differs from the guidance of clipped estimates."""
    x, t, _ = points()
    c, u = GIVEN.denoiser(PROCESS)(x, t).x0, WHOLE.denoiser(PROCESS)(x, t).x0
    free = {"name": "core/classifier_free", "scale": 4.0}
    clip = {"name": "core/clip", "low": -0.5, "high": 1.2}
    model = exact_model()
    after = (u + 4 * (c - u)).clamp(-0.5, 1.2)
    before = u.clamp(-0.5, 1.2) + 4 * (c.clamp(-0.5, 1.2) - u.clamp(-0.5, 1.2))
    assert (estimate(model, [free, clip]) - after).abs().max() < 1e-12
    assert (estimate(model, [clip, free]) - before).abs().max() < 1e-12
    assert (after - before).abs().max() > 0.5
    pair = estimate(model, [free, "core/dynamic_threshold"])
    assert pair.abs().max() <= 1
    assert torch.equal(estimate(model, [free]), estimate(model, free))


def test_one_part_stays_what_it_was_and_a_list_is_a_list_of_them():
    """The plain form, which keys and checkpoints are made of."""
    one = plain(asked("core/clip").guidance)
    assert one == {"name": "core/clip", "low": -1.0, "high": 1.0}
    assert plain(asked(["core/clip", one]).guidance) == [one, one]
    assert plain(asked([]).guidance) == []
    assert plain(asked(None).guidance) is None
    assert bind(SampleRequest, plain(asked([one]))) == asked([one])
    given = override({}, ["guidance=[core/clip, {name: core/classifier_free, scale: 3}]"])
    assert given == {"guidance": ["core/clip", {"name": "core/classifier_free", "scale": 3}]}


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        (["core/clip", {"name": "core/clip", "lo": 1}], r"guidance\[1\].lo: unknown option; did"),
        (["core/clip", 3], r"guidance\[1\]: a part is a name or a mapping with a name, got 3"),
        (["core/clipp"], r"guidance\[0\]: no guidance named 'core/clipp'; did you mean"),
        ({"name": "core/clip", "low": "x"}, r"guidance.low: expected float, got 'x'"),
        (3, "guidance: a part is a name or a mapping with a name, got 3"),
        (["core/clip", "core/reward"], r"guidance\[1\]: core/reward requires reward, which only a"),
        ("core/autoguidance", "guidance.weaker: required, but not given"),
    ],
)
def test_what_is_wrong_in_a_list_is_named_by_its_place(guidance, message):
    with pytest.raises(ConfigError, match="^" + message):
        asked(guidance)


def test_a_checkpoint_s_default_is_taken_where_none_is_stated():
    model, notes = exact_model(guidance=Spec("core/clip")), []
    assert guidance_of(model, asked(None)) == (Spec("core/clip"),)
    assert guidance_of(model, asked([])) == ()
    denoise = guided(model, asked(None), notes.append)
    assert denoise(*points()).x0.abs().max() <= 1
    assert "core/clip, the checkpoint's default" in notes[0].text
    assert estimate(model, []).abs().max() > 1


def test_guidance_without_condition_is_refused_or_noted_where_it_was_not_trained():
    free = "core/classifier_free"
    with pytest.raises(InputError, match="guidance: core/classifier_free requires a model with co"):
        guided(exact_model(classes=0), asked(free), silent)
    model = exact_model(network=nn.Linear(1, 1))
    with pytest.raises(InputError, match=r"guidance\[1\]: .* requires a network with a null"):
        guided(model, asked(["core/clip", free]), silent)
    notes = []
    guided(exact_model(unconditional=0.0), asked(free), notes.append)
    assert "was never trained without its condition" in notes[0].text
    guided(exact_model(), asked(free), (notes := []).append)
    assert not notes


def test_training_without_condition_requires_one(tmp_path):
    with pytest.raises(InputError, match=r"unconditional: 0.1 requires a task with conditions"):
        train(train_request(unconditional=0.1), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# --- a weaker checkpoint -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one step and of two, from other seeds."""
    folder = tmp_path_factory.mktemp("runs")
    common = {"classes": 2, "data_classes": 2, "lr": 0.05}
    return (
        trained(folder / "good", steps=2, **common),
        trained(folder / "weak", steps=1, seed=1, snapshots=1, **common),
    )


def test_autoguidance_by_a_checkpoint_is_the_extrapolation_of_two_models(runs):
    good, weak = runs
    model, other = load_model(good), load_model(weak)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    given = {"class": torch.tensor([0, 1, 0])}
    part = {"name": "core/autoguidance", "weaker": str(weak), "scale": 3.0}
    found = guided(model, asked(part), silent)(x, t, given).x0
    d1, d0 = model.denoise(x, t, given).x0, other.denoise(x, t, given).x0
    assert (d1 - d0).abs().max() > 1e-2
    assert (found - (3 * d1 - 2 * d0)).abs().max() < 1e-5  # float32's rounding of sizes of 10
    for options in ({"ema": False}, {"ema_width": 0.1}):
        d0 = load_model(weak, **options).denoise(x, t, given).x0
        found = guided(model, asked(part | options), silent)(x, t, given).x0
        assert (found - (3 * d1 - 2 * d0)).abs().max() < 1e-5


def test_a_weaker_checkpoint_must_fit(runs, tmp_path):
    model = load_model(runs[0])
    part = {"name": "core/autoguidance", "weaker": str(tmp_path / "none")}
    with pytest.raises(InputError, match="none"):
        guided(model, asked(part), silent)
    other = trained(tmp_path / "other", process=Spec("core/vp_linear"))
    with pytest.raises(
        InputError, match=r"guidance.weaker: .*expected conditions .*'class': 2"
    ) as e:
        guided(model, asked(part | {"weaker": str(other)}), silent)
    assert "expected process" in str(e.value)


def test_a_weaker_checkpoint_s_content_is_part_of_a_step_s_identity(runs, tmp_path):
    """By the digest of the files, wherever they are named: in one part or in a list."""
    good, weak = runs
    part = {"name": "core/autoguidance", "weaker": str(weak)}
    for guidance, at in ((part, "request.guidance"), ([part], "request.guidance[0]")):
        request = sample_request(good, guidance=asked(guidance).guidance)
        values = {name: getattr(request, name) for name in ("checkpoint", "guidance")}
        contents, parts, problems = what_decides(
            options_of(SampleRequest), values, installed(), "request"
        )
        assert not problems
        assert contents.keys() == {"request.checkpoint", f"{at}.weaker"}
        assert "guidance core/autoguidance" in parts
        assert len(set(contents.values())) == 2


def test_samples_record_the_guidance_that_they_were_drawn_with(runs, tmp_path):
    good, weak = runs
    parts = (Spec("core/autoguidance", {"weaker": weak}), Spec("core/clip"))
    drawn = samples.read(sampled(good, tmp_path / "a", guidance=parts))
    assert [one["name"] for one in drawn.about["guidance"]] == ["core/autoguidance", "core/clip"]
    assert drawn.about["guidance"][0]["scale"] == 2.0
    assert drawn.results.abs().max() <= 1
    plain_ = samples.read(sampled(good, tmp_path / "b"))
    assert plain_.about["guidance"] == []


# --- errors amplified at the noisy end -----------------------------------------------------------


def test_eps_where_alpha_is_tiny_requires_guidance_that_bounds_it(tmp_path):
    """1 / alpha is 20,291 at the last node of a thousand cosine betas."""
    options = {
        "process": Spec("core/cosine_table"),
        "parameterization": Spec("core/eps"),
    }
    run, notes = tmp_path / "run", []
    train(
        train_request(**options), run, emit=lambda event: notes.append(getattr(event, "text", ""))
    )
    assert any("core/eps on core/cosine_table" in text and "core/clip" in text for text in notes)
    with pytest.raises(InputError, match=r"20291 times as large in x0 .*guidance=core/clip"):
        sampled(run, tmp_path / "refused")
    free = sampled(run, tmp_path / "free", guidance=())
    assert samples.read(free).results.abs().max() > 30
    clipped = sampled(run, tmp_path / "clipped", guidance=Spec("core/clip"))
    assert samples.read(clipped).results.abs().max() <= 1
    remembered = train_request(**options, guidance=Spec("core/clip"))
    train(remembered, tmp_path / "remembered")
    assert samples.read(sampled(tmp_path / "remembered", tmp_path / "c")).results.abs().max() <= 1


SIZES = {"eps": 1.0, "score": 1 / 3, "x0": 1.0, "v": 9.01**0.5, "flow": 2**0.5}
AMPLIFIED = {
    "eps": 3 / 0.1, "score": 3 / 0.1, "x0": 1.0, "v": 3 / 9.01**0.5, "flow": 3 * 2**0.5 / 3.1,
}  # fmt: skip


@pytest.mark.parametrize("row", SIZES)
def test_gain_is_the_change_of_x0_where_the_output_changes_by_its_own_size(row):
    """At alpha = 0.1, sigma = 3: by the difference of two x0, and by hand."""
    it = getattr(parameterization, row)()
    alpha, sigma = (torch.tensor([value], dtype=torch.float64) for value in (0.1, 3.0))
    x, output = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    moved = it.to_x0(output + SIZES[row], x, alpha, sigma) - it.to_x0(output, x, alpha, sigma)
    assert float(it.gain(alpha, sigma)) == pytest.approx(float(moved.abs()), rel=1e-12)
    assert float(it.gain(alpha, sigma)) == pytest.approx(AMPLIFIED[row], rel=1e-12)
