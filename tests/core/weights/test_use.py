"""Imported models are models: they sample, are scored, serve as priors and go on training."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call
from PIL import Image
from safetensors.torch import load_file, save_file

from core.cli import main
from core.errors import InputError
from core.inverse.measurement import Measurement
from core.inverse.operators import Average
from core.inverse.posterior import Guided, ddnm
from core.model import load_model, network_of, objective_of
from core.network.upgrade import LABEL
from core.parts.config import bind, configure, plain
from core.parts.registry import Spec
from core.process.noise import Noise
from core.request import SampleRequest, TrainRequest
from core.runs import sample as draw
from core.runs import train
from core.sampler.ancestral import DDIM, Ancestral
from core.sampler.exponential import Multistep
from core.sampler.grids import discrete
from core.sampler.sample import prior, sample
from core.storage import checkpoint
from core.weights import diffusers
from core.weights.exporting import export_weights
from core.weights.importing import import_weights
from core.weights.translation import skeleton

HERE = Path(__file__).parent / "reference"
sys.path.insert(0, str(HERE))
from folders import DDPM  # noqa: E402
from recipe import numbers, weights  # noqa: E402

TINY = DDPM | {
    "block_out_channels": [8, 16], "norm_num_groups": 8, "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "sample_size": 16,
}  # fmt: skip


def their_folder(folder, *, chain=None, **changes):
    """A folder of diffusers', two resolutions wide 8 and 16, of drawn weights."""
    config, naming, shapes = TINY | changes, diffusers.naming(TINY["layers_per_block"]), {}
    for name, shape in skeleton(diffusers.describe(config, chain or {})).items():
        theirs = naming(name)
        if name == LABEL:  # theirs has no row for no class
            shape = (config["num_class_embeds"], *shape[1:])
        shapes |= {one: (shape[0] // len(theirs), *shape[1:]) for one in theirs}
    state = {k: torch.from_numpy(v) for k, v in weights(shapes).items()}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if chain is not None:
        (folder / "scheduler_config.json").write_text(json.dumps(chain))
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return their_folder(tmp_path_factory.mktemp("tiny"), chain={"_class_name": "DDPMScheduler"})


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    import_weights(tiny, out)
    return out


def test_import_sample_evaluate_export_by_command(tiny, tmp_path):
    done = call(main, "import-weights", tiny, "-o", tmp_path / "run")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'run' / 'checkpoints'}\n")
    options = [f"checkpoint={tmp_path / 'run'}", "count=4", "grid.steps=3", "guidance=core/clip"]
    words = [word for option in options for word in ("--set", option)]
    done = call(main, "sample", *words, "-o", tmp_path / "samples")
    assert done.returncode == 0, done.stderr
    drawn = load_file(tmp_path / "samples" / "samples.safetensors")["samples"]
    assert drawn.shape == (4, 1, 3, 16, 16)
    assert len({tuple(x.flatten()[:8].tolist()) for x in drawn}) == 4
    sheet = np.asarray(Image.open(tmp_path / "samples" / "sheet.png"))
    pixels = ((drawn[0, 0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0)
    assert (sheet[2:18, 2:18] == pixels.numpy().astype(np.uint8)).all()
    done = call(
        main, "evaluate", "--set", f"samples={tmp_path / 'samples'}", "-o", tmp_path / "scores"
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    mean = float(drawn.double().abs().mean())  # the data are zeros
    assert scores["methods"]["samples"]["values"]["mean"] == pytest.approx(mean, rel=1e-9)
    done = call(main, "export-weights", tmp_path / "run", "-o", tmp_path / "there")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'there'}\n")
    before = load_file(tiny / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "there" / "unet" / "diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("import-weights", "nowhere.pt", "--format", "keras"), "format: expected one of auto"),
        (("export-weights", "nowhere", "--to", "onnx"), "to: expected diffusers, got 'onnx'"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments, words, tmp_path):
    done = call(main, *arguments, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("solver", [DDIM(), Ancestral(), Multistep(weights="midpoint")])
def test_an_imported_model_is_a_prior_for_measurements(solver, tmp_path):
    """Means of blocks of what is drawn are those that were measured; free samples miss them.

    The network says x0: drawn weights then give samples of the size of data.
    """
    chain = {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"}
    import_weights(their_folder(tmp_path / "from", chain=chain), tmp_path / "run")
    model, operator = load_model(tmp_path / "run"), Average(factor=4)
    y = torch.from_numpy(numbers("measured", (2, 3, 4, 4))) / 2
    measurement, grid = Measurement(operator, y), discrete(model.process, steps=20)

    def left(guide):
        noise = Noise(range(2))
        x = prior(model.process, grid, torch.zeros(2, 3, 16, 16), noise)
        pair = guide(measurement, model.denoise, solver)
        got = sample(pair.denoise, grid, pair.solver, x, noise)
        return (operator.forward(got) - y).square().mean().sqrt() / y.square().mean().sqrt()

    assert float(left(lambda m, denoise, solver: Guided(denoise, solver))) > 0.5
    assert float(left(ddnm)) < 1e-5  # A x0 = y after the last estimate, to float32's rounding


def test_class_conditional_samples_follow_their_class(tmp_path):
    """Labels moved by one change every sample; the same labels give the same ones."""
    folder = their_folder(tmp_path / "from", num_class_embeds=3, sample_size=8)
    made = import_weights(folder, tmp_path / "run")
    assert "no scheduler_config.json" in made.notes[0]
    blank = {"name": "core/blank", "shape": [3, 8, 8], "classes": 3}

    def drawn(first, out):
        request = {"checkpoint": tmp_path / "run", "count": 3, "grid": {"name": "core/uniform_time",
                   "steps": 2}, "dataset": blank | {"first": first}}  # fmt: skip
        draw(bind(SampleRequest, request), tmp_path / out)
        return load_file(tmp_path / out / "samples.safetensors")["samples"]

    usual, again, other = drawn(0, "a"), drawn(0, "b"), drawn(1, "c")
    assert torch.equal(usual, again)
    assert all(not torch.equal(usual[i], other[i]) for i in range(3))
    theirs = load_file(folder / "diffusion_pytorch_model.safetensors")["class_embedding.weight"]
    ours = load_model(tmp_path / "run").network.condition_embedding.label.weight
    assert torch.equal(ours[:3], theirs)
    assert (ours[3] - theirs.mean(0)).abs().max() < 1e-7


# --- what cannot be exported ---------------------------------------------------------------------


def saved(tmp_path, **parts):
    """A checkpoint of a fresh network of a request."""
    network = {"name": "core/unet", "width": 8, "multipliers": [1, 2], "blocks": 1,
               "attention": [2], "heads": 1, "groups": 8, "group_channels": None}  # fmt: skip
    level = {"name": "core/eps", "level": "index"}
    whole = {
        "task": "core/generate", "dataset": "core/blank", "process": "core/beta_table",
        "parameterization": level, "objective": "core/denoising", "network": network,
    }  # fmt: skip
    extra = parts.pop("network", {})
    request = bind(TrainRequest, whole | parts | {"network": network | extra})
    task = configure("task", request.task)()
    tensors = network_of(request, task, objective_of(request).outputs).state_dict()
    state = {"request": plain(request), "data": ""}
    checkpoint.save(tmp_path / "run" / "checkpoints", 5, {"ema": tensors}, state)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"network": {"dims": 1}}, "network.dims: 1"),
        ({"network": {"multipliers": [2, 2]}}, "network.multipliers"),
        ({"network": {"resample": "pool"}}, "network.resample"),
        ({"network": {"patch": 2, "attention": [4]}}, "network.patch"),
        ({"network": {"input_octaves": [7]}}, "network.input_octaves"),
        ({"network": {"level_features": "fourier"}}, "network.level_features"),
        ({"network": {"middle_norm": False, "adaptive": "shift"}}, "network.middle_norm"),
        ({"network": {"heads": 2, "attention": [1]}}, "network.heads: 2"),
        (
            {"network": {"heads": None, "head_channels": 4, "attention": [1, 2], "width": 2,
                         "groups": 2, "multipliers": [1, 4]}},
            "network.head_channels: 4",
        ),
        ({"network": {"group_channels": 4}}, "gives norms of 2, 4, 6, 8 groups"),
        ({"network": {"groups": 16}}, "gives norms of 8, 16 groups"),
        ({"process": "core/vp_cosine"}, "process: core/vp_cosine"),
        ({"parameterization": "core/flow"}, "parameterization: core/flow"),
        ({"parameterization": "core/v"}, "level log_snr"),
        (
            {"parameterization": {"name": "core/eps", "level": "index", "chain": 50}},
            "chain 50",
        ),
        (
            {"parameterization": {"name": "core/eps", "level": "index", "unit": 0.5}},
            "unit 0.5",
        ),
        ({"task": {"name": "core/generate", "image": 3}}, "diffusers supports only class"),
    ],
)  # fmt: skip
def test_what_diffusers_cannot_express_is_named(parts, words, tmp_path):
    run = saved(tmp_path, **parts)
    with pytest.raises(InputError) as caught:
        export_weights(run, tmp_path / "out")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_all_that_cannot_be_expressed_is_named_at_once(tmp_path):
    run = saved(tmp_path, network={"resample": "pool", "groups": 16}, process="core/vp_cosine")
    with pytest.raises(InputError) as caught:
        export_weights(run, tmp_path / "out")
    assert str(caught.value).count("\n  ") == 4  # the level counts in a chain that is not there


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"heads": None, "head_channels": 4},
        {"heads": None, "head_channels": 16, "attention": [1]},  # one head of 8, one of 16
        {"heads": 4},
        {"groups": 2, "group_channels": 4},
        {"adaptive": "scale_shift", "resample": "residual", "middle_norm": True},
        {"adaptive": "scale_shift", "middle_norm": False, "downsample_padding": "after"},
        {"middle_attention": False, "attention": [], "multipliers": [1, 1.5], "groups": 4},
    ],
)
@pytest.mark.parametrize("process", [{"name": "core/cosine_table", "steps": 20, "offset": 0.1}])
def test_what_can_be_expressed_comes_back_bit_for_bit(network, process, tmp_path):
    """A table without a name there goes number by number."""
    level = {"name": "core/v", "level": "index", "chain": 20}
    run = saved(tmp_path, network=network, process=process, parameterization=level,
                objective={"name": "core/hybrid", "steps": 20})  # fmt: skip
    export_weights(run, tmp_path / "out")
    made = import_weights(tmp_path / "out", tmp_path / "again")
    first, second = (checkpoint.load(tmp_path / place) for place in ("run", "again"))
    for name, value in first.tensors["ema"].items():
        assert torch.equal(value, second.tensors["ema"][name])
    ours, theirs = (configure("process", Spec.parse(s.state["request"]["process"]))()
                    for s in (first, second))  # fmt: skip
    t = torch.arange(1, 21, dtype=torch.float64) / 20
    assert torch.allclose(ours.alpha_sigma(t)[0], theirs.alpha_sigma(t)[0], rtol=1e-12)
    assert made.request.objective.name == "core/hybrid"
    x, u = torch.from_numpy(numbers("x", (2, 3, 8, 8))), t[[3, 17]]
    said = [load_model(tmp_path / place).denoise(x, u).x0 for place in ("run", "again")]
    assert torch.allclose(*said, rtol=1e-6, atol=1e-6)


def test_channels_of_a_head_stay_what_they_are_called(tmp_path):
    """One head of 16 channels is said as 16 where it was, so that there and back is one request."""
    run = saved(tmp_path, network={"heads": None, "head_channels": 16, "attention": []})
    export_weights(run, tmp_path / "out")
    made = import_weights(tmp_path / "out", tmp_path / "again")
    assert made.request.network.options["head_channels"] == 16


def test_an_export_leaves_what_exists_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export_weights(run, tmp_path / "out")


def test_an_imported_model_goes_on_training(run, tmp_path):
    """Its weights are where training begins: a step of no size leaves them as they were."""
    saved = checkpoint.load(run)
    request = saved.state["request"] | {
        "start": str(run), "steps": 1, "batch": 2, "lr": 1e-12, "warmup": 0, "ema": 0.0,
        "dataset": {"name": "core/blank", "shape": [3, 16, 16]},
    }  # fmt: skip
    train(bind(TrainRequest, request), tmp_path / "on")
    after = checkpoint.load(tmp_path / "on")
    assert after.step == 1
    for name, value in saved.tensors["model"].items():
        # AdamW moves every weight by at most lr in its first step.
        assert (after.tensors["model"][name] - value).abs().max() < 1e-6
