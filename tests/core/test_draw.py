"""Samples in one call, from Python: the numbers they have, and what is answered to a slip."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import polymode
from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.errors import InputError
from core.model import Model
from core.parts.registry import Spec
from core.points import Plane
from core.process.noise import Noise
from core.process.schedules import vp_cosine
from core.request import TrainRequest
from core.runs import train
from core.sampler.grids import karras
from core.sampler.runge_kutta import Heun
from core.sampler.sample import prior, sample
from core.testing.distributions import Gaussian

ROOT = Path(__file__).resolve().parents[2]
WORLD = Gaussian(0.3, 0.5)


def exact(task=None, **fields):
    """A model whose denoiser is exact on N(0.3, 0.5^2)."""
    request = TrainRequest(task=Spec("core/points"), dataset=Spec("core/points"))
    fields = {"trained_shape": (2,), **fields}
    return Model(
        WORLD.denoiser(vp_cosine()), torch.nn.Identity(), task or Plane(), request,
        torch.device("cpu"), (), 0, Path("runs/exact"), 7, **fields,
    )  # fmt: skip


def test_draws_of_gaussian_data_have_its_mean_and_standard_deviation():
    x = polymode.draw(exact(), range(2000), sampler="core/heun", steps=40, batch=500).double()
    n = x.numel()
    # The deviation's own error: 0.5 / sqrt(2 n) is 0.006; Heun with 40 steps adds under 0.01.
    assert abs(x.mean() - 0.3) < 4 * 0.5 / n**0.5
    assert abs(x.std() - 0.5) < 4 * 0.5 / (2 * n) ** 0.5 + 0.01


def test_a_draw_is_the_one_of_the_parts_put_together_by_hand():
    model = exact()
    grid, noise = karras(model.process, steps=8), Noise([3, 5])
    x = prior(model.process, grid, torch.empty(2, 2), noise)
    wanted = sample(model.denoise, grid, Heun(), x, noise)
    for sampler in ("core/heun", {"name": "core/heun"}, Spec("core/heun"), Heun()):
        options = {"sampler": sampler, "grid": {"name": "core/karras", "steps": 8}}
        assert torch.equal(polymode.draw(model, [3, 5], **options), wanted)
    options = {"sampler": "core/heun", "grid": "core/karras", "steps": 8}
    assert torch.equal(polymode.draw(model, np.array([3, 5]), **options), wanted)
    assert torch.equal(polymode.draw(model, [5, 3], **options, batch=1), wanted.flip(0))


def test_guidance_is_a_name_or_a_mapping():
    free = polymode.draw(exact(), range(64), steps=10)
    clipped = polymode.draw(exact(), range(64), steps=10, guidance={"name": "core/clip"})
    assert free.abs().max() > 1
    assert clipped.abs().max() <= 1 + 1e-6


def test_a_list_of_guidances_is_applied_in_order():
    """Each of these two leaves what the other has bounded as it is, so that the first decides."""
    clip, dynamic = {"name": "core/clip"}, {"name": "core/dynamic_threshold", "quantile": 1.0}
    one, other, first, second = (
        polymode.draw(exact(), range(64), steps=10, guidance=guidance)
        for guidance in (clip, dynamic, [clip, dynamic], [dynamic, clip])
    )
    assert not torch.equal(one, other)
    assert torch.equal(first, one)
    assert torch.equal(second, other)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["fresh", "counter"])
def test_draws_by_every_kind_of_streams_are_standard_normal_and_of_their_seed_alone(noise):
    """Of the model of N(0.3, 0.5^2), by a solver that draws at every step."""
    sampler = {"name": "core/multistep", "eta": 1.0}
    options = {"sampler": sampler, "steps": 40, "noise": noise}
    x = polymode.draw(exact(), range(2000), **options).double()
    n = x.numel()
    assert abs(x.mean() - 0.3) < 4 * 0.5 / n**0.5 + 0.01
    assert abs(x.std() - 0.5) < 4 * 0.5 / (2 * n) ** 0.5 + 0.02
    few = polymode.draw(exact(), [7, 1999], batch=1, **options)
    torch.testing.assert_close(few.double(), x[[7, 1999]], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"seeds": []}, InputError, "at least one"),
        ({"sampler": Heun}, TypeError, "Heun is a class; give an instance or a name"),
        ({"sampler": "core/hein"}, InputError, "did you mean 'core/heun'"),
        ({"grid": {"name": "core/karras", "steps": 4}}, InputError, "steps: given twice"),
        ({"grid": {"name": "core/karras", "stepz": 4}}, InputError, "grid.stepz: unknown option"),
        ({"condition": {"class": 0}}, InputError, "has the conditions: none; got: class"),
        ({"batch": 0}, InputError, "batch: expected at least 1"),
    ],
)
def test_a_slip_in_python_is_answered_as_one_in_yaml(changes, error, words):
    with pytest.raises(error, match=words):
        polymode.draw(exact(), **{"seeds": [0, 1], "steps": 3, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("seeds=4", "seeds: expected one seed per sample, got 4; for 4 samples use range(4)"),
        ("seeds=[0.5]", "seeds: expected integers, got 0.5"),
        ("sampler=karras", "sampler: expected a name or a mapping with a name, got a function"),
        ("condition=[0]", "condition: expected a mapping of names to tensors, got list"),
    ],
)
def test_a_type_that_does_not_fit_is_named_where_nothing_checks_types(trained, argument, words):
    """In a process of its own: the tests' run-time checks would answer first."""
    script = (
        "import sys, polymode\nfrom core.sampler.grids import karras\n"
        f"polymode.draw(polymode.load(sys.argv[1]), {argument})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, trained], check=False, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1].startswith(f"TypeError: {words}")


def test_conditions_match_the_seeds_and_the_task():
    model = exact(Plane(classes=2))
    for three in ([0, 1, 1], torch.tensor([0, 1, 1]), 1):
        assert len(polymode.draw(model, range(3), steps=3, condition={"class": three})) == 3
    with pytest.raises(InputError, match="class: expected 3 rows, one for each seed, got 2"):
        polymode.draw(model, range(3), steps=3, condition={"class": [0, 1]})
    with pytest.raises(InputError, match="has the conditions: class; got: none"):
        polymode.draw(model, range(3), steps=3)
    with pytest.raises(InputError, match="expected 0 to 1"):
        polymode.draw(model, range(3), steps=3, condition={"class": 2})


def test_each_sample_has_its_own_condition_whatever_the_batch():
    """A denoiser whose estimate is the class, so that a draw is the class it was drawn for."""
    classes = torch.tensor([0, 1, 2, 3, 2])

    def predict(x, t, condition):
        return Prediction(condition["class"][:, None].to(x.dtype).expand_as(x))

    model = replace(exact(Plane(classes=4)), denoise=FunctionDenoiser(vp_cosine(), predict))
    x = polymode.draw(model, range(5), steps=3, condition={"class": classes}, batch=2)
    assert (x[:, 0] - classes).abs().max() < 0.05  # little noise is left at the last step


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One step of training on scalar signals."""
    request = TrainRequest(
        task=Spec("core/generate", {"channels": 1}),
        dataset=Spec("core/blank", {"shape": [1, 8, 8], "count": 4}),
        network=Spec("core/transformer", {"width": 8, "depth": 1, "heads": 1}),
        steps=1,
        batch=2,
    )
    out = tmp_path_factory.mktemp("door") / "run"
    train(request, out)
    return out


def test_a_model_says_what_it_is_in_one_line_and_knows_its_shape(trained):
    model = polymode.load(str(trained))
    assert model.shape == model.trained_shape == (1, 8, 8)
    assert model.step == 1
    for shown in (repr(model), repr(model.denoise)):
        assert "\n" not in shown
        assert f"{model.parameters:,} parameters" in shown
    assert polymode.draw(model, [0], steps=2).shape == (1, 1, 8, 8)
    assert polymode.draw(model, [0], steps=2, shape=(1, 4, 4)).shape == (1, 1, 4, 4)


def test_a_checkpoint_without_a_shape_takes_the_datasets_or_says_so():
    assert exact(trained_shape=None).shape == (2,)
    request = TrainRequest(task=Spec("core/points"), dataset=Spec("core/no_such_data"))
    lost = exact(trained_shape=None)
    object.__setattr__(lost, "request", request)
    with pytest.raises(InputError, match=r"does not state the shape .* give the shape"):
        polymode.draw(lost, [0], steps=2)


@pytest.mark.slow
def test_the_readme_ends_in_a_sample_of_five_lines(trained):
    text = (ROOT / "core" / "README.md").read_text()
    block = text.rsplit("```python\n", 1)[1].split("```")[0]
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 5
    script = block.replace("runs/digits", str(trained)) + "\nprint(tuple(samples.shape))\n"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "(4, 1, 8, 8)"


def test_importing_polymode_imports_no_torch_and_every_name_is_there():
    script = "import polymode, sys; assert 'torch' not in sys.modules; print(dir(polymode))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert all(name in done.stdout.decode() for name in polymode.__all__)
    assert all(getattr(polymode, name) is not None for name in polymode.__all__)
    with pytest.raises(AttributeError, match="no attribute 'drow'"):
        polymode.drow  # noqa: B018
