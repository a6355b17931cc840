"""UNet2DModel, asked live: imported folders say what it says, and it loads what is exported."""

import importlib.util
import json
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from peers import Tape, diffusers

from core.model import load_model
from core.sampler.ancestral import Ancestral
from core.sampler.sample import sample
from core.weights.exporting import export_weights
from core.weights.importing import import_weights

pytestmark = pytest.mark.parity
REFERENCE = Path(__file__).parents[1] / "core" / "weights" / "reference"
WITHIN = 1e-5  # of the largest value: float32 through some hundred layers


def shared(name):
    """A module beside the stored references."""
    spec = importlib.util.spec_from_file_location(name, REFERENCE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOLDERS, CHAINS = shared("folders").FOLDERS, shared("folders").CHAINS
weights = shared("recipe").weights
VARIANTS = {
    "default": {},
    "ddpm": {},
    "rich": {},
    "normed": {"attn_norm_num_groups": 12, "flip_sin_to_cos": False, "dropout": 0.1},
    "without": {"add_attention": False, "freq_shift": 1, "num_class_embeds": None},
}


def model_of(name):
    """Theirs, with weights that are not small anywhere."""
    library = diffusers()
    base = name if name in FOLDERS else "rich"
    model = library.UNet2DModel(**FOLDERS[base] | VARIANTS[name]).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    made = {key: torch.from_numpy(value) for key, value in weights(shapes).items()}
    model.load_state_dict(made)
    scheduler = library.DDPMScheduler(clip_sample=False, **CHAINS[base])
    return model, scheduler


def inputs_of(model):
    side = model.config.sample_size
    sides = (side, side) if isinstance(side, int) else side
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(2, model.config.in_channels, *sides, generator=draw)
    labels = torch.tensor([0, 7]) if model.config.num_class_embeds else None
    return x, labels


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_an_imported_model_says_what_theirs_says(name, tmp_path, agree):
    model, scheduler = model_of(name)
    diffusers().DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(tmp_path / "theirs")
    import_weights(tmp_path / "theirs", tmp_path / "run")
    network, (x, labels) = load_model(tmp_path / "run").network, inputs_of(model)
    condition = {} if labels is None else {"class": labels}
    for index in (0, 123, scheduler.config.num_train_timesteps - 1):
        theirs = model(x, index, class_labels=labels).sample
        ours = network(x, torch.full((2,), float(index)), condition)
        agree("UNet2DModel", f"imported, {name}", ours, theirs, WITHIN)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_they_load_what_is_exported_and_say_the_same(name, tmp_path, agree):
    model, scheduler = model_of(name)
    diffusers().DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(tmp_path / "theirs")
    import_weights(tmp_path / "theirs", tmp_path / "run")
    export_weights(tmp_path / "run", tmp_path / "exported")
    for kind in (diffusers().DDPMPipeline, diffusers().DDIMPipeline):
        again = kind.from_pretrained(tmp_path / "exported", local_files_only=True)
        x, labels = inputs_of(model)
        ours, theirs = (m(x, 250, class_labels=labels).sample for m in (again.unet, model))
        agree("UNet2DModel", f"exported, {name}", ours, theirs, 0)
        betas = again.scheduler.betas - scheduler.betas
        assert betas.abs().max() == 0
        assert again.scheduler.config.prediction_type == scheduler.config.prediction_type


@torch.no_grad()
@pytest.mark.parametrize("name", ["default", "ddpm", "rich"])
def test_the_first_and_the_last_step_are_their_scheduler_s(name, tmp_path, agree):
    """One ancestral step with the same draw: theirs by step(), ours by the imported model."""
    model, scheduler = model_of(name)
    diffusers().DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(tmp_path / "theirs")
    import_weights(tmp_path / "theirs", tmp_path / "run")
    ours, (x, labels) = load_model(tmp_path / "run"), inputs_of(model)
    variance = {"fixed_large": "large", "learned_range": "learned"}
    solver = Ancestral(variance=variance.get(scheduler.config.variance_type, "small"))
    condition = {} if labels is None else {"class": labels}
    # Their float32 product of a thousand factors is off by 5e-5 at the noisy end; not ours to copy.
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    steps = scheduler.config.num_train_timesteps
    draw = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    for index in (steps - 1, steps // 2, 1, 0):
        said = model(x, index, class_labels=labels).sample
        module = sys.modules[type(scheduler).__module__]
        with mock.patch.object(module, "randn_tensor", return_value=draw):
            theirs = scheduler.step(said, index, x).prev_sample
        grid = torch.tensor([index + 1, index], dtype=torch.float64) / steps
        found = sample(ours.denoise, grid, solver, x, Tape([draw]), condition)
        agree("DDPMScheduler", f"a step, {name}", found, theirs, WITHIN)


def test_the_folder_says_who_reads_it(tmp_path):
    model, scheduler = model_of("ddpm")
    diffusers().DDPMPipeline(unet=model, scheduler=scheduler).save_pretrained(tmp_path / "theirs")
    import_weights(tmp_path / "theirs", tmp_path / "run")
    export_weights(tmp_path / "run", tmp_path / "exported")
    for name in ("model_index.json", "unet/config.json"):
        ours, theirs = (
            json.loads((tmp_path / side / name).read_text()) for side in ("exported", "theirs")
        )
        same = {key: value for key, value in theirs.items() if not key.startswith("_")}
        different = {key for key, value in same.items() if ours.get(key) != value}
        # An index of the safetensors they wrote, and what old folders do not say.
        assert different <= {"act_fn"}
